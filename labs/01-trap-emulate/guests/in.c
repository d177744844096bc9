/*
 * Checkpoint 1.3: IN. Bytes come from the UART's scratch register and from CMOS memory, where the guest put them by OUT just
 * before; wider reads come from ports that nothing answers and must be all ones of their width.
 */
#include "io.h"
#include "probe.h"

PARAMS;

enum { BYTES, SEED, PORT, CMOS_INDEX };

#define SCRATCH 0x3ff

PROBE(in_dx_b, "in %dx, %al");
PROBE(in_dx_w, "in %dx, %ax");
PROBE(in_dx_l, "in %dx, %eax");
PROBE(in_rex_l, ".byte 0x48; in %dx, %eax"); /* REX.W does not make it 64 bits wide */
PROBE(in_imm_b, "in $0x71, %al");
PROBE(in_imm_w, "in $0xe0, %ax");
PROBE(in_imm_l, "in $0xe0, %eax");

static struct regs in, out;

static void probe(const char *name, void (*run)(const struct regs *, struct regs *), uint16_t port)
{
	static unsigned n;

	fill(&in, params[SEED] + n++);
	in.r[R_DX] = (in.r[R_DX] & ~0xffffull) | port;
	run(&in, &out);
	report_regs(name, &in, &out);
}

int guest_main(void)
{
	uint16_t port = params[PORT];

	outb(SCRATCH, params[BYTES]);
	probe("scratch", in_dx_b, SCRATCH);
	outb(SCRATCH, params[BYTES] >> 8);
	probe("again", in_dx_b, SCRATCH);
	outb(0x70, params[CMOS_INDEX]);
	outb(0x71, params[BYTES] >> 16);
	outb(0x70, params[CMOS_INDEX]);
	probe("cmos", in_imm_b, 0);

	probe("none8", in_dx_b, port);
	probe("none16", in_dx_w, port);
	probe("none32", in_dx_l, port);
	probe("rex", in_rex_l, port);
	probe("imm16", in_imm_w, 0);
	probe("imm32", in_imm_l, 0);
	return 0;
}
