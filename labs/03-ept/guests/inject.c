/*
 * Checkpoint 3.13: exceptions that hv raises, exceptions of the CPU's own, and interrupts. A few instructions are called, and each event
 * that comes of them is noted in its order: vector, error code, how far from the first instruction, and whether IF was set.
 *
 * The source of interrupts is the UART: switching its "transmitter empty" interrupt on raises IRQ 4 at once, because the transmitter is
 * empty. So all depends on instructions and nothing on time; the PIT has its turn at the end.
 */
#include "desc.h"
#include "observe.h"
#include "pic.h"

#include <stddef.h>

PARAMS;

enum { SEED, UNKNOWN_MSR, EFER_BAD, CR4_BAD, CR8_BAD, VECTOR, BASE, FRESH, TIMES, TICKS };

#define MSR_PAT 0x277
#define MSR_EFER 0xc0000080
#define EFER_GOOD 0xd01 /* SCE, LME, LMA, NXE */
#define UART_IER 0x3f9
#define UART_IIR 0x3fa
#define IER_THRE 2
#define VEC_PF 14

/* Called with RAX, RCX, RDX and RBX as given; every one leaves the stack as it found it. */
uint64_t call_snippet(const uint8_t *code, const uint64_t *regs);
extern const uint8_t snippet_end[];
asm(".text\n"
    "call_snippet: push %rbx\n"
    "mov (%rsi), %rax; mov 8(%rsi), %rcx; mov 16(%rsi), %rdx; mov 24(%rsi), %rbx\n"
    "call *%rdi\n"
    "pop %rbx\n"
    "snippet_end: ret\n");

