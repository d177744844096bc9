/* Attacks by addresses: memory that is not there, that belongs to the monitor, or that is code. */
#include "hostile.h"

#include "dbg.h"
#include "desc.h"
#include "io.h"

#define MIB (1ull << 20)
#define IMAGE (1 * MIB) /* the guest itself, less than a MiB */

static void read8(uint64_t a) { asm volatile("movb (%0), %%al" : : "r"(a) : "rax", "memory"); }
static void read64(uint64_t a) { asm volatile("movq (%0), %%rax" : : "r"(a) : "rax", "memory"); }
static void write8(uint64_t a) { asm volatile("movb $0x5a, (%0)" : : "r"(a) : "memory"); }
static void write16(uint64_t a) { asm volatile("movw $0x5a5a, (%0)" : : "r"(a) : "memory"); }
static void write64(uint64_t a) { asm volatile("movq $-1, (%0)" : : "r"(a) : "memory"); }
static void jump(uint64_t a) { asm volatile("jmp *%0" : : "r"(a) : "memory"); }

/* All of RAM but the guest itself, the loader's page tables and descriptors included. */
static void wild_ram(void)
{
	for (uint64_t a = 0; a < memory; a += 8)
		if (a < IMAGE || a >= IMAGE + MIB)
			*(volatile uint64_t *)a = a * 0x9e3779b97f4a7c15ull;
	dputs("all written\n");
}

/* Everything above RAM: without devices, then without mapping, then not an address. */
static void wild_above(void)
{
	for (uint64_t a = memory; a < ABOVE_4G; a += MIB) {
		attempt(write64, a);
		attempt(read8, a + 0xfff);
		attempt(write16, a + 0x7ff);
	}
	report_faults();
	for (uint64_t a = ABOVE_4G - 16; a < ABOVE_4G + 16; a++) {
		attempt(write64, a);
		attempt(read64, a);
	}
	for (unsigned bit = 32; bit < 64; bit++) {
		attempt(write8, 1ull << bit);
		attempt(read64, ~0ull << bit);
		attempt(write64, (1ull << bit) - 4);
	}
	for (unsigned i = 0; i < 1000; i++)
		attempt(read64, random64() | ABOVE_4G);
	report_faults();
}

/* More addresses that nobody answers at than anybody would want to remember. */
static void unclaimed(void)
{
	for (uint64_t i = 0; i < 15000; i++) {
		read8(NO_MEMORY + i * 4099);
		outb(0x2000 + i % 0xd000, 1);
	}
	dputs("done\n");
}

/* Each page of the monitor's range, and its neighbours. */
static void monitor_pages(void)
{
	for (uint64_t a = MONITOR - 0x1000; a; a += 0x1000) {
		attempt(read64, a);
		attempt(write8, a);
		attempt(jump, a);
	}
	attempt(read8, ~0ull);
	report_faults();
}

static void monitor_jumps(void)
{
	for (unsigned v = 0; v < 256; v++)
		for (unsigned i = 0; i < 12; i += 2)
			attempt(jump, MONITOR_STUBS + v * 32 + i);
	for (unsigned i = 0; i < 8; i++)
		attempt(jump, MONITOR_SYSCALL + i);
	report_faults();
}

