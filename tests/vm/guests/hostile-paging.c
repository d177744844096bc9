/* Attacks by page tables: on the hypervisor that shadows them, on its memory, and on the CPU that walks them. */
#include "hostile.h"

#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "string.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define PAGE 4096ull
#define MIB (1ull << 20)
#define ARENA (4 * MIB) /* tables and pages: from here to the end of memory */
#define SELF 200        /* a PML4 entry for tables that map themselves */
#define AREA(n) ((uint64_t)(n) << 39)

static uint64_t next = ARENA;

static uint64_t *at(uint64_t gpa) { return (uint64_t *)gpa; }

static uint64_t page_new(void)
{
	uint64_t gpa = next;

	next += PAGE;
	return (uint64_t)memset(at(gpa), 0, PAGE);
}

/* A PML4 in which all of memory is where it is. */
static void root_at(uint64_t root)
{
	static uint64_t low;

	if (!low) {
		uint64_t directory = page_new();
		low = page_new();
		at(low)[0] = directory | P | W;
		for (uint64_t i = 0; i < memory >> 21; i++)
			at(directory)[i] = i << 21 | P | W | PS;
	}
	memset(at(root), 0, PAGE);
	at(root)[0] = low | P | W;
}

static uint64_t root_new(void)
{
	uint64_t root = page_new();

	root_at(root);
	return root;
}

static uint64_t *entry(uint64_t root, uint64_t gva, unsigned level)
{
	uint64_t table = root;

	for (unsigned l = 4;; l--) {
		uint64_t *e = at(table) + (gva >> (3 + 9 * l) & 511);
		if (l == level)
			return e;
		if (!(*e & P))
			*e = page_new() | P | W;
		table = *e & 0x000ffffffffff000;
	}
}

static void read64(uint64_t a) { asm volatile("movq (%0), %%rax" : : "r"(a) : "rax", "memory"); }
static void write64(uint64_t a) { asm volatile("movq $0x5a5a5a, (%0)" : : "r"(a) : "memory"); }
static void jump(uint64_t a) { asm volatile("jmp *%0" : : "r"(a) : "memory"); }

static void touch(uint64_t gva)
{
	attempt(read64, gva);
	attempt(write64, gva + 8);
	attempt(jump, gva);
}

static void invlpg(uint64_t gva) { asm volatile("invlpg (%0)" : : "r"(gva) : "memory"); }

/* Entries of every level that lead out of memory: right behind it, to devices, and to where no CPU has addresses. */
static void tables_outside(void)
{
	const uint64_t places[] = { memory, 0xd0000000, 0xfec00000, 0xfee00000, 0xfffff000, 1ull << 32, 1ull << 36, 1ull << 39, 1ull << 51,
				    0x000ffffffffff000 };
	uint64_t root = root_new();

	write_cr3(root);
	for (unsigned level = 1; level <= 4; level++)
		for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
			*entry(root, AREA(1), level) = places[i] | P | W;
			invlpg(AREA(1));
			attempt(read64, AREA(1));
			attempt(write64, AREA(1) + 8);
			if (level == 2 || level == 3) {
				*entry(root, AREA(1), level) = (places[i] & ~(MIB * 1024 - 1)) | P | W | PS;
				invlpg(AREA(1));
				attempt(read64, AREA(1) + memory);
			}
			*entry(root, AREA(1), level) = 0;
		}
	report_faults();
}

/* Tables that lead to each other in circles, all of them writable through themselves; what is stored there is anything. */
static void cycle(void)
{
	uint64_t root = root_new(), pages[4] = { root, page_new(), page_new(), page_new() };

	for (unsigned i = 0; i < 4; i++)
		for (unsigned k = 0; k < 24; k++)
			at(pages[i])[SELF + k] = pages[random64() % 4] | P | W | (random64() & (U | A | D));
	write_cr3(root);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t gva = 0, r = random64();

		for (unsigned l = 1; l <= 4; l++, r >>= 8)
			gva |= (uint64_t)(SELF + r % 24) << (3 + 9 * l);
		attempt(read64, gva + (r & 0xff8));
		r = random64();
		/* Mostly entries that nobody needs; now and then one that somebody does. */
		attempt(write64, gva + (r % 64 ? (SELF + r % 24) * 8 : r >> 8 & 0xff8));
		if (r % 5 == 0)
			*(volatile uint64_t *)(pages[r / 5 % 4] + (SELF + r % 24) * 8) = pages[r / 20 % 4] | P | W;
		if (r % 7 == 0)
			invlpg(gva);
		if (r % 11 == 0)
			write_cr3(root);
	}
	report_faults();
}

