/* A machine that `hv stream` makes up: no guest runs, and what it would have written is said beforehand, fetch by fetch of its
 * dirty log. */
#ifndef HV_STREAM_PRECOPY_H
#define HV_STREAM_PRECOPY_H

#include "migration.h"

/* What the log says when it is fetched for the number-th time, from 1 on: these pages were written, and hold bytes from the
 * seed by then. */
struct planned_write {
	uint64_t fetch, gfn, count, seed;
};
#define PLANNED_WRITES 64

struct made_up {
	struct planned_write write[PLANNED_WRITES];
	unsigned writes;
	uint64_t fetches;
	struct migration *m; /* for what is printed */
};

/* Runs precopy(m) on it, and prints when its log is switched and fetched, the rounds, and what is owed. What precopy() returns. */
int made_up_precopy(struct made_up *machine, struct migration *m);

/* Bytes from a seed: SplitMix64, as grader/lib/splitmix.py has it. */
void fill_from_seed(void *p, uint64_t bytes, uint64_t seed);

#endif
