/*
 * Checkpoint 2.10: the accessed and dirty bits that accesses leave in the guest's entries. The tables lie where the guest has mapped them
 * read-only (it fills them through a second mapping); to a CPU that sets these bits it makes no difference.
 */
#include "paging.h"

PARAMS;

#define MANY 16
#define LARGE (2ull << 20)
#define WINDOW 0x18000000000ull /* where the tables can be written */

static uint64_t window(uint64_t gpa)
{
	return gpa >= TABLES + LARGE ? WINDOW + (gpa - TABLES - LARGE) : gpa;
}

/* Each case has an address with tables of its own at all levels: its accessed bits begin clear. */
static uint64_t fresh(void)
{
	static uint64_t slot;
	uint64_t gva = (4 + (params[1] + slot++) % 500) << 39 | (random64() & 0x7ffffff) << 12;

	return gva >> 47 ? gva | 0xffff000000000000 : gva;
}

/* For each level, highest first, a digit with A as bit 0 and D as bit 1, read through the read-only mapping. */
static uint64_t marks(uint64_t gva)
{
	uint64_t table = root, digits = 0;

	for (unsigned level = 4; level; level--) {
		uint64_t entry = *word(table + (gva >> (12 + 9 * (level - 1)) & 511) * 8);
		digits = digits << 4 | (entry & PTE_A ? 1 : 0) | (entry & PTE_D ? 2 : 0);
		if (level > 1 && level < 4 && (entry & PTE_PS))
			return digits << 4 * (level - 1);
		table = entry & PTE_ADDR;
	}
	return digits;
}

static uint64_t fresh_page(uint64_t number, uint64_t bits)
{
	uint64_t gva = fresh();

	put_code(frame(number), params[1]);
	map(gva, frame(number), bits);
	return gva;
}

static void step(const char *name, unsigned kind, uint64_t gva)
{
	try(kind, gva + ((kind & 3) == WRITE ? 8 : 0), params[1]); /* the code is not to be overwritten */
	tag(name, seen.faults);
	say("", marks(gva));
}

/* The second access comes when the shadow knows the page already. */
static void pair(const char *name, unsigned first, unsigned second, uint64_t bits)
{
	uint64_t gva = fresh_page(64, bits);

	tag(name, 0);
	say("", marks(gva));
	step(name, first, gva);
	step(name, second, gva);
	step(name, first, gva);
}

/* A write that is refused: no D, whatever became of A. */
static void refused(const char *name, unsigned kind, uint64_t bits)
{
	uint64_t gva = fresh_page(64, bits);

	try(READ, gva, 0);
	try(kind, gva, params[1]);
	tag(name, seen.faults);
	say("", marks(gva) & 0x2222);
}

/* One frame by two ways: D belongs to the entry, not to the frame. */
static void aliases(void)
{
	uint64_t one = fresh_page(65, ALL), other = fresh_page(65, ALL);

	step("one", WRITE, one);
	step("other", READ, other);
	step("other", WRITE | USER, other);
	step("one", READ, one);
}

/* The pieces of a large page share one D bit. */
static void large(void)
{
	uint64_t gva = fresh() & ~(LARGE - 1), gpa = (FRAMES + LARGE * (params[1] % 8)) & ~(LARGE - 1);

	*entry_at(gva, 2) = gpa | ALL | PTE_PS;
	step("large", READ, gva + 5 * PAGE);
	step("large", WRITE, gva + 9 * PAGE);
	step("large", WRITE, gva + 5 * PAGE);
	tag("largeat", 0);
	say("", *word(gpa + 5 * PAGE + 8));
	say("", *word(gpa + 9 * PAGE + 8));
}

/* Pages that are read, written, and then both again; half of them begin with D set. */
static void many(void)
{
	uint64_t first = fresh() & ~(LARGE - 1), digits = 0;

	for (unsigned i = 0; i < MANY; i++)
		map(first + i * PAGE, frame(100 + i), i % 2 ? ALL | PTE_A | PTE_D : ALL);
	for (unsigned round = 0; round < 4; round++)
		for (unsigned i = 0; i < MANY; i++) {
			*word(first + i * PAGE + 8 * round);
			*word(first + i * PAGE + 8 * round) = round;
		}
	for (unsigned i = 0; i < MANY; i++)
		digits += marks(first + i * PAGE);
	tag("many", 0);
	say("", digits);
}

int guest_main(void)
{
	paging_init();
	/* Nobody has looked at this part of the loader's map yet. */
	*entry_at(WINDOW, 2) = (TABLES + LARGE) | KERNEL | PTE_PS;
	*entry_at(TABLES + LARGE, 2) &= ~PTE_W;
	user_init();
	next_table = TABLES + LARGE;
	table_gva = window;

	pair("rw", READ, WRITE, KERNEL);
	pair("wr", WRITE, READ, KERNEL);
	pair("fw", FETCH, WRITE, KERNEL);
	pair("urw", READ | USER, WRITE | USER, ALL);
	pair("kruw", READ, WRITE | USER, ALL);
	pair("urkw", READ | USER, WRITE, ALL);
	pair("uwkr", WRITE | USER, READ, ALL);
	refused("readonly", WRITE, PTE_P);
	refused("userro", WRITE | USER, PTE_P | PTE_U);
	refused("kernels", WRITE | USER, KERNEL);
	aliases();
	large();
	many();
	return 0;
}
