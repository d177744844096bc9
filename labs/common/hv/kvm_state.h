/*
 * The kvm engine's vCPU state: between KVM's structures and struct vcpu.
 */
#ifndef HV_KVM_STATE_H
#define HV_KVM_STATE_H

#include "decode.h"
#include "engine.h"
#include "machine.h"

/* A segment register with its hidden part, as KVM has it. */
struct segment segment_from_kvm(const struct kvm_segment *k);
struct kvm_segment segment_to_kvm(const struct segment *s);
/* Fetches registers, segments, tables, control and debug registers. 0 or -errno. */
int kvm_get_vcpu(struct machine *m, struct vcpu *v);
/* Puts back all of that but the debug registers. 0, or -errno with the call that refused in *call. */
int kvm_set_vcpu(struct machine *m, const struct vcpu *v, const char **call);
/* gva to gpa by the guest's tables (KVM_TRANSLATE). 0 or -EFAULT. */
int kvm_translate_gva(struct machine *m, uint64_t gva, uint64_t *gpa);

#endif
