/*
 * Checkpoint 1.15: the interrupt stack table. MODE 1 has events in a handler on such a stack, an entry that the TSS does not
 * have, and an address that is not canonical.
 */
#include "event.h"

PARAMS;

enum { RSP0 = EVENT_PARAMS, IST, MODE = IST + 7, FIRST, SECOND, NON_CANONICAL };

#define VEC_DE 0
#define VEC_UD 6
#define VEC_TS 10

SNIPPET(undefined, "ud2");
SNIPPET(divide, "mov $0, %ecx; div %rcx");
SNIPPET(skip, "addq $2, (%rsp); iretq");
SNIPPET(twice, "ud2; ud2");

static void gate(unsigned vector, unsigned ist)
{
	set_gate(vector, GATE_PRESENT | GATE_INTERRUPT, ist);
}

static void agreed(void)
{
	static char name[] = "ist1_";

	/* All seven, the stack pointers chosen by the grader. */
	PLACE(params[CODE], undefined);
	for (unsigned i = 1; i <= 7; i++) {
		gate(VEC_UD, i);
		trial_start(FLAGS_IF);
		name[3] = '0' + i;
		trial_run(name);
		reset_state();
	}
	/* An event from CPL 3 goes to the IST's stack as well, not to RSP0; with IST 0 to RSP0. */
	gate(VEC_UD, params[FIRST]);
	trial_start_user(FLAGS_IF);
	trial_run("user");
	reset_state();
	gate(VEC_UD, 0);
	trial_start_user(FLAGS_IF);
	trial_run("user0_");
	reset_state();

	/* Back by IRETQ: the old stack pointer is restored, so the second event finds the entry as the first did. */
	gate(VEC_UD, params[FIRST]);
	PLACE(params[CODE], twice);
	trial_start(FLAGS_IF);
	plan[0] = PLACE(params[CODE] + 64, skip);
	trial_run("back");
}

static void manual(void)
{
	/* In the handler, an event whose gate names another entry; then one without IST, which stays on that stack. */
	PLACE(params[CODE], undefined);
	gate(VEC_UD, params[FIRST]);
	gate(VEC_DE, params[SECOND]);
	trial_start(FLAGS_IF);
	plan[0] = PLACE(params[CODE] + 64, divide);
	plan[1] = PLACE(params[CODE] + 128, undefined);
	trial_run("nested");
	gate(VEC_DE, 0);
	trial_start(FLAGS_IF);
	plan[0] = params[CODE] + 64;
	trial_run("stay");

	tss_load(0x24 + 8 * (params[FIRST] - 1) + 6); /* one byte of the entry is missing */
	trial_start(FLAGS_IF);
	trial_run("limit");
	tss_load(sizeof tss - 1);
	tss.ist[params[FIRST] - 1] = params[NON_CANONICAL];
	trial_start(FLAGS_IF);
	trial_run("away");
}

int guest_main(void)
{
	events_begin();
	tables_load();
	tss.rsp[0] = params[RSP0];
	for (unsigned i = 0; i < 7; i++)
		tss.ist[i] = params[IST + i];
	if (params[MODE])
		manual();
	else
		agreed();
	return 0;
}
