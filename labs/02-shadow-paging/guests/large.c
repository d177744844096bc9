/*
 * Checkpoint 2.12: flushes of large pages. The shadow has them in pieces of 4 KiB; INVLPG of any address in the page flushes all of it.
 */
#include "paging.h"

PARAMS;

#define LARGE (2ull << 20)
#define HUGE (1ull << 30)
#define CR4_PGE (1ull << 7)
#define PIECES 4
#define FIRST ((FRAMES + LARGE) & ~(LARGE - 1)) /* large pages of memory, one behind the other */
#define LARGE_COUNT 12

static uint64_t piece[PIECES]; /* offsets in a page of 2 MiB */

static uint64_t memory(unsigned i)
{
	return FIRST + i * LARGE;
}

/* Which words there are: every piece of every large page has its own. */
static void fill_memory(void)
{
	for (unsigned k = 0; k < PIECES; k++)
		piece[k] = (128 * k + random64() % 128) * PAGE;
	for (unsigned i = 0; i < LARGE_COUNT; i++)
		for (unsigned k = 0; k < PIECES; k++)
			*word(memory(i) + piece[k]) = params[1] + i * PIECES + k;
}

static void use(const char *name, uint64_t gva)
{
	for (unsigned k = 0; k < PIECES; k++)
		for (unsigned user = 0; user <= USER; user += USER) {
			try(READ | user, gva + piece[k], 0);
			tag(name, k);
			say("", seen.faults ? ~seen.error : seen.value);
		}
}

/* Somewhere in the page, but in none of the pieces that were used. */
static void flush_inside(uint64_t gva, uint64_t size)
{
	uint64_t at = random64() % size;

	for (unsigned k = 0; k < PIECES; k++)
		if ((at ^ piece[k]) % LARGE / PAGE == 0)
			at ^= PAGE;
	invlpg(gva + at);
}

static void moved(uint64_t bits)
{
	uint64_t gva = random_gva() & ~(LARGE - 1), *entry = entry_at(gva, 2);

	*entry = memory(0) | bits;
	use("moved", gva);
	*entry = memory(1) | bits;
	flush_inside(gva, LARGE);
	use("moved", gva);
}

static void split_and_joined(void)
{
	uint64_t gva = random_gva() & ~(LARGE - 1), *entry = entry_at(gva, 2), table = table_new();

	for (unsigned i = 0; i < 512; i++)
		word(table)[i] = (memory(3 + i / 128) + i * PAGE) | ALL;
	*entry = memory(2) | ALL | PTE_PS;
	use("split", gva);
	*entry = table | ALL;
	flush_inside(gva, LARGE);
	use("split", gva);
	*entry = memory(7) | ALL | PTE_PS;
	for (unsigned k = 0; k < PIECES; k++)
		invlpg(gva + piece[k]);
	use("split", gva);
}

static void rights(void)
{
	uint64_t gva = random_gva() & ~(LARGE - 1), *entry = entry_at(gva, 2);

	*entry = memory(8) | ALL | PTE_PS;
	try(WRITE, gva + piece[1] + 8, 1);
	try(WRITE | USER, gva + piece[2] + 8, 1);
	*entry &= ~PTE_D;
	flush_inside(gva, LARGE);
	try(WRITE, gva + piece[2] + 8, 2);
	tag("dirty", 0);
	say("", *entry & PTE_D);
	*entry &= ~PTE_W;
	flush_inside(gva, LARGE);
	tag("written", 1);
	try_and_say(WRITE, gva + piece[1] + 8, 3);
	tag("written", 2);
	try_and_say(WRITE | USER, gva + piece[2] + 8, 3);
}

/* A page of 1 GiB becomes pages of 2 MiB, each of which leads to the memory behind. */
static void huge(void)
{
	uint64_t gva = random_gva() & ~(HUGE - 1), *entry = entry_at(gva, 3), table = table_new();

	for (unsigned i = 0; i < LARGE_COUNT; i++)
		word(table)[memory(i) / LARGE] = memory((i + 1) % LARGE_COUNT) | ALL | PTE_PS;
	*entry = ALL | PTE_PS;
	use("huge", gva + memory(9));
	use("huge", gva + memory(3));
	*entry = table | ALL;
	flush_inside(gva, HUGE);
	use("huge", gva + memory(9));
	use("huge", gva + memory(3));
}

int guest_main(void)
{
	uint32_t a = 0x80000001, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	paging_init();
	user_init();
	fill_memory();
	write_cr4(read_cr4() | CR4_PGE);
	moved(ALL | PTE_PS);
	moved(ALL | PTE_PS | PTE_G);
	split_and_joined();
	rights();
	tag("can", 0);
	say("", d >> 26 & 1);
	if (d >> 26 & 1)
		huge();
	return 0;
}
