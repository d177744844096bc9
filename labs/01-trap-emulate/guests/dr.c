/*
 * Checkpoint 1.7: debug registers, through several general registers. Breakpoints are armed here at addresses that nothing
 * ever uses; what a hit does is a later checkpoint's.
 */
#include "probe.h"

PARAMS;

enum { SEED, DR0, DR1, DR2, DR3, DR6, DR7, DR4, DR5, DR0_AGAIN };

PROBE(write_dr0, "mov %rax, %dr0");
PROBE(write_dr1, "mov %r9, %dr1");
PROBE(write_dr2, "mov %rbp, %dr2");
PROBE(write_dr3, "mov %r15, %dr3");
PROBE(write_dr4, "mov %r12, %dr4");
PROBE(write_dr5, "mov %rsi, %dr5");
PROBE(write_dr6, "mov %rdi, %dr6");
PROBE(write_dr7, "mov %r10, %dr7");
PROBE(read_dr0, "mov %dr0, %r8");
PROBE(read_dr1, "mov %dr1, %rcx");
PROBE(read_dr2, "mov %dr2, %r14");
PROBE(read_dr3, "mov %dr3, %rbx");
PROBE(read_dr4, "mov %dr4, %r13");
PROBE(read_dr5, "mov %dr5, %rax");
PROBE(read_dr6, "mov %dr6, %rdx");
PROBE(read_dr7, "mov %dr7, %r11");

static unsigned steps;

static void probe(const char *name, void (*run)(const struct regs *, struct regs *), unsigned reg, uint64_t value)
{
	struct regs in, out;

	fill(&in, params[SEED] + steps++);
	in.r[reg] = value;
	run(&in, &out);
	report_regs(name, &in, &out);
}

static void look(const char *name, void (*run)(const struct regs *, struct regs *))
{
	struct regs in, out;

	fill(&in, params[SEED] + steps++);
	run(&in, &out);
	report_regs(name, &in, &out);
}

int guest_main(void)
{
	look("reset6", read_dr6);
	look("reset7", read_dr7);

	probe("w0", write_dr0, R_AX, params[DR0]);
	probe("w1", write_dr1, R_9, params[DR1]);
	probe("w2", write_dr2, R_BP, params[DR2]);
	probe("w3", write_dr3, R_15, params[DR3]);
	probe("w6", write_dr6, R_DI, params[DR6]);
	look("r6", read_dr6);
	probe("w7", write_dr7, R_10, params[DR7]);
	look("r7", read_dr7);
	look("r6b", read_dr6);

	/* CR4.DE is 0, so 4 and 5 are other names of 6 and 7 (SDM vol. 3, 17.2.2). */
	look("r4", read_dr4);
	look("r5", read_dr5);
	probe("w4", write_dr4, R_12, params[DR4]);
	probe("w5", write_dr5, R_SI, params[DR5]);
	look("r6c", read_dr6);
	look("r7c", read_dr7);

	look("r0", read_dr0);
	look("r1", read_dr1);
	look("r2", read_dr2);
	look("r3", read_dr3);
	probe("w0b", write_dr0, R_AX, params[DR0_AGAIN]);
	look("r0b", read_dr0);
	look("r1b", read_dr1);
	/* Where the CPU is QEMU's (7.2) and all this happened in it, it keeps watchpoints beyond the end of the virtual machine,
	 * and crashes when the next one arms its own. */
	asm volatile("mov %0, %%dr7" : : "r"(0x400ul));
	return 0;
}
