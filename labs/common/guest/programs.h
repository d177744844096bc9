/* What the kernel runs, and how it has to end. */
#ifndef GUEST_PROGRAMS_H
#define GUEST_PROGRAMS_H

#include <stdint.h>

struct program {
	const char *name;
	int (*fn)(uint64_t);
	uint64_t arg;
	int killed_by; /* exception vector, or NOT_KILLED, and then the exit code has to be 0 */
};

/*
 * What is run after the programs that both kernels have: nothing (programs_flat.c), or programs that are about memory
 * (programs_paged.c). Behind the last is one without a name.
 */
#define MAX_MORE_PROGRAMS 12
extern const struct program more_programs[MAX_MORE_PROGRAMS + 1];

#define VEC_DE 0
#define VEC_GP 13
#define VEC_PF 14

#endif