/* An instruction with its memory operand at (%rax) or (%rsi), or with its stack there. */
#define PROBE(name, insn)       \
	void name(uint64_t address); \
	asm(#name ": mov %rdi, %rax; mov %rdi, %rsi; mov $0xe9, %edx; mov $3, %ecx; " insn "; ret");
#define PROBES(X)                                                                                                             \
	X(p_mov, "mov (%rax), %rbx") X(p_inc, "lock incl (%rax)") X(p_xchg, "xchg %ebx, (%rax)") X(p_bts, "bts %ecx, (%rax)") \
	X(p_cmpxchg, "lock cmpxchg16b (%rax)") X(p_movs, "rep movsb") X(p_stos, "rep stosq") X(p_lods, "lodsw")               \
	X(p_cmps, "repe cmpsb") X(p_scas, "scasl") X(p_outs, "outsb") X(p_repouts, "rep outsl") X(p_ins, "insb")              \
	X(p_repins, "rep insw") X(p_lgdt, "lgdt (%rax)") X(p_lidt, "lidt (%rax)") X(p_lldt, "lldt (%rax)") X(p_ltr, "ltr (%rax)") \
	X(p_lmsw, "lmsw (%rax)") X(p_sgdt, "sgdt (%rax)") X(p_smsw, "smsw (%rax)") X(p_ljmp, "ljmp *(%rax)")                  \
	X(p_lcall, "lcall *(%rax)") X(p_jmp, "jmp *(%rax)") X(p_sreg, "mov (%rax), %es") X(p_fxsave, "fxsave (%rax)")         \
	X(p_fxrstor, "fxrstor (%rax)") X(p_div, "divq (%rax)") X(p_imul, "imul (%rax), %rbx") X(p_movzx, "movzbl (%rax), %ebx") \
	X(p_movsx, "movslq (%rax), %rbx") X(p_fild, "fildll (%rax)") X(p_sse, "movups (%rax), %xmm0") X(p_xlat, "mov %rax, %rbx; xlat") \
	X(p_moffs, "mov %rax, %rbx; mov (%rbx,%rcx,8), %r8d") X(p_verr, "verr (%rax)") X(p_lar, "lar (%rax), %ebx")
/* On a stack of its own, which lies where the address says. */
#define STACK_PROBES(X)                                                                                                       \
	X(p_push, "push %rax") X(p_pop, "pop %rax") X(p_pushf, "pushf") X(p_call, "call p_call") X(p_iret, "iretq")           \
	X(p_lret, "lretq") X(p_popfs, "pop %fs") X(p_enter, "enter $16, $1") X(p_leave, "mov %rax, %rbp; leave")              \
	X(p_int, "int $0x80") X(p_ud2, "ud2") X(p_popf, "popf")
#define MEMORY_CODE(name, insn) PROBE(name, insn)
#define STACK_CODE(name, insn) PROBE(name, "mov %rax, %rsp; " insn)
PROBES(MEMORY_CODE)
STACK_PROBES(STACK_CODE)
#define ROW(name, insn) name,
static void (*const probes[])(uint64_t) = { PROBES(ROW) STACK_PROBES(ROW) };
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static const uint64_t monitor_places[] = { 0x0, 0x1000, 0x1200, 0x3000, 0x4000, 0x5000, 0x51a0, 0x7000, 0x7800, 0x8fd0, 0x8ff8, 0x1fff00 };

/* All kinds of instructions on the monitor's memory. What is reported is whether any of them got through. */
static void monitor_probes(void)
{
	for (unsigned i = 0; i < COUNT(monitor_places); i++)
		for (unsigned p = 0; p < COUNT(probes); p++)
			attempt(probes[p], MONITOR + monitor_places[i]);
	report_faults();
}

/* One kind of instruction where no memory is: most of them hv does not emulate there, and says so. */
static void no_memory_probe(void)
{
	attempt(probes[variant % COUNT(probes)], NO_MEMORY + variant);
	report_faults();
}

/* ... and where the address space ends: above 4 GiB nothing is mapped. */
static void above_probes(void)
{
	static const uint64_t at[] = { ABOVE_4G + 0x1000, 1ull << 40, NON_CANONICAL, 0x7ffffffffffc, 0x800000000000, 0xffff7ffffffffff8, ~0ull - 3 };

	for (unsigned i = 0; i < COUNT(at); i++)
		for (unsigned p = 0; p < COUNT(probes); p++)
			attempt(probes[p], at[i]);
	report_faults();
}

static void jump_nowhere(void) { attempt(jump, NO_MEMORY); }

/* Code at the very end of RAM. */
static void last_page(void)
{
	static const struct {
		uint8_t code[16], length;
	} ends[] = {
		{ { 0xfa }, 1 },                                     /* cli */
		{ { 0x0f }, 1 },                                     /* the first byte of mov %cr0 */
		{ { 0x0f, 0x20 }, 2 },                               /* two of its three */
		{ { 0xe6 }, 1 },                                     /* out without its port */
		{ { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66 }, 8 }, /* prefixes without an instruction */
		{ { 0x90 }, 1 },
		{ { 0xcd }, 1 },                                     /* int without its number */
		{ { 0x48, 0xcf }, 2 },                               /* iretq, whose frame is anything */
		{ { 0xf4 }, 1 },                                     /* hlt, with interrupts off */
	};
	uint8_t *end = (uint8_t *)memory;
	unsigned n = variant % COUNT(ends);

	for (unsigned i = 0; i < ends[n].length; i++)
		end[(int)i - ends[n].length] = ends[n].code[i];
	attempt(jump, (uint64_t)end - ends[n].length);
	report_faults();
}

/* Code that changes what hv has decoded and remembered: the operand, then the instruction itself. */
static void self_modifying(void)
{
	/* 0: mov $'a',%al   2: out %al,$0xe9   4: cli   5: nop   6: ret */
	static uint8_t code[] = { 0xb0, 'a', 0xe6, 0xe9, 0xfa, 0x90, 0xc3 };
	void (*volatile call)(void) = (void (*)(void))code;

	for (unsigned i = 0; i < 26; i++) {
		code[1] = 'a' + i;
		code[3] = i % 2 ? 0xe9 : 0x80; /* every other letter goes to a port that nobody listens to */
		code[4] = i % 3 ? 0xfa : 0xfb;
		code[5] = i % 5 ? 0x90 : 0xfa;
		call();
	}
	dputc('\n');
}

const struct attack memory_attacks[] = {
	{ "wild_ram", wild_ram }, { "wild_above", wild_above }, { "unclaimed", unclaimed }, { "monitor_pages", monitor_pages },
	{ "monitor_jumps", monitor_jumps }, { "monitor_probes", monitor_probes }, { "no_memory_probe", no_memory_probe },
	{ "above_probes", above_probes }, { "jump_nowhere", jump_nowhere }, { "last_page", last_page },
	{ "self_modifying", self_modifying }, { 0 },
};
