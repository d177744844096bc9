/*
 * Checkpoint 3.11: memory on demand. Pages all over memory are touched for the first time, in different ways, then used again and again.
 * Two runs that differ in the number of pages only say what one page costs.
 */
#include "observe.h"

#include "string.h"

PARAMS;

enum { SEED, COUNT, SIZE }; /* SIZE: distance of pages */

#define FIRST (4ull << 20)
#define LAST (64ull << 20)

/* Page number i: all are different, and none next to the one before. */
static uint64_t place(uint64_t i)
{
	uint64_t pages = (LAST - FIRST) / params[SIZE];

	return FIRST + (i * 7 + params[SEED]) % pages * params[SIZE];
}

static volatile uint64_t *word(uint64_t i)
{
	return (volatile uint64_t *)(place(i) + params[SEED] % 0x1f0 * 8);
}

int guest_main(void)
{
	uint64_t zeros = 0, read = 0, called = 0;

	random_state = params[SEED];
	for (uint64_t i = 0; i < params[COUNT]; i++)
		switch (i % 3) {
		case 0: zeros |= *word(i); break;
		case 1: *word(i) = 1; break;
		default: zeros |= __sync_fetch_and_add(word(i), 2); break;
		}
	for (uint64_t i = 0; i < params[COUNT]; i++)
		*word(i) = random64() << 48 | 0xb8 | i << 8 | 0xc3ull << 40; /* mov $i, %eax; ret; and something behind it */
	for (uint64_t i = 0; i < params[COUNT]; i++) {
		read = (read ^ *word(i)) * 0x9e3779b97f4a7c15;
		called += ((uint32_t(*)(void))word(i))();
	}
	/* Larger pages are larger. */
	for (uint64_t i = 0; i < params[COUNT]; i++)
		for (uint64_t at = 0; at < params[SIZE]; at += params[SIZE] / 4)
			*(volatile uint64_t *)(place(i) + at) += i;
	say("zeros", 0, "", zeros);
	say("read", 0, "", read);
	say("called", 0, "", called);

	/* hv reads these lines where it believes that the page is. */
	memcpy((void *)(place(params[COUNT]) + 8), output, output_end - output);
	const char *from = (const char *)place(params[COUNT]) + 8;
	uint64_t count = output_end - output;
	asm volatile("cld; rep outsb" : "+S"(from), "+c"(count) : "d"(0xe9) : "memory", "cc");
	return 0;
}
