/* Attacks on hardware-assisted virtualization: by what makes the CPU leave the guest, by what hv does with the nested tables meanwhile, and by
 * the memory of a neighbour. */
#include "hostile.h"

#include "../../../labs/common/guest/hypercall.h"
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "string.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define PAGE 4096ull
#define MIB (1ull << 20)
#define EFER 0xc0000080
#define ARENA (4 * MIB)
#define CR4_SMXP (3ull << 20) /* SMEP and SMAP: the loader's pages are all the user's, so the guest would execute nothing more */

/* --- instructions that a guest has no business with, at CPL 0 and 3 ------------------------------------------------------------- */

static uint64_t operand[4] __attribute__((aligned(16)));
static uint8_t user_stack[4096] __attribute__((aligned(16)));

#define PROBE(name, insn) \
	void name(void);  \
	asm(#name ": " insn "; ret");
/* The CPU's own virtualization: none of them may do anything. RAX is an address, of memory or of none. */
#define FORBIDDEN(X)                                                                                                           \
	X(v_vmrun, "vmrun") X(v_vmload, "vmload") X(v_vmsave, "vmsave") X(v_stgi, "stgi") X(v_clgi, "clgi") X(v_skinit, "skinit") \
	X(v_invlpga, "invlpga %rax, %ecx") X(v_vmlaunch, "vmlaunch") X(v_vmresume, "vmresume") X(v_vmxoff, "vmxoff")                     \
	X(v_vmxon, "vmxon (%rsi)") X(v_vmclear, "vmclear (%rsi)") X(v_vmptrld, "vmptrld (%rsi)") X(v_vmptrst, "vmptrst (%rsi)")  \
	X(v_vmread, "vmread %rbx, (%rsi)") X(v_vmwrite, "vmwrite (%rsi), %rbx") X(v_invept, "invept (%rsi), %rbx")              \
	X(v_invvpid, "invvpid (%rsi), %rbx") X(v_vmfunc, "vmfunc") X(v_getsec, "getsec") X(v_rsm, "rsm") X(v_encls, "encls")     \
	X(v_xsetbv, "xor %ecx, %ecx; xsetbv") X(v_monitor, "xor %ecx, %ecx; monitor") X(v_mwait, "xor %ecx, %ecx; mwait")          \
	X(v_pconfig, ".byte 0x0f, 0x01, 0xc5") X(v_rdpmc, "rdpmc")
/* These may be there or not, and be allowed or not. */
#define OTHERS(X)                                                                                                              \
	X(o_monitorx, "xor %ecx, %ecx; monitorx") X(o_mwaitx, "xor %ecx, %ecx; mwaitx") X(o_xgetbv, "xgetbv") X(o_rdtscp, "rdtscp") X(o_invd, "invd")   \
	X(o_wbinvd, "wbinvd") X(o_pause, "pause") X(o_sysenter, "sysenter") X(o_sysexit, "sysexitq") X(o_swapgs, "swapgs; swapgs") \
	X(o_clts, "clts") X(o_smsw, "smsw (%rsi)") X(o_sgdt, "sgdt (%rsi)") X(o_invlpg, "invlpg (%rax)") X(o_rdpkru, "rdpkru")       \
	X(o_invpcid, "invpcid (%rsi), %rbx") X(o_vmmcall, "vmmcall") X(o_vmcall, "vmcall") X(o_rdrand, "rdrand %rdx")
FORBIDDEN(PROBE)
OTHERS(PROBE)
#define ROW(name, insn) name,
static void (*const forbidden[])(void) = { FORBIDDEN(ROW) };
static void (*const others[])(void) = { OTHERS(ROW) };

/* With something in the registers: addresses that are RAM, a device's, nobody's and not canonical. */
static void at_cpl0(uint64_t fn)
{
	uint64_t rax = random64() % 4 ? random64() >> random64() % 64 & ~(PAGE - 1) : memory / 2, rbx = random64() % 8;

	asm volatile("call *%[fn]" : "+a"(rax), "+b"(rbx), "+c"(operand[3]), "+d"(operand[2]) : [fn] "r"(fn), "S"(operand) : "memory", "cc");
}

static void at_cpl3(uint64_t fn)
{
	uint64_t rax = random64() % 4 ? random64() >> random64() % 64 & ~(PAGE - 1) : memory / 2, rbx = random64() % 8;

	asm volatile("push %[ss]; push %[rsp]; push $2; push %[cs]; push $1f; iretq; 1: call *%[fn]; int $0x80; ud2"
		     : : "a"(rax), "b"(rbx), "c"(0), "S"(operand), [fn] "r"(fn), [ss] "i"(SEL_UDATA), [cs] "i"(SEL_UCODE),
		       [rsp] "r"(user_stack + sizeof user_stack) : "memory");
}

static void instructions(void)
{
	uint64_t got_through = 0;

	idt_gate(0x80, 3, 1);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < COUNT(forbidden); i++) {
			uint64_t before = faults[0x80];
			got_through += attempt(at_cpl0, (uint64_t)forbidden[i]);
			attempt(at_cpl3, (uint64_t)forbidden[i]);
			got_through += faults[0x80] - before;
		}
		for (unsigned i = 0; i < COUNT(others); i++) {
			attempt(at_cpl0, (uint64_t)others[i]);
			attempt(at_cpl3, (uint64_t)others[i]);
		}
	}
	report("got_through", got_through);
	report_faults();
}

