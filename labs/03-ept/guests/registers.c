/*
 * Checkpoint 3.10: MSRs and control registers. Some never come to hv, the CPU has them for the guest; of the others the count of exits
 * tells. What is refused is in faults.c, because it needs exceptions.
 */
#include "observe.h"

PARAMS;

enum { SEED, ROUNDS, PAT, EFER, TSC, CR0A, CR0B, CR2, CR4A, CR4B, CR8A, CR8B, CR3BITS, LMSW };

#define MSR_TSC 0x10
#define MSR_MISC_ENABLE 0x1a0
#define MSR_PAT 0x277
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define EFER_LMA 0x400

/* --- MSRs -------------------------------------------------------------------------------------------------------------------- */

/* Those that the guest has to itself, and how many bits of a number go into them; 48 is an address. */
static const struct {
	uint32_t index;
	unsigned bits;
} own[] = {
	{ 0xc0000081, 64 }, { 0xc0000082, 48 }, { 0xc0000083, 48 }, { 0xc0000084, 32 }, { 0xc0000100, 48 },
	{ 0xc0000101, 48 }, { 0xc0000102, 48 }, { 0x174, 16 },	    { 0x175, 48 },	{ 0x176, 48 },
};
#define OWN (sizeof own / sizeof *own)

/* All are written, the guest is left once, all are read: so they must survive an exit. */
static void own_msrs(void)
{
	for (unsigned round = 0; round < params[ROUNDS]; round++) {
		for (unsigned i = 0; i < OWN; i++) {
			uint64_t v = random64();
			wrmsr(own[i].index,
			      own[i].bits == 48 ? (uint64_t)((int64_t)(v << 16) >> 16) : v >> (64 - own[i].bits));
		}
		inb(0x80);
		for (unsigned i = 0; i < OWN; i++)
			say("own", round * OWN + i, "", rdmsr(own[i].index));
	}
}

PROBE(do_rdmsr, "rdmsr");
PROBE(do_wrmsr, "wrmsr");

static unsigned steps;

static void msr(void (*run)(const struct regs *, struct regs *), uint32_t index, uint64_t value)
{
	struct regs in, out;

	fill(&in, params[SEED] + steps);
	/* Upper halves mean nothing, but QEMU 7.2 takes RCX's for a part of the index when it looks into the MSR permission map. */
	in.r[R_CX] = index;
	in.r[R_AX] = (in.r[R_AX] & ~0xffffffffull) | (uint32_t)value;
	in.r[R_DX] = (in.r[R_DX] & ~0xffffffffull) | value >> 32;
	run(&in, &out);
	say_regs("msr", steps++, &in, &out);
}

static void msrs(void)
{
	msr(do_wrmsr, MSR_PAT, params[PAT]);
	msr(do_wrmsr, MSR_MISC_ENABLE, params[SEED]);
	msr(do_rdmsr, MSR_PAT, 0);
	msr(do_rdmsr, MSR_MISC_ENABLE, 0);
	/* SCE, NXE, and LMA as it is or not: three bits a step. */
	for (unsigned i = 0; i < 4; i++) {
		uint64_t bits = params[EFER] >> 3 * i;
		msr(do_wrmsr, MSR_EFER, EFER_LME | (bits & 1) | (bits >> 1 & 1) << 11 | (bits & 4 ? EFER_LMA : 0));
		msr(do_rdmsr, MSR_EFER, 0);
	}
	wrmsr(MSR_TSC, params[TSC]);
	say("tsc", 0, "", rdmsr(MSR_TSC));
	uint32_t low, high;
	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	say("tsc", 1, "", (uint64_t)high << 32 | low);
}

/* --- control registers --------------------------------------------------------------------------------------------------------- */

PROBE(cr0_write, "mov %rsi, %cr0");
PROBE(cr0_read, "mov %cr0, %rbp");
PROBE(do_clts, "clts");
PROBE(do_lmsw, "lmsw %bx");
PROBE(cr2_write, "mov %r15, %cr2");
PROBE(cr2_read, "mov %cr2, %r13");
PROBE(cr3_write, "mov %r12, %cr3");
PROBE(cr3_read, "mov %cr3, %rdx");
PROBE(cr4_write, "mov %r9, %cr4");
PROBE(cr4_read, "mov %cr4, %rcx");
PROBE(cr8_write, "mov %r10, %cr8");
PROBE(cr8_read, "mov %cr8, %rax");

static void cr(void (*run)(const struct regs *, struct regs *), unsigned reg, uint64_t value)
{
	static unsigned n;
	struct regs in, out;

	fill(&in, params[SEED] + 200 + n);
	if (reg < R_FLAGS)
		in.r[reg] = value;
	run(&in, &out);
	say_regs("cr", n++, &in, &out);
}
#define NONE R_FLAGS

static void control_registers(void)
{
	uint64_t cr3 = read_cr3();

	cr(cr0_write, R_SI, params[CR0A]);
	cr(cr2_write, R_15, params[CR2]);
	cr(cr0_read, NONE, 0);
	cr(do_clts, NONE, 0);
	cr(cr0_read, NONE, 0);
	cr(cr0_write, R_SI, params[CR0B]);
	cr(cr0_read, NONE, 0);
	cr(do_lmsw, R_BX, params[LMSW]);
	cr(cr0_read, NONE, 0);
	cr(cr4_write, R_9, params[CR4A]);
	cr(cr4_read, NONE, 0);
	cr(cr8_write, R_10, params[CR8A]);
	cr(cr8_read, NONE, 0);
	cr(cr4_write, R_9, params[CR4B]);
	cr(cr4_read, NONE, 0);
	cr(cr8_write, R_10, params[CR8B]);
	cr(cr8_read, NONE, 0);
	cr(cr2_read, NONE, 0);
	say("cr3", 0, "", cr3);
	cr(cr3_write, R_12, cr3 ^ params[CR3BITS]);
	say("cr3", 1, "", read_cr3());
	write_cr3(cr3);
}

int guest_main(void)
{
	random_state = params[SEED];
	own_msrs();
	msrs();
	control_registers();
	flush();
	return 0;
}
