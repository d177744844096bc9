/*
 * Checkpoint 1.12: selectors that the CPU refuses, in the table registers and in the segment registers. The error code is the
 * selector without its level; type, level and presence are looked at in this order.
 */
#include "fault.h"
#include "io.h"
#include "string.h"

PARAMS;
FAULT_STATE;

/* TAKEN leaves out what QEMU's TCG (7.2) does not refuse and cannot go on from: tables and a far return to addresses that are not
 * canonical, and a code segment with L and D. */
enum { SEED, BAD_ADDRESS, OUTSIDE, RPL, TAKEN };

/* The GDT's entries behind the loader's. The last one, a TSS, is cut in half by the table's limit. */
enum { ABSENT_DATA = 4, ABSENT_USER, ABSENT_CODE, READ_ONLY, USER_DATA, KERNEL_DATA, EXECUTE_ONLY, EXECUTE_ABSENT, USER_CODE, LONG_AND_32,
       TSS_BUSY, TSS_ABSENT = TSS_BUSY + 2, LDT = TSS_ABSENT + 2, LDT_ABSENT = LDT + 2, TSS_CUT = LDT_ABSENT + 2, GDT_SIZE = TSS_CUT + 2 };
/* And the LDT's. Neither a TSS nor an LDT is ever looked for there. The limit is one byte less than the last entry needs. */
enum { L_DATA = 1, L_TSS, L_LDT = L_TSS + 2, L_CUT = L_LDT + 2, LDT_SIZE };

#define FLAT 0x00cf00000000ffffull      /* base 0, 4 GiB */
#define FLAT_LONG 0x00af00000000ffffull /* the same with L */
#define FLAT_BOTH 0x00ef00000000ffffull /* with L and D, which exclude each other */
#define TYPE(t) ((uint64_t)(t) << 40)
#define SYSTEM(t, limit) ((limit) | TYPE(t))

FAULT_PROBE(mov_ds, "mov %r8w, %ds");
FAULT_PROBE(mov_fs, "mov %ax, %fs");
FAULT_PROBE(mov_ss, "mov %dx, %ss");
FAULT_PROBE(far_gs, "lgs (%rdi), %ebx");
FAULT_PROBE_AROUND(pop_gs, "push %rax", "pop %gs", "lea 8(%rsp), %rsp");
FAULT_PROBE(do_ltr, "ltr %bx");
FAULT_PROBE(do_lldt, "lldt (%rdi)");
FAULT_PROBE(do_lgdt, "lgdt (%rdi)");
FAULT_PROBE(do_lidt, "lidt (%rdi)");
FAULT_PROBE(far_jump, "rex.W ljmp *(%rdi)");
FAULT_PROBE(far_call, "lcall *(%rdi)");
FAULT_PROBE_AROUND(far_return, "push %rax; push %rcx", "rex.W lret", "lea 16(%rsp), %rsp");

static uint64_t gdt[GDT_SIZE] = {
	[SEL_KCODE / 8] = DESC_KCODE,
	[SEL_KDATA / 8] = DESC_KDATA,
	[ABSENT_DATA] = FLAT | TYPE(0x12),
	[ABSENT_USER] = FLAT | TYPE(0x72),
	[ABSENT_CODE] = FLAT_LONG | TYPE(0x1a),
	[READ_ONLY] = FLAT | TYPE(0x90),
	[USER_DATA] = FLAT | TYPE(0xf2),
	[KERNEL_DATA] = FLAT | TYPE(0x92),
	[EXECUTE_ONLY] = FLAT_LONG | TYPE(0x98),
	[EXECUTE_ABSENT] = FLAT_LONG | TYPE(0x18),
	[USER_CODE] = FLAT_LONG | TYPE(0xfa),
	[LONG_AND_32] = FLAT_BOTH | TYPE(0x9a),
	[TSS_BUSY] = SYSTEM(0x8b, 0x67),
	[TSS_ABSENT] = SYSTEM(0x09, 0x67),
	[LDT] = SYSTEM(0x82, LDT_SIZE * 8 - 2),
	[LDT_ABSENT] = SYSTEM(0x02, LDT_SIZE * 8 - 1),
	[TSS_CUT] = SYSTEM(0x89, 0x67),
};
static uint64_t ldt[LDT_SIZE] = {
	[L_DATA] = FLAT | TYPE(0x92),
	[L_TSS] = SYSTEM(0x89, 0x67),
	[L_LDT] = SYSTEM(0x82, 0xff),
	[L_CUT] = FLAT | TYPE(0x92),
};
static uint64_t gdt_was[GDT_SIZE], ldt_was[LDT_SIZE];
static uint8_t operand[16];
static struct regs in;

