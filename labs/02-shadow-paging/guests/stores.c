/* Stores to page tables in use: by every kind of instruction, at every level, through every way to the table. */
#include "cached.h"

/* LOWEST: page tables of level 1 take part, or only those above. */
enum { LOWEST = OWN_PARAMS, STORES, ORDER = STORES };

/* --- a table that maps itself ------------------------------------------------------------------------------------------ */

#define SELF_SLOT (params[SLOT] + 61)

/* Where the entry of this level on the way to gva lies, seen through the PML4 entry that leads to the PML4 itself. */
static uint64_t self_gva(uint64_t gva, unsigned level)
{
	uint64_t at = 0;

	for (unsigned l = 4; l >= 1; l--) {
		unsigned from = l + level; /* each level up is one more time through the PML4 */
		at |= (from > 4 ? SELF_SLOT : slot_of(gva, from)) << (3 + 9 * l);
	}
	/* The table itself is the page; its entry for gva is inside. */
	return at | slot_of(gva, level) * 8;
}

/* How `to` comes to where `from` was; they differ in address bits only. */
#define STORE(name, ...)                                                 \
	static void store_##name(uint64_t a, uint64_t from, uint64_t to) \
	{                                                                \
		(void)from;                                              \
		asm volatile(__VA_ARGS__);                               \
	}
STORE(mov, "mov %1, (%0)" : : "r"(a), "r"(to) : "memory")
STORE(halves, "movl %k1, (%0); movl %k2, 4(%0)" : : "r"(a), "r"(to), "r"(to >> 32) : "memory")
STORE(bytes, "movw %w1, (%0); movb %b2, 2(%0); movb %b3, 3(%0)" : : "r"(a), "r"(to), "q"(to >> 16), "q"(to >> 24) : "memory")
STORE(xchg, "xchg %1, (%0)" : "+r"(a), "+r"(to) : : "memory")
STORE(add, "lock add %1, (%0)" : : "r"(a), "r"(to - from) : "memory", "cc")
STORE(xor, "xor %1, (%0)" : : "r"(a), "r"(to ^ from) : "memory", "cc")
STORE(cmpxchg, "lock cmpxchg %2, (%1)" : "+a"(from) : "r"(a), "r"(to) : "memory", "cc")
STORE(push, "mov %%rsp, %%rbx; mov %0, %%rsp; push %1; mov %%rbx, %%rsp" : : "r"(a + 8), "r"(to) : "rbx", "memory")
/* No instruction that hv emulates. */
STORE(sse, "movq %1, %%xmm0; movq %%xmm0, (%0)" : : "r"(a), "r"(to) : "memory")
static void store_pair(uint64_t a, uint64_t from, uint64_t to)
{
	uint64_t other = (a & 8) ? a - 8 : a + 8, next = *(volatile uint64_t *)other;
	uint64_t lo = a & 8 ? next : from, hi = a & 8 ? from : next;

	asm volatile("lock cmpxchg16b (%2)"
		     : "+a"(lo), "+d"(hi)
		     : "r"(a & ~15ull), "b"(a & 8 ? next : to), "c"(a & 8 ? to : next)
		     : "memory", "cc");
}
static void store_bits(uint64_t a, uint64_t from, uint64_t to)
{
	for (uint64_t bit = 12; bit < 32; bit++) {
		if (from >> bit & ~(to >> bit) & 1)
			asm volatile("lock btr %1, (%0)" : : "r"(a), "r"(bit) : "memory", "cc");
		if (to >> bit & ~(from >> bit) & 1)
			asm volatile("lock bts %1, (%0)" : : "r"(a), "r"(bit) : "memory", "cc");
	}
}
static void store_stos(uint64_t a, uint64_t from, uint64_t to)
{
	uint64_t count = 1;

	(void)from;
	asm volatile("rep stosq" : "+D"(a), "+c"(count) : "a"(to) : "memory");
}
static void store_movs(uint64_t a, uint64_t from, uint64_t to)
{
	uint64_t source = (uint64_t)&to, count = 2;

	(void)from;
	asm volatile("rep movsl" : "+D"(a), "+S"(source), "+c"(count) : "m"(to) : "memory");
}