/* The last 2 MiB, mapped with pages of every size. Only its use is refused. */
static void monitor_mapped(void)
{
	uint64_t root = root_new(), page = page_new();
	unsigned level = variant % 3 + 1;

	*entry(root, MONITOR - PAGE, 1) = page | P | W;
	for (uint64_t gva = MONITOR; gva && level == 1; gva += PAGE)
		*entry(root, gva, 1) = page | P | W;
	if (level == 2)
		*entry(root, MONITOR, 2) = 0 | P | W | PS;
	if (level == 3)
		*entry(root, MONITOR, 3) = 0 | P | W | PS;
	write_cr3(root);
	if (level < 3) /* below it, memory is the guest's */
		*(volatile uint64_t *)(MONITOR - 8) = 1;
	else
		*(volatile uint64_t *)(MONITOR - (1020 * MIB)) = 1;
	dputs("mapped\n");
	invlpg(MONITOR + 5 * PAGE);
	if (variant < 9)
		attempt(variant / 3 == 0 ? read64 : variant / 3 == 1 ? write64 : jump, MONITOR + (random64() & 0x1ffff8));
	dputs("not used\n");
}

/* Roots at the addresses at which the machine has the monitor, its tables and the guest's first page. To a guest these are memory like any
 * other. */
static void machine_addresses(void)
{
	const uint64_t places[] = { 2 * MIB, 2 * MIB + PAGE, 2 * MIB + 2 * PAGE, 4 * MIB - PAGE };

	next = ARENA + MIB;
	for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
		root_at(places[i]);
		*entry(places[i], AREA(1), 1) = places[i] | P | W;
		write_cr3(places[i]);
		*(volatile uint64_t *)(AREA(1) + 8 * 300) = i << 1;
		report("root", at(places[i])[300]);
	}
	report_faults();
}

/* Few tables that seem many: each leads 512 times to the next. */
static void fan_out(void)
{
	uint64_t root = root_new(), tables[4] = { page_new(), page_new(), page_new(), page_new() }, sum = 0;

	for (unsigned l = 1; l < 4; l++)
		for (unsigned i = 0; i < 512; i++)
			at(tables[l])[i] = tables[l - 1] | P | W;
	for (unsigned i = 1; i < 256; i++)
		at(root)[i] = tables[3] | P | W;
	at(tables[0])[0] = 1;
	write_cr3(root);
	for (unsigned i = 0; i < 3000; i++)
		sum += *(volatile uint64_t *)(AREA(1 + random64() % 255) | (random64() & 0x7ffffff000));
	report("sum", sum);
}

/* As many tables as memory holds, of all levels, used in any order. */
static void all_tables(void)
{
	uint64_t root = root_new(), page = page_new(), gvas = 0, sum = 0;

	*at(page) = 1;
	for (uint64_t i = 0; next < memory - 4 * PAGE; i++, gvas = i)
		*entry(root, AREA(1 + i % 100) + (i / 100 % 4 << 30) + (i / 400 << 21), 1) = page | P | W;
	write_cr3(root);
	for (unsigned n = 0; n < 2000; n++) {
		uint64_t i = random64() % gvas;
		sum += *(volatile uint64_t *)(AREA(1 + i % 100) + (i / 100 % 4 << 30) + (i / 400 << 21));
	}
	report("sum", sum);
}

/* Memory full of anything, some of it looking like entries, as tables below the root. */
static void garbage(void)
{
	uint64_t root = root_new();

	for (uint64_t a = 8 * MIB; a < memory; a += 8)
		*at(a) = (random64() & (random64() % 16 ? 0x0000000000fff067 : 0x800f000000fff1ff)) | random64() % 8;
	for (unsigned i = 1; i < 512; i++)
		at(root)[i] = random64() % 2 ? random64() : (random64() % (memory - 8 * MIB) + 8 * MIB) | P | W | U;
	write_cr3(root);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t gva = random64() & 0x7ffffffffff8;

		if (random64() % 2)
			gva |= 0xffff800000000000;
		if (gva < AREA(1) || gva >= 0xffffffffc0000000) /* what runs here, and the monitor */
			continue;
		touch(gva);
	}
	report_faults();
}

/* CR3 leads to anything, or nowhere. */
static void cr3_garbage(void)
{
	uint64_t page = page_new();

	for (unsigned i = 0; i < 512; i++)
		at(page)[i] = variant % 3 == 0 ? random64() : variant % 3 == 1 ? ~0ull : random64() & ~P;
	write_cr3(page);
	dputs("survived\n");
}

static void load_cr3(uint64_t value) { write_cr3(value); }

static void cr3_beyond(void)
{
	const uint64_t places[] = { memory, 0xd0000000, 0xfee00000, (1ull << 36) - PAGE };

	/* Bits that no physical address has are refused. */
	for (unsigned bit = 52; bit < 63; bit++)
		attempt(load_cr3, root_new() | 1ull << bit);
	report_faults();
	write_cr3(places[variant % 4]);
	dputs("survived\n");
}

