/*
 * Checkpoint 3.14: events whose delivery is interrupted. What the CPU needs to deliver one (IDT, GDT, TSS, the stack) lies in pages that
 * nobody has touched before, so that its own accesses are the violations that bring them. For each trial there is a set of them
 * in the image, made by the assembler: the guest writes nothing there.
 *
 * The gates lead to handlers at an address that is a constant here. Those are ordinary memory.
 */
#include "desc.h"
#include "observe.h"
#include "pic.h"
#include "string.h"

#include <stdbool.h>

PARAMS;

enum { SEED, UNKNOWN_MSR, VECTOR, STACKS, ORDER }; /* ORDER: which event is trial n's, 4 bits each */

#define TRIALS 12
#define HANDLERS 0x600000
#define HANDLER_SIZE 16
#define STACK_IST 0x800000 /* where the TSS of trial n says: a page for each */

#define STRING_(x) #x
#define STRING(x) STRING_(x)

extern uint8_t tables[TRIALS][3][PAGE]; /* IDT, GDT, TSS */
asm(".data\n.balign 4096\n"
    "tables:\n"
    ".set n, 0\n"
    ".rept " STRING(TRIALS) "\n"
			    ".set v, 0\n"
			    ".rept 256\n"
			    ".word (" STRING(
				    HANDLERS) " + v * 16) & 0xffff, 0x10\n"
					      ".byte n & 1, 0x8e\n" /* every second trial: on the stack that the TSS names */
					      ".word (" STRING(
						      HANDLERS) " + v * 16) >> 16\n"
								".quad 0\n"
								".set v, v + 1\n"
								".endr\n"
								".quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
								".balign 4096\n"
								".skip 36\n"
								".quad " STRING(STACK_IST) " + n * 4096 + 4096\n"
											   ".balign 4096\n"
											   ".set n, n + 1\n"
											   ".endr\n"
											   ".text\n");

/* The events of one trial, as the handler finds them. The last is INT END, behind the instructions that are tried. */
#define END 0xff
static struct {
	uint64_t what, at, cr2;
} seen[4];
static unsigned events, skip;
static uint64_t code;

#define UART_IER 0x3f9
#define UART_IIR 0x3fa
#define IER_THRE 2
#define PIC_BASE 0x20
#define VEC_PF 14

static bool pushes_error(uint64_t vector)
{
	return vector == 8 || (vector >= 10 && vector <= VEC_PF) || vector == 17;
}

/* true: the trial is over. */
bool redeliver_note(struct trap_frame *f);
bool redeliver_note(struct trap_frame *f)
{
	bool irq = f->vector == PIC_BASE + IRQ_COM1;

	if (events < sizeof seen / sizeof *seen) {
		seen[events].what = f->vector | (f->error & 0xffffff) << 8 | (f->rip - code) << 32 |
				    (f->rflags & RFLAGS_IF ? 1ull << 63 : 0);
		seen[events].at = (uint64_t)(pushes_error(f->vector) ? &f->error : &f->rip) & (PAGE - 1);
		seen[events].cr2 = f->vector == VEC_PF ? read_cr2() : 0;
	}
	events++;
	if (irq) {
		inb(UART_IIR);
		outb(UART_IER, 0);
		pic_eoi(IRQ_COM1);
	}
	f->rip += skip;
	return f->vector == END || events > 8;
}

uint64_t redeliver_host;
void redeliver_run(const uint8_t *at, uint64_t rsp, const uint64_t *regs);
extern const uint8_t redeliver_handler[];

/* The trial's stack is loaded last; a handler runs on it, and at the end leaves it for the host's. */
asm(".text\n"
    ".globl redeliver_run, redeliver_handler\n"
    "redeliver_run:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, redeliver_host\n"
    "mov %rsi, %rsp\n"
    "mov %rdi, %rsi\n"
    "mov (%rdx), %rax; mov 8(%rdx), %rcx; mov 16(%rdx), %rbx; mov 24(%rdx), %rdx\n"
    "jmp *%rsi\n"
    "redeliver_handler:\n"
    ".irp r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15\n"
    "push %\\r\n"
    ".endr\n"
    "mov %rsp, %rdi\n"
    "cld\n"
    "call redeliver_note\n"
    "test %al, %al\n"
    "jnz 1f\n"
    ".irp r, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax\n"
    "pop %\\r\n"
    ".endr\n"
    "add $16, %rsp\n"
    "iretq\n"
    "1: mov redeliver_host, %rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n");

