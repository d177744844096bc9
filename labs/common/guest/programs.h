/* The programs that the kernel runs, and how each has to end. */
#ifndef GUEST_PROGRAMS_H
#define GUEST_PROGRAMS_H

#include <stdint.h>

struct program {
	const char *name;
	int (*fn)(uint64_t);
	uint64_t arg;
	int killed_by; /* as in struct proc; exit code 0 when it is NOT_KILLED */
};

#define MAX_PROGRAMS 16

/* Ends at the first entry without a name. programs_flat.c, programs_paged.c */
extern const struct program programs[MAX_PROGRAMS + 1];

#define VEC_DE 0
#define VEC_GP 13
#define VEC_PF 14

/* The old ones, which need no memory but their stack. */
#define PROGRAMS_OF_LAB1                              \
	{ "writer", user_writer, 3, NOT_KILLED },     \
		{ "rogue", user_rogue, 0, VEC_GP },   \
		{ "divide", user_divide, 0, VEC_DE }, \
		{ "sleeper", user_sleeper, 10, NOT_KILLED }

#endif
