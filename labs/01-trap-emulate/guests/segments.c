/*
 * Checkpoint 1.10: loads of segment registers, and far transfers. A base shows in memory read through FS and GS, a load in the
 * accessed bit of the descriptor, and what CS was in the frame that a far call pushes.
 */
#include "desc.h"
#include "io.h"
#include "probe.h"

#include <stdbool.h>

PARAMS;

/* NO_CALL32 leaves the far call with a 32-bit operand out: QEMU's TCG (7.2) holds it to the limit of the 64-bit code segment. */
enum { SEED, CELLS, INDEX_A, INDEX_B, ORDER, RPL, NO_CALL32 };

/* Entries of the GDT, one for each way to load a segment, so that each leaves its own trace. */
enum { D_FS = 4, D_GS, D_POP_FS, D_POP_GS, D_POP_W, D_LFS, D_LGS, D_LGS_W, D_LSS, D_SS, D_DS, D_ES, C_JUMP, C_JUMP32, C_CALL, C_CALL32,
       C_RET, D_UNUSED, D_LDT, GDT_SIZE = D_LDT + 2 };
/* And of the LDT, which is longer than the GDT. */
enum { L_DATA = 40, L_CODE, LDT_SIZE };

#define TYPE_DATA 0x92     /* present, level 0, writable, not accessed */
#define TYPE_DATA_USER 0xf2
#define TYPE_CODE 0x98     /* execute-only, not conforming */
#define TYPE_CODE_READ 0x9a
#define TYPE_LDT 0x82

PROBE(mov_fs, "mov %r9w, %fs");
PROBE(mov_gs_mem, "mov 6(%rdi), %gs");
PROBE(mov_ss, "mov %ebx, %ss");
PROBE(mov_ds, "mov %r14, %ds");
PROBE(mov_es, "mov %ax, %es");
PROBE(lfs_32, "lfs (%rsi), %ebx");
PROBE(lgs_64, "rex.W lgs 4(%r12), %r11d"); /* with REX.W: the offset has 8 bytes */
PROBE(lgs_16, ".byte 0x66; lgs (%rbp), %ecx"); /* the offset has 2 bytes, and CX gets it */
PROBE(lss_32, "lss (%r15,%rcx,2), %edx");

static uint64_t gdt[GDT_SIZE], gdt_was[GDT_SIZE], ldt[LDT_SIZE], ldt_was[LDT_SIZE];
static uint64_t *cells;
static struct regs in, out;

static uint64_t descriptor(unsigned type, uint64_t base, unsigned flags, unsigned limit)
{
	return (limit & 0xffff) | (base & 0xffffff) << 16 | (uint64_t)type << 40 | (uint64_t)(flags << 4 | limit >> 16) << 48 |
	       (base >> 24 & 0xff) << 56;
}

/* The cell that the n-th base points to. */
static uint64_t cell(unsigned n)
{
	return (uint64_t)&cells[params[n < 8 ? INDEX_A : INDEX_B] >> 8 * (n % 8) & 0xff];
}

static void build_tables(void)
{
	struct table_register gdtr = { sizeof(gdt) - 1, (uint64_t)gdt };

	/* The first far call comes from the loader's code segment and returns to it. */
	gdt[SEL_KCODE / 8] = DESC_KCODE;
	/* In 64-bit mode limits of data segments are not checked, and bases only count for FS and GS (SDM vol. 3, 3.4.4). */
	for (unsigned i = D_FS; i <= D_LGS_W; i++)
		gdt[i] = descriptor(i & 1 ? TYPE_DATA : TYPE_DATA_USER, cell(i - D_FS), 4, i);
	gdt[D_LSS] = descriptor(TYPE_DATA, cell(8), 0xc, 0xfffff);
	gdt[D_SS] = descriptor(TYPE_DATA, cell(9), 4, 0xfff);
	gdt[D_DS] = descriptor(TYPE_DATA_USER, cell(10), 4, 1);
	gdt[D_ES] = descriptor(TYPE_CODE_READ, 0, 2, 0);
	for (unsigned i = C_JUMP; i <= C_RET; i++)
		gdt[i] = descriptor(i & 1 ? TYPE_CODE : TYPE_CODE_READ, 0, 2, 0xfffff);
	gdt[D_UNUSED] = descriptor(TYPE_DATA, 0, 4, 0xfffff);
	gdt[D_LDT] = descriptor(TYPE_LDT, (uint64_t)ldt, 0, sizeof(ldt) - 1);
	gdt[D_LDT + 1] = (uint64_t)ldt >> 32;
	/* Where an LDT selector leads when it is looked up in the GDT: not here. */
	for (unsigned i = D_FS; i < LDT_SIZE; i++)
		ldt[i] = descriptor(TYPE_DATA, cell(11), 4, 0xfffff);
	ldt[L_DATA] = descriptor(TYPE_DATA, cell(12), 4, 0xfffff);
	ldt[D_FS] = descriptor(TYPE_DATA, cell(13), 4, 0xfffff);
	ldt[L_CODE] = descriptor(TYPE_CODE_READ, 0, 2, 0xfffff);
	for (unsigned i = 0; i < GDT_SIZE; i++)
		gdt_was[i] = gdt[i];
	for (unsigned i = 0; i < LDT_SIZE; i++)
		ldt_was[i] = ldt[i];
	asm volatile("lgdt %0; lldt %w1" : : "m"(gdtr), "r"(D_LDT * 8) : "memory");
}

