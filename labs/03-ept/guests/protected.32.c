/*
 * A guest of 32 bits: what an operating system of the 386's and 486's time uses, and 64-bit code has no more. Segments with bases,
 * exceptions through a 32-bit IDT, page tables of two levels with pages of 4 MiB and 4 KiB.
 *
 * Each line is an observation. What comes behind an exception is its vector, error code, and for a page fault CR2.
 */
#include "dbg.h"
#include "io.h"
#include "start_info.h"

#include <stdbool.h>

#define PARAMS 16
volatile uint64_t params[PARAMS] __attribute__((section(".params"), aligned(64))) = { 0 };

/* What params are; of most the low half is used. Numbers that must fit in something are taken modulo it. */
enum { WORDS, WORD_SEED, WINDOW_AT, SLOT, ALIAS, PAGE_AT, DEVICE, TEXT_SEED };

static uint32_t param(unsigned index)
{
	return (uint32_t)params[index]; /* a division of 64 bits would need a library */
}

#define PAGE 4096u
#define LARGE (4u << 20)
#define AREA (2 * LARGE)       /* 4 MiB of memory that the tests work on, in a large page of its own */
#define DEVICE_GPA 0xd0000000u /* behind the end of RAM, and nobody answers */

#define CR0_WP (1u << 16)
#define CR0_PG (1u << 31)
#define CR4_PSE (1u << 4)
#define PTE_P 1u
#define PTE_W 2u
#define PTE_A (1u << 5)
#define PTE_D (1u << 6)
#define PTE_PS (1u << 7)

enum { VEC_NP = 11, VEC_GP = 13, VEC_PF = 14, VEC_SOFTWARE = 0x30 };

/* --- descriptors (SDM vol. 3, 3.4.5 and 6.11) -------------------------------------------------------------------------------- */

enum { NOTHING, CODE, DATA, WINDOW, SLOTS };
#define SELECTOR(slot) ((slot)*8)

static uint64_t gdt[SLOTS], idt[VEC_SOFTWARE + 1];

struct __attribute__((packed)) table_register32 {
	uint16_t limit;
	uint32_t base;
};