/* --- CPUID, MSRs, registers, calls ---------------------------------------------------------------------------------------------- */

static void cpuid_all(void)
{
	uint64_t upper = 0, offered = 0;

	for (uint64_t i = 0; i < 2000; i++) {
		uint64_t a = i < 0x100 ? i : i < 0x200 ? 0x80000000 + i - 0x100 : i < 0x300 ? 0x40000000 + i - 0x200 : random64(), b = random64();
		uint64_t c = i % 3 ? random64() : 0, d = random64(), leaf = (uint32_t)a;
		asm volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
		upper |= (a | b | c | d) >> 32;
		/* VMX, XSAVE, OSXSAVE; SVM. */
		offered |= leaf == 1 ? c & (1 << 5 | 1 << 26 | 1 << 27) : leaf == 0x80000001 ? c & 1 << 2 : 0;
	}
	report("upper", upper);
	report("offered", offered);
}

static void read_msr(uint64_t msr) { rdmsr((uint32_t)msr); }
static uint64_t msr_value;
static void write_msr(uint64_t msr) { wrmsr((uint32_t)msr, msr_value); }

static void msrs_all(void)
{
	static const uint32_t bases[] = { 0, 0x400, 0x800, 0x40000000, 0xc0000000, 0xc0010000, 0xc0011000 };
	/* A machine's: feature control, VMX' capabilities, VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA, SVM_KEY. */
	static const uint32_t machine[] = { 0x3a, 0x480, 0x48b, 0x491, 0xc0010114, 0xc0010115, 0xc0010116, 0xc0010117, 0xc0010118 };
	uint64_t got_through = 0;

	for (unsigned i = 0; i < 6000; i++) {
		uint64_t msr = i % 16 ? bases[i % COUNT(bases)] + random64() % (i % 2 ? 0x200 : 0x1000) : random64();
		msr_value = random64() >> random64() % 64;
		attempt(i % 3 ? write_msr : read_msr, msr);
	}
	for (unsigned i = 0; i < COUNT(machine); i++) {
		msr_value = memory / 2;
		got_through += attempt(read_msr, machine[i]);
		got_through += attempt(write_msr, machine[i]);
	}
	report("got_through", got_through);
	report_faults();
}

