/*
 * Checkpoint 1.6: control registers, through several general registers. Only values that a CPU accepts are written; what a CPU
 * refuses is a later checkpoint's.
 */
#include "probe.h"

PARAMS;

enum { SEED, CR2A, CR2B, CR0A, CR0B, CR4A, CR4B, CR8A, CR3BITS, LMSWA, LMSWB };

PROBE(write_cr2, "mov %rbx, %cr2");
PROBE(read_cr2_r13, "mov %cr2, %r13");
PROBE(write_cr2_r15, "mov %r15, %cr2");
PROBE(read_cr2_rdi, "mov %cr2, %rdi");
PROBE(write_cr0, "mov %rsi, %cr0");
PROBE(read_cr0, "mov %cr0, %rbp");
PROBE(write_cr4, "mov %r9, %cr4");
PROBE(read_cr4, "mov %cr4, %rcx");
PROBE(write_cr8, "mov %r10, %cr8");
PROBE(read_cr8, "mov %cr8, %rax");
PROBE(write_cr3, "mov %r12, %cr3");
PROBE(read_cr3, "mov %cr3, %rdx");
PROBE(do_clts, "clts");
PROBE(lmsw_reg, "lmsw %bx");
PROBE(lmsw_mem, "lmsw (%rdi)");

static struct regs in, out;

static void probe(const char *name, void (*run)(const struct regs *, struct regs *), unsigned reg, uint64_t value)
{
	static unsigned n;

	fill(&in, params[SEED] + n++);
	in.r[reg] = value;
	run(&in, &out);
	report_regs(name, &in, &out);
}

/* For reads, where nothing is put into a register first. */
static void look(const char *name, void (*run)(const struct regs *, struct regs *))
{
	probe(name, run, R_FLAGS, 2);
}

int guest_main(void)
{
	static uint16_t msw;
	uint64_t cr3;

	probe("cr2w", write_cr2, R_BX, params[CR2A]);
	look("cr2r", read_cr2_r13);
	probe("cr2w2", write_cr2_r15, R_15, params[CR2B]);
	look("cr2r2", read_cr2_rdi);

	probe("cr0w", write_cr0, R_SI, params[CR0A]);
	look("cr0r", read_cr0);
	look("clts", do_clts);
	look("cltsr", read_cr0);
	probe("cr0w2", write_cr0, R_SI, params[CR0B]);
	look("cr0r2", read_cr0);

	/* The low 16 bits of the operand, of which four are used; PE can be set but not cleared (SDM vol. 2, LMSW). */
	probe("lmsw", lmsw_reg, R_BX, params[LMSWA]);
	look("lmswr", read_cr0);
	msw = params[LMSWB];
	probe("lmswm", lmsw_mem, R_DI, (uint64_t)&msw);
	look("lmswmr", read_cr0);

	probe("cr4w", write_cr4, R_9, params[CR4A]);
	look("cr4r", read_cr4);
	probe("cr4w2", write_cr4, R_9, params[CR4B]);
	look("cr4r2", read_cr4);

	probe("cr8w", write_cr8, R_10, params[CR8A]);
	look("cr8r", read_cr8);

	/* The guest's tables stay what they are; two bits beside the address may differ (SDM vol. 3, figure 2-7). */
	look("cr3old", read_cr3);
	cr3 = out.r[R_DX];
	probe("cr3w", write_cr3, R_12, cr3 ^ params[CR3BITS]);
	look("cr3r", read_cr3);
	return 0;
}
