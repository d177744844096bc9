/* The registers of a CPU for cpustate.c: filled from the seed, and said one by one. */
#ifndef GUEST_CPUREGS_H
#define GUEST_CPUREGS_H

#include "dbg.h"
#include "io.h"
#include "random.h"
#include "string.h"

#include <stdbool.h>
#include <stdint.h>

/* MSRs (SDM vol. 4) */
#define TSC_AUX 0xc0000103

#define TASK_PRIORITY 6 /* holds back vectors below 0x70 (SDM vol. 3, 11.8.3) */
#define LAPIC 0xfee00000ull
#define CR4_OSXSAVE (1u << 18)
#define DR6_NONE 0xffff0ff0

static volatile uint32_t *lapic(unsigned reg)
{
	return (volatile uint32_t *)(LAPIC + reg);
}

static uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

struct leaf {
	uint32_t eax, ebx, ecx, edx;
};

static struct leaf cpuid(uint32_t function, uint32_t index)
{
	struct leaf l;

	asm volatile("cpuid" : "=a"(l.eax), "=b"(l.ebx), "=c"(l.ecx), "=d"(l.edx) : "a"(function), "c"(index));
	return l;
}

/* a.KEY, b.KEY; n is appended to a key with a number. */
static char when = 'a';
static void say(const char *key, uint64_t value)
{
	dputc(when);
	dputc('.');
	report(key, value);
}
static void say_nth(const char *key, unsigned n, uint64_t value)
{
	dputc(when);
	dputc('.');
	dputs(key);
	dprint_hex(n);
	report("", value);
}

/* --- x87, SSE, AVX, protection keys (SDM vol. 1, 13.4) ---------------------------------------------------------------------------- */

#define X87 1u
#define SSE 2u
#define AVX 4u
#define PKRU (1u << 9)
#define AREA 4096

static uint8_t area[AREA] __attribute__((aligned(64)));
static uint32_t components; /* of the area, as in XCR0 */

static uint64_t *quad(unsigned offset)
{
	return (uint64_t *)(area + offset);
}

static unsigned offset_of(unsigned component)
{
	return cpuid(0xd, component).ebx;
}

/* Without XSAVE there is FXSAVE, whose area is the beginning of the other. */
static void load_area(void)
{
	if (components)
		asm volatile("xrstor64 %0" : : "m"(area), "a"(components), "d"(0) : "memory");
	else
		asm volatile("fxrstor64 %0" : : "m"(area) : "memory");
}

static void store_area(void)
{
	memset(area, 0, sizeof area);
	if (components)
		asm volatile("xsave64 %0" : "+m"(area) : "a"(components), "d"(0) : "memory");
	else
		asm volatile("fxsave64 %0" : "+m"(area) : : "memory");
}

/*
 * SVM as QEMU emulates it does not tell KVM of XSETBV: the guest has what it has set until the next exit, and then what KVM believes. So
 * it counts only what is there behind CPUID, which always exits.
 */
static void enable_components(void)
{
	uint32_t all, low, high;

	if (!(cpuid(1, 0).ecx >> 26 & 1))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	all = cpuid(0xd, 0).eax & (X87 | SSE | AVX | PKRU);
	asm volatile("xsetbv" : : "a"(all), "d"(0), "c"(0));
	cpuid(0, 0);
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	components = low == all ? all : 0;
}

static void fill_fpu(void)
{
	enable_components();
	area[0] = 0x7f;			 /* control word: no exceptions */
	area[1] = random64() & 0xf;	 /* rounding and precision */
	area[3] = (random64() & 7) << 3; /* status word: where the stack's top is */
	area[4] = 0xff;			 /* no register is empty */
	*(uint32_t *)(area + 24) =
		0x1f80 | (random64() & 3) << 13 | (random64() & 1) << 15; /* MXCSR: rounding, flush to zero */
	for (unsigned i = 0; i < 8; i++) {
		*quad(32 + 16 * i) =
			random64() | 1ull << 63; /* ten bytes: a number with its leading bit, whatever its exponent */
		*(uint16_t *)(area + 40 + 16 * i) = random64() & 0xbfff;
	}
	for (unsigned i = 0; i < 32; i++)
		*quad(160 + 8 * i) = random64();
	if (components & AVX)
		for (unsigned i = 0; i < 32; i++)
			*quad(offset_of(2) + 8 * i) = random64();
	if (components & PKRU)
		*(uint32_t *)(area + offset_of(9)) = random64() & ~3u; /* key 0, which all pages have, forbids nothing */
	*quad(512) = components;				       /* XSTATE_BV: all are loaded from here */
	load_area();
}

