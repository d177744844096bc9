/*
 * Checkpoint 2.6: mappings of 4 KiB, scattered over the address space and over memory. Half of the places differ from the others in their
 * PML4 entry only. What is stored through one way is loaded through another.
 */
#include "paging.h"

PARAMS;

#define PLACES 12
#define PAGES 4 /* in each place, in one page table */
#define COUNT (PLACES * PAGES)
#define TWICE 8 /* so many frames are mapped a second time */
#define CODES 4
#define ROUNDS 6

static uint64_t gva[COUNT], gpa[COUNT];

int guest_main(void)
{
	paging_init();
	for (unsigned i = 0; i < COUNT; i++) {
		unsigned place = i / PAGES;

		if (i % PAGES)
			gva[i] = gva[i - i % PAGES] ^ (i % PAGES) << 18; /* another entry of the same page table */
		else if (place < PLACES / 2)
			gva[i] = random_gva();
		else
			gva[i] = gva[i - COUNT / 2] ^ 1ull << 39;
		gpa[i] = frame(i % (COUNT - TWICE));
		map(gva[i], gpa[i], KERNEL);
	}

	/* Stored where memory lies, loaded where it is mapped; and the other way round. */
	for (unsigned i = 0; i < COUNT - TWICE; i++)
		*word(gpa[i] + 8 * i) = random64();
	for (unsigned i = 0; i < COUNT; i++) {
		tag("load", i);
		say("", *word(gva[i] + 8 * (i % (COUNT - TWICE))));
	}
	for (unsigned i = 0; i < COUNT; i++)
		*word(gva[i] + 2048 + 8 * i) = random64();
	for (unsigned i = 0; i < COUNT; i++) {
		tag("store", i);
		say("", *word(gpa[i] + 2048 + 8 * i));
	}
	for (unsigned i = 0; i < CODES; i++) {
		put_code(gpa[i] + 4000, params[1] + i);
		tag("call", i);
		try_and_say(FETCH, gva[i] + 4000, 0);
	}
	/* From here on there is nothing left to fill in. */
	uint64_t sum = 0;
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < COUNT; i++)
			sum += *word(gva[i] + 2048 + 8 * i);
	tag("sum", 0);
	say("", sum);
	return 0;
}