static void (*const stores[])(uint64_t, uint64_t, uint64_t) = {
	store_mov, store_halves, store_bytes, store_xchg, store_cmpxchg, store_pair, store_bits,
	store_add, store_xor,	 store_stos,  store_movs, store_push,	 store_sse,
};
#define KINDS (sizeof stores / sizeof *stores)

/* The table that maps itself is writable, and every store goes through that. At each level two subtrees take turns. */
static void recursive(void)
{
	uint64_t root = root_new(), gva = area(0) + (3ull << 30) + (5ull << 21) + 7 * PAGE;

	at(root)[SELF_SLOT] = root | P | W;
	map(root, gva, data_new(0), P | W);
	write_cr3(root);
	try_read(gva);
	for (unsigned kind = 0; kind < KINDS; kind++) {
		uint64_t seen = 0;

		for (unsigned level = params[LOWEST]; level <= 4; level++) {
			uint64_t self = self_gva(gva, level), from = *entry_of(root, gva, level), to;

			to = (level == 1 ? data_new(4 * kind) : page_new()) | (from & ~ADDRESS);
			/* The new subtree is complete before it is linked: its lowest table is reached by its own entries only. */
			for (uint64_t l = level - 1, table = to & ADDRESS; l >= 1; l--) {
				uint64_t next = l == 1 ? data_new(4 * kind + level - 1) : page_new();
				at(table)[slot_of(gva, l)] = next | P | W;
				table = next;
			}
			reload_cr3();
			stores[kind](self, from | (*(volatile uint64_t *)self & (A | D)),
				     to | (*(volatile uint64_t *)self & (A | D)));
			invlpg(gva);
			seen = seen << 16 | (try_read(gva) >> 8 & 0xffff);
		}
		report("stored", seen);
	}
}

/* --- several ways to one table --------------------------------------------------------------------------------------------- */

/* A page is written through two mappings while it is data, then becomes a table of each level in turn, is written through all its
 * mappings, and through one that was made later. */
static void aliases(void)
{
	uint64_t root = root_new(), page = page_new(), early = area(20), early2 = area(21) + PAGE,
		 late = area(22) + 2 * PAGE, pages[8];
	unsigned n = 0;

	map(root, early, page, P | W);
	map(root, early2, page, P | W);
	map(root, late, page, P | W);
	for (unsigned i = 0; i < 8; i++)
		pages[i] = data_new(i);
	write_cr3(root);
	try_write(early, 0);
	try_write(early2, 0);
	for (unsigned level = params[LOWEST]; level <= 3; level++) {
		uint64_t gva = area(level), below = page, seen = 0;

		/* The page is the table of this level; at the lowest level it has the choice of eight pages, above of eight trees. */
		uint64_t choice[8];
		for (unsigned i = 0; i < 8; i++) {
			choice[i] = pages[i];
			for (unsigned l = 1; l < level; l++) {
				uint64_t table = page_new();
				at(table)[slot_of(gva, l)] = choice[i] | P | W;
				choice[i] = table;
			}
		}
		try_write(early, choice[0] | P | W);
		*entry_of(root, gva, level + 1) = below | P | W;
		try_read(gva);
		const uint64_t ways[] = { early, early2, late, page, late, early };
		for (unsigned i = 0; i < 4; i++) {
			try_write(ways[(i + params[ORDER]) % 6], choice[++n % 8] | P | W);
			invlpg(gva);
			seen = seen << 16 | (try_read(gva) >> 8 & 0xffff);
		}
		report("alias", seen);
		*entry_of(root, gva, level + 1) = 0;
		invlpg(gva);
		report("unlinked", try_read(gva));
		try_write(early, 0);
	}
}

/* One page directory, reached on two ways with different rights, and used at both. */
static void two_shadows(void)
{
	uint64_t root = root_new(), writable = area(0), readonly = area(1), *e = entry_of(root, writable, 2);

	map(root, writable, data_new(0), P | W);
	*entry_of(root, readonly, 3) = *entry_of(root, writable, 3) & ~W;
	write_cr3(root);
	report("writable", try_read(writable));
	report("readonly", try_read(readonly));
	uint64_t table = page_new();
	at(table)[0] = data_new(1) | P | W;
	*e = table | P | W;
	invlpg(writable);
	invlpg(readonly);
	report("writable", try_read(writable));
	report("readonly", try_read(readonly));
	report("readonly", try_write(readonly, 0));
}

