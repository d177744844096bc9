/*
 * Checkpoint 1.18: interrupts. The source is the UART: switching its "transmitter empty" interrupt on raises IRQ 4 at once,
 * because the transmitter is empty. So all depends on instructions and nothing on time; the PIT has its turn at the end.
 * MODE 1 has a REP OUTSB that raises the interrupt itself, a gate that is not there, and the shadows of STI and of a load of SS
 * again and again.
 */
#include "event.h"
#include "pic.h"
#include "tick.h"

PARAMS;

enum { RSP0 = EVENT_PARAMS, BASE, MODE, TICKS, PIT_HZ_PARAM, BUFFER, COUNT };

#define UART_IER 0x3f9
#define UART_IIR 0x3fa
#define IER_THRE 2
#define PIC_COMMAND 0x20
#define PIC_MASK 0x21
#define READ_IRR 0x0a
#define READ_ISR 0x0b

SNIPPET(closed, "nop; nop; ud2");
SNIPPET(open_nop, "sti; nop; nop; ud2");
SNIPPET(open_out, "sti; out %al, $0x80; nop; ud2");
SNIPPET(open_close, "sti; cli; nop; nop; ud2");
SNIPPET(open_twice, "sti; sti; nop; nop; ud2");
SNIPPET(open_halt, "sti; hlt; nop; ud2");
SNIPPET(open_fault, "sti; ud2; nop; ud2");
SNIPPET(raise_open, "out %al, %dx; nop; ud2");
SNIPPET(rep_raise, "rep outsb; nop; ud2");
SNIPPET(user_code, "nop; nop; ud2");
SNIPPET(skip, "addq $2, (%rsp); iretq");
SNIPPET(resume, "iretq");
SNIPPET(undefined, "ud2");
SNIPPET(sti_loop, "1: sti; nop; cli; jmp 1b");
SNIPPET(ss_loop, "sti; 1: mov %eax, %ss; nop; nop; jmp 1b");

/* IRQ 4 asks, or no longer. */
static void ask(void)
{
	outb(UART_IER, IER_THRE);
}

static void calm(void)
{
	inb(UART_IIR);
	outb(UART_IER, 0);
	pic_eoi(IRQ_COM1);
}

static uint8_t pic_read(uint8_t what)
{
	outb(PIC_COMMAND, what);
	return inb(PIC_COMMAND);
}

/* With the interrupt waiting; afterwards, what the PIC believes. */
static void waiting(const char *name, const uint8_t *from, const uint8_t *to)
{
	place_bytes(params[CODE], from, to - from);
	trial_start(0);
	ask();
	trial_run(name);
	dputs(name), report(".irr", pic_read(READ_IRR));
	dputs(name), report(".isr", pic_read(READ_ISR));
	calm();
	/* What was not delivered is taken from the PIC by force: masked, initialised anew. */
	pic_init(params[BASE]);
	pic_unmask(IRQ_COM1);
}
#define WAITING(name, snippet) waiting(name, snippet, snippet##_end)

