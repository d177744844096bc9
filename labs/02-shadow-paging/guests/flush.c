/*
 * Checkpoint 2.12: what a translation may be before a flush, and must be behind it. In each round pages are used, their entries changed,
 * flushed in one of four ways, and used again.
 */
#include "paging.h"

PARAMS;

#define LARGE (2ull << 20)
#define CR4_PGE (1ull << 7)

enum { INVLPG, CR3, PGE, CR3_WITHOUT_PGE, FLUSHES };
enum { OTHER_FRAME, ABSENT, READONLY, NO_EXEC, KERNELS, CLEAN, IDLE, OTHER_TABLE, CHANGES };

struct page {
	uint64_t gva, *leaf, *table_entry;
	unsigned number, change, user, global;
};

/* Page n has frame 2n before it is changed, and 2n + 1 afterwards, if that is its change. */
static uint64_t numbered_frame(unsigned i)
{
	put_code(frame(i), params[1] + i);
	return frame(i);
}

static const unsigned kind_of[CHANGES] = { READ, READ, WRITE, FETCH, READ, WRITE, READ, READ };

static void use(const struct page *p, unsigned user)
{
	unsigned kind = kind_of[p->change];

	try(kind | user, p->gva + (kind == WRITE ? 8 : 0), params[1] + p->number);
}

static void change(const struct page *p)
{
	switch (p->change) {
	case OTHER_FRAME: *p->leaf = numbered_frame(2 * p->number + 1) | (*p->leaf & ~PTE_ADDR); break;
	case ABSENT: *p->leaf = 0; break;
	case READONLY: *p->leaf &= ~PTE_W; break;
	case NO_EXEC: *p->leaf |= PTE_NX; break;
	case KERNELS: *p->leaf &= ~PTE_U; break;
	case CLEAN: *p->leaf &= ~PTE_D; break;
	case IDLE: *p->leaf &= ~PTE_A; break;
	default: {
		uint64_t table = table_new();
		word(table)[p->gva >> 12 & 511] = numbered_frame(2 * p->number + 1) | ALL;
		*p->table_entry = table | ALL;
	}
	}
}

static void set_pge(bool on)
{
	write_cr4((read_cr4() & ~CR4_PGE) | (on ? CR4_PGE : 0));
}

static void round(unsigned flush)
{
	static struct page pages[CHANGES * 4];
	static unsigned number;
	uint64_t base = random_gva() & ~((1ull << 30) - 1);
	unsigned n = 0;

	for (unsigned c = 0; c < CHANGES; c++)
		for (unsigned k = 0; k < 4; k++) {
			if (k & 2 && c != OTHER_FRAME && c != READONLY)
				continue; /* global pages */
			struct page *p = &pages[n++];
			p->number = number++;
			p->change = c;
			p->user = k & 1 ? USER : 0;
			p->global = k & 2;
			p->gva = base + (c == OTHER_TABLE ? (1 + k) * LARGE : 0) + n * 3 * PAGE;
			p->leaf = entry_at(p->gva, 1);
			p->table_entry = entry_at(p->gva, 2);
			*p->leaf = numbered_frame(2 * p->number) | ALL | (p->global ? PTE_G : 0);
		}
	set_pge(flush != CR3_WITHOUT_PGE);
	for (unsigned i = 0; i < n; i++) {
		use(&pages[i], 0);
		if (pages[i].user)
			use(&pages[i], USER);
	}
	for (unsigned i = 0; i < n; i++) {
		change(&pages[i]);
		if (pages[i].change == OTHER_FRAME) { /* between change and flush either is right */
			tag("between", pages[i].number);
			use(&pages[i], pages[i].user);
			say("", seen.faults ? seen.error : seen.value);
		}
		if (flush == INVLPG)
			invlpg(pages[i].gva + random64() % PAGE);
	}
	if (flush == PGE) {
		set_pge(false);
		set_pge(true);
	} else if (flush != INVLPG) {
		write_cr3(read_cr3());
	}
	for (unsigned i = 0; i < n; i++) {
		struct page *p = &pages[i];
		if (flush == CR3 && p->global && p->change != OTHER_FRAME)
			continue;
		tag("page", p->number);
		use(p, p->user);
		if (seen.faults)
			say("error", seen.error);
		say("", seen.value);
		say("left", *p->leaf & (PTE_A | PTE_D));
	}
}

/* More is allowed than before, and nothing is flushed: at most one fault more, then it must go on. */
static void upgrades(void)
{
	static const struct {
		uint64_t before;
		unsigned kind;
	} cases[] = {
		{ PTE_P | PTE_U, WRITE }, { PTE_P | PTE_U, WRITE | USER }, { ALL | PTE_NX, FETCH }, { ALL | PTE_NX, FETCH | USER },
		{ KERNEL, READ | USER },
	};
	static uint64_t nothing;

	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint64_t gva = random_gva(), gpa = numbered_frame(i);
		map(gva, gpa, cases[i].before);
		try(READ, gva, 0);
		try(READ | (cases[i].before & PTE_U ? USER : 0), gva, 0);
		map(gva, gpa, ALL);
		repair_at = &nothing;
		tag("upgrade", i);
		try(cases[i].kind, gva, params[1]);
		repair_at = NULL;
		say("faults", seen.faults);
		say("", seen.value);
	}
}

/* Two address spaces with a page at the same address. */
static void spaces(void)
{
	uint64_t roots[2] = { root, table_new() }, gva = random_gva();

	for (unsigned i = 0; i < 2; i++) {
		root = roots[i];
		if (i) {
			*entry_at(0, 4) = *table_at(roots[0]);
			*entry_at(USER_CODE, 4) = table_at(roots[0])[2];
		}
		map(gva, numbered_frame(300 + i), ALL);
	}
	for (unsigned i = 0; i < 6; i++) {
		write_cr3(roots[i & 1]);
		tag("space", i);
		try(READ | (i & 2 ? USER : 0), gva, 0);
		say("", seen.value);
	}
	root = roots[0];
	write_cr3(root);
}

/* Without NXE the bit NX is reserved. */
static void nxe(void)
{
	uint64_t gva = random_gva();

	map(gva, numbered_frame(310), KERNEL | PTE_NX);
	try(READ, gva, 0);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
	invlpg(gva);
	try(READ, gva, 0);
	tag("nxe", 0);
	say("error", seen.faults ? seen.error : 0);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	try(READ, gva, 0);
	tag("nxe", 1);
	say("", seen.value);
}

int guest_main(void)
{
	paging_init();
	user_init();
	/* The guest itself: global, so that a flush of everything else costs little. */
	*entry_at(0, 2) |= PTE_G;
	for (unsigned flush = 0; flush < FLUSHES; flush++)
		round(flush);
	upgrades();
	spaces();
	nxe();
	return 0;
}
