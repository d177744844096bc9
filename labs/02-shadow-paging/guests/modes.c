/*
 * Checkpoint 2.9: what the kernel may do to a page depends on CR0.WP, CR4.SMEP, CR4.SMAP and RFLAGS.AC, and these change often. All 16
 * combinations come in an order from the seed, and in each the same accesses are tried. One is left out: with SMAP alone the kernel may
 * execute a program's page and not read it, which page tables cannot express. hv stops such a guest.
 */
#include "paging.h"

PARAMS;

#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define MODES 16
enum { WP = 1, SMEP = 2, SMAP = 4, AC = 8 };

enum { USER_WRITABLE, USER_READONLY, KERNEL_READONLY, PAGES };
static uint64_t gva[PAGES], gpa[PAGES];

/* As a set of the bits of a mode: what this CPU can. */
static unsigned features(void)
{
	uint32_t a = 7, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return WP | (b >> 7 & 1 ? SMEP : 0) | (b >> 20 & 1 ? SMAP | AC : 0);
}

/* By POPF only where the grader says that it will not be lost. */
static void set_ac(bool on)
{
	if (!params[2] && on)
		asm volatile("stac");
	else if (!params[2])
		asm volatile("clac");
	else
		asm volatile("pushfq; andq %0, (%%rsp); orq %1, (%%rsp); popfq"
			     :
			     : "i"(~RFLAGS_AC), "r"(on ? (uint64_t)RFLAGS_AC : 0)
			     : "memory", "cc");
}

/* The error code of the page fault, which is never 0 here; 0 if there was none. */
static unsigned error_of(unsigned mode, unsigned kind, unsigned page, uint64_t value)
{
	if (mode & AC)
		set_ac(true);
	try(kind, gva[page] + ((kind & 3) == FETCH ? 0 : 8), value);
	if (mode & AC)
		set_ac(false);
	return seen.faults ? seen.error & 31 : 0;
}

static void try_mode(unsigned mode, uint64_t value)
{
	uint64_t errors = 0, cr0 = read_cr0(), cr4 = read_cr4();

	write_cr0((cr0 & ~CR0_WP) | (mode & WP ? CR0_WP : 0));
	cr4 = (cr4 & ~(CR4_SMEP | CR4_SMAP)) | (mode & SMEP ? CR4_SMEP : 0) | (mode & SMAP ? CR4_SMAP : 0);
	write_cr4(cr4);
	errors = error_of(mode, READ | USER, USER_READONLY, 0);
	errors = errors << 5 | error_of(mode, WRITE | USER, USER_READONLY, value);
	errors = errors << 5 | error_of(mode, FETCH | USER, USER_WRITABLE, 0);
	for (unsigned page = PAGES; page--;)
		for (unsigned kind = FETCH + 1; kind--;) {
			bool tried = kind != FETCH || page == KERNEL_READONLY || (mode & (SMEP | SMAP | AC)) != SMAP;
			errors = errors << 5 | (tried ? error_of(mode, kind, page, value) : 0);
		}
	tag("mode", mode);
	say("", errors);
}

/* The kernel's stack lies on a program's page. The CPU pushes, and AC of the interrupted program does not count. */
static void user_stack(void)
{
	uint64_t stack = random_gva();

	map(stack, frame(8), ALL);
	repair_at = entry_at(stack, 1);
	repair_with = frame(8) | KERNEL;
	tss_set_rsp0(stack + 256);
	user_rflags |= RFLAGS_AC;
	tag("push", 0);
	try_and_say(READ | USER, USER_STACK, 0);
}

int guest_main(void)
{
	unsigned order[MODES] = { 0 }, can = features();

	paging_init();
	/* The guest's own image becomes the kernel's before anybody else has looked at it. */
	*entry_at(0, 4) &= ~PTE_U;
	user_init();
	for (unsigned page = 0; page < PAGES; page++) {
		gva[page] = random_gva();
		gpa[page] = frame(page);
		put_code(gpa[page], params[1]);
		map(gva[page], gpa[page], ALL);
	}
	*entry_at(gva[USER_READONLY], 1 + params[3] % 4) &= ~PTE_W;
	*entry_at(gva[KERNEL_READONLY], 1 + params[3] / 4 % 4) &= ~PTE_W;
	*entry_at(gva[KERNEL_READONLY], 1 + params[3] / 16 % 4) &= ~PTE_U;

	tag("can", 0);
	say("", can);
	for (unsigned i = 0; i < MODES; i++) {
		unsigned j = random64() % (i + 1);
		order[i] = order[j];
		order[j] = i;
	}
	for (unsigned i = 0; i < MODES; i++)
		if (!(order[i] & ~can))
			try_mode(order[i], i + 1);
	for (unsigned page = 0; page < PAGES; page++) {
		tag("page", page);
		say("", *word(gpa[page] + 8));
	}
	write_cr0(read_cr0() | CR0_WP);
	if (can & SMAP) {
		write_cr4(read_cr4() | CR4_SMAP);
		user_stack();
	}
	return 0;
}
