/*
 * Checkpoint 1.9: RDMSR, WRMSR, SWAPGS. Plain registers keep what was written; the bases of FS and GS show in memory.
 */
#include "io.h"
#include "probe.h"

PARAMS;

enum { SEED, STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT, FS_BASE, GS_BASE, CELLS, EFER,
       TSC_A, TSC_B };

#define MSR_TSC 0x10
#define MSR_EFER 0xc0000080
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define EFER_LONG 0x500 /* LME and LMA, which stay */

PROBE(do_rdmsr, "rdmsr");
PROBE(do_wrmsr, "wrmsr");
PROBE(do_swapgs, "swapgs");

static const struct {
	const char *write, *read;
	uint32_t index;
	unsigned param;
} msrs[] = {
	{ "wstar", "rstar", 0xc0000081, STAR },
	{ "wlstar", "rlstar", 0xc0000082, LSTAR },
	{ "wcstar", "rcstar", 0xc0000083, CSTAR },
	{ "wsfmask", "rsfmask", 0xc0000084, SFMASK },
	{ "wfs", "rfs", MSR_FS_BASE, FS_BASE },
	{ "wgs", "rgs", MSR_GS_BASE, GS_BASE },
	{ "wkernelgs", "rkernelgs", MSR_KERNEL_GS_BASE, KERNEL_GS },
	{ "wsyscs", "rsyscs", 0x174, SYSENTER_CS },
	{ "wsysesp", "rsysesp", 0x175, SYSENTER_ESP },
	{ "wsyseip", "rsyseip", 0x176, SYSENTER_EIP },
	{ "wpat", "rpat", 0x277, PAT },
};
#define MSRS (sizeof(msrs) / sizeof(msrs[0]))

static uint64_t cells[256];
static unsigned steps;

static void start(struct regs *in, uint32_t index)
{
	fill(in, params[SEED] + steps++);
	in->r[R_CX] = (in->r[R_CX] & ~0xffffffffull) | index; /* its upper half is ignored */
}

static void probe_read(const char *name, uint32_t index)
{
	struct regs in, out;

	start(&in, index);
	do_rdmsr(&in, &out);
	report_regs(name, &in, &out);
}

static void probe_write(const char *name, uint32_t index, uint64_t value)
{
	struct regs in, out;

	start(&in, index);
	/* and so are those of RAX and RDX */
	in.r[R_AX] = (in.r[R_AX] & ~0xffffffffull) | (uint32_t)value;
	in.r[R_DX] = (in.r[R_DX] & ~0xffffffffull) | value >> 32;
	do_wrmsr(&in, &out);
	report_regs(name, &in, &out);
}

static uint64_t fs_read(uint64_t offset)
{
	uint64_t v;

	asm volatile("mov %%fs:(%1), %0" : "=r"(v) : "r"(offset) : "memory");
	return v;
}

static uint64_t gs_read(uint64_t offset)
{
	uint64_t v;

	asm volatile("mov %%gs:(%1), %0" : "=r"(v) : "r"(offset) : "memory");
	return v;
}

static uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

/* The two bases as the MSRs have them, counted from cells. */
static void report_gs(const char *name)
{
	dputs(name);
	report(".at", gs_read(0));
	dputs(name);
	report(".base", rdmsr(MSR_GS_BASE) - (uint64_t)cells);
	dputs(name);
	report(".kernel", rdmsr(MSR_KERNEL_GS_BASE) - (uint64_t)cells);
}

static void bases(unsigned a, unsigned b, unsigned c)
{
	struct regs in, out;

	wrmsr(MSR_FS_BASE, (uint64_t)&cells[a]);
	wrmsr(MSR_GS_BASE, (uint64_t)&cells[b]);
	wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)&cells[c]);
	report("fs", fs_read(0));
	report("fs8", fs_read(8));
	report_gs("gs");
	fill(&in, params[SEED] + steps++);
	do_swapgs(&in, &out);
	report_regs("swapgs", &in, &out);
	report_gs("swap1");
	asm volatile("swapgs" : : : "memory");
	report_gs("swap2");
	asm volatile("swapgs" : : : "memory");
	report("swap3.at", gs_read(0));
	report("fsagain", fs_read(0));
}

/*
 * A null selector goes into FS and GS without a trap. What becomes of the base differs between CPUs, so each instruction that
 * reads or replaces one has its turn directly behind such a load; what it says must be what memory shows.
 */
static void null_selectors(unsigned a, unsigned b)
{
	uint64_t all = (uint64_t)cells;

	wrmsr(MSR_FS_BASE, a * 8);
	asm volatile("mov %0, %%fs" : : "r"(0) : "memory");
	report("null.fs", fs_read(all));
	report("null.fsbase", rdmsr(MSR_FS_BASE));
	wrmsr(MSR_GS_BASE, b * 8);
	asm volatile("mov %0, %%gs" : : "r"(0) : "memory");
	report("null.gs", gs_read(all));
	report("null.gsbase", rdmsr(MSR_GS_BASE));
	wrmsr(MSR_GS_BASE, b * 8);
	asm volatile("mov %0, %%gs" : : "r"(0) : "memory");
	report("null.swap", gs_read(all));
	asm volatile("swapgs" : : : "memory");
	report("null.swapbase", rdmsr(MSR_KERNEL_GS_BASE));

	/* What is written, or exchanged for the same number, counts, whatever the base had become. */
	wrmsr(MSR_FS_BASE, a * 8);
	asm volatile("mov %0, %%fs" : : "r"(0) : "memory");
	wrmsr(MSR_FS_BASE, a * 8);
	report("again.fs", fs_read(all));
	wrmsr(MSR_KERNEL_GS_BASE, b * 8);
	wrmsr(MSR_GS_BASE, b * 8);
	asm volatile("mov %0, %%gs" : : "r"(0) : "memory");
	asm volatile("swapgs" : : : "memory");
	report("again.gs", gs_read(all));
}

static void time_from(const char *name, uint64_t value)
{
	uint64_t a, b, c;

	wrmsr(MSR_TSC, value);
	a = rdmsr(MSR_TSC);
	b = rdtsc();
	c = rdmsr(MSR_TSC);
	report(name, a);
	report(name, b);
	report(name, c);
}

int guest_main(void)
{
	for (unsigned i = 0; i < 256; i++)
		cells[i] = params[SEED] * (2 * i + 1);

	probe_read("resetpat", 0x277);
	probe_read("resetefer", MSR_EFER);
	for (unsigned i = 0; i < MSRS; i++)
		probe_write(msrs[i].write, msrs[i].index, params[msrs[i].param]);
	for (unsigned i = MSRS; i-- > 0;)
		probe_read(msrs[i].read, msrs[i].index);

	bases(params[CELLS] & 0xff, params[CELLS] >> 8 & 0xff, params[CELLS] >> 16 & 0xff);
	null_selectors(params[CELLS] & 0xff, params[CELLS] >> 8 & 0xff);

	/* SCE and NXE in an order that the grader chose, two bits a step. */
	for (unsigned i = 0; i < 8; i++) {
		uint64_t bits = params[EFER] >> 2 * i & 3;

		wrmsr(MSR_EFER, EFER_LONG | (bits & 1) | (bits >> 1) << 11);
		report("efer", rdmsr(MSR_EFER));
	}
	probe_write("wefer", MSR_EFER, EFER_LONG);
	probe_read("refer", MSR_EFER);

	time_from("tsca", params[TSC_A]);
	time_from("tscb", params[TSC_B]);
	return 0;
}
