/* What a script of `hv stream` works on, and one line of it. */
#ifndef HV_STREAM_SCRIPT_H
#define HV_STREAM_SCRIPT_H

#include "lab5.h"
#include "stream_precopy.h"

#include <pthread.h>
#include <stdio.h>

#define STREAM_SCRIPT_WORDS 10 /* in a line, at most */

struct stream_script {
	struct vm *vm;	    /* of which only memory serves */
	struct migration m; /* whose stream all operations use */
	struct made_up made_up;
	struct section section; /* that was read last; its payload NULL: none was */
	struct cpuid_table have, seen;
	struct restless {
		pthread_t thread;
		volatile bool on;
		uint8_t *first;
		uint64_t count;
	} restless;
	unsigned line;
	char problem[256]; /* -EINVAL: what is wrong with the line */
};

/* 0 or -ENOMEM. */
int stream_script_create(struct stream_script *s, struct vm *vm);
void stream_script_destroy(struct stream_script *s);

/* Carries one line out and prints its answer. 0; -EINVAL with s->problem; -ECANCELED with the VM stopped. The line is changed. */
int stream_script_line(struct stream_script *s, char *line);
/* The list of operations, for the help. */
void stream_script_help(FILE *out);

#endif
