#include "loop.h"

#include <time.h>

/* CLOCK_MONOTONIC, so that a guest's timer interrupts do not jump when somebody sets the host's clock. */
uint64_t clock_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}