static void start(void)
{
	static unsigned n;

	fill(&in, params[SEED] + n++);
}

static void set16(unsigned reg, uint16_t value)
{
	in.r[reg] = (in.r[reg] & ~0xffffull) | value;
}

static void run(const char *name, void (*probe)(const struct regs *, struct regs *))
{
	probe(&in, &out);
	report_regs(name, &in, &out);
}

static void report_fs(const char *name)
{
	uint64_t v;

	asm volatile("mov %%fs:0, %0" : "=r"(v) : : "memory");
	report(name, v);
}

static void report_gs(const char *name)
{
	uint64_t v;

	asm volatile("mov %%gs:8, %0" : "=r"(v) : : "memory");
	report(name, v);
}

/* A far pointer with an offset of `size` bytes in front of the selector. */
static void far_pointer(uint8_t *at, uint64_t offset, unsigned size, uint16_t selector)
{
	for (unsigned i = 0; i < size; i++)
		at[i] = offset >> 8 * i;
	at[size] = selector;
	at[size + 1] = selector >> 8;
}

static void data_segments(void)
{
	static uint8_t memory[32];
	uint64_t sp;

	start();
	set16(R_9, D_FS * 8 | (params[RPL] & 3)); /* a level-3 descriptor may be asked for with any RPL */
	run("movfs", mov_fs);
	report_fs("movfs.at");
	start();
	far_pointer(memory, params[SEED], 6, D_GS * 8);
	in.r[R_DI] = (uint64_t)memory;
	run("movgs", mov_gs_mem);
	report_gs("movgs.at");
	report_fs("movgs.fs");

	/* The base of DS does not count: memory is still found. */
	start();
	set16(R_14, D_DS * 8);
	run("movds", mov_ds);
	start();
	set16(R_AX, D_ES * 8);
	run("moves", mov_es);
	start();
	set16(R_BX, D_SS * 8);
	run("movss", mov_ss);

	/* POP takes 8 bytes off the stack, or 2, and looks at 2 of them. */
	asm volatile("mov %%rsp, %%rbx; push %1; pop %%fs; sub %%rsp, %%rbx; mov %%rbx, %0; add %%rbx, %%rsp"
		     : "=r"(sp) : "r"(params[SEED] << 16 | D_POP_FS * 8) : "rbx", "memory");
	report("popfs.sp", sp);
	report_fs("popfs.at");
	asm volatile("mov %%rsp, %%rbx; push %1; pop %%gs; sub %%rsp, %%rbx; mov %%rbx, %0; add %%rbx, %%rsp"
		     : "=r"(sp) : "r"(params[SEED] << 16 | D_POP_GS * 8) : "rbx", "memory");
	report("popgs.sp", sp);
	report_gs("popgs.at");
	asm volatile("mov %%rsp, %%rbx; push %1; popw %%gs; sub %%rsp, %%rbx; mov %%rbx, %0; add %%rbx, %%rsp"
		     : "=r"(sp) : "r"(params[SEED] << 16 | D_POP_W * 8) : "rbx", "memory");
	report("popw.sp", sp);
	report_gs("popw.at");

	start();
	far_pointer(memory, params[SEED], 4, D_LFS * 8);
	in.r[R_SI] = (uint64_t)memory;
	run("lfs", lfs_32);
	report_fs("lfs.at");
	start();
	/* CPUs of AMD's take the selector of this one from the middle of the offset: either way it is one that traps. */
	far_pointer(memory, (params[SEED] * 3 & ~(0xffffull << 32)) | (uint64_t)D_LGS << 35, 8, D_LGS * 8);
	in.r[R_12] = (uint64_t)memory - 4;
	run("lgs", lgs_64);
	report_gs("lgs.at");
	start();
	far_pointer(memory, params[SEED] * 5, 2, D_LGS_W * 8);
	in.r[R_BP] = (uint64_t)memory;
	run("lgsw", lgs_16);
	report_gs("lgsw.at");
	start();
	far_pointer(memory, params[SEED] * 7, 4, D_LSS * 8);
	in.r[R_CX] = 3;
	in.r[R_15] = (uint64_t)memory - 6;
	run("lss", lss_32);
	/* SS may be null in 64-bit mode at levels below 3 (SDM vol. 2, MOV). */
	start();
	set16(R_BX, 0);
	run("ssnull", mov_ss);

	/* The table is chosen by bit 2 of the selector, and each has its own limit. */
	start();
	set16(R_9, L_DATA * 8 | 4);
	run("ldt", mov_fs);
	report_fs("ldt.at");
	start();
	set16(R_9, D_FS * 8 | 4);
	run("ldtlow", mov_fs);
	report_fs("ldtlow.at");
	/* What is already marked stays so. */
	start();
	set16(R_9, D_FS * 8);
	run("again", mov_fs);
	report_fs("again.at");
}

