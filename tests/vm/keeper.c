/*
 * keeper SECONDS: a program for a Linux guest that is stopped and goes on elsewhere meanwhile. It keeps both CPUs busy with what a restored
 * CPU may have lost, says "keeper: ready", and after so many seconds of its own clock, in one line, what it saw:
 *
 *	keeper: sums N wrong N ticks N longest MS warps N back N monotonic MS realtime MS
 *
 * sums: floating-point work done over and over, in registers (x87 and SSE) that are in use nearly always; wrong: how often the result was
 * another one. ticks: how often a sleep of 10 ms ended; longest: the longest of them. warps: how often a CPU's TSC was behind what the other one
 * had read before; back: the same of the clocks. monotonic, realtime: how long it took by each.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define CPUS 2
#define WORKERS (2 * CPUS) /* more than CPUs: the kernel saves and loads their registers, too */

static volatile bool over;
static uint64_t sums, wrong, warps, back;

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/* Chaotic, so that a bit that is lost anywhere changes all of the result. */
static void work(double *d, long double *l)
{
	double x = 0.3;
	long double y = 0.7L;

	for (unsigned i = 0; i < 20000; i++) {
		x = 3.99 * x * (1 - x);
		y = 3.97L * y * (1 - y);
	}
	*d = x;
	*l = y;
}

static void *worker(void *arg)
{
	double d, first_d;
	long double l, first_l;

	pin((unsigned)(uintptr_t)arg % CPUS);
	work(&first_d, &first_l);
	while (!over) {
		work(&d, &l);
		__atomic_add_fetch(&sums, 1, __ATOMIC_RELAXED);
		if (d != first_d || l != first_l)
			__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* What was read under the lock later may not be less. */
static void *watcher(void *arg)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static uint64_t tsc, monotonic;

	pin((unsigned)(uintptr_t)arg);
	while (!over) {
		pthread_mutex_lock(&lock);
		_mm_lfence();
		uint64_t t = __rdtsc(), m = now(CLOCK_MONOTONIC);
		warps += t < tsc;
		back += m < monotonic;
		tsc = t;
		monotonic = m;
		pthread_mutex_unlock(&lock);
		usleep(1000);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread[WORKERS + CPUS];
	unsigned n = 0;

	if (argc != 2)
		return 2;
	for (uintptr_t i = 0; i < WORKERS; i++)
		n += !pthread_create(&thread[n], NULL, worker, (void *)i);
	for (uintptr_t i = 0; i < CPUS; i++)
		n += !pthread_create(&thread[n], NULL, watcher, (void *)i);
	uint64_t first = now(CLOCK_MONOTONIC), real = now(CLOCK_REALTIME), before = first, longest = 0, ticks = 0;
	uint64_t end = first + strtoull(argv[1], NULL, 10) * 1000000000;
	printf("keeper: ready\n");
	fflush(stdout);
	while (before < end) {
		usleep(10000);
		uint64_t t = now(CLOCK_MONOTONIC);
		longest = t - before > longest ? t - before : longest;
		before = t;
		ticks++;
	}
	over = true;
	real = now(CLOCK_REALTIME) - real;
	while (n)
		pthread_join(thread[--n], NULL);
	printf("keeper: sums %lu wrong %lu ticks %lu longest %lu warps %lu back %lu monotonic %lu realtime %lu\n", sums,
	       wrong, ticks, longest / 1000000, warps, back, (before - first) / 1000000, real / 1000000);
	return 0;
}
