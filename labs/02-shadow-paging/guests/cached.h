/*
 * For the guests of checkpoints 2.13 to 2.16: page tables and pages out of one arena, address spaces in which the guest itself stays
 * where it is, and accesses that may fault.
 *
 * Every page holds one word, which is data and code at once: `mov $number, %eax; ret`, with a number that is made of the grader's seed
 * and the page's own number. So whoever reads it or calls it says which page was found.
 */
#ifndef GUEST_CACHED_H
#define GUEST_CACHED_H

#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "string.h"

#define P 0x001ull
#define W 0x002ull
#define U 0x004ull
#define A 0x020ull
#define D 0x040ull
#define PS 0x080ull
#define NX (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull
#define PAGE 4096ull

/* The first params of every guest here; ARENA: where its pages begin; SLOT: the first PML4 entry that it may use. */
enum { SEED, ARENA, SLOT, MODE, OWN_PARAMS };
volatile uint64_t params[16]
	__attribute__((section(".params"), aligned(64))) = { 0 }; /* written by the grader, in a copy of the file */

/* --- pages ----------------------------------------------------------------------------------------------------------- */

static uint64_t arena_next;

static inline uint64_t *at(uint64_t gpa)
{
	return (uint64_t *)gpa;
}

/* The next page of the arena, empty. */
static inline uint64_t page_new(void)
{
	if (!arena_next)
		arena_next = params[ARENA];
	uint64_t gpa = arena_next;
	arena_next += PAGE;
	memset(at(gpa), 0, PAGE);
	return gpa;
}

/* From here on pages are taken at a multiple of this. */
static inline void arena_align(uint64_t to)
{
	page_new();
	arena_next = (arena_next + to - 1) & ~(to - 1);
}

/* 32 bits of a seed: the upper half of SplitMix64's n-th number (grader/lib/splitmix.py). */
static inline uint32_t number_of(uint64_t n)
{
	uint64_t z = params[SEED] + (n + 1) * 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (uint32_t)((z ^ z >> 31) >> 32);
}

static inline uint64_t word_of(uint64_t n)
{
	return 0x9090c300000000b8ull | (uint64_t)number_of(n) << 8;
}

static inline void data_fill(uint64_t gpa, uint64_t n)
{
	*at(gpa) = word_of(n);
}

/* A page of data with this number. */
static inline uint64_t data_new(uint64_t n)
{
	uint64_t gpa = page_new();

	data_fill(gpa, n);
	return gpa;
}

/* --- tables ---------------------------------------------------------------------------------------------------------- */

static inline unsigned slot_of(uint64_t gva, unsigned level)
{
	return gva >> (3 + 9 * level) & 511;
}

/* The lowest address of some PML4 entry that is the guest's to use. */
static inline uint64_t area(unsigned n)
{
	return (params[SLOT] + n) << 39;
}

/* The table of this level on the way to gva. Tables that are missing are made; entries that lead to them get these bits. */
static inline uint64_t table_of(uint64_t root, uint64_t gva, unsigned level, uint64_t bits)
{
	uint64_t table = root;

	for (unsigned l = 4; l > level; l--) {
		uint64_t *e = at(table) + slot_of(gva, l);
		if (!(*e & P))
			*e = page_new() | bits;
		table = *e & ADDRESS;
	}
	return table;
}

/* The entry of this level on the way to gva. */
static inline uint64_t *entry_of(uint64_t root, uint64_t gva, unsigned level)
{
	return at(table_of(root, gva, level, P | W | U | A)) + slot_of(gva, level);
}

static inline void map(uint64_t root, uint64_t gva, uint64_t gpa, uint64_t bits)
{
	*entry_of(root, gva, 1) = gpa | bits;
}

/* A new PML4, in which the first 64 MiB are where they are, for the kernel. All of them share the tables for that. */
static uint64_t low_pdpt;
static inline uint64_t root_new(void)
{
	uint64_t root = page_new();

	if (!low_pdpt) {
		uint64_t pd = page_new();
		low_pdpt = page_new();
		at(low_pdpt)[0] = pd | P | W | A;
		for (uint64_t i = 0; i < 32; i++)
			at(pd)[i] = i << 21 | P | W | A | D | PS;
	}
	at(root)[0] = low_pdpt | P | W | A;
	return root;
}