static void set_cr0(uint64_t v) { asm volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static void set_cr4(uint64_t v) { asm volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static void set_cr8(uint64_t v) { asm volatile("mov %0, %%cr8" : : "r"(v) : "memory"); }
static void set_efer(uint64_t v) { wrmsr(EFER, v); }
static void set_dr(uint64_t v)
{
	asm volatile("mov %0, %%db0; mov %0, %%db1; mov %0, %%db2; mov %0, %%db3; mov %0, %%db6" : : "r"(v));
}
static void set_dr7(uint64_t v) { asm volatile("mov %0, %%db7" : : "r"(v)); }

/* What can be put back is put back: the attack is on what hv makes of the value. The second variant is for those that decide over the
 * mode, and may well be the guest's end. */
static void registers(void)
{
	uint64_t cr0, cr4, efer = rdmsr(EFER);

	asm volatile("mov %%cr0, %0; mov %%cr4, %1" : "=r"(cr0), "=r"(cr4));
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t value = i % 3 ? random64() >> random64() % 64 : 1ull << random64() % 64;

		switch (random64() % (variant ? 6 : 5)) {
		case 0: attempt(set_cr4, cr4 ^ (variant ? value : value & ~CR4_SMXP)); set_cr4(cr4); break;
		case 1: attempt(set_cr8, value); break;
		case 2: attempt(set_efer, efer ^ value); set_efer(efer); break;
		case 3: attempt(set_dr, value); break;
		case 4: attempt(set_dr7, value & ~0x20ffull); break; /* without the breakpoints: those strike everywhere */
		case 5: attempt(set_cr0, cr0 ^ value); set_cr0(cr0); break;
		}
	}
	set_dr7(0x400);
	report_faults();
}

/* The stages of a plan, if there is one, are none of these. */
static void hypercalls(void)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < 1500; i++) {
		uint64_t number = i % 2 ? random64() >> random64() % 64 : i / 2, argument = random64() | 1ull << 40;
		wrong += hypercall(number, argument) != (number == HYPERCALL_STAGE ? 0 : -38ull); /* ENOSYS */
	}
	report("wrong", wrong);
}

/* The same stage again and again: what the plan does then may report something each time. */
static void stages(void)
{
	for (unsigned i = 0; i < 3000; i++)
		stage(1);
	dputs("enough\n");
}

/* --- ports ------------------------------------------------------------------------------------------------------------------------ */

static bool ends_the_guest(unsigned port)
{
	return (port >= 0xf1 && port < 0xf8) || (port > 0x60 && port <= 0x64) || (port > 0x8e && port <= 0x92) ||
	       (port > 0x600 && port < 0x606) || port > 0xfffc;
}

/* In all sizes, with and without strings, from memory and from none. */
static void port_string(uint64_t port)
{
	uint64_t at = random64() % 50 ? ARENA + random64() % 0x10000 : NO_MEMORY, count = random64() % 20, low = random64();

	switch (random64() % 8) {
	case 0: asm volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory"); break;
	case 1: asm volatile("rep insw" : "+D"(at), "+c"(count) : "d"(port) : "memory"); break;
	case 2: asm volatile("rep insl" : "+D"(at), "+c"(count) : "d"(port) : "memory"); break;
	case 3: asm volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(port) : "memory"); break;
	case 4: asm volatile("rep outsl" : "+S"(at), "+c"(count) : "d"(port) : "memory"); break;
	case 5: asm volatile("std; insl; cld" : "+D"(at) : "d"(port) : "memory"); break;
	case 6: asm volatile("outsl %%gs:(%%rsi), %%dx" : "+S"(at) : "d"(port) : "memory"); break;
	default: asm volatile("out %k0, %w1" : : "a"(low), "d"(port)); break;
	}
}

static void port_strings(void)
{
	for (unsigned i = 0; i < 2500; i++) {
		unsigned port = i % 2 ? random64() % 0x700 : random64() & 0xffff;
		if (!ends_the_guest(port))
			attempt(port_string, port);
	}
	outb(0x3fb, 3);
	outb(0x3fc, 0);
	dputs("\nall strings\n");
	report_faults();
}

