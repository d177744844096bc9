/*
 * Checkpoint 1.2: OUT in its forms. What was written shows on the console, in hv's list of ports that nothing answered, and
 * in the exit code; registers must not change at all.
 */
#include "io.h"
#include "probe.h"

PARAMS;

enum { TEXT, SEED, PORT, WIDTH, CODE };

PROBE(out_imm, "out %al, $0xe9");
PROBE(out_dx, "out %al, %dx");
PROBE(out_rex, ".byte 0x48; out %al, %dx");     /* REX.W changes nothing but the length */
PROBE(out_prefix, ".byte 0x2e; out %al, %dx");  /* neither does a segment prefix */
PROBE(out_word, "out %ax, %dx");
PROBE(out_long, "out %eax, %dx");

int guest_main(void)
{
	static void (*const probes[])(const struct regs *, struct regs *) = { out_imm, out_dx, out_rex, out_prefix };
	struct regs in[4], wide, out[4], word, dword;
	uint64_t text = params[TEXT], port = params[PORT];
	uint32_t code = params[CODE];

	/* Only the low 8 bits of RAX and 16 of RDX take part. */
	for (unsigned i = 0; i < 4; i++) {
		fill(&in[i], params[SEED] + i);
		in[i].r[R_AX] = (in[i].r[R_AX] & ~0xffull) | (text >> 8 * i & 0xff);
		in[i].r[R_DX] = (in[i].r[R_DX] & ~0xffffull) | 0xe9;
		probes[i](&in[i], &out[i]);
	}
	dputc('\n');
	fill(&wide, params[SEED] + 4);
	wide.r[R_DX] = (wide.r[R_DX] & ~0xffffull) | port;
	out_word(&wide, &word);
	report_regs("word", &wide, &word);
	wide.r[R_DX] += 16;
	out_long(&wide, &dword);
	report_regs("long", &wide, &dword);

	report_regs("imm", &in[0], &out[0]);
	report_regs("dx", &in[1], &out[1]);
	report_regs("rex", &in[2], &out[2]);
	report_regs("prefix", &in[3], &out[3]);

	if (params[WIDTH] == 1)
		outb(0xf4, code);
	else if (params[WIDTH] == 2)
		outw(0xf4, code);
	else
		outl(0xf4, code);
	return 0;
}
