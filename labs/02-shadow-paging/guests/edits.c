/*
 * Random edits of page tables, and accesses through them (checkpoint 2.17).
 *
 * A pool of pages holds tables and data; nothing but the random entries says which is which. A table may be used at several levels,
 * from several places, point to itself, be a root and data at once. Each of 16 addresses uses slots 2 and 3 (259 in the upper half of a
 * root) at all levels, so that they lead through the same few entries, and reads and writes at these slots' offsets meet entries
 * when a table is mapped. checks/edits.py makes the same steps from the same seed and says how each has to end.
 *
 * Nothing here is stale on purpose: an address whose way an edit changes is flushed before it is used again. No other is: what was not
 * present, and what was not on the way, no CPU can have remembered (SDM vol. 3, 4.10.2.3 and 4.10.4.3).
 */
#include "edits.h"
#include "edits_pool.h"

#include "dbg.h"
#include "desc.h"
#include "io.h"

/* Chosen by the grader and written into this array in a copy of the file. */
volatile uint64_t params[16] __attribute__((section(".params"), aligned(64))) = { 0 };

enum { P_SEED, P_STEPS, P_FEATURES, P_BLOCK, P_TABLES, P_EDITS }; /* params[] */

/* What a run may use: params[P_FEATURES]. */
#define F_OUTSIDE_TABLE 1u /* tables where no memory is */
#define F_OUTSIDE_PAGE 2u  /* pages there */
#define F_RESERVED 4u
#define F_GLOBAL 8u /* entries with the G bit */
#define F_PGE 16u   /* CR4.PGE is switched */
#define F_WP 32u    /* so is CR0.WP */
#define F_SMX 64u   /* CR4.SMEP and CR4.SMAP */
#define F_NX 128u   /* entries with NX, and EFER.NXE is switched */
#define F_1G 256u   /* pages of 1 GiB */
#define F_USER 512u /* accesses at CPL 3 */
/* CR4.SMAP without CR4.SMEP: the kernel may execute a user page that it may not read. No shadow can show that. */
#define F_SMAP_ALONE 1024u
#define F_CALM 2048u /* few writes of CR3, so that more is kept for longer */

#define CR0_WP (1ull << 16)
#define CR4_PGE (1ull << 7)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define MSR_EFER 0xc0000080
#define EFER_NXE (1ull << 11)

static uint8_t trap_stack[4096] __attribute__((aligned(16)));

static uint64_t rng, features, cr0, cr3, cr4, efer;
static unsigned ntables;
static unsigned stale; /* a bit for each address that the TLB may know otherwise than the tables do now */
#define ALL_ADDRESSES ((1u << ADDRESSES) - 1)

/* xorshift64* (Vigna, 2016): small, and the same in any language. */
static unsigned draw(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)((rng * 0x2545f4914f6cdd1d >> 33) % n);
}

static unsigned level_of(unsigned page)
{
	return 4 - page * 4 / ntables;
}

/* An entry for that page, most often one that makes sense there. All numbers are drawn in any case. */
static uint64_t make_entry(unsigned page)
{
	static const uint64_t large[3] = { TABLES_GPA, DATA_GPA, 0 };
	unsigned level = page < ntables ? level_of(page) : 1 + draw(4);
	unsigned kind = draw(20), any = draw(POOL), below = draw(ntables / 4), region = draw(3), r = draw(2);
	uint64_t natural = level > 1 ? pool_gpa(ntables * (5 - level) / 4 + below) : pool_gpa(any), e;

	if (kind == 19)
		e = r ? large[region] | PS : natural | (features & F_RESERVED ? 1ull << (region ? 51 : 45) : 0);
	else if (kind == 18)
		e = !r					   ? natural
		    : region && features & F_OUTSIDE_TABLE ? OUTSIDE
		    : features & F_OUTSIDE_PAGE		   ? OUTSIDE | PS
							   : natural;
	else if (kind == 17)
		e = pool_gpa(any);
	else if (kind >= 14 && level == 2)
		e = large[region] | PS;
	else if (kind >= 14 && level == 3)
		e = (features & F_1G ? 0 : DATA_GPA) | PS;
	else
		e = natural;
	e |= draw(32) ? P : 0;
	e |= draw(6) ? W : 0;
	e |= draw(8) ? U : 0;
	e |= draw(2) ? A : 0;
	e |= draw(2) ? D : 0;
	e |= !draw(3) && features & F_GLOBAL ? G : 0;
	e |= !draw(24) && features & F_NX ? NX : 0;
	return e;
}

