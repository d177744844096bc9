/*
 * Checkpoint 1.12: selectors that the CPU refuses, in the table registers and in the segment registers. The error code is the
 * selector without its level; type, level and presence are looked at in this order.
 */
#include "fault.h"
#include "io.h"
#include "string.h"

PARAMS;
FAULT_STATE;

enum { SEED, BAD_ADDRESS, SHUFFLE, OUTSIDE, RPL };

/* The GDT's entries; the first four are the loader's. The last one, a TSS, is cut in half by the table's limit. */
enum { ABSENT_DATA = 4, ABSENT_CODE, READ_ONLY, USER_DATA, KERNEL_DATA, EXECUTE_ONLY, USER_CODE, LONG_AND_32, ABSENT_EXECUTE_ONLY, TSS_BUSY,
       TSS_ABSENT = TSS_BUSY + 2, TSS_ODD = TSS_ABSENT + 2, LDT = TSS_ODD + 2, LDT_ABSENT = LDT + 2, TSS_CUT = LDT_ABSENT + 2,
       GDT_SIZE = TSS_CUT + 2 };

#define FLAT 0x00cf00000000ffffull      /* base 0, 4 GiB */
#define FLAT_LONG 0x00af00000000ffffull /* the same with L */
#define FLAT_BOTH 0x00ef00000000ffffull /* L and D */
#define TYPE(t) ((uint64_t)(t) << 40)

FAULT_PROBE(mov_ds, "mov %r8w, %ds");
FAULT_PROBE(mov_fs, "mov %ax, %fs");
FAULT_PROBE(mov_ss, "mov %dx, %ss");
FAULT_PROBE(lgs, "lgs (%rsi), %ebx");
FAULT_PROBE_AROUND(pop_gs, "push %rax", "pop %gs", "lea 8(%rsp), %rsp");
FAULT_PROBE(do_ltr, "ltr %bx");
FAULT_PROBE(do_lldt, "lldt (%rdi)");
FAULT_PROBE(do_lgdt, "lgdt (%rdi)");
FAULT_PROBE(do_lidt, "lidt (%rdi)");
FAULT_PROBE(far_jump, "rex.W ljmp *(%rdi)");
FAULT_PROBE(far_call, "lcall *(%rdi)");
FAULT_PROBE_AROUND(far_return, "push %rax; push %rcx", "rex.W lret", "lea 16(%rsp), %rsp");

static uint64_t gdt[GDT_SIZE], was[GDT_SIZE], ldt[8];
static uint8_t operand[16];
static struct regs in;
/* Selectors that the probes use, in the order of their use: reported, because slots are shuffled by nobody but named here. */

static void start(void)
{
	static unsigned n;

	fill(&in, params[SEED] + n++);
}

/* A selector in the low 16 bits of a register, under observation. */
static void select(const char *name, void (*probe)(const struct regs *, struct regs *), const uint8_t *at, unsigned reg, uint16_t selector)
{
	start();
	in.r[reg] = (in.r[reg] & ~0xffffull) | selector;
	fault_run(name, probe, at, &in);
}

/* Memory that the probe's operand at (%rdi) or (%rsi) has. */
static void memory(const char *name, void (*probe)(const struct regs *, struct regs *), const uint8_t *at, unsigned reg, const void *data,
		   unsigned len)
{
	start();
	memcpy(operand, data, len);
	in.r[reg] = (uint64_t)operand;
	fault_run(name, probe, at, &in);
}

#define SELECT(name, probe, reg, selector) select(name, probe, probe##_at, reg, selector)
#define MEMORY(name, probe, reg, data, len) memory(name, probe, probe##_at, reg, data, len)
