/*
 * Checkpoint 1.14: user mode. IRETQ leads to CPL 3, every event from there leads back, to the stack that the TSS names.
 *
 * MODE 1 has the gates that user mode must not use. What is in the data segment registers afterwards cannot be
 * seen by a guest that is itself deprivileged: MOV from a segment register does not trap. SS and CS are seen in the frames.
 */
#include "event.h"

PARAMS;

enum { RSP0 = EVENT_PARAMS, PRIVILEGED, VECTOR = PRIVILEGED + 5, PORT, HIGH, ERROR_VECTOR, MODE };

#define VEC_BP 3
#define MSR_LSTAR 0xc0000082
#define IOPL3 0x3000

SNIPPET(undefined, "ud2");
SNIPPET(clear_if, "cli; ud2");
SNIPPET(toggle_if, "cli; sti; nop; cli; ud2");
SNIPPET(set_if, "sti; nop; ud2");
SNIPPET(halt, "hlt");
SNIPPET(interrupt, "int $0x80");
SNIPPET(breakpoint, "int3");
SNIPPET(in_byte, "in %dx, %al; ud2");
SNIPPET(in_word, "in %dx, %ax; ud2");
SNIPPET(out_byte, "out %al, %dx; ud2");
SNIPPET(string_out, "outsb");
SNIPPET(read, "mov (%rsi), %rax");
SNIPPET(write, "mov %rax, (%rsi)");
SNIPPET(do_iretq, "iretq");

static void finish(const char *name)
{
	trial_run(name);
	reset_state();
}

static void simple(const char *name, const uint8_t *from, const uint8_t *to, uint64_t flags)
{
	place_bytes(params[CODE], from, to - from);
	trial_start_user(flags);
	finish(name);
}
#define SIMPLE(name, snippet, flags) simple(name, snippet, snippet##_end, flags)

static void port(const char *name, const uint8_t *from, const uint8_t *to, uint16_t number, uint64_t flags)
{
	place_bytes(params[CODE], from, to - from);
	trial_start_user(flags);
	trial.in.r[R_DX] = number;
	finish(name);
}
#define IO(name, snippet, number, flags) port(name, snippet, snippet##_end, number, flags)

static void memory(const char *name, const uint8_t *from, const uint8_t *to, uint64_t at, uint64_t flags)
{
	place_bytes(params[CODE], from, to - from);
	trial_start_user(flags);
	trial.in.r[R_SI] = at;
	trial.in.r[R_DX] = params[PORT];
	finish(name);
}
#define MEMORY(name, snippet, at, flags) memory(name, snippet, snippet##_end, at, flags)

static void int_n(const char *name, uint8_t vector, unsigned dpl)
{
	set_gate(vector, GATE_PRESENT | dpl << 5 | GATE_INTERRUPT, 0);
	PLACE(params[CODE], interrupt);
	((uint8_t *)params[CODE])[1] = vector;
	trial_start_user(FLAGS_IF);
	finish(name);
}

/* IRETQ with this frame, at CPL 3 or at CPL 0. */
static void iretq_with(const char *name, bool from_user, uint64_t flags, uint16_t cs, uint16_t ss, uint64_t new_flags)
{
	uint64_t *frame;

	PLACE(params[CODE], do_iretq);
	if (from_user)
		trial_start_user(flags);
	else
		trial_start(flags);
	trial.rsp &= ~15ull;
	frame = (uint64_t *)trial.rsp;
	frame[0] = PLACE(params[CODE] + 64, undefined);
	frame[1] = cs;
	frame[2] = new_flags;
	frame[3] = params[STACK] + 4096;
	frame[4] = ss;
	finish(name);
}

static void manual(void)
{
	int_n("int", params[VECTOR], 0);
	int_n("fake", params[ERROR_VECTOR], 0);
	SIMPLE("int3", breakpoint, FLAGS_IF);
}

