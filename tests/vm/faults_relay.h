/* The relay between the two sides (grader/testhost/relay.h): the fault that it is to make, and what has passed. */
#ifndef FAULTS_RELAY_H
#define FAULTS_RELAY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct fault {
	const char *kind;
	char where[32], what[32];		     /* the relay's words */
	enum { NOBODY, SOURCE, DESTINATION } victim; /* of a "kill": whose number it is */
	bool apart; /* the source cannot see the destination's record, as if they were on two hosts */
};

struct passed { /* through the relay */
	unsigned messages[2];
	uint64_t bytes[2];
	bool harmed;	/* it came to the fault */
	bool committed; /* somebody said that the destination has it */
};

/* Waits until somebody listens there, without connecting: a destination would take us for the source. */
bool await_listener(const char *path, unsigned ms);
/* A process that relays from one socket to the other, does the harm, and writes what passes into the file `told`. victim:
 * the process that a "kill" is for. */
pid_t start_relay(const char *from, const char *to, const char *told, const struct fault *f, pid_t victim);
/* What that file says. */
void read_passed(const char *told, struct passed *p);

#endif