static void say_fpu(void)
{
	store_area();
	say("components", components);
	say("fcw", area[0] | area[1] << 8);
	say("fsw", area[2] | area[3] << 8);
	say("ftw", area[4]);
	say("mxcsr", *(uint32_t *)(area + 24));
	for (unsigned i = 0; i < 8; i++) {
		say_nth("st.mantissa", i, *quad(32 + 16 * i));
		say_nth("st.exponent", i, *(uint16_t *)(area + 40 + 16 * i));
	}
	for (unsigned i = 0; i < 32; i++)
		say_nth("xmm", i, *quad(160 + 8 * i));
	for (unsigned i = 0; i < 32 && components & AVX; i++)
		say_nth("ymm", i, *quad(offset_of(2) + 8 * i));
	if (components & PKRU)
		say("pkru", *(uint32_t *)(area + offset_of(9)));
}

/* --- MSRs, control and debug registers, local APIC ---------------------------------------------------------------------------------- */

/* What they may hold: a canonical address (the lower half), or these bits. SYSENTER's (0x174 to 0x176) have 32 on AMD's CPUs; 0x200 and
 * 0x201 are a range of memory types, which 0x2ff leaves off. */
#define ADDRESS 0x00007fffffffffff
// clang-format off
static const struct {
	uint32_t index;
	uint64_t bits;
} msrs[] = {
	{ 0xc0000081, ~0ull }, { 0xc0000082, ADDRESS }, { 0xc0000083, ADDRESS }, { 0xc0000084, 0xffffffff },
	{ 0xc0000100, ADDRESS }, { 0xc0000101, ADDRESS }, { 0xc0000102, ADDRESS },
	{ 0x174, 0xffff }, { 0x175, 0xffffffff }, { 0x176, 0xffffffff },
	{ 0x277, 0x0505050505050505 }, { 0x200, 0x7fffff004 }, { 0x201, 0x7fffff800 },
};
// clang-format on

static bool has_tsc_aux(void)
{
	return cpuid(0x80000001, 0).edx >> 27 & 1; /* RDTSCP */
}

static void fill_registers(void)
{
	for (unsigned i = 0; i < sizeof msrs / sizeof *msrs; i++)
		wrmsr(msrs[i].index, random64() & msrs[i].bits);
	if (has_tsc_aux())
		wrmsr(TSC_AUX, random64() & 0xffffffff);
	asm volatile("mov %0, %%dr0" : : "r"(random64() & ADDRESS));
	asm volatile("mov %0, %%dr1" : : "r"(random64() & ADDRESS));
	asm volatile("mov %0, %%dr2" : : "r"(random64() & ADDRESS));
	asm volatile("mov %0, %%dr3" : : "r"(random64() & ADDRESS));
	asm volatile("mov %0, %%dr6" : : "r"(DR6_NONE | (random64() & 0xf)));
	asm volatile("mov %0, %%dr7"
		     :
		     : "r"(0x400 | (random64() & 0xffff0000))); /* what kind each watchpoint is; none is on */
	asm volatile("mov %0, %%cr2" : : "r"(random64()));
	asm volatile("mov %0, %%cr8" : : "r"((uint64_t)TASK_PRIORITY));
}

#define SAY_REGISTER(name)                                    \
	do {                                                  \
		uint64_t v;                                   \
		asm volatile("mov %%" name ", %0" : "=r"(v)); \
		say(name, v);                                 \
	} while (0)

/* stepped: DR6 says how the last instruction ended. */
static void say_registers(bool stepped)
{
	static const uint16_t lapic_registers[] = { 0x20,  0x80,  0xd0,	 0xe0,	0xf0,  0x320, 0x330,
						    0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0 };

	for (unsigned i = 0; i < sizeof msrs / sizeof *msrs; i++)
		say_nth("msr.", msrs[i].index, rdmsr(msrs[i].index));
	if (has_tsc_aux())
		say_nth("msr.", TSC_AUX, rdmsr(TSC_AUX));
	SAY_REGISTER("dr0");
	SAY_REGISTER("dr1");
	SAY_REGISTER("dr2");
	SAY_REGISTER("dr3");
	if (!stepped)
		SAY_REGISTER("dr6");
	SAY_REGISTER("dr7");
	SAY_REGISTER("cr0");
	SAY_REGISTER("cr2");
	SAY_REGISTER("cr3");
	SAY_REGISTER("cr4");
	SAY_REGISTER("cr8");
	for (unsigned i = 0; i < sizeof lapic_registers / sizeof *lapic_registers; i++)
		say_nth("lapic.", lapic_registers[i], *lapic(lapic_registers[i]));
	/* The interrupt requests of the vectors from 0x40 on, where the pending one is. */
	say("lapic.irr", *lapic(0x220));
}

#endif