/*
 * Two places that a far jump can lead to, which leave different numbers and come back by a near jump to R8; and one for far
 * calls, which reports what lies on the stack and comes back by a far return.
 */
asm(".text\n"
    "place_a: mov $0xa, %eax; jmp *%r8\n"
    "place_b: mov $0xb, %eax; jmp *%r8\n"
    "callee: mov (%rsp), %rax; mov 8(%rsp), %rdx; mov %rsp, %rcx; rex.W lret\n"
    "callee32: mov (%rsp), %eax; mov 4(%rsp), %edx; mov %rsp, %rcx; lretl\n"
    "callee_pop: mov (%rsp), %rax; mov 8(%rsp), %rdx; mov %rsp, %rcx; rex.W lret $24\n");
extern uint8_t place_a[], place_b[], callee[], callee32[], callee_pop[];

static uint8_t *place(unsigned n)
{
	return params[ORDER] >> n & 1 ? place_b : place_a;
}

static void jump(const char *name, unsigned n, uint16_t selector, bool wide)
{
	static uint8_t pointer[16];
	uint64_t where;

	far_pointer(pointer, (uint64_t)place(n), wide ? 8 : 4, selector);
	if (wide)
		asm volatile("lea 1f(%%rip), %%r8; rex.W ljmp *%1; 1:" : "=a"(where) : "m"(pointer) : "r8", "memory");
	else
		asm volatile("lea 1f(%%rip), %%r8; ljmp *%1; 1:" : "=a"(where) : "m"(pointer) : "r8", "memory");
	report(name, where);
}

/* What the call pushed: RIP counted from the instruction behind it, CS, by how much RSP went down and came back. */
static void call(const char *name, uint8_t *to, uint16_t selector, bool wide)
{
	static uint8_t pointer[16];
	uint64_t rip, cs, sp, before, behind, next;

	far_pointer(pointer, (uint64_t)to, wide ? 8 : 4, selector);
	if (wide)
		asm volatile("sub $128, %%rsp; lea 1f(%%rip), %4; mov %%rsp, %3; rex.W lcall *(%6); 1: mov %%rsp, %5; mov %3, %%rsp\n"
			     "add $128, %%rsp"
			     : "=&a"(rip), "=&d"(cs), "=&c"(sp), "=&r"(before), "=&r"(next), "=&r"(behind) : "r"(pointer) : "memory");
	else
		asm volatile("sub $128, %%rsp; lea 1f(%%rip), %4; mov %%rsp, %3; lcall *(%6); 1: mov %%rsp, %5; mov %3, %%rsp\n"
			     "add $128, %%rsp"
			     : "=&a"(rip), "=&d"(cs), "=&c"(sp), "=&r"(before), "=&r"(next), "=&r"(behind) : "r"(pointer) : "memory");
	dputs(name);
	report(".rip", rip - next);
	dputs(name);
	report(".cs", cs);
	dputs(name);
	report(".pushed", before - sp);
	dputs(name);
	report(".back", behind - before);
}

static void code_segments(void)
{
	uint64_t sp;

	call("call", callee, C_CALL * 8, true); /* with the loader's CS so far */
	jump("jump", 0, C_JUMP * 8, true);
	call("jumped", callee, C_CALL * 8, true);
	call("returned", callee, C_CALL * 8, true);
	jump("jump32", 1, C_JUMP32 * 8, false);
	if (!params[NO_CALL32])
		call("call32", callee32, C_CALL32 * 8, false);
	asm volatile("mov %%rsp, %%rbx; push %1; lea 1f(%%rip), %%rax; push %%rax; rex.W lret; 1: sub %%rsp, %%rbx; mov %%rbx, %0;\n"
		     "add %%rbx, %%rsp"
		     : "=r"(sp) : "r"(params[SEED] << 16 | C_RET * 8) : "rax", "rbx", "memory");
	report("ret.sp", sp);
	call("callpop", callee_pop, C_CALL * 8, true);
	jump("jumpldt", 2, L_CODE * 8 | 4, true);
	call("callldt", callee, C_CALL * 8, true);
}

/* Which bits changed in each entry. */
static void report_changes(void)
{
	for (unsigned i = D_FS; i < GDT_SIZE; i++)
		report("gdt", gdt[i] ^ gdt_was[i]);
	for (unsigned i = D_FS; i < LDT_SIZE; i++)
		report("ldt", ldt[i] ^ ldt_was[i]);
}

int guest_main(void)
{
	cells = (uint64_t *)params[CELLS];
	for (unsigned i = 0; i < 258; i++)
		cells[i] = params[SEED] * (2 * i + 1);
	build_tables();
	data_segments();
	code_segments();
	report_changes();
	return 0;
}
