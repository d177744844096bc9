/*
 * Checkpoint 2.12: pages that are global stay when CR3 is written. How many page faults the machine had says whether they did; the values
 * are here to see that they were used. In the end INVLPG flushes each of them.
 */
#include "paging.h"

PARAMS;

#define LARGE (2ull << 20)
#define CR4_PGE (1ull << 7)
#define GLOBALS 32
#define LOCALS 4
#define ROUNDS 8

int guest_main(void)
{
	uint64_t sum = 0;

	paging_init();
	user_init();
	for (uint64_t gva = 0; gva < TABLES + LARGE; gva += LARGE)
		*entry_at(gva, 2) |= PTE_G; /* the guest itself and its tables */
	write_cr4(read_cr4() | CR4_PGE);
	uint64_t global = random_gva() & ~(LARGE - 1), local = random_gva() & ~(LARGE - 1);
	for (unsigned i = 0; i < GLOBALS; i++) {
		*word(frame(i)) = random64();
		map(global + i * PAGE, frame(i), ALL | PTE_G);
	}
	/* One page table with both kinds: the others go. */
	for (unsigned i = 0; i < LOCALS; i++)
		map(global + (GLOBALS + i) * PAGE, frame(i), ALL);
	map(local, frame(0), ALL);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < GLOBALS; i++)
			sum += *word(global + i * PAGE);
		for (unsigned i = 0; i < LOCALS; i++) {
			sum += *word(global + (GLOBALS + i) * PAGE);
			*entry_at(global + (GLOBALS + i) * PAGE, 1) = frame(i + 1 + round) | ALL;
		}
		sum += *word(local);
		*entry_at(local, 1) = frame(round + 1) | ALL;
		write_cr3(read_cr3());
	}
	for (unsigned i = 0; i < GLOBALS; i++) {
		sum += *word(global + i * PAGE);
		*entry_at(global + i * PAGE, 1) = frame(i + 1) | ALL | PTE_G;
		invlpg(global + i * PAGE);
	}
	tag("sum", 0);
	say("", sum);
	return 0;
}