static inline void invlpg(uint64_t gva)
{
	asm volatile("invlpg (%0)" : : "r"(gva) : "memory");
}
static inline void reload_cr3(void)
{
	write_cr3(read_cr3());
}

/* --- accesses -------------------------------------------------------------------------------------------------------- */

#define NO_FAULT (~0ull)
/* What a faulting access makes of its result; no page's word begins like this. */
#define FAULTED 0xfa170000ull

static uint64_t fault; /* error code of the last access's page fault */
uint64_t resume_rip, resume_rsp, from_rax;
static uint8_t event_stack[4096] __attribute__((aligned(16)));

/* Where the last access began is known, so it can end from anywhere, user mode included. */
static inline void resume(struct trap_frame *f)
{
	from_rax = f->rax;
	f->rip = resume_rip;
	f->rsp = resume_rsp;
	f->cs = SEL_KCODE;
	f->ss = SEL_KDATA;
	f->rflags = RFLAGS_FIXED;
}

static void on_page_fault(struct trap_frame *f)
{
	fault = f->error;
	resume(f);
}

static inline void tables_begin(void)
{
	gdt_init();
	idt_init();
	tss_set_rsp0((uint64_t)event_stack + sizeof event_stack);
	trap_handlers[14] = on_page_fault;
	trap_handlers[0x80] = resume;
	idt_gate(0x80, 3, 0);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1 << 11); /* EFER.NXE */
}

#define ACCESS(insn) "mov %%rsp, resume_rsp\n\tmovq $1f, resume_rip\n\t" insn "\n1:"

static inline uint64_t outcome(uint64_t value)
{
	return fault == NO_FAULT ? value : FAULTED | fault;
}

/* The word at gva, or FAULTED and the error code. */
static inline uint64_t try_read(uint64_t gva)
{
	uint64_t value = 0;

	fault = NO_FAULT;
	asm volatile(ACCESS("mov (%1), %0") : "+&r"(value) : "r"(gva) : "memory");
	return outcome(value);
}

/* Stores the word; 0, or FAULTED and the error code. */
static inline uint64_t try_write(uint64_t gva, uint64_t value)
{
	fault = NO_FAULT;
	asm volatile(ACCESS("mov %1, (%0)") : : "r"(gva), "r"(value) : "memory");
	return outcome(0);
}

/* Calls the word. Its number, or FAULTED and the error code. */
static inline uint64_t try_call(uint64_t gva)
{
	uint64_t value = 0;

	fault = NO_FAULT;
	asm volatile(ACCESS("call *%1") : "+&a"(value) : "r"(gva) : "memory", "cc");
	return outcome(value);
}

/* The same as a program at CPL 3. Its code and its stack are mapped by user_init(). */
extern const uint8_t user_read[], user_write[], user_call[], user_end[];
asm(".section .text.user, \"ax\"; .balign 4096\n"
    ".globl user_read, user_write, user_call, user_end\n"
    "user_read: mov (%rdi), %rax; int $0x80\n"
    "user_write: xor %eax, %eax; mov %rsi, (%rdi); int $0x80\n"
    "user_call: call *%rdi; int $0x80\n"
    "user_end: .balign 4096; .text");

#define USER_CODE ((params[SLOT] + 60) << 39)
#define USER_STACK (USER_CODE + PAGE)

static inline void user_init(uint64_t root)
{
	static uint64_t stack;

	if (!stack)
		stack = page_new();
	map(root, USER_CODE, (uint64_t)user_read, P | U | A);
	map(root, USER_STACK, stack, P | W | U | A | D);
}

static inline uint64_t try_user(const uint8_t *what, uint64_t gva, uint64_t value)
{
	struct trap_frame f;

	user_frame(&f, USER_CODE + (uint64_t)(what - user_read), USER_STACK + PAGE);
	f.rflags = RFLAGS_FIXED;
	f.rdi = gva;
	f.rsi = value;
	fault = NO_FAULT;
	from_rax = 0;
	asm volatile("push %%rbx; push %%rbp\n\t" ACCESS("call trap_return") "pop %%rbp; pop %%rbx"
		     :
		     : "D"(&f)
		     : "memory", "cc", "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
	return outcome(from_rax);
}

/* --- reports --------------------------------------------------------------------------------------------------------- */

/* Many observations as one number: each moves what was there before. */
static inline uint64_t fold(uint64_t sum, uint64_t value)
{
	return (sum << 7 | sum >> 57) ^ value;
}

#endif
