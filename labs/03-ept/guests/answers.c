/*
 * Checkpoint 3.9: CPUID, ports, HLT. Every register is looked at behind each instruction. HLT is last: nothing can wake this guest.
 */
#include "observe.h"

#include "string.h"

#include <stdbool.h>

PARAMS;

enum { SEED, PORT, COUNT, LONG, LEAVES, LEAF_COUNT = 4, HALT_AT = LEAVES + LEAF_COUNT };

/* --- CPUID ------------------------------------------------------------------------------------------------------------------- */

PROBE(do_cpuid, "cpuid");

static void ask(unsigned n, uint32_t leaf, uint32_t subleaf)
{
	struct regs in, out;

	fill(&in, params[SEED] + n);
	in.r[R_AX] = (in.r[R_AX] & ~0xffffffffull) | leaf; /* the upper halves are not part of the question */
	in.r[R_CX] = (in.r[R_CX] & ~0xffffffffull) | subleaf;
	do_cpuid(&in, &out);
	say_regs("cpuid", n, &in, &out);
}

static void cpuid(void)
{
	static const uint32_t questions[][2] = {
		{ 0, 0 },	   { 1, 0 },	      { 7, 0 },		 { 7, 1 },
		{ 0x80000001, 0 }, { 0x8000000a, 0 }, { 0x40000000, 0 }, { 0x80000002, 0 }
	};
	unsigned n = 0;

	for (; n < sizeof questions / sizeof *questions; n++)
		ask(n, questions[n][0], questions[n][1]);
	for (unsigned i = 0; i < LEAF_COUNT; i++)
		ask(n++, params[LEAVES + i], params[LEAVES + i] >> 32);
}

/* --- ports: each access has one of its own, so that it can be counted ----------------------------------------------------------- */

PROBE(out8, "out %al, %dx");
PROBE(out16, "out %ax, %dx");
PROBE(out32, "out %eax, %dx");
PROBE(out_rex, ".byte 0x48, 0xef"); /* out %eax, %dx with REX.W, which means nothing here */
PROBE(out_imm, "out %al, $0xe0");
PROBE(in8, "in %dx, %al");
PROBE(in16, "in %dx, %ax");
PROBE(in32, "in %dx, %eax");
PROBE(in_rex, ".byte 0x48, 0xed");
PROBE(in_imm, "in $0xe4, %eax");

static void (*const plain[])(const struct regs *, struct regs *) = { out8, out16, out32, out_rex, out_imm,
								     in8,  in16,  in32,	 in_rex,  in_imm };
#define PLAIN (sizeof plain / sizeof *plain)
#define STRIDE 4

#define UART_SCRATCH 0x3ff
#define ACPI_PM1_ENABLE 0x602

PROBE(outsb, "rep outsb");
PROBE(outsw, "rep outsw");
PROBE(outsl, "outsl");
PROBE(insb, "rep insb");
PROBE(insw, "rep insw");
PROBE(insl, "insl");

static uint8_t buffer[64];
static uint8_t much[2048];

static void string(unsigned n, void (*run)(const struct regs *, struct regs *), uint16_t port, uint64_t count, uint8_t *at,
		   bool down)
{
	struct regs in, out;

	fill(&in, params[SEED] + 100 + n);
	in.r[R_DX] = (in.r[R_DX] & ~0xffffull) | port;
	in.r[R_CX] = count;
	in.r[R_SI] = in.r[R_DI] = (uint64_t)at;
	if (down)
		in.r[R_FLAGS] |= FLAGS_DF;
	run(&in, &out);
	in.r[R_SI] -= (uint64_t)at; /* where the arrays are is the linker's business */
	in.r[R_DI] -= (uint64_t)at;
	out.r[R_SI] -= (uint64_t)at;
	out.r[R_DI] -= (uint64_t)at;
	say_regs("string", n, &in, &out);
}

static void ports(void)
{
	uint16_t port = params[PORT];
	unsigned count = params[COUNT];

	for (unsigned i = 0; i < PLAIN; i++) {
		struct regs in, out;

		fill(&in, params[SEED] + 50 + i);
		in.r[R_DX] = (in.r[R_DX] & ~0xffffull) | (port + STRIDE * i);
		plain[i](&in, &out);
		say_regs("port", i, &in, &out);
	}
	outb(UART_SCRATCH, params[SEED] >> 8);
	say("scratch", 0, "", inb(UART_SCRATCH));
	for (unsigned i = 0; i < 2; i++) { /* both bytes, once with each bit */
		outw(ACPI_PM1_ENABLE, i ? ~params[SEED] : params[SEED]);
		say("enable", i, "", inw(ACPI_PM1_ENABLE));
	}

	port += STRIDE * PLAIN;
	memset(buffer, 0xaa, sizeof buffer);
	string(0, outsb, port, params[LONG], much, false);
	string(1, outsw, port + STRIDE, count, buffer + 40, true);
	string(2, outsl, port + 2 * STRIDE, count, buffer, false);
	string(3, insb, UART_SCRATCH, count, buffer + 1, false);
	string(4, insw, port + 3 * STRIDE, count, buffer + 48, true);
	string(5, insl, port + 4 * STRIDE, count, buffer + 56, false);
	for (unsigned i = 0; i < sizeof buffer / 8; i++)
		say("buffer", i, "", *(uint64_t *)(buffer + 8 * i));
}

int guest_main(void)
{
	cpuid();
	ports();
	flush();
	*(volatile uint16_t *)params[HALT_AT] = 0x06f4; /* hlt, and no instruction */
	asm volatile("cli; jmp *%0" : : "r"(params[HALT_AT]) : "memory");
	__builtin_unreachable();
}