static void start(void)
{
	static unsigned n;

	fill(&in, params[SEED] + n++);
}

typedef void probe_fn(const struct regs *, struct regs *);

/* A selector in the low 16 bits of a register. */
static void in_register(const char *name, probe_fn *probe, const uint8_t *at, unsigned reg, uint16_t selector)
{
	start();
	in.r[reg] = (in.r[reg] & ~0xffffull) | selector;
	fault_run(name, probe, at, &in);
}
#define IN_REGISTER(name, probe, reg, selector) in_register(name, probe, probe##_at, reg, selector)

/* An offset of `size` bytes with the selector behind it, at (%rdi). */
static void in_memory(const char *name, probe_fn *probe, const uint8_t *at, uint64_t offset, unsigned size, uint16_t selector)
{
	start();
	memcpy(operand, &offset, size);
	memcpy(operand + size, &selector, 2);
	in.r[R_DI] = (uint64_t)operand;
	fault_run(name, probe, at, &in);
}
#define IN_MEMORY(name, probe, offset, size, selector) in_memory(name, probe, probe##_at, offset, size, selector)

/* A base that is no address, for LGDT and LIDT. */
static void bad_table(const char *name, probe_fn *probe, const uint8_t *at)
{
	struct table_register t = { sizeof(gdt) - 1, params[BAD_ADDRESS] };

	start();
	memcpy(operand, &t, sizeof(t));
	in.r[R_DI] = (uint64_t)operand;
	fault_run(name, probe, at, &in);
}

/* What a far return finds on the stack. */
static void far_back(const char *name, uint64_t rip, uint64_t cs)
{
	start();
	in.r[R_AX] = cs;
	in.r[R_CX] = rip;
	FAULT_RUN(name, far_return, &in);
}

static void table_registers(unsigned rpl)
{
	IN_REGISTER("ltrnull", do_ltr, R_BX, rpl);
	IN_REGISTER("ltrldt", do_ltr, R_BX, L_TSS * 8 | 4 | rpl);
	IN_REGISTER("ltrbusy", do_ltr, R_BX, TSS_BUSY * 8 | rpl);
	IN_REGISTER("ltrabsent", do_ltr, R_BX, TSS_ABSENT * 8 | rpl);
	IN_REGISTER("ltrtype", do_ltr, R_BX, LDT * 8);
	IN_REGISTER("ltrcut", do_ltr, R_BX, TSS_CUT * 8);
	IN_REGISTER("ltroutside", do_ltr, R_BX, params[OUTSIDE] | rpl);
	IN_MEMORY("lldttype", do_lldt, 0, 0, TSS_BUSY * 8 | rpl);
	IN_MEMORY("lldtabsent", do_lldt, 0, 0, LDT_ABSENT * 8);
	IN_MEMORY("lldtldt", do_lldt, 0, 0, L_LDT * 8 | 4);
	if (params[TAKEN])
		return;
	bad_table("lgdt", do_lgdt, do_lgdt_at);
	bad_table("lidt", do_lidt, do_lidt_at);
}