/* --- flushes (SDM vol. 3, 4.10.4.1) ------------------------------------------------------------------------------------------ */

/* A CR3 write spares global pages, and a translation that was made global by one space must not serve another. */
static bool global_pages(void)
{
	return features & F_GLOBAL && cr4 & CR4_PGE;
}

static void load_cr3(uint64_t value)
{
	if (!global_pages())
		stale = 0;
	else if (value != cr3)
		stale = ALL_ADDRESSES;
	cr3 = value;
	write_cr3(value);
}

static void invalidate(unsigned i)
{
	asm volatile("invlpg (%0)" : : "r"(address(i)) : "memory");
	stale &= ~(1u << i);
}

static void switch_pge(void)
{
	cr4 ^= CR4_PGE;
	write_cr4(cr4);
	stale = 0;
}

static void flush(unsigned i)
{
	unsigned how = draw(4);

	if (how == 2 && !global_pages() && !(features & F_CALM))
		load_cr3(cr3);
	else if (how == 3 && features & F_PGE)
		switch_pge();
	else
		invalidate(i);
}

/* --- edits -------------------------------------------------------------------------------------------------------------------- */

static void copy_two(uint64_t to, uint64_t from)
{
	uint64_t count = 2;

	asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void store_two(uint64_t to, uint64_t value)
{
	uint64_t count = 2;

	asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static void edit(void)
{
	static const uint8_t bits[8] = { 0, 1, 2, 5, 6, 7, 8, 63 };
	unsigned page = draw(8) ? draw(ntables) : draw(POOL), slot = slots[draw(SLOTS)];
	unsigned how = draw(12), via = draw(4), other = draw(ntables), equal = draw(2);
	uint64_t bit = bits[draw(8)], value = make_entry(page), alias, old;
	struct {
		uint64_t old;
		unsigned users;
	} before[SLOTS];
	volatile uint64_t *table = at(pool_gpa(page)), *entry;

	/* Only where a run says so: G, NX, and by the loss of PS a page without memory becoming a table there. */
	if ((bit == 8 && !(features & F_GLOBAL)) || (bit == 63 && !(features & F_NX)) ||
	    (bit == 7 && !(features & F_OUTSIDE_TABLE)))
		bit = 1;
	alias = via == 1 ? ALIAS_4K + page * PAGE : via == 2 && features & F_1G ? ALIAS_1G + pool_gpa(page) : pool_gpa(page);
	entry = at(alias + slot * 8);
	if (!draw(24))
		value &= ~P;
	for (unsigned i = 0; i < SLOTS; i++) {
		before[i].old = table[slots[i]];
		before[i].users = users_of(cr3, (uint64_t)&table[slots[i]]);
	}
	switch (how) {
	case 3: asm volatile("xchg %0, %1" : "+r"(value), "+m"(*entry)); break;
	case 4:
		old = equal ? *entry : ~0ull;
		asm volatile("lock cmpxchg %2, %1" : "+a"(old), "+m"(*entry) : "r"(value) : "cc");
		break;
	case 5: asm volatile("lock bts %1, %0" : "+m"(*entry) : "r"(bit) : "cc"); break;
	case 6: asm volatile("btr %1, %0" : "+m"(*entry) : "r"(bit) : "cc"); break;
	case 7:
		asm volatile("movl %1, %0"
			     : "=m"(((volatile uint32_t *)entry)[equal])
			     : "r"((uint32_t)(value >> 32 * equal)));
		break;
	case 8: store_two(alias + slots[0] * 8, value); break;
	case 9: copy_two(alias + slots[0] * 8, pool_gpa(other) + slots[0] * 8); break;
	case 11: /* mapped again, or sometimes unmapped */
		*entry = *entry & P && !equal && other & 1 ? *entry & ~P : *entry | P;
		break;
	case 10: /* a store that few emulators know */ asm volatile("movnti %1, %0" : "=m"(*entry) : "r"(value)); break;
	default: *entry = value;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		if (table[slots[i]] != before[i].old)
			stale |= before[i].users;
}

/* --- accesses ----------------------------------------------------------------------------------------------------------------- */

#define NOTHING 256 /* no exception */
static struct outcome {
	uint64_t vector, error, rip, rax;
} outcome;

static void caught(struct trap_frame *f)
{
	outcome = (struct outcome){ f->vector, f->error, f->rip, f->rax };
	probe_leave(f->rax);
}

static void put(uint64_t value, unsigned bytes)
{
	while (bytes--) {
		dputc((char)value);
		value >>= 8;
	}
}

static uint16_t fold(uint64_t value)
{
	return (uint16_t)(value * 0x9e3779b97f4a7c15 >> 48);
}

/* Runs code with the address in RDI and the value in RAX, at CPL 3 or here, perhaps with AC set. Returns RAX. */
static uint64_t probe(bool user, bool ac, uint64_t code, uint64_t gva, uint64_t value)
{
	outcome = (struct outcome){ .vector = NOTHING };
	if (user) {
		value = probe_user(code, gva, value);
		if (outcome.vector == 6 &&
		    outcome.rip == USER_CODE + code % PAGE + 3) /* the UD2 behind the instruction: it is done */
			outcome.vector = NOTHING;
		return value;
	}
	value = probe_kernel(code, gva, value, RFLAGS_FIXED | (ac ? RFLAGS_AC : 0));
	/* POPF alone is not seen by a hypervisor that deprivileges its guest, CLI is. */
	if (ac)
		asm volatile("push %0; popfq; cli" : : "i"(RFLAGS_FIXED) : "memory", "cc");
	return value;
}

/* One byte for an exception, or 0 and something of the value: checks/edits.py, Decoder. */
static void tell(uint64_t gva, bool valued, uint64_t value)
{
	if (outcome.vector == NOTHING) {
		put(0, 1);
		put(fold(value), valued ? 2 : 0);
	} else if (outcome.vector == 14 && outcome.error < 32) {
		uint64_t cr2 = read_cr2();
		bool same = cr2 == gva;
		put(0x40 | (same ? 0x20 : 0) | outcome.error, 1);
		put(cr2, same ? 0 : 8);
	} else if (outcome.vector == 13 && outcome.error < 32) {
		put(0x80 | outcome.error, 1);
	} else {
		put(0xc0 | (outcome.vector & 31), 1);
	}
}

static bool is_code(uint64_t value)
{
	return (value & 0xffffff00000000ff) == CODE_BYTES;
}

static void fetch(bool user, uint64_t gva)
{
	uint64_t value;

	/* Is there anything to run? With AC set, whatever this read may not do the fetch may not either. */
	value = probe(user, true, user ? USER_CODE + USER_READ : (uint64_t)probe_read, gva, 0);
	tell(gva, true, value);
	if (outcome.vector == NOTHING && !is_code(value))
		return;
	value = probe(user, false, gva, gva, 0);
	if (outcome.vector == 6 && outcome.rip == gva + 5)
		outcome.vector = NOTHING;
	tell(gva, true, value);
}

/* Half of the time one that needs no flush, if there is one. */
static unsigned choose_address(void)
{
	unsigned i = draw(ADDRESSES);
	bool any = draw(2);

	for (unsigned n = 0; n < ADDRESSES && !any && stale >> i & 1; n++)
		i = (i + 1) % ADDRESSES;
	return i;
}

static void access(void)
{
	unsigned i = choose_address(), kind = draw(8), slot = slots[draw(SLOTS)];
	bool user = draw(2) && features & F_USER, ac = draw(2), crooked = !draw(48), split = !draw(8);
	uint64_t value = make_entry(draw(POOL)), gva = address(i) + (kind < 6 ? slot : CODE_SLOT) * 8, old, entry,
		 before = 0;

	if (!draw(4))
		value &= ~P;
	if (crooked)
		gva ^= 1ull << 48;
	else if (stale >> i & 1)
		flush(i);
	/* A read of the last 4 bytes of this page and the first 4 of the next. */
	if (split && kind < 3 && !crooked && !(i & 1)) {
		gva = address(i) + PAGE - 4;
		if (stale >> (i + 1) & 1)
			flush(i + 1);
	}
	if (kind >= 6 && !crooked) {
		fetch(user, gva);
		return;
	}
	if (kind != 3 && kind != 4) {
		old = probe(user, ac, user ? USER_CODE + USER_READ : (uint64_t)probe_read, gva, 0);
		tell(gva, true, old);
		/* XCHG writes in any case, but an emulated CPU (QEMU's TCG) that cannot even read there says that it read. */
		if (kind != 5 || outcome.vector != NOTHING)
			return;
	}
	/* It may be an entry that is written to. */
	unsigned users = 0;
	follow(cr3, gva, ~0ull, &entry);
	if (entry < MEMORY) {
		before = *at(entry);
		users = users_of(cr3, entry);
	}
	if (kind == 5) {
		old = probe(user, ac, user ? USER_CODE + USER_XCHG : (uint64_t)probe_xchg, gva, value);
		tell(gva, true, old);
	} else {
		probe(user, ac, user ? USER_CODE + USER_WRITE : (uint64_t)probe_write, gva, value);
		tell(gva, false, 0);
	}
	if (entry < MEMORY && outcome.vector == NOTHING && *at(entry) != before)
		stale |= users;
}

/* --- the rest ------------------------------------------------------------------------------------------------------------------ */

static void control(void)
{
	unsigned which = draw(5);

	if (which < 2 && features & F_WP) {
		write_cr0(cr0 ^= CR0_WP);
	} else if ((which == 2 || which == 3) && features & F_SMX) {
		cr4 ^= which == 2 ? CR4_SMEP : CR4_SMAP;
		if ((cr4 & (CR4_SMEP | CR4_SMAP)) == CR4_SMAP && !(features & F_SMAP_ALONE))
			cr4 ^= CR4_SMEP | CR4_SMAP;
		write_cr4(cr4);
	} else if (which == 4 && features & F_NX) {
		wrmsr(MSR_EFER, efer ^= EFER_NXE);
		stale = ALL_ADDRESSES; /* NX is a reserved bit now, or has ceased to be one */
	}
}

/* A and D of all entries, two bits each, and a sum of the rest. */
static void look(void)
{
	uint64_t sum = 0, bits = 0;
	unsigned n = 0;

	for (unsigned page = 0; page < POOL; page++)
		for (unsigned i = 0; i < SLOTS; i++) {
			uint64_t e = at(pool_gpa(page))[slots[i]];
			sum = (sum ^ (e & ~(A | D))) * 0x9e3779b97f4a7c15;
			bits |= (e >> 5 & 3) << 2 * (n & 3);
			if (!(++n & 3)) {
				put(bits, 1);
				bits = 0;
			}
		}
	if (n & 3)
		put(bits, 1);
	put(sum >> 48, 2);
}

static void step(void)
{
	unsigned op = draw(32);

	if (op < params[P_EDITS]) {
		for (unsigned edits = 1 + draw(3); edits; edits--)
			edit();
	} else if (op < 27) {
		access();
	} else if (op < 29) {
		unsigned natural = draw(8), root = draw(ntables / 4), any = draw(ntables);
		if (!draw(8) || !(features & F_CALM))
			load_cr3(pool_gpa(natural ? root : any));
	} else if (op < 31) {
		control();
	} else {
		invalidate(draw(ADDRESSES));
	}
}

static void cpuid(uint32_t leaf, uint32_t r[4])
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

/* What this CPU can do is told, and nothing else is tried. */
static void find_features(void)
{
	uint32_t r[4];

	features = params[P_FEATURES];
	cpuid(7, r);
	if ((r[1] & (1u << 7 | 1u << 20)) != (1u << 7 | 1u << 20))
		features &= ~F_SMX;
	cpuid(0x80000001, r);
	if (!(r[3] & 1u << 26))
		features &= ~F_1G;
	if (!(r[3] & 1u << 20))
		features &= ~F_NX;
	cpuid(0x80000008, r);
	report("features", features);
	report("bits", r[0] & 0xff);
	report("root", root_entry());
}

static void make_pool(void)
{
	for (unsigned page = 0; page < POOL; page++) {
		volatile uint64_t *table = at(pool_gpa(page));
		table[0] = root_entry();
		table[CODE_SLOT] = CODE_BYTES | (uint64_t)page << 8;
		for (unsigned i = 0; i < SLOTS; i++)
			table[slots[i]] = page < ntables ? make_entry(page) : 0xda7a00000000ull | page << 16 | slots[i] << 4;
	}
}

int guest_main(void)
{
	gdt_init();
	idt_init();
	tss_set_rsp0((uint64_t)trap_stack + sizeof(trap_stack));
	trap_handlers[6] = trap_handlers[13] = trap_handlers[14] = caught;

	rng = params[P_SEED];
	ntables = (unsigned)params[P_TABLES];
	find_features();
	cr0 = read_cr0() | CR0_WP;
	cr4 = read_cr4() & ~CR4_PGE;
	efer = rdmsr(MSR_EFER) | (features & F_NX ? EFER_NXE : 0);
	wrmsr(MSR_EFER, efer);
	write_cr4(cr4);
	write_cr0(cr0);
	make_kernel_tables(features & F_1G);
	make_pool();
	load_cr3(pool_gpa(0));
	for (uint64_t i = 0; i < params[P_STEPS]; i++) {
		step();
		if (i % params[P_BLOCK] == params[P_BLOCK] - 1)
			look();
	}
	return 0;
}
