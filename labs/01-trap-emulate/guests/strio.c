/*
 * Checkpoint 1.5: INS and OUTS, alone and repeated, in both directions, three widths and two address sizes.
 *
 * The UART in loopback mode gives back what was written to it, one byte after the other (PC16550D data sheet, MCR bit 4), so
 * a repeated INSB has different bytes to fetch. Wider reads come from a port that nothing answers.
 */
#include "io.h"
#include "probe.h"
#include "string.h"

#include <stdbool.h>

PARAMS;

enum { TEXT, SEED = TEXT + 4, PORT, COUNT, OFFSET };

#define UART 0x3f8

PROBE(outsb, "outsb");
PROBE(rep_outsb, "rep outsb");
PROBE(rep_outsb_32, "rep outsb (%esi), %dx");
PROBE(rep_outsw, "rep outsw");
PROBE(rep_outsl, "rep outsl");
PROBE(insb, "insb");
PROBE(rep_insb, "rep insb");
PROBE(rep_insb_32, "rep insb %dx, (%edi)");
PROBE(rep_insw, "rep insw");
PROBE(rep_insl, "rep insl");

static uint8_t text[32], buffer[64];
static struct regs in, out;

static void prepare(uint64_t seed, uint16_t port, uint64_t count, const void *at, bool down)
{
	fill(&in, seed);
	in.r[R_DX] = (in.r[R_DX] & ~0xffffull) | port;
	in.r[R_CX] = count;
	in.r[R_SI] = in.r[R_DI] = (uint64_t)at;
	if (down)
		in.r[R_FLAGS] |= FLAGS_DF;
}

/* Index registers are reported as offsets: where the arrays are is the linker's business. */
static void show(const char *name, const void *base)
{
	in.r[R_SI] -= (uint64_t)base;
	in.r[R_DI] -= (uint64_t)base;
	out.r[R_SI] -= (uint64_t)base;
	out.r[R_DI] -= (uint64_t)base;
	report_regs(name, &in, &out);
}

/* The outputs go to the console and end with a line feed of the guest's own. */
static void outs(const char *name, void (*run)(const struct regs *, struct regs *), uint16_t port, uint64_t count, unsigned from,
		 bool down)
{
	static unsigned n;

	prepare(params[SEED] + n++, port, count, text + from, down);
	run(&in, &out);
	dputc('\n');
	show(name, text);
}

static void ins(const char *name, void (*run)(const struct regs *, struct regs *), uint16_t port, uint64_t count, unsigned to,
		bool down)
{
	static unsigned n = 100;
	uint64_t word;

	memset(buffer, 0xaa, sizeof buffer);
	prepare(params[SEED] + n++, port, count, buffer + to, down);
	run(&in, &out);
	for (unsigned i = 0; i < sizeof buffer; i += 8) {
		memcpy(&word, buffer + i, 8);
		report(name, word);
	}
	show(name, buffer);
}

static void loop_back(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		outb(UART, text[i]);
}

int guest_main(void)
{
	unsigned count = params[COUNT], at = params[OFFSET];
	uint16_t port = params[PORT];

	for (unsigned i = 0; i < 4; i++) {
		uint64_t word = params[TEXT + i];

		memcpy(text + 8 * i, &word, 8);
	}
	outs("outsb", outsb, 0xe9, count, at, false);
	outs("outsbdown", outsb, 0xe9, count, at, true);
	outs("rep", rep_outsb, 0xe9, count, at, false);
	outs("repdown", rep_outsb, 0xe9, count, 31 - at, true);
	outs("repzero", rep_outsb, 0xe9, 0, at, false);
	outs("outsw", rep_outsw, port, count, 0, false);
	outs("outsl", rep_outsl, port + 16, count / 2, 31 - 3, true);
	/* The upper halves of RSI and RCX do not take part with 32-bit addresses, and are 0 afterwards. */
	prepare(params[SEED] + 50, 0xe9, count, text + at, false);
	in.r[R_SI] |= params[SEED] << 32 | 1ull << 63;
	in.r[R_CX] |= params[SEED] << 32 | 1ull << 63;
	in.r[R_DI] = params[SEED];
	rep_outsb_32(&in, &out);
	dputc('\n');
	out.r[R_SI] -= (uint64_t)text;
	report_regs("addr32", &in, &out);

	outb(UART + 2, 0x07); /* FIFOs on and empty */
	outb(UART + 4, 0x10); /* loopback */
	loop_back(2);
	ins("insb", insb, UART, count, 3, false);
	ins("insbdown", insb, UART, count, 60, true);
	loop_back(count);
	ins("repins", rep_insb, UART, count, at, false);
	loop_back(count);
	ins("repinsdown", rep_insb, UART, count, 63 - at, true);
	loop_back(count);
	ins("repins32", rep_insb_32, UART, count | 1ull << 40, at, false);
	outb(UART + 4, 0);
	ins("inszero", rep_insb, port, 0, at, false);
	ins("insw", rep_insw, port, count, at, false);
	ins("insl", rep_insl, port, count / 2, 60 - at, true);
	return 0;
}
