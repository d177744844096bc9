/*
 * Checkpoint 3.15: NMIs. hv's plan has one for each stage that the guest comes to; the guest says what it was interrupted in, and the
 * handler comes to stages too. Behind each the order of things is told: an NMI's handler begins and ends, a mark of the program's.
 */
#include "desc.h"
#include "observe.h"
#include "pic.h"

#include <stdbool.h>
#include <stddef.h>

PARAMS;

enum { SEED, ROUNDS, FRESH_STACKS };

#define VEC_NMI 2
#define VEC_BP 3
#define BASE 0x20
#define UART_IER 0x3f9
#define UART_IIR 0x3fa
#define IER_THRE 2

/* What happened, in its order. */
enum { ENTER = 1, LEAVE, MARK, TRAP, IRQ };
static uint8_t order[15];
static unsigned happened, depth, deepest;
static uint64_t nmis;

static void note(uint8_t what)
{
	if (happened < sizeof order)
		order[happened++] = what;
}

/* The plan's stages: VMCALL or VMMCALL, without a CPUID in between. */
static bool intel;

static inline void come_to(uint64_t stage)
{
	uint64_t rax = 1;

	if (intel)
		asm volatile("vmcall" : "+a"(rax) : "b"(stage) : "memory");
	else
		asm volatile("vmmcall" : "+a"(rax) : "b"(stage) : "memory");
}

/* What the handler of the next NMI does. */
static void (*in_handler)(void);

static void on_nmi(struct trap_frame *f)
{
	void (*todo)(void) = in_handler;

	(void)f;
	note(ENTER);
	nmis++;
	if (++depth > deepest)
		deepest = depth;
	in_handler = NULL;
	if (todo)
		todo();
	depth--;
	note(LEAVE);
}

static void on_trap(struct trap_frame *f)
{
	(void)f;
	note(TRAP);
}

static void on_uart(struct trap_frame *f)
{
	(void)f;
	inb(UART_IIR);
	outb(UART_IER, 0);
	pic_eoi(IRQ_COM1);
	note(IRQ);
}

static void begin(void)
{
	happened = depth = deepest = 0;
	nmis = 0;
}

/* The order as one number, the first in the lowest 4 bits. */
static void tell(unsigned n)
{
	uint64_t all = 0;

	for (unsigned i = happened; i-- > 0;)
		all = all << 4 | order[i];
	say("nmi", n, "order", all);
	say("nmi", n, "count", nmis);
	say("nmi", n, "deepest", deepest);
}

static void another(void)
{
	come_to(1);
	note(MARK);
}

static void two_more(void)
{
	come_to(2);
	note(MARK);
}

/* The IRET of another handler ends the blocking too (SDM vol. 3, 6.7.1). */
static void with_trap(void)
{
	come_to(1);
	note(MARK);
	asm volatile("int3");
	note(MARK);
}

static void with_exits(void)
{
	come_to(1);
	for (unsigned i = 0; i < 3; i++)
		inb(0x80);
	note(MARK);
}

static void plain(unsigned n, void (*handler)(void))
{
	begin();
	in_handler = handler;
	come_to(1);
	note(MARK);
	tell(n);
}

int guest_main(void)
{
	uint32_t eax = 0, ebx, ecx, edx;

	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
	intel = ebx == 0x756e6547;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	gdt_init();
	idt_init();
	trap_handlers[VEC_NMI] = on_nmi;
	trap_handlers[VEC_BP] = on_trap;
	trap_handlers[BASE + IRQ_COM1] = on_uart;

	plain(0, NULL); /* IF is 0 */
	plain(1, another);
	plain(2, two_more);
	plain(3, with_trap);
	plain(4, with_exits);

	/* With an interrupt that waits as well: the NMI is more urgent. */
	pic_init(BASE);
	pic_unmask(IRQ_COM1);
	begin();
	outb(UART_IER, IER_THRE);
	in_handler = another;
	come_to(1);
	note(MARK);
	sti();
	asm volatile("nop");
	cli();
	tell(5);

	/* Many, each on a stack of its own that nobody has touched: their deliveries are interrupted. */
	begin();
	idt_gate(VEC_NMI, 0, 1);
	for (uint64_t i = 0; i < params[ROUNDS]; i++) {
		tss_set_ist(1, params[FRESH_STACKS] + (i + 1) * PAGE);
		in_handler = i & 1 ? with_exits : NULL;
		if (i & 1)
			happened = 0;
		come_to(1);
	}
	say("many", 0, "", nmis);
	flush();
	return 0;
}