/* --- nested tables ---------------------------------------------------------------------------------------------------------------- */

/* A page in each 2 MiB: with pages of 4 KiB each needs a table of its own, and there are not so many. */
static void spread(void)
{
	uint64_t wrong = 0;

	for (unsigned round = 0; round < 3; round++)
		for (uint64_t a = ARENA; a < memory; a += 2 * MIB) {
			volatile uint64_t *p = (uint64_t *)(a + a / MIB % 512 * 8);
			wrong += *p != (round ? a + round - 1 : 0);
			*p = a + round;
		}
	report("wrong", wrong);
}

/* Code that stores into the instruction behind it, which begins in the next page. Stage 1 and 2 of the plan watch both pages. */
static void watched_code(void)
{
	/* movb $x, 1(%rip); mov $0, %al; ret */
	static const uint8_t code[] = { 0xc6, 0x05, 0x01, 0, 0, 0, 0, 0xb0, 0, 0xc3 };

	for (unsigned n = 0; n < 4; n++) {
		uint8_t *at = (uint8_t *)ARENA + PAGE - (n % 2 ? 7 : 3); /* the second time the border is within the store */
		memcpy(at, code, sizeof code);
		stage(n / 2 + 1);
		for (unsigned i = 0; i < 13; i++) {
			uint64_t al = 0;
			at[6] = (uint8_t)('a' + i + n % 2 * 13);
			asm volatile("call *%1" : "+a"(al) : "r"(at) : "memory");
			dputc((char)al);
		}
		stage(3);
	}
	dputc('\n');
}

static volatile uint64_t nmis, ticks;

static void on_nmi(struct trap_frame *f)
{
	(void)f;
	if (++nmis <= 100)
		stage(1); /* one more, which waits until this one has returned */
}

static void on_tick(struct trap_frame *f)
{
	(void)f;
	ticks++;
	outb(0x20, 0x20);
}

static void ud2(uint64_t a)
{
	(void)a;
	asm volatile("ud2");
}

/* NMIs from the plan, a timer that Bochs can just keep up with, and exceptions, all at once: none of the NMIs is lost, and none comes twice. */
static void event_storm(void)
{
	pic_init(0x20);
	trap_handlers[2] = on_nmi;
	trap_handlers[0x20] = on_tick;
	pic_unmask(0);
	outb(0x43, 0x34);
	outb(0x40, 2000 & 0xff); /* 1.7 ms */
	outb(0x40, 2000 >> 8);
	asm volatile("sti");
	for (unsigned i = 0; i < 1000; i++) {
		stage(1);
		attempt(ud2, 0);
		asm volatile("sti");
	}
	asm volatile("cli");
	report("nmis", nmis);
	report("exceptions", faults[6]);
	report("ticks", !!ticks);
}

/* All of memory behind the image is this guest's: it says whether it stayed so, as often as the variant says. */
static void watchman(void)
{
	uint64_t wrong = 0;

	for (uint64_t *p = (uint64_t *)ARENA; p < (uint64_t *)memory; p++)
		*p = (uint64_t)p ^ 0x5ca1ab1e;
	for (unsigned round = 0; round < variant; round++)
		for (uint64_t *p = (uint64_t *)ARENA; p < (uint64_t *)memory; p++)
			wrong += *(volatile uint64_t *)p != ((uint64_t)p ^ 0x5ca1ab1e);
	report("lost", wrong);
}

const struct attack hvm_attacks[] = {
	{ "instructions", instructions }, { "cpuid_all", cpuid_all }, { "msrs_all", msrs_all }, { "registers", registers },
	{ "hypercalls", hypercalls }, { "stages", stages }, { "port_strings", port_strings }, { "spread", spread },
	{ "watched_code", watched_code }, { "event_storm", event_storm }, { "watchman", watchman }, { 0 },
};
