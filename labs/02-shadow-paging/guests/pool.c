/* More page tables than the hypervisor has room for. */
#include "cached.h"

/* WORKING: so many address spaces are used most of the time, and one of the others each EVERY rounds. */
enum { ROUNDS = OWN_PARAMS, SPACES, WORKING, EVERY };
#define PARTS 2

/* Address spaces by the dozen, each with tables of its own, switched again and again; what is found is added up. */
static void switching(void)
{
	static uint64_t roots[64];
	uint64_t sum = 0;

	for (unsigned i = 0; i < params[SPACES]; i++) {
		roots[i] = root_new();
		for (unsigned k = 0; k < PARTS; k++)
			map(roots[i], area(0) + k * (2ull << 21), data_new(i * PARTS + k), P | W | A | D);
	}
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		uint64_t random = number_of(1000 + n),
			 choice = params[EVERY] && n % params[EVERY] ? params[WORKING] : params[SPACES];
		uint64_t gva = area(0) + random % PARTS * (2ull << 21);

		write_cr3(roots[random / PARTS % choice]);
		sum = fold(sum, try_read(gva));
		/* What is stored must be there next time. */
		if (random >> 28 == 0)
			try_write(gva, *at(*entry_of(roots[random / PARTS % choice], gva, 1) & ADDRESS) + 0x100);
	}
	report("sum", sum);
}

/* One address space with page tables by the hundred. The root and the way that is being made must stay, whatever else goes. */
static void wide(void)
{
	uint64_t root = root_new(), sum = 0;

	for (uint64_t i = 0; i < params[SPACES]; i++)
		map(root, area(i % 4) + (i / 4 % 4 << 30) + (i / 16 << 21), data_new(i), P | W);
	write_cr3(root);
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		uint64_t i = n < params[SPACES] ? n : number_of(1000 + n) % params[SPACES];

		sum = fold(sum, try_read(area(i % 4) + (i / 4 % 4 << 30) + (i / 16 << 21)));
	}
	report("sum", sum);
	report("absent", try_read(area(5)));
}

/* Entries change while nothing of them is in the shadow: nothing old may come back. */
static void evicted(void)
{
	uint64_t root = root_new(), sum = 0, gva = area(8);

	for (uint64_t i = 0; i < params[SPACES]; i++)
		map(root, area(0) + (i << 30), data_new(i), P | W);
	write_cr3(root);
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		map(root, gva, data_new(100 + n), P | W);
		invlpg(gva);
		sum = fold(sum, try_read(gva));
		for (uint64_t i = 0; i < params[SPACES]; i++)
			sum = fold(sum, try_read(area(0) + (i << 30)));
		*entry_of(root, gva, 1) = 0;
		invlpg(gva);
		sum = fold(sum, try_read(gva));
	}
	report("sum", sum);
}

int guest_main(void)
{
	static void (*const modes[])(void) = { switching, wide, evicted };

	tables_begin();
	modes[params[MODE]]();
	return 0;
}
