/*
 * hv processes under observation: what their guest prints, beat after beat, and how they end. The guest is guests/beat.c.
 */
#ifndef FAULTS_VM_H
#define FAULTS_VM_H

#include "guests/beat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- the heart --- */

/*
 * What the guest's memory holds after beat n, and the line that it prints then. One guest has one of these, through
 * however many processes it goes: what they print, one behind the other, has to be these lines without a byte missing or
 * twice.
 */
struct heart {
	uint64_t n;
	uint64_t sum[BEAT_PAGES];
	char line[40];
	size_t at; /* bytes of the line that were printed */
};

void heart_begin(struct heart *h);
/* Takes what was printed. The number of lines that ended in it, or -1: this is not what had to come. */
int heart_hear(struct heart *h, const char *s, size_t n);
/*
 * A guest that was saved some time ago speaks. h is what its heart was about then: a few beats before it was saved. The
 * rest of a line may come first. -1 as above; 0 when no whole line has come yet, and more is to be given from the
 * beginning; else the number of lines.
 */
int heart_find(struct heart *h, const char *s, size_t n, unsigned beats);

/* --- a process --- */

struct side {
	pid_t pid; /* 0: none */
	int out;   /* what it prints, not blocking */
	char name[16], control[32], errors[32];
	bool ended, silent; /* silent: it has closed its output, and will end */
	int status;	    /* exit status, or 128 + signal */
	size_t unheard;	    /* bytes of `text`, which nobody has looked at */
	char text[65536];
};

uint64_t now_ms(void);
void rest(unsigned ms);
/*
 * Starts argv with its control socket at s->control, its output to s->out and its errors to a file. apart: a directory in
 * which it sees what nobody else sees, as if it were on another host; or NULL. false: the system refuses.
 */
bool side_start(struct side *s, const char *name, const char *apart, const char *const *argv);
/* Waits until one of them (there may be NULL) prints or ends, or the time is over. */
void sides_wait(const struct side *s, const struct side *there, unsigned ms);
/* Takes what it has printed since, behind s->text, and looks whether it has ended. true when something came. */
bool side_look(struct side *s);
/* Waits until it has ended, and takes its output. */
bool side_wait(struct side *s, unsigned ms);
/* SIGKILL, if it has not ended; it is no more then. */
void side_kill(struct side *s);
/* Its last sentence ("hv: ..." without the beginning), into a buffer of its own. */
const char *side_sentence(const struct side *s);
/* Removes its files. Behind side_wait() or side_kill(). */
void side_forget(struct side *s);
/* One command to its control socket; the answer, one line without its end. false: nobody answers. */
bool side_ask(const struct side *s, const char *command, char *answer, size_t len);

#endif