static void by_uart(void)
{
	WAITING("closed", closed);
	WAITING("nop", open_nop);
	WAITING("out", open_out);
	WAITING("close", open_close);
	WAITING("twice", open_twice);
	WAITING("halt", open_halt);

	/* The fault comes first, then the interrupt. */
	PLACE(params[CODE], open_fault);
	trial_start(0);
	plan[0] = PLACE(params[CODE] + 64, skip);
	ask();
	trial_run("fault");
	calm();

	/* Raised while it is open: behind the OUT. The same by taking the mask away. */
	PLACE(params[CODE], raise_open);
	trial_start(FLAGS_IF);
	trial.in.r[R_AX] = IER_THRE;
	trial.in.r[R_DX] = UART_IER;
	trial_run("raise");
	calm();
	pic_mask(IRQ_COM1);
	ask();
	PLACE(params[CODE], open_nop);
	trial_start(0);
	trial_run("masked");
	PLACE(params[CODE], raise_open);
	trial_start(FLAGS_IF);
	trial.in.r[R_AX] = 0xef;
	trial.in.r[R_DX] = PIC_MASK;
	trial_run("unmask");
	calm();
	pic_unmask(IRQ_COM1);

	/* Without an EOI the next one waits; the handler returns, and nothing comes. */
	PLACE(params[CODE], raise_open);
	trial_start(FLAGS_IF);
	trial.in.r[R_AX] = IER_THRE;
	trial.in.r[R_DX] = UART_IER;
	plan[0] = PLACE(params[CODE] + 64, resume);
	trial_run("first");
	inb(UART_IIR);
	outb(UART_IER, 0);
	ask();
	PLACE(params[CODE], open_nop);
	trial_start(0);
	trial_run("noeoi");
	pic_eoi(IRQ_COM1); /* of the first */
	trial_start(0);
	trial_run("eoi");
	calm();

	/* To CPL 3 with the interrupt waiting: IRETQ casts no shadow. The gate's DPL is for INT n alone. */
	PLACE(params[CODE], user_code);
	trial_start_user(FLAGS_IF);
	ask();
	trial_run("user");
	calm();
	reset_state();
}

/* The first byte of many raises the interrupt. It must not wait for the last. */
static void inside_rep(void)
{
	memset((void *)params[BUFFER], IER_THRE, params[COUNT]);
	PLACE(params[CODE], rep_raise);
	trial_start(FLAGS_IF);
	trial.in.r[R_CX] = params[COUNT];
	trial.in.r[R_SI] = params[BUFFER];
	trial.in.r[R_DX] = UART_IER;
	trial_run("rep");
	calm();
}

/* --- the PIT -------------------------------------------------------------------------------------------------------- */

/* Where the loop was interrupted, one bit for each byte of it, and how often. */
static uint64_t loop_begin, places;
static unsigned ticks;

uint64_t tick(const uint64_t *frame)
{
	uint64_t offset = frame[0] - loop_begin;

	pic_eoi(IRQ_TIMER);
	places |= offset < 63 ? 1ull << offset : 1ull << 63;
	return ++ticks >= params[TICKS];
}

TICK_HANDLER(TRIAL_END)

/* A loop that only interrupts can leave. Where they strike depends on time, where they never may does not. */
static void loop(const char *name, const uint8_t *from, const uint8_t *to)
{
	loop_begin = place_bytes(params[CODE], from, to - from);
	places = ticks = 0;
	trial_start(0);
	trial.in.r[R_AX] = SEL_KDATA;
	trial_run(name);
	dputs(name), report(".ticks", ticks);
	dputs(name), report(".places", places);
}

static void start_ticks(void)
{
	pic_mask(IRQ_COM1);
	pic_unmask(IRQ_TIMER);
	pit_start(params[PIT_HZ_PARAM]);
}

static void by_pit(void)
{
	start_ticks();
	/* A halted CPU wakes up when its time has come, behind the HLT. */
	PLACE(params[CODE], open_halt);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const names[] = { "sleep0_", "sleep1_", "sleep2_" };

		trial_start(0);
		trial_run(names[i]);
		pic_eoi(IRQ_TIMER);
	}
	pic_mask(IRQ_TIMER);
}

int guest_main(void)
{
	events_begin();
	tables_load();
	tss.rsp[0] = params[RSP0];
	pic_init(params[BASE]);
	pic_unmask(IRQ_COM1);
	if (params[MODE]) {
		inside_rep();
		/* A gate that is not there: the fault comes from outside the program, and is no double fault. */
		set_gate(params[BASE] + IRQ_COM1, GATE_INTERRUPT, 0);
		WAITING("absent", open_nop);
		tick_gate(params[BASE] + IRQ_TIMER);
		start_ticks();
		loop("stiloop", sti_loop, sti_loop_end);
		loop("ssloop", ss_loop, ss_loop_end);
		return 0;
	}
	by_uart();
	by_pit();
	return 0;
}