/* type: the access byte; flags: G and D/B in bits 3 and 2. Accessed bits are set. */
static uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t type, uint8_t flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)type << 40 |
	       (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

/* --- exceptions --------------------------------------------------------------------------------------------------------------- */

/* What a stub and the CPU leave on the stack, lowest address first. */
struct frame {
	uint32_t edi, esi, ebp, esp, ebx, edx, ecx, eax;
	uint32_t vector, error, eip, cs, eflags;
};

static volatile struct {
	unsigned count;
	uint32_t vector, error, cr2;
} seen;
static uint32_t resume; /* where to go on behind a fault */

__attribute__((used)) static void exception(struct frame *f)
{
	uint32_t cr2;

	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	seen.count++;
	seen.vector = f->vector;
	seen.error = f->error;
	seen.cr2 = f->vector == VEC_PF ? cr2 : 0;
	if (f->vector != VEC_SOFTWARE)
		f->eip = resume;
}

extern const char stub_np[], stub_gp[], stub_pf[], stub_software[];
asm("stub_software:\n"
    "	push $0\n" /* where the others have an error code */
    "	push $0x30\n"
    "	jmp stub_common\n"
    "stub_np: push $11\n	jmp stub_common\n"
    "stub_gp: push $13\n	jmp stub_common\n"
    "stub_pf: push $14\n"
    "stub_common:\n"
    "	pusha\n"
    "	push %esp\n"
    "	call exception\n"
    "	add $4, %esp\n"
    "	popa\n"
    "	add $8, %esp\n" /* vector and error code */
    "	iret\n");

static void set_gate(unsigned vector, const char *stub)
{
	uint32_t at = (uint32_t)stub;

	idt[vector] = (at & 0xffff) | SELECTOR(CODE) << 16 | 0x8e00ull << 32 | (uint64_t)(at >> 16) << 48;
}

/* One instruction that may fault: `resume` is the address behind it. */
#define ATTEMPT(insn, ...) asm volatile("movl $1f, %[resume]\n" insn "\n1:" __VA_ARGS__)

static void report_exception(const char *name)
{
	dputs(name);
	dputs(":\n");
	report("count", seen.count);
	report("vector", seen.vector);
	report("error", seen.error);
	report("cr2", seen.cr2);
	seen.count = seen.vector = seen.error = seen.cr2 = 0;
}

/* --- segments ------------------------------------------------------------------------------------------------------------------- */

static uint32_t fs_read(uint32_t offset)
{
	uint32_t value = 0;

	ATTEMPT("movl %%fs:(%[at]), %[value]", : [value] "+r"(value), [resume] "=m"(resume) : [at] "r"(offset) : "memory");
	return value;
}

static void load_fs(unsigned slot, uint64_t contents)
{
	gdt[slot] = contents;
	asm volatile("mov %0, %%fs" : : "r"(SELECTOR(slot)));
}

/* Selectors that cannot be loaded. What a segment's limit forbids is not tried: QEMU's TCG does not look at limits. */
static void loads(uint32_t base)
{
	static const uint8_t types[] = { 0x13, 0x99, 0x89 }; /* data, not present; code, not readable; a TSS */
	static const char *const names[] = { "not present", "not readable", "no segment" };

	for (unsigned i = 0; i < sizeof types; i++) {
		gdt[WINDOW] = descriptor(base, 0xffff, types[i], 4);
		ATTEMPT("mov %[selector], %%fs", : [resume] "=m"(resume) : [selector] "r"(SELECTOR(WINDOW)) : "memory");
		report_exception(names[i]);
	}
	ATTEMPT("mov %[selector], %%fs",
		: [resume] "=m"(resume)
		: [selector] "r"(SELECTOR(SLOTS + param(SLOT) % 100))
		: "memory");
	report_exception("no such slot");
	ATTEMPT("mov %[selector], %%ss", : [resume] "=m"(resume) : [selector] "r"(SELECTOR(NOTHING)) : "memory");
	report_exception("null stack");
}

static void segments(void)
{
	uint32_t base = AREA + param(WINDOW_AT) % (LARGE / 2), count = param(WORDS) % 500 + 20, sum = 0;
	uint64_t value = params[WORD_SEED] | 1;

	/* Written flat, read through the window. */
	for (uint32_t i = 0; i < 0x10000 / 4; i++) {
		value = value * 6364136223846793005ull + 1442695040888963407ull;
		*(volatile uint32_t *)(base + 4 * i) = value >> 32;
	}
	load_fs(WINDOW, descriptor(base, 0xffff, 0x93, 4));
	for (uint32_t i = 0; i < count; i++)
		sum = (sum << 1 | sum >> 31) ^ fs_read(4 * i + i % 4);
	report("window", sum);
	loads(base);
}

/* --- string output through a segment ---------------------------------------------------------------------------------------------- */

static void strings(void)
{
	char *text = (char *)(AREA + LARGE - PAGE);
	uint32_t at = 0, length = 32;
	uint64_t value = params[TEXT_SEED] | 1;

	for (unsigned i = 0; i < length; i++) {
		value = value * 6364136223846793005ull + 1442695040888963407ull;
		text[i] = 'a' + (value >> 33) % 26;
	}
	text[length - 1] = '\n';
	load_fs(WINDOW, descriptor((uint32_t)text, length - 1, 0x93, 4));
	asm volatile("rep outsb %%fs:(%%esi), %%dx" : "+S"(at), "+c"(length) : "d"((uint16_t)0xe9) : "memory");
	report("esi", at);
	report("ecx", length);
}

/* --- paging (SDM vol. 3, 4.3) -------------------------------------------------------------------------------------------------------- */

static uint32_t directory[1024] __attribute__((aligned(4096))), table[1024] __attribute__((aligned(4096)));

static uint32_t read(uint32_t gva)
{
	uint32_t value = 0;

	ATTEMPT("movl (%[at]), %[value]", : [value] "+r"(value), [resume] "=m"(resume) : [at] "r"(gva) : "memory");
	return value;
}

static void write(uint32_t gva, uint32_t value)
{
	ATTEMPT("movl %[value], (%[at])", : [resume] "=m"(resume) : [at] "r"(gva), [value] "r"(value) : "memory");
}

static void start_paging(void)
{
	for (unsigned i = 0; i < 4; i++) /* what the guest itself is in */
		directory[i] = i * LARGE | PTE_P | PTE_W | PTE_PS;
	asm volatile("mov %0, %%cr4" : : "r"(CR4_PSE));
	asm volatile("mov %0, %%cr3" : : "r"(directory) : "memory");
	asm volatile("mov %%cr0, %%eax\n	or %0, %%eax\n	mov %%eax, %%cr0"
		     :
		     : "i"(CR0_PG | CR0_WP)
		     : "eax", "memory");
}

static void paging(void)
{
	uint32_t slot = 16 + param(ALIAS) % 700, page = param(PAGE_AT) % 1023, large = slot * LARGE,
		 small = (slot + 1) * LARGE + page * PAGE;
	uint32_t word = param(WORD_SEED) * 2654435761u, offset = param(WINDOW_AT) % (LARGE - 8) & ~3u;

	/* The area once more, in a large page somewhere else. */
	directory[slot] = AREA | PTE_P | PTE_W | PTE_PS;
	*(volatile uint32_t *)(AREA + offset) = word;
	report("large", read(large + offset));
	report("large-bits", directory[slot] & (PTE_A | PTE_D));
	write(large + offset, ~word);
	report("written", *(volatile uint32_t *)(AREA + offset));
	report("large-bits", directory[slot] & (PTE_A | PTE_D));

	/* One page of 4 KiB, read-only; its neighbour is not there. */
	directory[slot + 1] = (uint32_t)table | PTE_P | PTE_W;
	table[page] = (AREA + (offset & ~(PAGE - 1))) | PTE_P;
	report("small", read(small + offset % PAGE));
	report("small-bits", table[page] & (PTE_A | PTE_D));
	write(small + offset % PAGE, 1);
	report_exception("write to read-only");
	read(small + PAGE + offset % PAGE);
	report_exception("absent");
	/* The CPU kept no translation that forbids more than the tables do: the fault has dropped it (SDM vol. 3, 4.10.4.1). */
	table[page] |= PTE_W;
	write(small + offset % PAGE, word);
	report("allowed", *(volatile uint32_t *)(AREA + offset));
	report("small-bits", table[page] & (PTE_A | PTE_D));
}

/* A store to where nobody is, through a segment and a page table: who watches the bus sees DEVICE_GPA and an offset. */
static void device(void)
{
	uint32_t slot = 900, offset = param(DEVICE) % (LARGE / 4) & ~3u;

	directory[slot] = DEVICE_GPA | PTE_P | PTE_W | PTE_PS;
	load_fs(WINDOW, descriptor(slot * LARGE + offset - 0x1000, 0xffff, 0x93, 4));
	asm volatile("movl %0, %%fs:(%1)" : : "r"(param(WORD_SEED)), "r"(0x1000) : "memory");
	load_fs(NOTHING, 0);
}

int guest_main(const struct hvm_start_info *info)
{
	struct table_register32 gdtr = { sizeof gdt - 1, (uint32_t)gdt }, idtr = { sizeof idt - 1, (uint32_t)idt };

	report("magic", info->magic);
	gdt[CODE] = descriptor(0, 0xfffff, 0x9b, 0xc);
	gdt[DATA] = descriptor(0, 0xfffff, 0x93, 0xc);
	set_gate(VEC_NP, stub_np);
	set_gate(VEC_GP, stub_gp);
	set_gate(VEC_PF, stub_pf);
	set_gate(VEC_SOFTWARE, stub_software);
	asm volatile("lgdt %0\n	ljmp %2, $1f\n1:	mov %3, %%eax\n	mov %%eax, %%ds\n	mov %%eax, %%es\n	mov "
		     "%%eax, %%ss\n	lidt %1"
		     :
		     : "m"(gdtr), "m"(idtr), "i"(SELECTOR(CODE)), "i"(SELECTOR(DATA))
		     : "eax", "memory");
	asm volatile("int $0x30" : : : "memory");
	report_exception("int");
	segments();
	strings();
	start_paging();
	paging();
	segments(); /* under paging as without */
	device();
	return 0;
}
