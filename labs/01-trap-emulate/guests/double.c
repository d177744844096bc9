/*
 * Checkpoint 1.16: an exception while another is delivered (SDM vol. 3, table 6-5). TRIPLE says whether, and in which of four
 * ways, the double fault's own handler cannot be reached at the end: then this guest never comes to its last line. MODE 1
 * has #GP as the first exception, and pairs that are no double fault.
 */
#include "event.h"

PARAMS;

enum { DF_STACK = EVENT_PARAMS, NON_CANONICAL, HIGH, TRIPLE, MODE };

#define VEC_DE 0
#define VEC_UD 6
#define VEC_DF 8
#define VEC_NP 11
#define VEC_GP 13
#define IST_DF 1
#define IST_BAD 2
#define SEL_OUTSIDE 0x1230

SNIPPET(undefined, "ud2");
SNIPPET(divide, "div %rcx");
SNIPPET(read, "mov (%rsi), %rax");
SNIPPET(interrupt, "int $13");
SNIPPET(load_ds, "mov %eax, %ds");

static void with(const char *name, const uint8_t *from, const uint8_t *to, unsigned reg, uint64_t value)
{
	place_bytes(params[CODE], from, to - from);
	trial_start(FLAGS_IF);
	trial.in.r[reg] = value;
	trial_run(name);
	reset_state();
}
#define WITH(name, snippet, reg, value) with(name, snippet, snippet##_end, reg, value)

static void gate(unsigned vector, unsigned ist)
{
	set_gate(vector, GATE_PRESENT | GATE_INTERRUPT, ist);
}

static void absent(unsigned vector)
{
	set_gate(vector, GATE_INTERRUPT, 0);
}

static void manual(void)
{
	uint64_t away = params[NON_CANONICAL];

	/* First benign: the second is delivered. INT 13 is not #GP, so nothing contributes. */
	absent(VEC_UD);
	WITH("ud", undefined, R_AX, 0);
	absent(VEC_GP);
	WITH("int", interrupt, R_AX, 0);

	WITH("gpnp", read, R_SI, away);
	WITH("dsnp", load_ds, R_AX, SEL_OUTSIDE);
	gate(VEC_GP, IST_BAD);
	WITH("gppf", read, R_SI, away);
}

static void agreed(void)
{
	uint64_t high = params[HIGH];

	/* First benign: the second is delivered. */
	set_gate(VEC_UD, GATE_PRESENT | GATE_INTERRUPT, IST_BAD);
	WITH("udpf", undefined, R_AX, 0);
	gate(VEC_UD, 0);

	/* Contributory, contributory: #DF. Contributory, page fault: one after the other. */
	absent(VEC_NP);
	WITH("npnp", load_ds, R_AX, SEL_ABSENT_DATA);
	gate(VEC_NP, IST_BAD);
	WITH("nppf", load_ds, R_AX, SEL_ABSENT_DATA);
	gate(VEC_NP, 0);
	absent(VEC_DE);
	WITH("denp", divide, R_CX, 0);
	gate(VEC_DE, 0);

	/* Page fault first: either kind of second makes #DF. CR2 is not part of the frame, and is not looked at. */
	absent(VEC_PF);
	WITH("pfnp", read, R_SI, high);
	gate(VEC_PF, IST_BAD);
	WITH("pfpf", read, R_SI, high);
	gate(VEC_PF, 0);

	/* #NP, then a page fault whose handler is missing: that and the next #NP make a double fault, the first is long gone. */
	gate(VEC_NP, IST_BAD);
	absent(VEC_PF);
	WITH("three", load_ds, R_AX, SEL_ABSENT_DATA);
}

/* The same once more, and #DF cannot be delivered. */
static void triple(void)
{
	switch (params[TRIPLE]) {
	case 1: absent(VEC_DF); break;
	case 2: gate(VEC_DF, IST_BAD); break;
	case 3: idt_load(VEC_DF * 16 + 14); break;
	default: idt_load(0);
	}
	WITH("triple", load_ds, R_AX, SEL_ABSENT_DATA);
	report("survived", 1);
}

int guest_main(void)
{
	events_begin();
	tables_load();
	tss.ist[IST_DF - 1] = params[DF_STACK];
	tss.ist[IST_BAD - 1] = params[HIGH] + 4096; /* to push there is a page fault */
	gate(VEC_DF, IST_DF);
	if (params[MODE]) {
		manual();
		return 0;
	}
	agreed();
	if (params[TRIPLE])
		triple();
	return 0;
}