/* --- hv at work -------------------------------------------------------------------------------------------------------- */

/* Instructions on the very entry that maps their operand. Behind each the attempt ends: there may be no stack to return by. */
#define OWN_ENTRY(X)                                                                                              \
	X(o_mov, "mov %rsi, (%rax)") X(o_xchg, "xchg %rsi, (%rax)") X(o_add, "lock add %rsi, (%rax)")             \
	X(o_cmpxchg, "mov %rax, %rdi; mov (%rax), %rax; lock cmpxchg %rsi, (%rdi)")                                \
	X(o_pair, "mov %rax, %rdi; mov 8(%rdi), %rdx; mov (%rdi), %rax; mov %rsi, %rbx; mov %rsi, %rcx; lock cmpxchg16b (%rdi)") \
	X(o_push, "lea 8(%rax), %rsp; push %rsi") X(o_call, "lea 8(%rax), %rsp; call o_mov")                      \
	X(o_stos, "mov %rax, %rdi; mov %rsi, %rax; mov $4, %ecx; rep stosq")                                      \
	X(o_movs, "mov %rax, %rdi; mov %rax, %rsi; add $8, %rsi; mov $4, %ecx; rep movsq")                        \
	X(o_ins, "mov %rax, %rdi; mov $0x590, %edx; mov $4, %ecx; rep insl") X(o_sse, "movups %xmm0, (%rax)")     \
	X(o_fxsave, "fxsave (%rax)") X(o_pop, "lea 8(%rax), %rsp; pop (%rax)") X(o_sgdt, "sgdt (%rax)")            \
	X(o_int, "lea 8(%rax), %rsp; int $0x80") X(o_unaligned, "mov %rsi, -3(%rax)")
#define OWN_CODE(name, insn)    \
	void name(uint64_t gva); \
	asm(#name ": mov %rdi, %rax; mov own_value, %rsi; " insn "; ud2");
#define OWN_ROW(name, insn) name,
uint64_t own_value;
OWN_ENTRY(OWN_CODE)
static void (*const own_entry[])(uint64_t) = { OWN_ENTRY(OWN_ROW) };

/* The entry is one of a table that maps itself, at every level, and becomes anything. */
static void own_mapping(void)
{
	uint64_t root = root_new();

	write_cr3(root);
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < sizeof own_entry / sizeof *own_entry; i++)
			for (unsigned level = 1; level <= 4; level++) {
				/* The table of this level on the way to gva maps itself, as the last level. */
				uint64_t gva = AREA(level == 4 ? SELF : 1), self;
				for (unsigned l = 1; l < level; l++)
					gva |= (uint64_t)SELF << (3 + 9 * l);
				gva |= level < 4 ? (uint64_t)SELF << (3 + 9 * level) : 0;
				self = (uint64_t)entry(root, gva, level) & ~(PAGE - 1);
				at(self)[SELF] = self | P | W;
				own_value = round == 0 ? 0 : round == 1 ? random64() : (random64() % memory & ~(PAGE - 1)) | P | W;
				invlpg(gva);
				attempt(own_entry[i], gva + SELF * 8);
				for (unsigned k = SELF - 64; k < SELF + 65; k++) /* fxsave, frames */
					at(self)[k] = 0;
			}
	write_cr3(root);
	report_faults();
}

/* One store to two entries, the first of which maps both: the CPU translates once, before it stores. */
static void own_pair(void)
{
	uint64_t root = root_new(), other = page_new(), gva = 0, *e = at(root) + SELF;

	for (unsigned l = 1; l <= 4; l++)
		gva |= (uint64_t)SELF << (3 + 9 * l);
	*e = root | P | W;
	write_cr3(root);
	write64(gva + 300 * 8); /* A and D are set from here on */
	uint64_t rax = e[0], rdx = e[1];
	asm volatile("lock cmpxchg16b (%2)"
		     : "+a"(rax), "+d"(rdx)
		     : "r"(gva + SELF * 8), "b"(other | P | W), "c"(0x1230)
		     : "memory", "cc");
	report("first", (e[0] & ~(PAGE - 1)) == other);
	report("second", e[1]);
	report("elsewhere", at(other)[SELF + 1]);
	e[0] = 0;
	write_cr3(root);
	report_faults();
}

/* The stack is in a table of the level that the variant says: calls, pushes and the CPU's frames store there. */
static void stack_in_table(void)
{
	uint64_t root = root_new(), gva = AREA(SELF) + ((uint64_t)SELF << 30) + (SELF << 21);

	*entry(root, gva, 1) = page_new() | P | W;
	write_cr3(root);
	uint64_t table = (uint64_t)entry(root, gva, variant % 4 + 1) & ~(PAGE - 1);
	for (unsigned i = 0; i < 20; i++) {
		attempt(read64, gva);
		for (unsigned k = 0; k < sizeof own_entry / sizeof *own_entry; k++)
			attempt_on(own_entry[k], next - PAGE, table + 150 * 8 - i % 8);
	}
	report_faults();
}

