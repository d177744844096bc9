/*
 * Checkpoint 1.12: MSRs that do not exist and values that an MSR does not take. After each refused write the register is read.
 */
#include "fault.h"
#include "io.h"

PARAMS;
FAULT_STATE;

enum { SEED, MISSING_A, MISSING_B, ADDRESS, BAD_ADDRESS, PAT, BAD_PAT, EFER_BIT, MASK };

#define MSR_EFER 0xc0000080
#define MSR_PAT 0x277
#define EFER_LONG 0x500
#define EFER_LME 0x100

FAULT_PROBE(do_rdmsr, "rdmsr");
FAULT_PROBE(do_wrmsr, "wrmsr");

static unsigned steps;

static void try_read(const char *name, uint32_t index)
{
	struct regs in;

	fill(&in, params[SEED] + steps++);
	in.r[R_CX] = (in.r[R_CX] & ~0xffffffffull) | index;
	FAULT_RUN(name, do_rdmsr, &in);
}

static void try_write(const char *name, uint32_t index, uint64_t value)
{
	struct regs in;

	fill(&in, params[SEED] + steps++);
	in.r[R_CX] = (in.r[R_CX] & ~0xffffffffull) | index;
	in.r[R_AX] = (in.r[R_AX] & ~0xffffffffull) | (uint32_t)value;
	in.r[R_DX] = (in.r[R_DX] & ~0xffffffffull) | value >> 32;
	FAULT_RUN(name, do_wrmsr, &in);
}

/* A good value, then a bad one; the good one must still be there. */
static void try_both(const char *name, uint32_t index, uint64_t good, uint64_t bad)
{
	wrmsr(index, good);
	try_write(name, index, bad);
	dputs(name);
	report(".kept", rdmsr(index));
}

int guest_main(void)
{
	static const struct {
		const char *name;
		uint32_t index;
	} addresses[] = {
		{ "lstar", 0xc0000082 }, { "cstar", 0xc0000083 }, { "fs", 0xc0000100 }, { "gs", 0xc0000101 }, { "kernelgs", 0xc0000102 },
	};

	fault_init();
	try_read("rmissing", params[MISSING_A]);
	try_write("wmissing", params[MISSING_B], params[SEED]);
	try_read("rkvm", 0x4b564d00); /* KVM's own, which the machine below would have */
	try_read("rx2apic", 0x802);
	for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
		try_both(addresses[i].name, addresses[i].index, params[ADDRESS], params[BAD_ADDRESS]);
	try_both("pat", MSR_PAT, params[PAT], params[BAD_PAT]);
	try_both("efer", MSR_EFER, EFER_LONG | 1, EFER_LONG | params[EFER_BIT]);
	/* Long mode cannot be left while paging is on. */
	try_both("lme", MSR_EFER, EFER_LONG, EFER_LONG & ~EFER_LME);
	return 0;
}
