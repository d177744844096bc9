/*
 * Checkpoint 1.4: CLI, STI and HLT. PUSHF shows the interrupt flag: hv lets the machine's flag follow the virtual one.
 */
#include "io.h"
#include "probe.h"

PARAMS;

enum { SEQUENCE, SEED, HALT };

#define STEPS 64

PROBE(do_cli, "cli");
PROBE(do_sti, "sti");

int guest_main(void)
{
	struct regs in, out;
	uint64_t seen = 0, flags;

	/* No interrupt controller input may interfere: this guest has no IDT. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (unsigned i = 0; i < STEPS; i++) {
		if (params[SEQUENCE] >> i & 1)
			sti();
		else
			cli();
		asm volatile("pushfq; pop %0" : "=r"(flags) : : "memory");
		seen |= (flags >> 9 & 1) << i;
	}
	cli();
	report("if", seen);

	fill(&in, params[SEED]);
	do_sti(&in, &out);
	report_regs("sti", &in, &out);
	report("sti.if", out.r[R_FLAGS] & FLAGS_IF);
	fill(&in, params[SEED] + 1);
	in.r[R_FLAGS] |= FLAGS_IF; /* as it is now */
	do_cli(&in, &out);
	report_regs("cli", &in, &out);
	report("cli.if", out.r[R_FLAGS] & FLAGS_IF);

	if (params[HALT]) {
		hlt();
		report("woke", 1);
	}
	return 0;
}
