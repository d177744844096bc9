/*
 * Checkpoint 2.7: the kernel's own page faults. Each access is refused by one entry at one level. The handler puts that entry right and
 * lets the instruction try again, without flushing anything: entries that are not present or have reserved bits set are never kept by a
 * TLB, and the fault itself flushes what was kept of its address (SDM vol. 3, 4.10.2.3, 4.10.4.1).
 */
#include "paging.h"

PARAMS;

/* Makes the entry of one level what `bad` makes of it, tries, and has it put right. */
static void with(unsigned level, uint64_t clear, uint64_t set, unsigned kind, bool before)
{
	uint64_t gva = random_gva(), gpa = frame(next_table / PAGE);
	uint64_t *entry, good;

	gva += 8 * (random64() % 500);
	put_code(gpa + gva % PAGE, params[1]);
	map(gva, gpa, KERNEL | PTE_A | PTE_D);
	entry = entry_at(gva, level);
	good = *entry;
	*entry = (good & ~clear) | set;
	if (before) /* the address is in use already when the access comes that is refused */
		try(READ, gva, 0);
	repair_at = entry;
	repair_with = good;
	try_and_say(kind, gva, params[1]);
	if (kind == WRITE)
		say("stored", *word(gpa + gva % PAGE));
}

/* Addresses that are none: no page fault, and CR2 stays as it was. */
static void not_canonical(void)
{
	for (unsigned kind = READ; kind <= WRITE; kind++) {
		tag("canonical", kind);
		try_and_say(kind, params[2] ^ 1ull << 63, 0);
		say("left", read_cr2());
	}
}

/* 8 bytes on two pages, of which the second is absent. Nothing is stored before both are there. */
static void two_pages(void)
{
	for (unsigned kind = READ; kind <= WRITE; kind++) {
		uint64_t gva = random_gva() & ~PAGE;

		*word(frame(kind) + PAGE - 8) = params[1];
		map(gva, frame(kind), KERNEL);
		repair_at = entry_at(gva + PAGE, 1);
		repair_with = frame(2) | KERNEL;
		tag("two", kind);
		try_and_say(kind, gva + PAGE - 4, ~0ull);
		say("stored", *word(frame(kind) + PAGE - 8));
	}
}

int guest_main(void)
{
	paging_init();
	for (unsigned level = 4; level; level--) {
		for (unsigned kind = READ; kind <= FETCH; kind++) {
			tag("absent", level << 4 | kind);
			with(level, PTE_P, 0, kind, false);
		}
		/* What is not present has no meaning otherwise. */
		tag("nothing", level);
		with(level, PTE_P, PTE_NX | PTE_PS | 1ull << 51, WRITE, false);
		tag("readonly", level);
		with(level, PTE_W, 0, WRITE, level & 1);
		tag("nx", level);
		with(level, 0, PTE_NX, FETCH, level & 1);
		for (unsigned kind = READ; kind <= FETCH; kind++) {
			tag("reserved", level << 4 | kind);
			with(level, kind == WRITE ? PTE_W : 0, level == 4 ? PTE_PS : 1ull << 51, kind, false);
		}
	}
	not_canonical();
	two_pages();
	return 0;
}
