/*
 * Checkpoint 2.8: programs and the kernel in one address space. What the kernel has used is absent for programs, whoever comes first and
 * however often they take turns.
 */
#include "paging.h"

PARAMS;

#define PAIRS 4
#define TURNS 12

/* A kernel's page: some entry on the way lacks U. Program and kernel take turns. */
static void kernel_pages(void)
{
	for (unsigned level = 4; level; level--) {
		for (unsigned kind = READ; kind <= FETCH; kind++) {
			uint64_t gva = random_gva(), gpa = frame(next_table / PAGE);

			put_code(gpa, params[1]);
			map(gva, gpa, ALL);
			*entry_at(gva, level) &= ~PTE_U;
			if (kind & 1) {
				tag("kernelfirst", level);
				try_and_say(READ, gva, 0);
			}
			tag("program", level << 4 | kind);
			try_and_say(kind | USER, gva, params[1]);
			tag("kernel", level << 4 | kind);
			try_and_say(kind, gva, params[1]);
			tag("again", level << 4 | kind);
			try_and_say(kind | USER, gva, params[1]);
			*entry_at(gva, level) |= PTE_U; /* another page may share it; rights that grow need no flush */
		}
	}
}

/* A program's own faults, put right by the handler. */
static void program_faults(void)
{
	static const struct {
		uint64_t entry;
		unsigned kind;
	} cases[] = {
		{ 0, READ }, { 0, WRITE }, { 0, FETCH }, { PTE_P | PTE_U, WRITE }, { PTE_P, WRITE }, { ALL | PTE_NX, FETCH },
		{ KERNEL | PTE_NX, FETCH }, { ALL | 1ull << 51, READ },
	};

	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint64_t gva = random_gva(), gpa = frame(next_table / PAGE);

		put_code(gpa, params[1]);
		map(gva, gpa, cases[i].entry);
		repair_at = entry_at(gva, 1);
		repair_with = gpa | ALL;
		tag("own", i);
		try_and_say(cases[i].kind | USER, gva, params[1]);
	}
}

/* The stack for the kernel is absent when a program calls: the CPU pushes, not the program. */
static void kernel_stack(void)
{
	uint64_t stack = random_gva();

	repair_at = entry_at(stack, 1);
	repair_with = frame(0) | KERNEL;
	tss_set_rsp0(stack + 256);
	tag("push", 0);
	try_and_say(READ | USER, USER_CODE, 0);
	tss_set_rsp0((uint64_t)user_kernel_stack + sizeof user_kernel_stack);
}

/* Taking turns costs nothing when both have what they need. */
static void turns(void)
{
	uint64_t gva[PAIRS], sum = 0;

	for (unsigned i = 0; i < PAIRS; i++) {
		gva[i] = random_gva();
		map(gva[i], frame(64 + i), ALL);
		*word(frame(64 + i)) = random64();
	}
	for (unsigned turn = 0; turn < TURNS; turn++)
		for (unsigned i = 0; i < PAIRS; i++) {
			try(READ | USER, gva[i], 0);
			sum += seen.value;
			try(WRITE | (turn + i) % 2 * USER, gva[i], seen.value + turn);
			sum += *word(gva[i]);
		}
	tag("turns", 0);
	say("", sum);
}

int guest_main(void)
{
	paging_init();
	user_init();
	kernel_pages();
	program_faults();
	kernel_stack();
	turns();
	return 0;
}
