/*
 * Lab 1, checkpoints 1.20 to 1.22: sensitive instructions, the ones that tell or change what a guest must not see or reach.
 *
 * CPUID is sensitive, and this machine lets it trap. The guest asks (leaf in EAX, subleaf in ECX); the policy looks at what the
 * host would say, decides what this guest may know, constructs an answer, and hv injects it into the guest's registers.
 * popf, pushf and a dozen others are sensitive and do not trap: that is why x86 could not be virtualized this way for so long.
 *
 * Reading: Intel SDM vol. 2, CPUID, POPF; Popek and Goldberg, 1974; Robin and Irvine, 2000.
 */
#include "lab1.h"

#include <string.h>

// SOLUTION 1.20
/* Leaf 1, EDX: FPU VME DE PSE TSC MSR PAE CX8 SEP- PGE CMOV PAT CLFLUSH MMX FXSR SSE SSE2. No APIC, MCE, MTRR, MCA: not virtualized. */
#define LEAF1_EDX (1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 13 | 1u << 15 | 1u << 16 | 1u << 19 | \
		   1u << 23 | 1u << 24 | 1u << 25 | 1u << 26)
/* Leaf 1, ECX: SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES RDRAND. No MONITOR, VMX, x2APIC, TSC-deadline, XSAVE, AVX;
 * and not bit 31, by which hypervisors announce themselves. */
#define LEAF1_ECX (1u << 0 | 1u << 1 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 23 | 1u << 25 | 1u << 30)
/* Leaf 7, EBX: BMI1 BMI2 ERMS RDSEED ADX SHA. No FSGSBASE, SMEP, SMAP, INVPCID, AVX2. */
#define LEAF7_EBX (1u << 3 | 1u << 8 | 1u << 9 | 1u << 18 | 1u << 19 | 1u << 29)
/* 0x80000001, EDX: the bits of leaf 1 that AMD repeats, SYSCALL, NX, 1 GiB pages are Lab 2's, LM. ECX: LAHF, LZCNT, SSE4A, PREFETCHW. */
#define EXT1_EDX (1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 11 | 1u << 13 | 1u << 15 | 1u << 16 | \
		  1u << 20 | 1u << 23 | 1u << 24 | 1u << 29)
#define EXT1_ECX (1u << 0 | 1u << 5 | 1u << 6 | 1u << 8)
#define MAX_BASIC 7
#define MAX_EXTENDED 0x80000008
// END

struct cpuid_result cpuid_policy(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_result host)
{
	// SOLUTION 1.20
	struct cpuid_result r = { 0 };

	(void)v;
	switch (leaf) {
	case 0: /* vendor: the host's, because code chooses instructions by it */
	case 0x80000000:
		r = host;
		r.eax = leaf ? MAX_EXTENDED : MAX_BASIC;
		return r;
	case 1:
		r.eax = host.eax;
		r.ebx = (host.ebx & 0xff00) | 1 << 16; /* CLFLUSH line size, one logical CPU, APIC id 0 */
		r.ecx = host.ecx & LEAF1_ECX;
		r.edx = host.edx & LEAF1_EDX;
		return r;
	case 7:
		r.ebx = subleaf ? 0 : host.ebx & LEAF7_EBX;
		return r;
	case 0x80000001:
		r.eax = host.eax;
		r.ecx = host.ecx & EXT1_ECX;
		r.edx = host.edx & EXT1_EDX;
		return r;
	case 0x80000002: /* the brand string says what this really is, in three leaves of 16 bytes */
	case 0x80000003:
	case 0x80000004: {
		static const char brand[48] = "Trapdoor virtual CPU";
		memcpy(&r, brand + (leaf - 0x80000002) * 16, 16);
		return r;
	}
	case 0x80000005: /* caches: true of the machine, useful to the guest, and no secret */
	case 0x80000006:
		return host;
	case 0x80000008: /* address widths; no more than one core */
		r.eax = host.eax & 0xffff;
		return r;
	default: /* everything else does not exist, the hypervisor's own range at 0x40000000 above all */
		return r;
	}
	// STARTER 1.20: ask, analyse, construct, return. Hint: begin with an answer of zeros and let through what the guest's CPU really has;
	// bit 31 of ECX in leaf 1 and the leaves from 0x40000000 on are how a guest finds out that it is one.
	//	(void)leaf, (void)subleaf, (void)host;
	//	lab_todo(v->vm, "1.20", "cpuid_policy() in sensitive.c: decide what the guest may know about its CPU");
	//	return (struct cpuid_result){ 0 };
	// END
}
