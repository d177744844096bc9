/* Page tables that change in bulk: stores are free until the next flush, and then all of them count. */
#include "cached.h"

enum { ROUNDS = OWN_PARAMS, STORES };

static uint64_t root, table, pages[16];

static void begin(void)
{
	root = root_new();
	for (unsigned i = 0; i < 16; i++)
		pages[i] = data_new(i);
	table = table_of(root, area(0), 1, P | W | U);
	for (unsigned i = 0; i < 512; i++)
		at(table)[i] = pages[i % 16] | P | W | U;
	user_init(root);
	write_cr3(root);
}

static uint64_t read_slot(unsigned area_number, unsigned slot)
{
	return try_read(area(area_number) + slot * PAGE);
}

/* Entries come, go and change, a few in each round; before the flush old and new are both right, behind it only the new. */
static void rounds(void)
{
	begin();
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		uint64_t sum = 0, stale = 0;

		for (unsigned k = 0; k < 4; k++)
			read_slot(0, 8 * k);
		at(table)[0] = pages[(n + 1) % 16] | P | W | U;
		at(table)[8] = n % 2 ? pages[8] | P | W | U : 0;
		at(table)[16] = pages[n % 16] | P | U | (n % 3 ? W : 0);
		at(table)[32] = pages[3] | P | U | (n % 2 ? W : 0); /* its rights alone */
		stale = read_slot(0, 0);
		if (n % 4 == 3) {
			invlpg(area(0));
			invlpg(area(0) + 8 * PAGE);
			invlpg(area(0) + 16 * PAGE);
			invlpg(area(0) + 32 * PAGE);
		} else {
			reload_cr3();
		}
		for (unsigned k = 0; k < 4; k++)
			sum = fold(sum, read_slot(0, 8 * k));
		report("round", sum);
		report("write", try_write(area(0) + 16 * PAGE, word_of(n % 16)));
		report("rights", try_write(area(0) + 32 * PAGE, word_of(3)));
		report("stale", stale);
	}
}

/* Both the kernel's and a program's view of one table. */
static void both_roots(void)
{
	begin();
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		unsigned slot = number_of(n) % 512;

		read_slot(0, slot);
		try_user(user_read, area(0) + slot * PAGE, 0);
		at(table)[slot] = pages[number_of(n + 50) % 16] | P | W | U;
		reload_cr3();
		report("user", try_user(user_read, area(0) + slot * PAGE, 0));
		report("kernel", read_slot(0, slot));
		at(table)[slot] = pages[number_of(n + 50) % 16] | P | W;
		invlpg(area(0) + slot * PAGE);
		report("user", try_user(user_read, area(0) + slot * PAGE, 0));
		report("kernel", read_slot(0, slot));
	}
}

/* A table that was changed gets another place. Nobody has used that before, so nobody may find there what was in it earlier. */
static void linked_again(void)
{
	begin();
	for (unsigned slot = 0; slot < 4; slot++)
		read_slot(0, slot);
	/* The new entry may be at the top, with everything between it and the changed table as it was. */
	for (unsigned slot = 0; slot < 4; slot++)
		at(table)[slot] = pages[4 + slot] | P | W | U;
	*entry_of(root, area(3), 4) = *entry_of(root, area(0), 4);
	for (unsigned slot = 0; slot < 4; slot++)
		report("top", read_slot(3, slot));
	table_of(root, area(1), 2, P | W | U);
	for (unsigned slot = 0; slot < 4; slot++)
		at(table)[slot] = pages[8 + slot] | P | W | U;
	*entry_of(root, area(1), 2) = table | P | W | U;
	for (unsigned slot = 0; slot < 4; slot++)
		report("elsewhere", read_slot(1, slot));
	/* And as a page directory: what was data is a page table now. */
	for (unsigned i = 0; i < 16; i++)
		at(pages[i])[1] = data_new(100 + i) | P | W;
	at(table)[2] = pages[5] | P | W | U;
	*entry_of(root, area(2), 3) = table | P | W | U;
	report("above", try_read(area(2) + (2ull << 21) + PAGE));
	at(table)[2] = pages[6] | P | W | U;
	invlpg(area(2) + (2ull << 21) + PAGE);
	report("above", try_read(area(2) + (2ull << 21) + PAGE));
	at(pages[6])[1] = data_new(200) | P | W;
	invlpg(area(2) + (2ull << 21) + PAGE);
	report("above", try_read(area(2) + (2ull << 21) + PAGE));
}

/* A page table that was just written to is freed, and becomes the root of a new process at once. */
static void root_at_once(void)
{
	begin();
	read_slot(0, 0);
	read_slot(0, 1);
	for (unsigned i = 0; i < 512; i++)
		at(table)[i] = 0;
	memcpy(at(table), at(root), 8);
	map(table, area(1), data_new(20), P | W);
	*entry_of(root, area(0), 2) = 0;
	write_cr3(table);
	report("new", try_read(area(1)));
	report("old", try_read(area(0)));
	/* It is a root now, and what is stored there counts. */
	at(table)[slot_of(area(2), 4)] = at(table)[slot_of(area(1), 4)];
	report("linked", try_read(area(2)));
	at(table)[slot_of(area(1), 4)] = 0;
	invlpg(area(1));
	report("unlinked", try_read(area(1)));
}

/* Half of a table changes in each round. */
static void bulk(void)
{
	uint64_t sum = 0;

	begin();
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		for (unsigned i = 0; i < params[STORES]; i++)
			at(table)[i] = pages[(i + n) % 16] | P | W | U | A | D;
		reload_cr3();
		for (unsigned k = 0; k < 4; k++)
			sum = fold(sum, read_slot(0, number_of(4 * n + k) % params[STORES]));
	}
	report("sum", sum);
}

/* What was a page table is data for ever, while the guest goes on flushing. */
static void data_now(void)
{
	begin();
	read_slot(0, 0);
	read_slot(0, 1);
	*entry_of(root, area(0), 2) = 0;
	invlpg(area(0));
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		for (unsigned i = 0; i < params[STORES]; i++)
			at(table)[(i + n) % 512] = number_of(n) * 2ull;
		reload_cr3();
	}
	uint64_t sum = 0;
	for (unsigned i = 0; i < 512; i++)
		sum = fold(sum, at(table)[i] & ~(A | D));
	report("sum", sum);
}

int guest_main(void)
{
	static void (*const modes[])(void) = { rounds, both_roots, linked_again, root_at_once, bulk, data_now };

	tables_begin();
	modes[params[MODE]]();
	return 0;
}
