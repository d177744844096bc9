/*
 * Checkpoint 1.12: exceptions with an error code. MODE 1 has faults while another exception is delivered (the EXT bit), IRETQ to
 * an address that is not canonical, and INS that faults when the device has something to lose (KVM's own emulator loses it).
 */
#include "event.h"

PARAMS;

enum { MODE = EVENT_PARAMS, NON_CANONICAL, HIGH, OUTSIDE, LOCAL, PORT, BEFORE_END };

#define VEC_UD 6
#define UART 0x3f8
#define TEXT 8
#define MSR_EFER 0xc0000080
#define EFER_NXE (1 << 11)
#define RFLAGS_NESTED_TASK (1 << 14)

SNIPPET(read, "mov (%rsi), %rax");
SNIPPET(write, "mov %rax, (%rsi)");
SNIPPET(jump, "jmp *%rsi");
SNIPPET(string_out, "outsb");
SNIPPET(string_in, "insb");
SNIPPET(rep_string_in, "rep insb");
SNIPPET(load_ds, "mov %eax, %ds");
SNIPPET(load_ss, "mov %eax, %ss");
SNIPPET(far_jump, "ljmpl *(%rsi)");
SNIPPET(undefined, "ud2");
SNIPPET(do_iretq, "iretq");

/* A snippet with one register set. */
static void with(const char *name, const uint8_t *from, const uint8_t *to, unsigned reg, uint64_t value)
{
	place_bytes(params[CODE], from, to - from);
	trial_start(FLAGS_IF);
	trial.in.r[reg] = value;
	if (reg == R_DI || reg == R_SI)
		trial.in.r[R_DX] = params[PORT];
	trial_run(name);
}
#define WITH(name, snippet, reg, value) with(name, snippet, snippet##_end, reg, value)

static void far_jump_to(const char *name, uint16_t selector)
{
	static struct __attribute__((packed)) {
		uint32_t offset;
		uint16_t selector;
	} pointer;

	pointer.offset = params[CODE] + 64;
	pointer.selector = selector;
	WITH(name, far_jump, R_SI, (uint64_t)&pointer);
}

static void iretq_to(const char *name, uint64_t rip, uint16_t cs, uint64_t flags)
{
	uint64_t *frame = (uint64_t *)(params[STACK] & ~15ull);

	frame[0] = rip;
	frame[1] = cs;
	frame[2] = FLAGS_IF | 2;
	frame[3] = params[STACK] + 4096;
	frame[4] = SEL_KDATA;
	PLACE(params[CODE], do_iretq);
	trial_start(FLAGS_IF | flags);
	trial.rsp = (uint64_t)frame;
	trial_run(name);
}

static void through_gate(const char *name, uint16_t selector, unsigned attr)
{
	set_gate(VEC_UD, attr, 0);
	idt[VEC_UD].selector = selector;
	WITH(name, undefined, R_AX, 0);
}

static void agreed(void)
{
	uint64_t high = params[HIGH];

	WITH("gp", read, R_SI, params[NON_CANONICAL]);
	WITH("gpw", write, R_SI, params[NON_CANONICAL]);
	WITH("pfr", read, R_SI, high);
	WITH("pfw", write, R_SI, high + 8);
	WITH("pfo", string_out, R_SI, high + 16);
	WITH("pfi", string_in, R_DI, high + 24);
	/* Only with no-execute pages switched on does the error code tell a fetch from a read (SDM vol. 3, 4.7). */
	WITH("pfx", jump, R_SI, high + 32);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	WITH("pfxn", jump, R_SI, high + 40);
	WITH("pfrn", read, R_SI, high + 48);

	WITH("outside", load_ds, R_AX, params[OUTSIDE]);
	WITH("local", load_ds, R_AX, params[LOCAL]);
	WITH("system", load_ds, R_AX, SEL_TSS);
	WITH("absent", load_ds, R_AX, SEL_ABSENT_DATA);
	WITH("absentss", load_ss, R_AX, SEL_ABSENT_DATA);
	WITH("userss", load_ss, R_AX, SEL_UDATA);
	far_jump_to("far", SEL_KDATA);
	far_jump_to("farabsent", SEL_ABSENT_CODE);
	far_jump_to("farnull", 0);

	iretq_to("iretdata", params[CODE] + 64, SEL_KDATA, 0);
	iretq_to("iretabsent", params[CODE] + 64, SEL_ABSENT_CODE, 0);
	iretq_to("iretnull", params[CODE] + 64, 0, 0);
	iretq_to("irettask", params[CODE] + 64, SEL_KCODE, RFLAGS_NESTED_TASK);
}

/* Reading the UART's receiver takes a byte out of it. In loopback mode it has what was written (PC16550D data sheet, MCR bit 4). */
static void ins_from_uart(const char *name, const uint8_t *from, const uint8_t *to, uint64_t count, uint64_t at)
{
	place_bytes(params[CODE], from, to - from);
	trial_start(FLAGS_IF);
	trial.in.r[R_DX] = UART;
	trial.in.r[R_CX] = count;
	trial.in.r[R_DI] = at;
	trial_run(name);
}

/* Memory ends at 4 GiB: an INSB behind it, then a repeated one that comes to the end. No byte may be lost. */
static void nothing_lost(void)
{
	uint64_t text = params[SEED], end = 1ull << 32;

	outb(UART + 2, 0x07); /* FIFOs on and empty */
	outb(UART + 4, 0x10); /* loopback */
	for (unsigned i = 0; i < TEXT; i++)
		outb(UART, text >> 8 * i);
	ins_from_uart("ins", string_in, string_in_end, 1, params[HIGH]);
	report("ins.next", inb(UART));
	ins_from_uart("repins", rep_string_in, rep_string_in_end, TEXT - 2, end - params[BEFORE_END]);
	report("repins.next", inb(UART));
	outb(UART + 4, 0);
}

static void manual(void)
{
	unsigned good = GATE_PRESENT | GATE_INTERRUPT;

	nothing_lost();

	through_gate("gateabsent", SEL_KCODE, GATE_INTERRUPT);
	through_gate("gatecall", SEL_KCODE, GATE_PRESENT | 0xc);
	through_gate("gatenull", 0, good);
	through_gate("gateoutside", params[OUTSIDE], good);
	through_gate("gatedata", SEL_KDATA, good);
	through_gate("gateuser", SEL_UCODE, good);
	through_gate("codeabsent", SEL_ABSENT_CODE, good);
	iretq_to("iretaway", params[NON_CANONICAL], SEL_KCODE, 0);
}

int guest_main(void)
{
	events_begin();
	tables_load();
	asm volatile("lldt %w0" : : "r"(0));
	if (params[MODE])
		manual();
	else
		agreed();
	return 0;
}
