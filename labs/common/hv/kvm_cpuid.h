/*
 * What CPUID says on the kvm engine, beyond what KVM offers.
 */
#ifndef HV_KVM_CPUID_H
#define HV_KVM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>

/*
 * Features that KVM has and leaves to hv to announce: that there is a hypervisor at all, without which no guest looks for KVM's clock
 * and the rest of leaf 0x40000001, and the local APIC's x2APIC mode and, if KVM says that it has it, TSC deadline mode. (KVM API 4.47,
 * KVM_GET_SUPPORTED_CPUID)
 */
void kvm_cpuid_features(struct kvm_cpuid2 *cpuid, bool tsc_deadline);

/*
 * Place among the other vCPUs: one package, one core for each vCPU, one thread in each core, APIC id = number of the vCPU. KVM hands out
 * the host's answers, which are those of whichever host CPU was asked. Corrects the table of vCPU `id` of `ncpus`, which has room
 * for MACHINE_CPUID_MAX entries (machine.h); what no longer fits stays away.
 */
void kvm_cpuid_topology(struct kvm_cpuid2 *cpuid, unsigned id, unsigned ncpus);

#endif
