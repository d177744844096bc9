/*
 * churn MIB RATE SEED [SECONDS]: for a Linux guest that is moved while it runs. Writes RATE pages a second, each time one that
 * the seed says, somewhere in MIB of memory, and looks at each page before it writes whether it holds what it wrote there last.
 * Every second, and at the end with all pages looked at once more, a line:
 *
 *   churn WRITTEN WRONG GAP      pages written so far, wrong ones among those looked at, and the longest time in microseconds
 *                                between two looks at the clock since the last line: what a guest sees of a downtime
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)
#define STEP 73u /* of the words that a page is written and looked at in: eight of them, all over it */

static uint64_t seed;

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* SplitMix64 */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void put(uint64_t *page, uint64_t number, uint32_t version)
{
	for (unsigned w = 0; w < WORDS; w += STEP)
		page[w] = mix(seed ^ number << 32 ^ version ^ (uint64_t)w << 52);
}

static unsigned wrong(const uint64_t *page, uint64_t number, uint32_t version)
{
	for (unsigned w = 0; w < WORDS; w += STEP)
		if (page[w] != mix(seed ^ number << 32 ^ version ^ (uint64_t)w << 52))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t pages = argc > 3 ? strtoull(argv[1], NULL, 10) << 8 : 0, rate = argc > 3 ? strtoull(argv[2], NULL, 10) : 0;
	uint64_t end = argc > 4 ? strtoull(argv[4], NULL, 10) * 1000000u : UINT64_MAX, written = 0, bad = 0, gap = 0;
	uint32_t *version = calloc(pages + 1, sizeof *version);
	uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!pages || !version || memory == MAP_FAILED)
		return 2;
	seed = strtoull(argv[3], NULL, 10);
	for (uint64_t p = 0; p < pages; p++)
		put(memory + p * WORDS, p, 0);
	puts("churn ready");
	fflush(stdout);

	uint64_t start = now_us(), last = start, line = start + 1000000u;
	for (;;) {
		uint64_t now = now_us();

		gap = now - last > gap ? now - last : gap;
		last = now;
		/* What a long gap left out is not made up for: that would be a burst, and no rate. */
		uint64_t due = (now - start) * rate / 1000000u;
		if (due > written + rate / 20 + 1) {
			start += (due - written) * 1000000u / (rate ? rate : 1);
			due = written + 1;
		}
		for (; written < due; written++) {
			uint64_t p = mix(seed ^ written) % pages;

			bad += wrong(memory + p * WORDS, p, version[p]);
			put(memory + p * WORDS, p, ++version[p]);
		}
		if (now >= line) {
			line = now + 1000000u;
			printf("churn %llu %llu %llu\n", (unsigned long long)written, (unsigned long long)bad, (unsigned long long)gap);
			fflush(stdout);
			gap = 0;
			last = now_us(); /* the console took its time */
		}
		if (end != UINT64_MAX && now >= end + start)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = rate && rate < 200 ? 10000000 : 1000000 }, NULL);
	}
	for (uint64_t p = 0; p < pages; p++)
		bad += wrong(memory + p * WORDS, p, version[p]);
	printf("churn %llu %llu %llu\nchurn ended\n", (unsigned long long)written, (unsigned long long)bad, (unsigned long long)gap);
	return bad ? 1 : 0;
}
