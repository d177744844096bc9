/*
 * Checkpoint 1.22: POPF and PUSHF, exactly. Meant for hv run --patch on; without the patch the same guest shows what is lost:
 * POPF leaves IF and IOPL as they are, without a word.
 */
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "probe.h"
#include "string.h"

PARAMS;

enum {
	SEQUENCE, TAKEN, IMAGE, WIDE = IMAGE + 3, WORD, USER_IMAGE, USER_FLAGS, OFFSET = USER_FLAGS + 2, A, B, BAD_PAGE, BAD_ADDRESS
};

#define STEPS 64
#define ROUNDS 16
#define VEC_DB 1
#define VEC_SS 12
#define VEC_GP 13
#define VEC_PF 14
#define VEC_DONE 0x81
#define COM1_IER 0x3f9
#define COM1_IIR 0x3fa

static void popf(uint64_t flags)
{
	asm volatile("push %0; popfq" : : "r"(flags) : "cc", "memory");
}

static uint64_t pushf(void)
{
	uint64_t flags;

	asm volatile("pushfq; pop %0" : "=r"(flags) : : "memory");
	return flags;
}

/* --- images: what of a 64-bit or 16-bit value arrives in the flags, and how far RSP moves --------------------------------- */

/* The compiler relies on DF, so every stretch of code with unusual flags is one statement that ends with usual ones. */
static void image_64(uint64_t image)
{
	uint64_t flags, start, popped, pushed;

	asm volatile("mov %%rsp, %1; push %4; popfq; mov %%rsp, %2; pushfq; mov %%rsp, %3; mov -8(%1), %0\n\t"
		     "mov %1, %%rsp; push $2; popfq"
		     : "=&r"(flags), "=&r"(start), "=&r"(popped), "=&r"(pushed)
		     : "r"(image)
		     : "cc", "memory");
	report("image", flags);
	report("image.rsp", (popped - start) << 8 | (popped - pushed));
}

/* The 16-bit forms have a prefix. The quadword below the stack shows that two bytes were written and no more. */
static void image_16(uint64_t wide, uint16_t image)
{
	uint64_t flags, word, start, popped, pushed, below = params[A];

	asm volatile("mov %%rsp, %2; push %5; popfq; pushw %w6; popfw; mov %%rsp, %3; pushfq; pop %0\n\t"
		     "push %7; lea 8(%%rsp), %%rsp; pushfw; mov %%rsp, %4; mov -8(%2), %1\n\t"
		     "mov %2, %%rsp; push $2; popfq"
		     : "=&r"(flags), "=&r"(word), "=&r"(start), "=&r"(popped), "=&r"(pushed)
		     : "r"(wide), "r"(image), "r"(below)
		     : "cc", "memory");
	report("word", flags);
	report("word.stack", word);
	report("word.rsp", (popped - start) << 8 | (start - pushed));
}

/* --- user mode: which flags a program may change is decided by CPL and IOPL ------------------------------------------------ */

static uint8_t user_stack[4096], rsp0_stack[4096], fault_stack[4096];
uint64_t kernel_rsp;

/* Runs `push image; popfq; pushfq` at CPL 3, entered with these flags. Returns what it saw. */
uint64_t run_user(uint64_t image, uint64_t flags, uint64_t stack);
extern const char user_done[];
asm(".text\n"
    "run_user: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov	%rsp, kernel_rsp(%rip)\n"
    "	push	$0x2b\n" /* SEL_UDATA */
    "	push	%rdx\n"
    "	push	%rsi\n"
    "	push	$0x33\n" /* SEL_UCODE */
    "	push	$1f\n"
    "	iretq\n"
    "1:	push	%rdi\n"
    "	popfq\n"
    "	pushfq\n"
    "	pop	%rax\n"
    "	int	$0x81\n" /* VEC_DONE */
    "user_done: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n");

