/* One shadow for each guest table: found again behind a switch of CR3, shared by address spaces, and made in full at once. No table
 * changes here after it was used first, but for bits A and D. */
#include "cached.h"

enum { ROUNDS = OWN_PARAMS };
#define SPACES 8
#define SHARED_PAGES 64

/* Several address spaces, each with a page of its own and a table in common, switched again and again. */
static void switching(void)
{
	uint64_t roots[SPACES], common = 0, sum = 0;

	for (unsigned i = 0; i < SPACES; i++) {
		roots[i] = root_new();
		map(roots[i], area(0), data_new(i), P | W | A | D);
		if (common)
			at(roots[i])[slot_of(area(1), 4)] = common;
		for (unsigned k = 0; !common && k < SHARED_PAGES; k++)
			map(roots[i], area(1) + k * PAGE, data_new(SPACES + k), P | W | A | D);
		common = at(roots[i])[slot_of(area(1), 4)];
	}
	for (unsigned n = 0; n < params[ROUNDS]; n++) {
		write_cr3(roots[number_of(n) % SPACES]);
		sum = fold(sum, try_read(area(0)));
		sum = fold(sum, try_read(area(1) + number_of(n) / SPACES % SHARED_PAGES * PAGE));
	}
	report("sum", sum);
}

/* One table, reached in eight ways that differ in what an upper level takes away. Params: for each way what (1: W, 2: U, 4: execution)
 * and at which level. */
#define WAYS 8
enum { WAY = OWN_PARAMS };

static uint64_t result(uint64_t seen, uint64_t wanted)
{
	return (seen & ~31ull) == FAULTED ? 0x80 | (seen & 31) : seen != wanted;
}

static void ways(void)
{
	uint64_t root = root_new(), table = page_new(), data = data_new(0), seen[WAYS];

	at(table)[0] = data | P | W | U | A | D;
	user_init(root);
	for (unsigned i = 0; i < WAYS; i++) {
		unsigned take = params[WAY + i] & 7, level = params[WAY + i] >> 4;

		for (unsigned l = 4; l > 1; l--) {
			uint64_t bits = P | W | U | A;
			if (l == level)
				bits = P | A | (take & 1 ? 0 : W) | (take & 2 ? 0 : U) | (take & 4 ? NX : 0);
			at(table_of(root, area(i), l, P | W | U | A))[slot_of(area(i), l)] =
				(l > 2 ? page_new() : table) | bits;
		}
	}
	write_cr3(root);
	/* All ways lead somewhere before any of them is looked at: what one does must not change another. */
	for (unsigned i = 0; i < WAYS; i++) {
		try_read(area(i));
		try_user(user_read, area(i), 0);
	}
	for (unsigned i = 0; i < WAYS; i++) {
		uint64_t gva = area(i);

		seen[i] = result(try_read(gva), word_of(0));
		seen[i] = seen[i] << 8 | result(try_write(gva, word_of(0)), 0);
		seen[i] = seen[i] << 8 | result(try_call(gva), number_of(0));
		seen[i] = seen[i] << 8 | result(try_user(user_read, gva, 0), word_of(0));
		seen[i] = seen[i] << 8 | result(try_user(user_write, gva, word_of(0)), 0);
		seen[i] = seen[i] << 8 | result(try_user(user_call, gva, 0), number_of(0));
	}
	for (unsigned i = 0; i < WAYS; i++)
		report("way", seen[i]);
}

/* A table whose entries have been used or not. Params: for each 16 entries A, then D, as 4 words each. */
#define ACCESSES 24
enum { USED = OWN_PARAMS, WRITTEN = USED + 4 };

static void bits(void)
{
	uint64_t root = root_new(), table = table_of(root, area(0), 1, P | W | U | A), pages[16];

	for (unsigned i = 0; i < 16; i++)
		pages[i] = data_new(i);
	for (unsigned i = 0; i < 512; i++) {
		unsigned used = params[USED + i % 256 / 64] >> i % 64 & 1,
			 written = used & params[WRITTEN + i % 256 / 64] >> i % 64;

		at(table)[i] = pages[i % 16] | P | W | (used ? A : 0) | (written ? D : 0);
	}
	/* What has been used can still lead nowhere: not present, and beyond memory. */
	at(table)[509] = pages[0] | W | A | D;
	at(table)[510] = 1ull << 35 | P | W | A | D;
	write_cr3(root);
	for (unsigned i = 0; i < ACCESSES; i++) {
		unsigned slot = number_of(100 + i) % 508;

		if (i % 3)
			try_read(area(0) + slot * PAGE);
		else
			try_write(area(0) + slot * PAGE, word_of(slot % 16));
	}
	for (unsigned i = 0; i < 508;) {
		uint64_t both = 0;

		for (unsigned k = 0; k < 32 && i < 508; k++, i++)
			both |= (at(table)[i] >> 5 & 3) << 2 * k;
		report("bits", both);
	}
	report("absent", try_read(area(0) + 509 * PAGE));
}

/* All of a table that has been used. */
static void full(void)
{
	uint64_t root = root_new(), table = table_of(root, area(0), 1, P | W | U | A), sum = 0;

	for (unsigned i = 0; i < 512; i++)
		at(table)[i] = data_new(i) | P | W | A | D;
	write_cr3(root);
	for (unsigned i = 0; i < 512; i++)
		sum = fold(sum, try_read(area(0) + i * PAGE));
	report("sum", sum);
}

/* One large page, mapped twice: as written before, and as not. Then one of 1 GiB. */
#define LARGE (2ull << 20)

static void large_pages(void)
{
	uint64_t root = root_new(), *clean = entry_of(root, area(0), 2), *dirty = entry_of(root, area(1), 2),
		 *huge = entry_of(root, area(2), 3);

	arena_align(LARGE);
	uint64_t gpa = arena_next, gva = area(0) + 5 * PAGE;

	data_fill(gpa + 5 * PAGE, 1);
	*dirty = gpa | P | W | PS | A | D;
	*clean = gpa | P | W | PS;
	*huge = 0 | P | W | PS;
	write_cr3(root);
	report("write", try_write(area(1) + 6 * PAGE, word_of(6)));
	report("read", try_read(gva));
	report("entry", *clean & (A | D));
	report("write", try_write(gva, word_of(2)));
	report("entry", *clean & (A | D));
	report("read", try_read(area(1) + 5 * PAGE));
	report("read", try_read(area(0) + 6 * PAGE));
	report("read", try_read(area(2) + gpa + 5 * PAGE));
	report("entry", *huge & (A | D));
	report("write", try_write(area(2) + gpa + 7 * PAGE, word_of(7)));
	report("entry", *huge & (A | D));
	report("read", try_read(area(0) + 7 * PAGE));
}

int guest_main(void)
{
	static void (*const modes[])(void) = { switching, ways, bits, full, large_pages };

	tables_begin();
	modes[params[MODE]]();
	return 0;
}
