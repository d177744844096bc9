/*
 * Checkpoint 1.19: a user program that never gives up the CPU, interrupted by the PIT as often as the grader chose.
 * Each round of its loop adds one to RAX and STEP to RBX; where the last interrupt found it, the two must still agree.
 */
#include "event.h"
#include "pic.h"

PARAMS;

enum { SEED, CODE, STACK, RSP0, BASE, TICKS, RATE, STEP };

SNIPPET(forever, "1: inc %rax; add %rcx, %rbx; jmp 1b");

static unsigned ticks;

/* Like the recorder, but acknowledges the PIC and counts; the last tick is also recorded. */
uint64_t tick(void);
uint64_t tick(void)
{
	pic_eoi(IRQ_TIMER);
	return ++ticks >= params[TICKS];
}

extern const uint8_t tick_entry[];
asm(".text\n"
    "tick_entry:\n"
    ".irp r, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11\n"
    "push %\\r\n"
    ".endr\n"
    "cld\n"
    "call tick\n"
    "test %eax, %eax\n"
    ".irp r, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax\n"
    "pop %\\r\n"
    ".endr\n"
    "jnz 1f\n"
    "iretq\n"
    "1: jmp event_stubs + 16 * 255\n");

int guest_main(void)
{
	uint64_t entry = (uint64_t)tick_entry;
	struct gate *g = &idt[params[BASE] + IRQ_TIMER];

	events_begin();
	tables_load();
	tss.rsp[0] = params[RSP0];
	set_gate(params[BASE] + IRQ_TIMER, GATE_PRESENT | GATE_INTERRUPT, 0);
	g->offset_low = entry;
	g->offset_mid = entry >> 16;
	g->offset_high = entry >> 32;
	pic_init(params[BASE]);
	pic_unmask(IRQ_TIMER);
	pit_start(params[RATE]);

	PLACE(params[CODE], forever);
	trial_set(params[SEED], params[CODE], params[STACK], FLAGS_IF);
	trial.cs = SEL_UCODE;
	trial.ss = SEL_UDATA;
	trial.in.r[R_AX] = 0;
	trial.in.r[R_BX] = 0;
	trial.in.r[R_CX] = params[STEP];
	trial_run("loop");
	pic_mask(IRQ_TIMER);
	report("ticks", ticks);
	return 0;
}