static void on_done(struct trap_frame *f)
{
	f->rip = (uint64_t)user_done;
	f->cs = SEL_KCODE;
	f->ss = SEL_KDATA;
	f->rsp = kernel_rsp;
	f->rflags = RFLAGS_FIXED;
}

/* --- faults of the stack --------------------------------------------------------------------------------------------------- */

void faulty_popf(uint64_t rsp);
void faulty_pushf(uint64_t rsp);
extern const char faulty_popf_at[], faulty_pushf_at[], fault_resume[];
uint64_t fault_rsp;
asm(".text\n"
    "faulty_popf: mov %rsp, fault_rsp(%rip)\n"
    "	mov	%rdi, %rsp\n"
    "faulty_popf_at: popfq\n"
    "	jmp	fault_resume\n"
    "faulty_pushf: mov %rsp, fault_rsp(%rip)\n"
    "	mov	%rdi, %rsp\n"
    "faulty_pushf_at: pushfq\n"
    "fault_resume: mov fault_rsp(%rip), %rsp\n"
    "	ret\n");

static struct trap_frame fault;

static void on_fault(struct trap_frame *f)
{
	fault = *f;
	f->rip = (uint64_t)fault_resume;
	f->rsp = fault_rsp;
}

static void try_fault(const char *key, void (*faulty)(uint64_t), const char *at, uint64_t rsp)
{
	fault = (struct trap_frame){ .vector = 0xff };
	faulty(rsp);
	report(key, fault.vector << 32 | fault.error);
	report("fault.rip", fault.rip - (uint64_t)at);
	report("fault.rsp", fault.rsp);
	if (fault.vector == VEC_PF)
		report("fault.cr2", read_cr2());
}

/* --- single steps ---------------------------------------------------------------------------------------------------------- */

/* TF set by POPF strikes behind the next instruction, also when that one is patched, and also when it clears TF. */
uint64_t step_nop(void), step_pushf(void), step_popf(void);
extern const char step_nop_end[], step_pushf_end[], step_popf_end[];
asm(".text\n"
    "step_nop: push $0x102; popfq; nop\n"
    "step_nop_end: nop; ret\n"
    "step_pushf: push $0x102; popfq; pushfq\n"
    "step_pushf_end: pop %rax; ret\n"
    "step_popf: push $2; push $0x102; popfq; popfq\n"
    "step_popf_end: nop; ret\n");

static uint64_t debug_rip, debug_count;

static void on_debug(struct trap_frame *f)
{
	if (!debug_count++)
		debug_rip = f->rip;
	f->rflags &= ~RFLAGS_TF;
}

static uint64_t try_step(const char *key, uint64_t (*step)(void), const char *end)
{
	debug_count = debug_rip = 0;
	uint64_t result = step();
	report(key, debug_count << 32 | (uint32_t)(debug_rip - (uint64_t)end));
	return result;
}

/* --- code that moved, and bytes that only look like POPF ------------------------------------------------------------------- */

extern const char moving[], moving_end[];
asm(".text\n"
    "moving: push %rdi; popfq; pushfq; pop %rax\n"
    "	push	%rax; popfw; pushfw; popfq\n" /* 2 + 8 bytes are popped of the 8 + 2 that were pushed */
    "	push	$2; popfq; ret\n"
    "moving_end:\n");

static uint8_t elsewhere[8192];

static void move(uint64_t image)
{
	uint8_t *to = elsewhere + params[OFFSET];

	memcpy(to, moving, (uint64_t)moving_end - (uint64_t)moving);
	report("moved", ((uint64_t(*)(uint64_t))to)(image));
}

