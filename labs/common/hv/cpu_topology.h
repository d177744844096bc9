/*
 * What CPUID says about a vCPU's place among the others: one package, one core for each vCPU, one thread in each core, APIC id =
 * number of the vCPU. KVM hands out the host's answers, which are those of whichever host CPU was asked.
 */
#ifndef HV_CPU_TOPOLOGY_H
#define HV_CPU_TOPOLOGY_H

#include <linux/kvm.h>

/* Corrects the table of vCPU `id` of `ncpus`. It has room for MACHINE_CPUID_MAX entries (machine.h); what no longer fits stays away. */
void topology_cpuid(struct kvm_cpuid2 *cpuid, unsigned id, unsigned ncpus);

#endif
