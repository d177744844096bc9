/*
 * Checkpoint 1.19: a user program that never gives up the CPU, interrupted by the PIT as often as the grader chose.
 * Each round of its loop adds one to RAX and STEP to RBX; where the last interrupt found it, the two must still agree.
 */
#include "event.h"
#include "pic.h"
#include "tick.h"

PARAMS;

enum { RSP0 = EVENT_PARAMS, BASE, TICKS, RATE, STEP };

SNIPPET(forever, "1: inc %rax; add %rcx, %rbx; jmp 1b");

static unsigned ticks;

/* Acknowledges the PIC and counts; the last tick is recorded. */
uint64_t tick(const uint64_t *frame)
{
	(void)frame;
	pic_eoi(IRQ_TIMER);
	return ++ticks >= params[TICKS];
}

TICK_HANDLER("jmp event_stubs + 16 * 255\n")

int guest_main(void)
{
	events_begin();
	tables_load();
	tss.rsp[0] = params[RSP0];
	tick_gate(params[BASE] + IRQ_TIMER);
	pic_init(params[BASE]);
	pic_unmask(IRQ_TIMER);
	pit_start(params[RATE]);

	PLACE(params[CODE], forever);
	trial_start_user(FLAGS_IF);
	trial.in.r[R_AX] = 0;
	trial.in.r[R_BX] = 0;
	trial.in.r[R_CX] = params[STEP];
	trial_run("loop");
	pic_mask(IRQ_TIMER);
	report("ticks", ticks);
	return 0;
}
