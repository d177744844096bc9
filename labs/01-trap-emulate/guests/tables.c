/*
 * Checkpoint 1.8: LGDT, LIDT, LLDT, LTR. Where the GDT is cannot be asked (SGDT does not trap and tells about the machine),
 * but LTR marks a TSS descriptor busy: the byte that changed tells which table was used, and which entry of it.
 */
#include "io.h"
#include "probe.h"
#include "string.h"

PARAMS;

enum { SEED, OFFSETS, SLOTS, TSS_BASE, LDT_BASE, RPL };

#define SIZE 1024

PROBE(lgdt_rdi, "lgdt (%rdi)");
PROBE(lgdt_index, "lgdt -3(%rbx,%rcx,4)");
PROBE(lgdt_prefix, ".byte 0x66; lgdt (%r13)"); /* the operand has 10 bytes whatever the prefix (SDM vol. 2, LGDT) */
PROBE(lidt_rsi, "lidt (%rsi)");
PROBE(lidt_r12, "lidt 8(%r12)");
PROBE(ltr_r9, "ltr %r9w");
PROBE(ltr_mem, "ltr (%rdx)");
PROBE(lldt_ax, "lldt %ax");
PROBE(lldt_mem, "lldt 2(%r8)");

/* Three candidates for the GDT, all with the same descriptors, and a copy of each as it was. */
static uint8_t area[3][SIZE], was[3][SIZE];
static uint8_t operand[64];
static struct regs in, out;

/* Byte i of a parameter that holds several small numbers. */
static unsigned small(unsigned param, unsigned i)
{
	return params[param] >> 8 * i & 0xff;
}

static void start(void)
{
	static unsigned n;

	fill(&in, params[SEED] + n++);
}

static void run(const char *name, void (*probe)(const struct regs *, struct regs *))
{
	probe(&in, &out);
	report_regs(name, &in, &out);
}

/* Where the three tables differ from what they were: how many bytes, and the last one's place and change. */
static void report_changes(const char *name)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t count = 0, last = 0;

		for (unsigned k = 0; k < SIZE; k++)
			if (area[i][k] != was[i][k]) {
				count++;
				last = k << 8 | (area[i][k] ^ was[i][k]);
			}
		dputs(name);
		report(".count", count);
		dputs(name);
		report(".last", last);
		memcpy(was[i], area[i], SIZE);
	}
}

/* A table's operand, at an address without alignment. Only the 10 bytes that are used have a meaning. */
static uint8_t *table(unsigned which, unsigned last_slot, unsigned at)
{
	struct table_register t = { last_slot * 8 + 15, (uint64_t)area[which] + small(OFFSETS, which) };

	for (unsigned i = 0; i < sizeof(operand); i++)
		operand[i] = params[SEED] >> i % 64;
	memcpy(operand + at, &t, sizeof(t));
	return operand + at;
}

/* A descriptor of 16 bytes: an available TSS (type 9) or an LDT (type 2) of level dpl. (SDM vol. 3, figure 8-4) */
static void system_descriptor(unsigned which, unsigned slot, unsigned type, unsigned dpl, uint64_t base)
{
	uint64_t d[2] = { 0x67 | (base & 0xffffff) << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 | (base >> 24 & 0xff) << 56,
			  base >> 32 };

	memcpy(area[which] + small(OFFSETS, which) + slot * 8, d, sizeof(d));
}

int guest_main(void)
{
	unsigned first = small(SLOTS, 0), second = small(SLOTS, 1), ldt = small(SLOTS, 2), third = small(SLOTS, 3);
	uint16_t selector[4];

	for (unsigned i = 0; i < 3; i++) {
		for (unsigned k = 0; k < SIZE; k++)
			area[i][k] = params[SEED] >> (i + k) % 57;
		system_descriptor(i, first, 9, 0, params[TSS_BASE]);
		system_descriptor(i, second, 9, 3, params[TSS_BASE] + 0x1000);
		system_descriptor(i, third, 9, 1, params[TSS_BASE] + 0x2000);
		system_descriptor(i, ldt, 2, 0, params[LDT_BASE]);
		memcpy(was[i], area[i], SIZE);
	}

	/* The first table ends with its TSS descriptor. The interrupt table is another one, and larger. */
	start();
	in.r[R_DI] = (uint64_t)table(0, first, 5);
	run("lgdt", lgdt_rdi);
	start();
	in.r[R_SI] = (uint64_t)table(1, 60, 3);
	run("lidt", lidt_rsi);
	start();
	in.r[R_9] = (in.r[R_9] & ~0xffffull) | first * 8; /* the register's other bits do not count */
	run("ltr", ltr_r9);
	report_changes("ltr");

	/* Another table; the selector in memory, with a level in its low bits, which LTR ignores. */
	start();
	in.r[R_CX] = 5;
	in.r[R_BX] = (uint64_t)table(1, second, 1) + 3 - 4 * 5;
	run("lgdtindex", lgdt_index);
	for (unsigned i = 0; i < 4; i++)
		selector[i] = params[SEED] >> 16 * i;
	selector[1] = second * 8 | params[RPL];
	start();
	in.r[R_DX] = (uint64_t)&selector[1];
	run("ltrmem", ltr_mem);
	report_changes("ltrmem");

	/* An LDT from the GDT changes neither of them, and is not where LTR looks. A null selector means none. */
	start();
	in.r[R_13] = (uint64_t)table(2, 60, 7);
	run("lgdtprefix", lgdt_prefix);
	start();
	in.r[R_AX] = (in.r[R_AX] & ~0xffffull) | ldt * 8;
	run("lldt", lldt_ax);
	report_changes("lldt");
	start();
	in.r[R_12] = (uint64_t)table(0, 60, 11) - 8;
	run("lidtagain", lidt_r12);
	start();
	in.r[R_9] = (in.r[R_9] & ~0xffffull) | third * 8;
	run("ltragain", ltr_r9);
	report_changes("ltragain");
	selector[2] = params[RPL];
	start();
	in.r[R_8] = (uint64_t)&selector[1];
	run("lldtnull", lldt_mem);
	start();
	in.r[R_9] = (in.r[R_9] & ~0xffffull) | first * 8;
	run("ltrlast", ltr_r9);
	report_changes("ltrlast");
	return 0;
}