/* One table, used as a page table here and as a page directory there. What is data to the one is a page table to the other. */
static void two_levels(void)
{
	uint64_t root = root_new(), both = page_new(), low = area(0), high = area(1), tables[2], pages[2];

	for (unsigned i = 0; i < 2; i++) {
		tables[i] = page_new();
		pages[i] = data_new(i);
		at(tables[i])[0] = pages[i] | P | W;
	}
	uint64_t other = data_new(2);
	at(both)[0] = tables[0] | P | W;
	*entry_of(root, low, 2) = both | P | W;
	*entry_of(root, high, 3) = both | P | W;
	write_cr3(root);
	report("low", (try_read(low) & ~(A | D)) - pages[0]);
	report("high", try_read(high));
	at(both)[0] = tables[1] | P | W;
	invlpg(low);
	invlpg(high);
	report("low", (try_read(low) & ~(A | D)) - pages[1]);
	report("high", try_read(high));
	/* Through the page that the one use maps goes the entry that the other one needs. */
	report("write", try_write(low, other | P | W));
	invlpg(high);
	report("high", try_read(high));
	report("write", try_write(low, 0));
	invlpg(high);
	report("high", try_read(high));
}

/* --- stores that nobody sees as one ----------------------------------------------------------------------------------------- */

static unsigned interrupts;
static void on_interrupt(struct trap_frame *f)
{
	(void)f, interrupts++;
}

/* The handler's stack lies in a table: the CPU itself writes the frame there. */
static void frames(void)
{
	unsigned level = params[LOWEST];
	uint64_t root = root_new(), table = table_of(root, area(0), level, P | W), last = area(0) + (511ull << (3 + 9 * level));

	for (unsigned i = 480; i < 512; i++) {
		uint64_t data = data_new(i), lower = level == 1 ? data : page_new();
		if (level > 1)
			at(lower)[0] = data | P | W;
		at(table)[i] = lower | P | W;
	}
	uint64_t again = at(table)[510];
	idt_gate(0x21, 0, 1);
	trap_handlers[0x21] = on_interrupt;
	tss_set_ist(1, table + PAGE);
	write_cr3(root);
	report("before", try_read(last));
	asm volatile("int $0x21" : : : "memory");
	invlpg(last);
	report("after", try_read(last));
	report("frame", at(table)[511]);
	at(table)[511] = again;
	invlpg(last);
	report("again", try_read(last));
	report("interrupts", interrupts);
}

/* INS is emulated in any case. A port that nobody answers gives ones, and four bits of the address become ones. */
static void port_input(void)
{
	uint64_t root = root_new(), gva = area(0), pages;

	arena_align(16 * PAGE);
	pages = arena_next;
	arena_next += 16 * PAGE;
	data_fill(pages, 0);
	data_fill(pages + 15 * PAGE, 1);
	for (unsigned level = params[LOWEST]; level <= 2; level++) {
		uint64_t *e = entry_of(root, gva, level), to = (uint64_t)e + 1;

		if (level == 2) {
			at(pages)[slot_of(gva, 1)] = data_new(2) | P | W;
			at(pages + 15 * PAGE)[slot_of(gva, 1)] = data_new(3) | P | W;
		}
		*e = pages | P | W;
		write_cr3(root);
		report("before", try_read(gva));
		asm volatile("insb" : "+D"(to) : "d"(0x590) : "memory");
		invlpg(gva);
		report("after", try_read(gva));
	}
}

/* One store to two entries. */
static void two_entries(void)
{
	uint64_t root = root_new(), table = table_of(root, area(0), 2, P | W), gva = area(0) + (8ull << 21),
		 next = gva + (1ull << 21);
	uint64_t lower[2];

	for (unsigned i = 0; i < 2; i++) {
		map(root, gva + i * (1ull << 21), data_new(i), P | W);
		lower[i] = at(table)[8 + i] & ADDRESS;
	}
	write_cr3(root);
	report("first", try_read(gva));
	report("second", try_read(next));
	/* The upper half of the one and the lower half of the other: from the first nothing changes but that it must not be executed. */
	*(volatile uint64_t *)(table + 8 * 8 + 4) = NX >> 32 | lower[0] << 32 | (P | W) << 32;
	invlpg(gva);
	invlpg(next);
	report("first", try_call(gva));
	report("second", try_read(next));
}