/* The IDT fills a page table; the GDT lies in another one, with a task that becomes busy. */
extern const uint8_t trap_stubs[256][16];

static void descriptors_in_table(void)
{
	static uint8_t stack[4096] __attribute__((aligned(16)));
	static struct __attribute__((packed)) {
		uint32_t reserved;
		uint64_t rsp[3], zero, ist[7];
		uint8_t rest[12];
	} tss;
	uint64_t root = root_new(), gva = AREA(SELF) + ((uint64_t)SELF << 30), base = (uint64_t)&tss;
	uint64_t *idt = entry(root, gva, 1), *gdt = entry(root, gva + 2 * MIB, 1);

	tss.ist[0] = (uint64_t)stack + sizeof stack;
	for (unsigned v = 0; v < 256; v++)
		gate_set((uint64_t(*)[2])idt, v, (uint64_t)trap_stubs[v], 1);
	gdt[SEL_KCODE / 8] = DESC_KCODE;
	gdt[SEL_KDATA / 8] = DESC_KDATA;
	gdt[SEL_TSS / 8] = (sizeof tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40;
	write_cr3(root);
	load_idt((uint64_t)idt, 4095);
	load_gdt((uint64_t)gdt, SEL_TSS + 15);
	for (unsigned round = 0; round < 4; round++) {
		gdt[SEL_TSS / 8] &= ~(1ull << 41);
		asm volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
		report("busy", gdt[SEL_TSS / 8] >> 41 & 1);
		for (unsigned i = 0; i < 64; i++) { /* what the gates and descriptors map as entries */
			attempt(read64, gva + i * PAGE);
			attempt(read64, gva + 2 * MIB + i * PAGE);
		}
		write_cr3(root);
	}
	report_faults();
}

/* One instruction that needs six ways through four levels at once, none of which have a table in common. */
static void six_ways(void)
{
	uint64_t root = root_new(), code = AREA(20), from = AREA(30), to = AREA(40), pages[6];

	for (unsigned i = 0; i < 6; i++)
		pages[i] = page_new();
	for (unsigned i = 0; i < 2; i++) {
		*entry(root, code - (1 - i) * PAGE, 1) = pages[i] | P | W;
		*entry(root, from - (1 - i) * PAGE, 1) = pages[2 + i] | P | W;
		*entry(root, to - (1 - i) * PAGE, 1) = pages[4 + i] | P | W;
	}
	memcpy((uint8_t *)pages[0] + PAGE - 1, "\x48", 1); /* movsq; ret */
	memcpy((uint8_t *)pages[1], "\xa5\xc3", 2);
	memcpy((uint8_t *)pages[2] + PAGE - 4, "abcd", 4);
	memcpy((uint8_t *)pages[3], "efg\n", 4);
	write_cr3(root);
	from -= 4;
	to -= 4;
	asm volatile("call *%2" : "+S"(from), "+D"(to) : "r"(code - 1) : "memory");
	for (unsigned i = 0; i < 4; i++)
		dputc(((char *)pages[4])[PAGE - 4 + i]);
	for (unsigned i = 0; i < 4; i++)
		dputc(((char *)pages[5])[i]);
}

/* Sixty-four processes and ten thousand switches between them. */
static void switches(void)
{
	static uint64_t roots[64], numbers[64];
	uint64_t wrong = 0;

	for (unsigned i = 0; i < 64; i++) {
		uint64_t page = page_new();
		roots[i] = root_new();
		*entry(roots[i], AREA(1), 1) = page | P | W;
		*at(page) = numbers[i] = random64();
	}
	for (unsigned n = 0; n < 3000; n++) {
		unsigned i = random64() % 64;

		write_cr3(roots[i]);
		wrong += *(volatile uint64_t *)AREA(1) != numbers[i];
		if (n % 16 == 0)
			*(volatile uint64_t *)AREA(1) = numbers[i] = random64();
	}
	report("wrong", wrong);
}

const struct attack paging_attacks[] = {
	{ "tables_outside", tables_outside }, { "cycle", cycle }, { "monitor_mapped", monitor_mapped },
	{ "machine_addresses", machine_addresses }, { "fan_out", fan_out }, { "all_tables", all_tables }, { "garbage", garbage },
	{ "cr3_garbage", cr3_garbage }, { "cr3_beyond", cr3_beyond }, { "own_mapping", own_mapping }, { "own_pair", own_pair },
	{ "stack_in_table", stack_in_table }, { "descriptors_in_table", descriptors_in_table }, { "six_ways", six_ways },
	{ "switches", switches }, { 0 },
};
