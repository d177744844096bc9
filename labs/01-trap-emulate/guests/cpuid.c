/*
 * Checkpoint 1.20: CPUID. The same questions are asked on the trap engine, where the policy answers, and on the kvm engine, where
 * KVM does: only together do the answers say whether the policy's are true.
 */
#include "probe.h"

PARAMS;

enum { SEED, RANDOM, RANDOMS = 8 };

PROBE(do_cpuid, "cpuid");

static const struct {
	uint32_t leaf, subleaf;
} questions[] = {
	{ 0, 0 }, { 1, 0 }, { 1, 1 }, { 2, 0 }, { 4, 0 }, { 4, 3 }, { 5, 0 }, { 6, 0 }, { 7, 0 }, { 7, 1 }, { 7, 2 }, { 9, 0 }, { 0xa, 0 },
	{ 0xb, 0 }, { 0xb, 1 }, { 0xd, 0 }, { 0xd, 1 }, { 0xf, 0 }, { 0x10, 0 }, { 0x12, 0 }, { 0x14, 0 }, { 0x19, 0 },
	{ 0x40000000, 0 }, { 0x40000001, 0 }, { 0x40000010, 0 }, { 0x40000100, 0 },
	{ 0x80000000, 0 }, { 0x80000001, 0 }, { 0x80000007, 0 }, { 0x80000008, 0 }, { 0x8000000a, 0 }, { 0x8000001b, 0 },
	{ 0x8000001c, 0 }, { 0x8000001e, 0 }, { 0x8000001f, 0 }, { 0x80000021, 0 }, { 0xffffffff, 0 },
};

static uint64_t others; /* registers besides the four that ever changed */

static void put(uint32_t leaf, uint32_t subleaf, const char *name, uint64_t value)
{
	dputc('l');
	dprint_hex(leaf);
	dputc('.');
	dprint_hex(subleaf);
	report(name, value);
}

/* Asks, reports, and returns EAX. */
static uint32_t ask(uint32_t leaf, uint32_t subleaf)
{
	static unsigned n;
	struct regs in, out;

	fill(&in, params[SEED] + n++);
	in.r[R_AX] = (in.r[R_AX] & ~0xffffffffull) | leaf; /* the upper halves are not part of the question */
	in.r[R_CX] = (in.r[R_CX] & ~0xffffffffull) | subleaf;
	do_cpuid(&in, &out);
	put(leaf, subleaf, ".a", out.r[R_AX]);
	put(leaf, subleaf, ".b", out.r[R_BX]);
	put(leaf, subleaf, ".c", out.r[R_CX]);
	put(leaf, subleaf, ".d", out.r[R_DX]);
	for (unsigned i = R_BP; i < R_COUNT; i++)
		if ((in.r[i] ^ out.r[i]) & (i == R_FLAGS ? FLAGS_ARITHMETIC : ~0ull))
			others |= 1ull << i;
	return out.r[R_AX];
}

int guest_main(void)
{
	uint32_t basic = 0, extended = 0;

	for (unsigned i = 0; i < sizeof(questions) / sizeof(questions[0]); i++) {
		uint32_t eax = ask(questions[i].leaf, questions[i].subleaf);

		if (questions[i].leaf == 0)
			basic = eax;
		else if (questions[i].leaf == 0x80000000)
			extended = eax;
	}
	/* Just behind the last leaf of each range, and anywhere. */
	ask(basic + 1, 0);
	ask(extended + 1, 0);
	for (unsigned i = 0; i < RANDOMS; i++)
		ask(params[RANDOM + i], params[RANDOM + i] >> 32);
	report("others", others);
	return 0;
}
