/*
 * Checkpoint 1.11: exceptions without an error code, and the way back by IRETQ. The GDT is still the loader's; only the IDT
 * is this guest's own.
 */
#include "event.h"

PARAMS;

enum { OPCODE = EVENT_PARAMS, GATE_RPL, DIV_GATE, NEW_FLAGS, NEW_STACK };

#define VEC_DE 0
#define VEC_UD 6

SNIPPET(divide, "div %rcx");
SNIPPET(undefined, "ud2");
/* TF is set, but the instruction behind POPF never completes, so there is no single-step trap. */
SNIPPET(marked, "pushfq; orl $0x4100, (%rsp); popfq; ud2");
SNIPPET(twice, "ud2; nop; ud2");
SNIPPET(skip, "addq $2, (%rsp); iretq");
SNIPPET(edit, "mov %r8, (%rsp); mov %r9, 16(%rsp); mov %r10, 24(%rsp); iretq");

int guest_main(void)
{
	uint64_t seed = params[SEED], code = params[CODE], stack = params[STACK], opcode = params[OPCODE];
	uint64_t handler = code + 64, other = code + 128;

	events_begin();

	/* Which gate clears IF? OPCODE is an instruction that does not exist. */
	place_bytes(code, &opcode, sizeof opcode);
	trial_set(seed, code, stack, FLAGS_IF);
	trial_run("interrupt");
	set_gate(VEC_UD, GATE_PRESENT | GATE_TRAP, 0);
	trial_set(seed + 1, code, stack + 1, FLAGS_IF | FLAGS_DF);
	trial_run("trap");
	trial_set(seed + 2, code, stack + 2, 0);
	trial_run("off");

	set_gate(VEC_DE, GATE_PRESENT | params[DIV_GATE], 0);
	PLACE(code, divide);
	trial_set(seed + 3, code, stack + 3, FLAGS_IF);
	trial.in.r[R_CX] = 0;
	trial_run("divide");

	PLACE(code, marked);
	trial_set(seed + 4, code, stack + 4, FLAGS_IF);
	trial_run("marked");

	/* An exception of the handler's. The RPL in the gate's selector does not count: its code runs at CPL 0. */
	set_gate(VEC_UD, GATE_PRESENT | GATE_INTERRUPT, 0);
	idt[VEC_UD].selector |= params[GATE_RPL];
	PLACE(code, undefined);
	trial_set(seed + 5, code, stack + 5, FLAGS_IF);
	plan[0] = PLACE(handler, undefined);
	trial_run("nested");

	/* The handler goes back behind the instruction. */
	PLACE(code, twice);
	trial_set(seed + 6, code, stack + 6, FLAGS_IF);
	plan[0] = PLACE(handler, skip);
	trial_run("resume");

	/* The handler changes everything in the frame but the selectors; some of the flags that it asks for do not exist. */
	trial_set(seed + 7, code, stack + 7, FLAGS_IF);
	plan[0] = PLACE(handler, edit);
	trial.in.r[R_8] = PLACE(other, undefined);
	trial.in.r[R_9] = params[NEW_FLAGS];
	trial.in.r[R_10] = params[NEW_STACK];
	trial_run("edit");
	return 0;
}
