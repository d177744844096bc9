/*
 * For the guests of checkpoints 2.6 to 2.12: page tables are built, accesses are tried out at CPL 0 and CPL 3, and what came of them is
 * printed, raw. What should have come is known to the grader alone.
 *
 * All of it is reached through the loader's own tables, which map the first 4 GiB one to one with 2 MiB pages. The guest's mappings are
 * added to these, so that nothing has to be flushed before a guest is about flushes.
 */
#ifndef GUEST_PAGING_H
#define GUEST_PAGING_H

#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "random.h"
#include "string.h"

/* Chosen by the grader and written into this array in a copy of the guest's file. */
#define PARAMS volatile uint64_t params[16] __attribute__((section(".params"), aligned(64))) = { 0 }
extern volatile uint64_t params[16];

/* Entries (SDM vol. 3, tables 4-15 to 4-20). */
#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull
#define KERNEL (PTE_P | PTE_W)
#define ALL (PTE_P | PTE_W | PTE_U)

#define PAGE 4096ull
#define MSR_EFER 0xc0000080
#define EFER_NXE (1ull << 11)
#define CR0_WP (1ull << 16)

/* A page's address from a number: canonical, in either half, apart from the PML4 entries that are in use here (0 to 3) and the last two. */
static inline uint64_t random_gva(void)
{
	uint64_t r = random64();
	uint64_t gva = (4 + (r >> 36) % 506) << 39 | (r & 0x7ffffff) << 12;

	return gva >> 47 ? gva | 0xffff000000000000 : gva;
}

/* --- output: `tag.field=value`, and `tag=value` where field is empty ------------------------------------------------------- */

static const char *tag_name;
static uint64_t tag_number;

/* What is said from now on is about this. */
static inline void tag(const char *name, uint64_t number)
{
	tag_name = name;
	tag_number = number;
}

static inline char *put_hex(char *at, uint64_t v)
{
	if (v >> 4)
		at = put_hex(at, v >> 4);
	*at++ = "0123456789abcdef"[v & 15];
	return at;
}

/*
 * A line goes out with one REP OUTSB: one trap instead of one for each character. The sum of its bytes is in AL, where the grader's
 * witness sees it: so it knows that the line was the guest's.
 */
static inline void say(const char *field, uint64_t value)
{
	static char line[96];
	char *at = line;
	uint8_t sum = 0;

	for (const char *s = tag_name; *s; s++)
		*at++ = *s;
	at = put_hex(at, tag_number);
	if (*field)
		*at++ = '.';
	while (*field)
		*at++ = *field++;
	*at++ = '=';
	at = put_hex(at, value);
	*at++ = '\n';
	for (const char *s = line; s < at; s++)
		sum += *s;
	const char *from = line;
	uint64_t count = at - line;
	asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(0xe9), "a"(sum) : "memory");
}

/* --- page tables ----------------------------------------------------------------------------------------------------------- */

/* Where guest memory is free: page tables in the first part, data in the second. */
#define TABLES (16ull << 20)
#define FRAMES (24ull << 20)
#define FRAME_COUNT 0x2000 /* up to 56 MiB */

static uint64_t next_table = TABLES;
static uint64_t root; /* gpa of the PML4 that is built on */
static uint64_t table_bits = ALL;

/* Where the next table will lie. It is reached by table_gva(), which is the same unless a guest says otherwise. */
static uint64_t (*table_gva)(uint64_t gpa);
static inline uint64_t *table_at(uint64_t gpa)
{
	return (uint64_t *)(table_gva ? table_gva(gpa) : gpa);
}

static inline uint64_t table_new(void)
{
	uint64_t gpa = next_table;

	next_table += PAGE;
	return gpa; /* nobody has written there: guest memory begins as zeros */
}

/* The entry of this level that translates gva. Missing tables above it are made, with table_bits in the entries that lead to them. */
static inline uint64_t *entry_at(uint64_t gva, unsigned level)
{
	uint64_t table = root;

	for (unsigned l = 4;; l--) {
		uint64_t *entry = &table_at(table)[gva >> (12 + 9 * (l - 1)) & 511];
		if (l == level)
			return entry;
		if (!(*entry & PTE_P))
			*entry = table_new() | table_bits;
		table = *entry & PTE_ADDR;
	}
}

static inline void map(uint64_t gva, uint64_t gpa, uint64_t bits)
{
	*entry_at(gva, 1) = gpa | bits;
}

/* Frame number i of this seed: all different for i below FRAME_COUNT. */
static inline uint64_t frame(uint64_t i)
{
	return FRAMES + (i * 0x9e5 + params[0]) % FRAME_COUNT * PAGE;
}

static inline volatile uint64_t *word(uint64_t gva)
{
	return (volatile uint64_t *)gva;
}

static inline void invlpg(uint64_t gva)
{
	asm volatile("invlpg (%0)" : : "r"(gva) : "memory");
}

/* --- accesses -------------------------------------------------------------------------------------------------------------- */

#define VEC_DF 8
#define VEC_PF 14
#define VEC_DONE 0x80

/* The kinds of an access; USER at CPL 3. A fetch calls what is there, see put_code(). */
enum { READ, WRITE, FETCH, USER = 4 };

/* The first event of the access that was tried last, and how many there were. */
static struct {
	unsigned faults;
	uint64_t vector, error, cr2, rip, rcx, rsi, rdi, value;
} seen;

/* The handler puts this into an entry, once, and lets the instruction try again. Nothing is flushed. */
static uint64_t *repair_at, repair_with;

/* Program code and stack, where a guest that has programs maps them. */
#define USER_CODE 0x10000000000
#define USER_STACK 0x10000001000
#define STRING_(x) #x
#define STRING(x) STRING_(x)