/* --- tables that end ------------------------------------------------------------------------------------------------------ */

static uint64_t use_as_data(uint64_t page)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < params[STORES]; i++)
		at(page)[i % 512] = number_of(i) * 2ull;
	for (unsigned i = 0; i < 512; i++)
		sum = fold(sum, at(page)[i]);
	return sum;
}

/* A table of each level is unlinked and becomes data; the root is that of another process. */
static void freed(void)
{
	uint64_t root = root_new(), other = root_new(), gva = area(0);
	uint64_t tables[4];

	for (unsigned i = 0; i < 2; i++)
		map(i ? other : root, gva, data_new(i), P | W);
	for (unsigned level = 1; level <= 3; level++)
		tables[level] = table_of(root, gva, level, P);
	write_cr3(other);
	report("other", try_read(gva));
	write_cr3(root);
	report("mine", try_read(gva));
	for (unsigned level = 1; level <= 3; level++) {
		*entry_of(root, gva, level + 1) = 0;
		invlpg(gva);
		report("data", use_as_data(tables[level]));
		report("gone", try_read(gva));
	}
	/* The other process ends, and a new one gets its root. */
	report("data", use_as_data(other));
	memset(at(other), 0, PAGE);
	memcpy(at(other), at(root), 8);
	map(other, gva, data_new(2), P | W);
	write_cr3(other);
	report("new", try_read(gva));
	report("absent", try_read(area(1)));
}

/* --- large pages --------------------------------------------------------------------------------------------------------- */

#define LARGE (2ull << 20)

/* A large page is split, some pieces get other pages, and it is joined again; then the same one level up. */
static void split(void)
{
	uint64_t root = root_new(), gva = area(0), table = page_new(), directory = page_new(), *e = entry_of(root, gva, 2),
		 large;

	arena_align(LARGE);
	large = arena_next;
	for (unsigned i = 0; i < 8; i++)
		data_fill(large + i * PAGE, i);
	*e = large | P | W | PS;
	write_cr3(root);
	report("large", try_read(gva + 3 * PAGE));
	for (unsigned i = 0; i < 512; i++)
		at(table)[i] = (large + (i ^ 1) * PAGE) | P | W;
	*e = table | P | W;
	invlpg(gva + 3 * PAGE);
	report("split", try_read(gva + 3 * PAGE));
	report("split", try_write(gva + 2 * PAGE, word_of(9)));
	*e = large | P | W | PS;
	invlpg(gva + 2 * PAGE);
	invlpg(gva + 3 * PAGE);
	report("joined", try_read(gva + 3 * PAGE));
	report("joined", try_read(gva + 2 * PAGE));
	/* Read-only now. */
	*e = large | P | PS;
	invlpg(gva + 2 * PAGE);
	report("readonly", try_write(gva + 2 * PAGE, 0));
	report("readonly", try_read(gva + 2 * PAGE));

	gva = area(1) + large;
	e = entry_of(root, gva, 3);
	*e = 0 | P | W | PS;
	report("huge", try_read(gva + 4 * PAGE));
	for (uint64_t i = 0; i < 512; i++)
		at(directory)[i] = (i % 32) << 21 | P | W | PS;
	at(directory)[slot_of(gva, 2)] = table | P | W;
	*e = directory | P | W;
	invlpg(gva + 4 * PAGE);
	report("split", try_read(gva + 4 * PAGE));
	*e = 0 | P | W | PS;
	invlpg(gva + 4 * PAGE);
	report("joined", try_read(gva + 4 * PAGE));
}

int guest_main(void)
{
	static void (*const modes[])(
		void) = { recursive, aliases, two_shadows, two_levels, frames, port_input, two_entries, freed, split };

	tables_begin();
	modes[params[MODE]]();
	return 0;
}
