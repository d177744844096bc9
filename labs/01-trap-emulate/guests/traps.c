/*
 * Checkpoint 1.13: events that a program asks for: INT n, INT3, and single steps. MODE 1 has gates that cannot be used.
 *
 * Breakpoints by DR0 to DR3 are not tried: QEMU's TCG (7.2) does not arm those that a nested machine brings along in its VMCB.
 */
#include "event.h"

PARAMS;

enum { VECTOR = EVENT_PARAMS, GATE, ERROR_VECTOR, REFUSED, STEPS, STEPS_LENGTH = STEPS + 3, MODE, PORT, MEMORY, COUNT };

#define VEC_BP 3

SNIPPET(interrupt, "int $0x80");
SNIPPET(breakpoint, "int3");
SNIPPET(set_tf, "pushfq; orl $0x100, (%rsp); popfq");
SNIPPET(rep_outs, "rep outsb");
SNIPPET(undefined, "ud2");
SNIPPET(resume, "iretq");
SNIPPET(stop_stepping, "andl $~0x100, 16(%rsp); iretq");

static void int_n(const char *name, uint8_t vector)
{
	PLACE(params[CODE], interrupt);
	((uint8_t *)params[CODE])[1] = vector;
	trial_start(FLAGS_IF);
	trial_run(name);
}

/* A gate that must not be used. */
static void refused(const char *name, unsigned attr, uint16_t selector)
{
	set_gate(params[REFUSED], attr, 0);
	idt[params[REFUSED]].selector = selector;
	int_n(name, params[REFUSED]);
}

static void single_steps(void)
{
	uint64_t steps[3] = { params[STEPS], params[STEPS + 1], params[STEPS + 2] }, code = params[CODE];
	uint64_t length = params[STEPS_LENGTH] & 0xff, behind = PLACE(code, set_tf) + (set_tf_end - set_tf);

	/* Five instructions, an exception behind the last. The handler goes on stepping. */
	place_bytes(behind, steps, length);
	PLACE(behind + length, undefined);
	trial_start(FLAGS_IF);
	for (unsigned i = 0; i < 5; i++)
		plan[i] = PLACE(code + 128, resume);
	trial_run("step");

	/* The same, but the second trap's handler ends it. */
	trial_start(FLAGS_IF);
	plan[0] = code + 128;
	plan[1] = PLACE(code + 192, stop_stepping);
	trial_run("stop");
}

/* A repeated string instruction stops behind each element. */
static void single_steps_of_rep(void)
{
	uint64_t behind = PLACE(params[CODE], set_tf) + (set_tf_end - set_tf);

	PLACE(behind, rep_outs);
	PLACE(behind + (rep_outs_end - rep_outs), undefined);
	trial_start(FLAGS_IF);
	trial.in.r[R_CX] = params[COUNT];
	trial.in.r[R_SI] = params[MEMORY];
	trial.in.r[R_DX] = params[PORT];
	for (unsigned i = 0; i < params[COUNT]; i++)
		plan[i] = PLACE(params[CODE] + 128, resume);
	trial_run("rep");
}

static void manual(void)
{
	refused("absent", GATE_INTERRUPT, SEL_KCODE);
	refused("call", GATE_PRESENT | 0xc, SEL_KCODE);
	/* One byte short of a whole gate. */
	set_gate(params[REFUSED], GATE_PRESENT | GATE_INTERRUPT, 0);
	idt_load(params[REFUSED] * 16 + 14);
	int_n("limit", params[REFUSED]);
}

static void agreed(void)
{
	unsigned good = GATE_PRESENT | GATE_INTERRUPT;

	set_gate(params[VECTOR], params[GATE], 0);
	int_n("int", params[VECTOR]);
	int_n("noerror", params[ERROR_VECTOR]);
	PLACE(params[CODE], breakpoint);
	trial_start(FLAGS_IF);
	trial_run("int3");
	int_n("long3", VEC_BP);

	refused("null", good, 0);
	refused("codeabsent", good, SEL_ABSENT_CODE);
	refused("data", good, SEL_KDATA);
	/* The last gate that there is. */
	set_gate(params[REFUSED], good, 0);
	idt_load(params[REFUSED] * 16 + 15);
	int_n("fits", params[REFUSED]);
	idt_load(sizeof idt - 1);

	single_steps();
	single_steps_of_rep();
}

int guest_main(void)
{
	events_begin();
	tables_load();
	if (params[MODE])
		manual();
	else
		agreed();
	return 0;
}