static void data_segments(unsigned rpl)
{
	static uint64_t word;
	uint64_t seen;

	IN_REGISTER("absent", mov_ds, R_8, ABSENT_USER * 8 | rpl);
	IN_REGISTER("execute", mov_ds, R_8, EXECUTE_ONLY * 8);
	IN_REGISTER("executeabsent", mov_ds, R_8, EXECUTE_ABSENT * 8 | rpl);
	IN_REGISTER("system", mov_ds, R_8, TSS_BUSY * 8);
	IN_REGISTER("level", mov_ds, R_8, KERNEL_DATA * 8 | rpl);
	IN_REGISTER("outside", mov_ds, R_8, params[OUTSIDE] | rpl);
	IN_REGISTER("ldtcut", mov_ds, R_8, L_CUT * 8 | 4);
	/* What FS had before it still has. */
	word = params[SEED];
	wrmsr(0xc0000100, (uint64_t)&word);
	IN_REGISTER("fs", mov_fs, R_AX, ABSENT_USER * 8 | rpl);
	asm volatile("mov %%fs:0, %0" : "=r"(seen) : : "memory");
	report("fs.kept", seen);

	IN_REGISTER("ssnull", mov_ss, R_DX, rpl);
	IN_REGISTER("ssreadonly", mov_ss, R_DX, READ_ONLY * 8);
	IN_REGISTER("ssuser", mov_ss, R_DX, USER_DATA * 8);
	IN_REGISTER("sslevel", mov_ss, R_DX, KERNEL_DATA * 8 | rpl);
	IN_REGISTER("sscode", mov_ss, R_DX, EXECUTE_ONLY * 8);
	IN_REGISTER("ssabsent", mov_ss, R_DX, ABSENT_DATA * 8);

	IN_MEMORY("lgs", far_gs, params[SEED], 4, ABSENT_USER * 8 | rpl);
	IN_REGISTER("pop", pop_gs, R_AX, params[OUTSIDE] | rpl);

	/* Without an LDT every selector in it is outside. */
	asm volatile("lldt %w0" : : "r"(0) : "memory");
	IN_REGISTER("noldt", mov_ds, R_8, L_DATA * 8 | 4 | rpl);
}

static void code_segments(unsigned rpl)
{
	uint64_t here = (uint64_t)far_jump_at; /* somewhere; nobody may get there */

	IN_MEMORY("jmpnull", far_jump, here, 8, 0);
	IN_MEMORY("jmpdata", far_jump, here, 8, KERNEL_DATA * 8);
	IN_MEMORY("jmpabsent", far_jump, here, 8, ABSENT_CODE * 8);
	IN_MEMORY("jmpuser", far_jump, here, 8, USER_CODE * 8 | rpl);
	IN_MEMORY("jmplevel", far_jump, here, 8, SEL_KCODE | rpl);
	if (!params[TAKEN])
		IN_MEMORY("jmpboth", far_jump, here, 8, LONG_AND_32 * 8);
	IN_MEMORY("jmpoutside", far_jump, here, 8, params[OUTSIDE]);
	IN_MEMORY("jmpnowhere", far_jump, params[BAD_ADDRESS], 8, SEL_KCODE);
	IN_MEMORY("callabsent", far_call, here, 4, ABSENT_CODE * 8);
	IN_MEMORY("calldata", far_call, here, 4, READ_ONLY * 8);
	far_back("retnull", here, 0);
	far_back("retabsent", here, ABSENT_CODE * 8);
	far_back("retdata", here, READ_ONLY * 8);
	if (!params[TAKEN])
		far_back("retnowhere", params[BAD_ADDRESS], SEL_KCODE);
}

int guest_main(void)
{
	struct table_register gdtr = { TSS_CUT * 8 + 7, (uint64_t)gdt };
	uint64_t changed = 0;

	fault_init();
	gdt[LDT] |= ((uint64_t)ldt & 0xffffff) << 16;
	memcpy(gdt_was, gdt, sizeof(gdt));
	memcpy(ldt_was, ldt, sizeof(ldt));
	asm volatile("lgdt %0; lldt %w1" : : "m"(gdtr), "r"(LDT * 8) : "memory");
	table_registers(params[RPL]);
	data_segments(params[RPL]);
	code_segments(params[RPL]);

	/* What was refused has left no mark. */
	for (unsigned i = 0; i < GDT_SIZE; i++)
		changed |= gdt[i] ^ gdt_was[i];
	for (unsigned i = 0; i < LDT_SIZE; i++)
		changed |= ldt[i] ^ ldt_was[i];
	report("changed", changed);
	return 0;
}