static void agreed(void)
{
	static char name[] = "privileged0_";
	unsigned p = params[PORT];

	/* With registers that each of them would take. */
	for (unsigned i = 0; i < VECTOR - PRIVILEGED; i++) {
		uint64_t code = params[PRIVILEGED + i];

		place_bytes(params[CODE], &code, sizeof code);
		trial_start_user(FLAGS_IF);
		trial.in.r[R_AX] = 8;
		trial.in.r[R_CX] = MSR_LSTAR;
		trial.in.r[R_DX] = 0;
		name[10] = '0' + i;
		finish(name);
	}
	SIMPLE("cli", clear_if, FLAGS_IF);
	SIMPLE("sti", set_if, FLAGS_IF);
	SIMPLE("ud", undefined, FLAGS_IF | FLAGS_DF);
	/* The handler's own exception shows what SS and CS are in it. */
	PLACE(params[CODE], undefined);
	trial_start_user(FLAGS_IF);
	plan[0] = PLACE(params[CODE] + 64, undefined);
	finish("nested");

	int_n("intopen", params[VECTOR], 3);
	int_n("fakeopen", params[ERROR_VECTOR], 3);
	set_gate(params[ERROR_VECTOR], GATE_PRESENT | GATE_INTERRUPT, 0);
	set_gate(VEC_BP, GATE_PRESENT | 3 << 5 | GATE_TRAP, 0);
	SIMPLE("int3open", breakpoint, FLAGS_IF);

	/* IOPL gives CLI, STI and the ports to user mode, and nothing else. */
	SIMPLE("ioplcli", toggle_if, FLAGS_IF | IOPL3);
	SIMPLE("ioplsti", set_if, IOPL3);
	SIMPLE("ioplhlt", halt, FLAGS_IF | IOPL3);
	IO("ioplin", in_byte, p, IOPL3);
	SIMPLE("iopl2", clear_if, FLAGS_IF | 0x2000);

	/* One port of the map is open. */
	tss.map[p / 8] = ~(1 << p % 8);
	IO("mapin", in_byte, p, FLAGS_IF);
	IO("mapout", out_byte, p, FLAGS_IF);
	IO("mapword", in_word, p, FLAGS_IF);
	IO("mapnext", in_byte, p + 1, FLAGS_IF);
	IO("mapfar", in_byte, p + 0x4000, FLAGS_IF);
	tss.map[p / 8] = tss.map[p / 8 + 1] = 0;
	IO("mapboth", in_word, p, FLAGS_IF);
	tss.io_map = sizeof tss;
	IO("mapnone", in_byte, p, FLAGS_IF);

	MEMORY("read", read, params[HIGH], FLAGS_IF);
	MEMORY("write", write, params[HIGH] + 8, FLAGS_IF);
	MEMORY("outs", string_out, params[HIGH] + 16, FLAGS_IF | IOPL3);

	/* What IRETQ may change: IF only where CPL <= IOPL, IOPL only at CPL 0. */
	iretq_with("keep", true, FLAGS_IF, SEL_UCODE, SEL_UDATA, 2 | IOPL3);
	iretq_with("keepoff", true, 0, SEL_UCODE, SEL_UDATA, 2 | FLAGS_IF | IOPL3);
	iretq_with("ioplflags", true, FLAGS_IF | IOPL3, SEL_UCODE, SEL_UDATA, 2);
	iretq_with("inward", true, FLAGS_IF, SEL_KCODE, SEL_KDATA, 2);
	iretq_with("outward", false, 0, SEL_UCODE, SEL_UDATA, 2 | FLAGS_IF | IOPL3);
	iretq_with("kernelss", false, 0, SEL_UCODE, SEL_KDATA, 2);
	iretq_with("nullss", false, 0, SEL_UCODE, 0, 2);
	iretq_with("readonlyss", false, 0, SEL_UCODE, SEL_USER_RO | 3, 2);
	iretq_with("userss", false, 0, SEL_KCODE, SEL_UDATA, 2);
}

int guest_main(void)
{
	events_begin();
	tables_load();
	tss.rsp[0] = params[RSP0];
	if (params[MODE])
		manual();
	else
		agreed();
	return 0;
}