/* [push $0]; push $vector; jmp redeliver_handler */
static void make_handlers(void)
{
	for (unsigned v = 0; v < 256; v++) {
		uint8_t *at = (uint8_t *)HANDLERS + v * HANDLER_SIZE;

		if (!pushes_error(v)) {
			*at++ = 0x6a;
			*at++ = 0;
		}
		uint32_t to = (uint32_t)((uint64_t)redeliver_handler - (uint64_t)(at + 10));
		at[0] = 0x68;
		memcpy(at + 1, &v, 4);
		at[5] = 0xe9;
		memcpy(at + 6, &to, 4);
	}
}

#define SNIPPET(name, insns)   \
	extern uint8_t name[]; \
	asm(".data\n" #name ": " insns "; int $" STRING(END) "\n.text\n")
SNIPPET(by_ud2, "nop; ud2");
SNIPPET(by_int3, "nop; int3");
SNIPPET(by_int, "nop; int $0x80"); /* the vector is written into it */
SNIPPET(by_load, "nop; mov (%rbx), %rax");
SNIPPET(by_segment, "nop; mov %ecx, %ds");
SNIPPET(by_rdmsr, "nop; rdmsr");
SNIPPET(by_uart, "sti; nop; out %al, %dx; nop");
SNIPPET(by_window, "nop; sti; nop; nop");

static const struct {
	uint8_t *code;
	unsigned skip; /* how far the handler moves RIP */
} kinds[] = { { by_ud2, 2 },	 { by_int3, 0 },  { by_int, 0 },  { by_load, 3 },
	      { by_segment, 2 }, { by_rdmsr, 2 }, { by_uart, 0 }, { by_window, 0 } };
enum { BY_SEGMENT = 4, BY_RDMSR, BY_UART, BY_WINDOW };

/* TR remembers where the TSS is, so that its descriptor need not be in the trial's GDT; and the TSS itself is not touched by that. */
static void load_tss(uint64_t base)
{
	static uint64_t gdt[6] = { [SEL_KCODE / 8] = DESC_KCODE, [SEL_KDATA / 8] = DESC_KDATA };
	struct table_register gdtr = { sizeof gdt - 1, (uint64_t)gdt };

	gdt[4] = 0x67 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[5] = base >> 32;
	asm volatile("lgdt %0; ltr %w1" : : "m"(gdtr), "r"(4 * 8) : "memory");
}

static void trial(unsigned n, unsigned kind)
{
	struct table_register idtr = { PAGE - 1, (uint64_t)tables[n][0] }, gdtr = { 4 * 8 - 1, (uint64_t)tables[n][1] };
	const uint64_t regs[] = { kind == BY_UART ? IER_THRE : params[SEED],
				  kind == BY_SEGMENT ? 0x7ff0 : params[UNKNOWN_MSR], params[SEED] >> 18 | 1ull << 45,
				  UART_IER };
	uint64_t rsp = params[STACKS] + (2 * n + 1) * PAGE - (params[SEED] >> 2 * n & 0xff);

	events = 0;
	skip = kinds[kind].skip;
	code = (uint64_t)kinds[kind].code;
	if (kind == BY_WINDOW)
		outb(UART_IER, IER_THRE);
	load_tss((uint64_t)tables[n][2]);
	asm volatile("lgdt %0; lidt %1" : : "m"(gdtr), "m"(idtr) : "memory");
	redeliver_run(kinds[kind].code, rsp, regs);
	cli();
	for (unsigned i = 0; i < events && i < sizeof seen / sizeof *seen; i++) {
		say("trial", n, "event", seen[i].what);
		say("trial", n, "at", seen[i].at);
		if (seen[i].cr2)
			say("trial", n, "cr2", seen[i].cr2);
	}
	say("trial", n, "events", events);
	outb(0x20, 0x0b);
	say("trial", n, "isr", inb(0x20));
}

int guest_main(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	pic_init(PIC_BASE);
	pic_unmask(IRQ_COM1);
	by_int[2] = params[VECTOR];
	make_handlers();
	for (unsigned n = 0; n < TRIALS; n++)
		trial(n, params[ORDER] >> 4 * n & 0xf);
	flush();
	return 0;
}
