/*
 * Checkpoint 1.12: control registers again. Their bits decide whether the guest may use the FPU, and the machine must know: an
 * instruction that hv never hears of raises #NM or #UD. MODE 1 has the values that control registers do not take; QEMU's TCG
 * (7.2) takes most of them.
 */
#include "fault.h"
#include "io.h"

PARAMS;
FAULT_STATE;

enum { SEED, GOOD_CR0, HIGH_CR0, HIGH_CR3, GOOD_CR4, HIGH_CR4, ABSENT_CR4, GOOD_CR8, HIGH_CR8, MODE, RESERVED_CR0 };

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR0_PLAIN (CR0_PG | 0x10031) /* PG WP NE ET PE */
#define CR4_PAE (1ull << 5)
#define CR4_OSFXSR (1ull << 9)

FAULT_PROBE(fpu, "fnop");
FAULT_PROBE(wait_fpu, "fwait");
FAULT_PROBE(sse, "movaps %xmm0, %xmm1");
FAULT_PROBE(bad_cr0, "mov %rsi, %cr0");
FAULT_PROBE(bad_cr3, "mov %r12, %cr3");
FAULT_PROBE(bad_cr4, "mov %r9, %cr4");
FAULT_PROBE(bad_cr8, "mov %r10, %cr8");

static struct regs *start(void)
{
	static struct regs in;
	static unsigned n;

	fill(&in, params[SEED] + n++);
	return &in;
}
#define TRY(name, probe) FAULT_RUN(name, probe, start())

/* Each bit is tried at once, before an exception or its IRETQ has had anything else to tell the machine. */
static void agreed(void)
{
	write_cr4(CR4_PAE | CR4_OSFXSR);
	write_cr0(CR0_PLAIN | CR0_TS);
	TRY("ts", fpu);
	TRY("tssse", sse);
	TRY("tswait", wait_fpu);
	asm volatile("clts");
	TRY("clts", fpu);
	asm volatile("lmsw %w0" : : "r"(CR0_TS));
	TRY("lmsw", sse);
	write_cr0(CR0_PLAIN | CR0_TS | CR0_MP);
	TRY("mpwait", wait_fpu);
	write_cr0(CR0_PLAIN);
	TRY("off", fpu);
	write_cr0(CR0_PLAIN | CR0_EM);
	TRY("em", fpu);
	TRY("emsse", sse);
	write_cr0(CR0_PLAIN);
	write_cr4(CR4_PAE);
	TRY("nofxsr", sse);
	write_cr4(CR4_PAE | CR4_OSFXSR);
	TRY("fxsr", sse);
}

static void refused(const char *name, void (*run)(const struct regs *, struct regs *), const uint8_t *at, unsigned reg, uint64_t value)
{
	struct regs *in = start();

	in->r[reg] = value;
	fault_run(name, run, at, in);
}
#define REFUSED(name, probe, reg, value) refused(name, probe, probe##_at, reg, value)

static void manual(void)
{
	uint64_t cr0 = params[GOOD_CR0], cr3 = read_cr3(), cr4 = params[GOOD_CR4], cr8 = params[GOOD_CR8];

	write_cr0(cr0 | params[RESERVED_CR0]); /* of the low half, a CPU ignores what it does not have */
	REFUSED("cr0pg", bad_cr0, R_SI, cr0 & ~CR0_PG);
	REFUSED("cr0pe", bad_cr0, R_SI, cr0 & ~CR0_PE);
	REFUSED("cr0nw", bad_cr0, R_SI, (cr0 | CR0_NW) & ~CR0_CD);
	REFUSED("cr0high", bad_cr0, R_SI, cr0 | params[HIGH_CR0]);
	report("cr0", read_cr0());
	REFUSED("cr3high", bad_cr3, R_12, cr3 | params[HIGH_CR3]);
	report("cr3", read_cr3() ^ cr3);
	write_cr4(cr4);
	REFUSED("cr4pae", bad_cr4, R_9, cr4 & ~CR4_PAE);
	REFUSED("cr4high", bad_cr4, R_9, cr4 | params[HIGH_CR4]);
	REFUSED("cr4absent", bad_cr4, R_9, cr4 | params[ABSENT_CR4]);
	report("cr4", read_cr4());
	asm volatile("mov %0, %%cr8" : : "r"(cr8));
	REFUSED("cr8high", bad_cr8, R_10, cr8 | params[HIGH_CR8]);
	asm volatile("mov %%cr8, %0" : "=r"(cr8));
	report("cr8", cr8);
}

int guest_main(void)
{
	fault_init();
	if (params[MODE])
		manual();
	else
		agreed();
	return 0;
}