#define SNIPPET(name, insns)         \
	extern const uint8_t name[]; \
	asm(".text\n" #name ": " insns "; ret\n")

static struct {
	uint64_t what, cr2;
} seen[8];
static unsigned events;
static const uint8_t *code;
static unsigned skip; /* how far the handler of an exception moves RIP; 0: the snippet is given up */

static void note(const struct trap_frame *f)
{
	if (events < sizeof seen / sizeof *seen) {
		seen[events].what = f->vector | (f->error & 0xffffff) << 8 | (f->rip - (uint64_t)code) << 32 |
				    (f->rflags & RFLAGS_IF ? 1ull << 63 : 0);
		seen[events].cr2 = f->vector == VEC_PF ? read_cr2() : 0;
	}
	events++;
}

static void on_exception(struct trap_frame *f)
{
	static const uint8_t ret = 0xc3;

	note(f);
	f->rip = skip ? f->rip + skip : (uint64_t)&ret;
}

static void on_uart(struct trap_frame *f)
{
	note(f);
	inb(UART_IIR);
	outb(UART_IER, 0);
	pic_eoi(IRQ_COM1);
}

static volatile uint64_t ticks;

static void on_pit(struct trap_frame *f)
{
	if (code)
		note(f);
	if (++ticks == 2 * params[TICKS]) /* and no more, however slow the machine is */
		pic_mask(IRQ_TIMER);
	pic_eoi(IRQ_TIMER);
}

/* Runs a snippet and says what came of it. */
static void run(const char *name, unsigned number, const uint8_t *snippet, uint64_t rax, uint64_t rcx, uint64_t rdx,
		uint64_t rbx)
{
	const uint64_t regs[] = { rax, rcx, rdx, rbx };

	events = 0;
	code = snippet;
	uint64_t after = call_snippet(snippet, regs);
	cli();
	code = NULL;
	for (unsigned i = 0; i < events && i < sizeof seen / sizeof *seen; i++) {
		say(name, number, "event", seen[i].what);
		if (seen[i].cr2)
			say(name, number, "cr2", seen[i].cr2);
	}
	say(name, number, "events", events);
	say(name, number, "rax", after);
}

/* --- exceptions ---------------------------------------------------------------------------------------------------------------- */

SNIPPET(do_rdmsr, "rdmsr");
SNIPPET(do_wrmsr, "wrmsr");
SNIPPET(cr0_write, "mov %rax, %cr0");
SNIPPET(cr4_write, "mov %rax, %cr4");
SNIPPET(cr8_write, "mov %rax, %cr8");
SNIPPET(do_vmrun, "vmrun %rax");
SNIPPET(do_vmxon, "vmxon (%rbx)");
SNIPPET(do_monitor, "monitor");
SNIPPET(do_ud2, "ud2");
SNIPPET(do_div, "xor %edx, %edx; xor %ecx, %ecx; div %ecx");
SNIPPET(do_int3, "int3; nop");
SNIPPET(do_load, "mov (%rbx), %rax");
SNIPPET(do_store, "mov %eax, (%rbx)");
SNIPPET(do_ds, "mov %eax, %ds");
extern uint8_t do_int[];
asm(".data\ndo_int: int $0x80; ret\n.text\n"); /* the vector is written into it */

static void exceptions(void)
{
	uint64_t at = (uint64_t)seen, seed = params[SEED];
	const struct {
		const uint8_t *snippet;
		uint64_t rax, rcx, rdx, rbx;
	} all[] = {
		/* by hv */
		{ do_rdmsr, seed, params[UNKNOWN_MSR], 0, 0 },
		{ do_wrmsr, seed, params[UNKNOWN_MSR], 0, 0 },
		{ do_wrmsr, EFER_GOOD | params[EFER_BAD], MSR_EFER, 0, 0 },
		{ do_wrmsr, EFER_GOOD & ~0x100, MSR_EFER, 0, 0 },
		{ do_wrmsr, 0x02060406, MSR_PAT, 0x00070406, 0 },
		{ cr4_write, read_cr4() | params[CR4_BAD], 0, 0, 0 },
		{ cr4_write, read_cr4() & ~0x20, 0, 0, 0 }, /* PAE */
		{ cr8_write, params[CR8_BAD], 0, 0, 0 },
		{ do_vmrun, at & ~0xfffull, 0, 0, 0 },
		{ do_vmxon, seed, 0, 0, at },
		{ do_monitor, at, 0, 0, 0 },
		/* by the CPU, and hv knows nothing of it */
		{ cr0_write, read_cr0() & ~1ull, 0, 0, 0 },
		{ do_ud2, seed, 0, 0, 0 },
		{ do_div, seed, 0, 0, 0 },
		{ do_int3, seed, 0, 0, 0 },
		{ do_int, seed, 0, 0, 0 },
		{ do_load, seed, 0, 0, 1ull << 63 | seed >> 2 },
		{ do_load, seed, 0, 0, seed >> 18 | 1ull << 45 },
		{ do_store, seed, 0, 0, seed >> 18 | 1ull << 45 },
		{ do_ds, 0x7ff0 | (seed & 7), 0, 0, 0 },
	};

	do_int[1] = params[VECTOR];
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		run("fault", i, all[i].snippet, all[i].rax, all[i].rcx, all[i].rdx, all[i].rbx);
}

/* --- interrupts ------------------------------------------------------------------------------------------------------------------ */

SNIPPET(closed, "nop; in $0x80, %al; nop");
SNIPPET(open_nop, "sti; nop; nop");
SNIPPET(open_out, "sti; out %al, $0x80; nop");
SNIPPET(open_fresh, "sti; mov (%rbx), %rcx; nop; nop");
SNIPPET(open_popf, "pushf; orl $0x200, (%rsp); popf; nop");
SNIPPET(open_halt, "sti; hlt; nop");
SNIPPET(open_close, "sti; cli; in $0x80, %al; nop");
SNIPPET(open_fault, "sti; rdmsr; nop; nop");
SNIPPET(raise_open, "sti; nop; out %al, %dx; nop");
SNIPPET(again, "sti; nop; cli; nop; in $0x80, %al; sti; nop");

/* IRQ 4 asks. */
static void ask(void)
{
	outb(UART_IER, IER_THRE);
}

/* Nothing of the last snippet is left. */
static void calm(void)
{
	inb(UART_IIR);
	outb(UART_IER, 0);
	pic_init(params[BASE]);
	pic_unmask(IRQ_COM1);
}

static void waiting(unsigned number, const uint8_t *snippet, uint64_t rbx)
{
	ask();
	run("irq", number, snippet, params[SEED], params[UNKNOWN_MSR], 0, rbx);
	calm();
}

static void interrupts(void)
{
	calm();
	waiting(0, closed, 0);
	waiting(1, open_nop, 0);
	waiting(2, open_out, 0);
	waiting(3, open_fresh, params[FRESH]);
	waiting(4, open_popf, 0);
	waiting(5, open_halt, 0);
	waiting(6, open_close, 0);
	skip = 2;
	waiting(7, open_fault, 0);
	skip = 0;
	run("irq", 8, raise_open, IER_THRE, 0, UART_IER, 0);
	calm();
	waiting(9, again, 0);

	/* Two at a time: the PIT has counted to its end, once, and the UART asks. */
	outb(0x43, 0x30);
	outb(0x40, 50);
	outb(0x40, 0);
	do
		outb(0x20, 0x0a);
	while (!(inb(0x20) & 1));
	pic_unmask(IRQ_TIMER);
	waiting(10, open_nop, 0);

	/* One after the other. */
	events = 0;
	code = closed;
	sti();
	for (uint64_t i = 0; i < params[TIMES]; i++)
		ask();
	cli();
	code = NULL;
	say("times", 0, "", events);
}

/* The timer, with the guest in a loop that never leaves, and halted. */
static void timer(void)
{
	pic_init(params[BASE]);
	pic_unmask(IRQ_TIMER);
	ticks = 0;
	pit_start(500);
	sti();
	while (ticks < params[TICKS])
		;
	while (ticks < 2 * params[TICKS]) {
		cli();
		sti_hlt();
	}
	cli();
	say("ticks", 0, "", ticks);
}

int guest_main(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	gdt_init();
	idt_init();
	for (unsigned v = 0; v < 256; v++)
		trap_handlers[v] = on_exception;
	trap_handlers[params[BASE] + IRQ_TIMER] = on_pit;
	trap_handlers[params[BASE] + IRQ_COM1] = on_uart;
	exceptions();
	flush();
	interrupts();
	flush();
	timer();
	flush();
	return 0;
}