static uint8_t pf_stack[4096] __attribute__((aligned(16))), user_kernel_stack[4096] __attribute__((aligned(16)));
uint64_t access_do(unsigned kind, uint64_t gva, uint64_t value);
extern uint64_t access_sp;
uint64_t user_rflags = RFLAGS_FIXED; /* with which programs begin */
extern const uint8_t access_end[], access_read[], access_write[], user_start[], user_end[];

asm(".bss\n.balign 8\n"
    ".globl access_sp\n"
    "access_sp: .skip 8\n"
    ".text\n"
    ".globl access_do, access_end, access_read, access_write\n"
    "access_do:\n"
    "mov %rsp, access_sp\n"
    "mov %rdx, %rax\n"
    "test $4, %edi\n"
    "jnz 3f\n"
    "cmp $1, %edi\n"
    "je access_write\n"
    "ja 2f\n"
    "access_read: mov (%rsi), %rax\n"
    "ret\n"
    "access_write: mov %rax, (%rsi)\n"
    "ret\n"
    "2: call *%rsi\n"
    "access_end: ret\n"
    /* A program: one of the three below, which end with a system call. */
    "3: push $" STRING(SEL_UDATA) "\n"
    "movabs $" STRING(USER_STACK) " + 4080, %rcx; push %rcx\n"
    "push user_rflags; push $" STRING(SEL_UCODE) "\n"
    "and $3, %edi; movabs $" STRING(USER_CODE) ", %rcx; lea (%rcx, %rdi, 8), %rcx; push %rcx\n"
    "iretq\n"
    ".balign 8\n"
    ".globl user_start, user_end\n"
    "user_start:\n"
    "mov (%rsi), %rax; int $0x80\n"
    ".balign 8\n"
    "mov %rax, (%rsi); int $0x80\n"
    ".balign 8\n"
    "call *%rsi; int $0x80\n"
    "user_end:\n");

/* Back from whatever was tried: to access_end, as if the instruction had been carried out. */
static inline void leave(struct trap_frame *f)
{
	f->rip = (uint64_t)access_end;
	f->rsp = access_sp;
	f->cs = SEL_KCODE;
	f->ss = SEL_KDATA;
	f->rflags = RFLAGS_FIXED;
}

static void on_fault(struct trap_frame *f)
{
	if (!access_sp) { /* nothing was tried */
		tag("unexpected", f->vector);
		say("rip", f->rip);
		say("cr2", read_cr2());
		guest_exit(UNHANDLED_TRAP);
	}
	if (!seen.faults++) {
		seen.vector = f->vector;
		seen.error = f->error;
		seen.cr2 = f->vector == VEC_PF || f->vector == VEC_DF ? read_cr2() : 0;
		seen.rip = f->rip;
		seen.rcx = f->rcx;
		seen.rsi = f->rsi;
		seen.rdi = f->rdi;
	}
	if (f->vector == VEC_PF && repair_at) {
		*repair_at = repair_with;
		repair_at = NULL;
		return;
	}
	leave(f);
}

static void on_done(struct trap_frame *f)
{
	leave(f); /* RAX is what the program had */
}

/* Tries the access. The result is in `seen`; value is what is written, or what was read or returned. */
static inline void try(unsigned kind, uint64_t gva, uint64_t value)
{
	seen.faults = 0;
	seen.value = access_do(kind, gva, value);
	access_sp = 0;
}

/* Says what came of it. at: the address of the instruction that was tried. */
static inline void say_seen_at(uint64_t at)
{
	if (seen.faults) {
		say("vector", seen.vector);
		say("error", seen.error);
		if (seen.vector == VEC_PF || seen.vector == VEC_DF)
			say("cr2", seen.cr2);
		say("rip", seen.rip - at);
		say("faults", seen.faults);
	}
	say("", seen.value);
}

static inline void try_and_say(unsigned kind, uint64_t gva, uint64_t value)
{
	static const uint8_t *const kernel[] = { access_read, access_write };
	uint64_t at = (kind & 3) == FETCH ? gva : kind & USER ? (uint64_t)USER_CODE + 8 * (kind & 3) : (uint64_t)kernel[kind];

	try(kind, gva, value);
	say_seen_at(at);
}

/* Puts code at an address that returns this number to who calls it. */
static inline void put_code(uint64_t at, uint32_t number)
{
	*word(at) = 0xb8 | (uint64_t)number << 8 | 0xc3ull << 40; /* mov $number, %eax; ret */
}

/* Page faults are handled on a stack of their own; programs may use one gate. */
static inline void gates_init(void)
{
	idt_init();
	idt_gate(VEC_PF, 0, 1);
	idt_gate(VEC_DONE, 3, 0);
}

/* Own descriptor tables; no device interrupts. */
static inline void paging_init(void)
{
	static const uint8_t vectors[] = { 6, VEC_DF, 10, 11, 12, 13, VEC_PF };

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	random_state = params[0];
	root = read_cr3() & PTE_ADDR;
	gdt_init();
	for (unsigned i = 0; i < sizeof vectors; i++)
		trap_handlers[vectors[i]] = on_fault;
	trap_handlers[VEC_DONE] = on_done;
	tss_set_ist(1, (uint64_t)pf_stack + sizeof pf_stack);
	tss_set_rsp0((uint64_t)user_kernel_stack + sizeof user_kernel_stack);
	gates_init();
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

/* The programs' code and stack. */
static inline void user_init(void)
{
	map(USER_CODE, frame(FRAME_COUNT - 1), ALL);
	map(USER_STACK, frame(FRAME_COUNT - 2), ALL | PTE_NX);
	memcpy((void *)frame(FRAME_COUNT - 1), user_start, user_end - user_start);
}

#endif
