/*
 * Checkpoint 1.12: debug registers that must not be touched, and values that they do not take. What a refused instruction leaves
 * behind is reported too.
 */
#include "fault.h"
#include "io.h"

PARAMS;
FAULT_STATE;

enum { SEED, DR6, DR7, HIGH };

#define CR4_DE (1ull << 3)
#define DR7_GD (1ull << 13)

FAULT_PROBE(read_dr4, "mov %dr4, %r9");
FAULT_PROBE(read_dr5, "mov %dr5, %rcx");
FAULT_PROBE(write_dr4, "mov %rbx, %dr4");
FAULT_PROBE(write_dr5, "mov %r15, %dr5");
FAULT_PROBE(write_dr6, "mov %rsi, %dr6");
FAULT_PROBE(write_dr7, "mov %r12, %dr7");
FAULT_PROBE(read_dr3, "mov %dr3, %rax");
FAULT_PROBE(write_dr0, "mov %rdi, %dr0");

static void report_status(const char *name)
{
	uint64_t dr6, dr7;

	asm volatile("mov %%dr6, %0; mov %%dr7, %1" : "=r"(dr6), "=r"(dr7));
	dputs(name);
	report(".dr6", dr6);
	dputs(name);
	report(".dr7", dr7);
}

static struct regs *start(void)
{
	static struct regs in;
	static unsigned n;

	fill(&in, params[SEED] + n++);
	return &in;
}

int guest_main(void)
{
	struct regs *in;

	fault_init();
	asm volatile("mov %0, %%dr6; mov %1, %%dr7" : : "r"(params[DR6]), "r"(params[DR7]));

	/* The upper halves of DR6 and DR7 must be 0 (SDM vol. 3, 17.2.6). */
	in = start();
	in->r[R_SI] = params[HIGH];
	FAULT_RUN("dr6high", write_dr6, in);
	in = start();
	in->r[R_12] = params[HIGH];
	FAULT_RUN("dr7high", write_dr7, in);
	report_status("high");

	/* With CR4.DE there are no DR4 and DR5 (SDM vol. 3, 17.2.2). */
	write_cr4(read_cr4() | CR4_DE);
	FAULT_RUN("dr4r", read_dr4, start());
	FAULT_RUN("dr5r", read_dr5, start());
	FAULT_RUN("dr4w", write_dr4, start());
	FAULT_RUN("dr5w", write_dr5, start());
	report_status("de");
	write_cr4(read_cr4() & ~CR4_DE);
	FAULT_RUN("dr4back", read_dr4, start());

	/* GD reports the next access, once: the CPU clears it before the handler runs (SDM vol. 3, 17.2.4). */
	asm volatile("mov %0, %%dr7" : : "r"(params[DR7] | DR7_GD));
	FAULT_RUN("gdr", read_dr3, start());
	report_status("gdr");
	asm volatile("mov %0, %%dr6; mov %1, %%dr7" : : "r"(params[DR6]), "r"(params[DR7] | DR7_GD));
	FAULT_RUN("gdw", write_dr0, start());
	report_status("gdw");
	return 0;
}
