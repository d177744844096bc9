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

struct cpuid_result cpuid_policy(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_result host)
{
	// TODO 1.20: ask, analyse, construct, return. Hint: begin with an answer of zeros and let through what the guest's CPU really has;
	// bit 31 of ECX in leaf 1 and the leaves from 0x40000000 on are how a guest finds out that it is one.
	(void)leaf, (void)subleaf, (void)host;
	lab_todo(v->vm, "1.20", "cpuid_policy() in sensitive.c: decide what the guest may know about its CPU");
	return (struct cpuid_result){ 0 };
}