/* 9c and 9d as immediate, displacement, ModRM byte and second opcode byte (SETL, SETGE). Nothing here may be changed. */
uint64_t lookalikes(uint64_t a, uint64_t b);
asm(".text\n"
    "lookalikes: push %rbp; push %rbx\n"
    "	movabs	$0x9d9c9d179c9d169d, %rax\n"
    "	mov	%rdi, %rbp\n"
    "	lea	0x179d9c9d(%rbp), %rdx\n" /* 48 8d 95 */
    "	xor	%rdx, %rax\n"
    "	lea	0x169c9d9c(%rbp), %ebx\n" /* 8d 9d */
    "	xor	%rbx, %rax\n"
    "	xor	%ecx, %ecx\n"
    "	cmp	%rsi, %rdi\n"
    "	setge	%cl\n"
    "	setl	%ch\n"
    "	xor	%rcx, %rax\n"
    "	add	$0x1c9d9d9c, %rax\n"
    "	pop	%rbx; pop %rbp\n"
    "	ret\n");

/* --- interrupts: is IF really what POPF said? ------------------------------------------------------------------------------ */

static volatile uint64_t interrupts;

static void on_com1(struct trap_frame *f)
{
	(void)f;
	interrupts++;
	inb(COM1_IIR);
	outb(COM1_IER, 0);
	pic_eoi(IRQ_COM1);
}

/* Each round the serial port asks for one interrupt while IF is clear; then POPF sets IF or leaves it clear. */
static void try_interrupts(uint64_t pattern)
{
	uint64_t at_once = 0;

	pic_init(0x20);
	pic_unmask(IRQ_COM1);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t before = interrupts;

		outb(COM1_IER, 0);
		outb(COM1_IER, 2);
		popf(RFLAGS_FIXED | (pattern >> i & 1) << 9);
		at_once |= (interrupts - before) << i;
		popf(RFLAGS_FIXED | RFLAGS_IF);
		popf(RFLAGS_FIXED);
	}
	report("interrupts.at", at_once);
	report("interrupts", interrupts);
}

int guest_main(void)
{
	uint64_t seen = 0;

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	gdt_init();
	idt_init();
	tss_set_rsp0((uint64_t)rsp0_stack + sizeof(rsp0_stack));
	tss_set_ist(1, (uint64_t)fault_stack + sizeof(fault_stack));
	idt_gate(VEC_DONE, 3, 0);
	trap_handlers[VEC_DONE] = on_done;
	trap_handlers[VEC_DB] = on_debug;
	trap_handlers[0x20 + IRQ_COM1] = on_com1;
	for (unsigned v = VEC_SS; v <= VEC_PF; v++) {
		idt_gate(v, 0, 1); /* not on the stack that is at fault */
		trap_handlers[v] = on_fault;
	}

	for (unsigned i = 0; i < STEPS; i++) {
		popf(RFLAGS_FIXED | (params[SEQUENCE] >> i & 1) << 9);
		seen |= (pushf() >> 9 & 1) << i;
	}
	popf(RFLAGS_FIXED);
	report("if", seen);

	for (unsigned i = 0; i < 3; i++)
		image_64(params[IMAGE + i]);
	image_16(params[WIDE], params[WORD]);
	for (unsigned i = 0; i < 2; i++)
		report("user", run_user(params[USER_IMAGE], params[USER_FLAGS + i], (uint64_t)user_stack + sizeof(user_stack)));

	move(params[IMAGE]);
	report("lookalikes", lookalikes(params[A], params[B]));
	try_interrupts(params[TAKEN]);

	try_step("step.nop", step_nop, step_nop_end);
	report("step.flags", try_step("step.pushf", step_pushf, step_pushf_end));
	try_step("step.popf", step_popf, step_popf_end);

	try_fault("fault.popf", faulty_popf, faulty_popf_at, params[BAD_PAGE]);
	try_fault("fault.pushf", faulty_pushf, faulty_pushf_at, params[BAD_PAGE]);
	try_fault("fault.popf", faulty_popf, faulty_popf_at, params[BAD_ADDRESS]);
	try_fault("fault.pushf", faulty_pushf, faulty_pushf_at, params[BAD_ADDRESS]);
	return 0;
}
