/*
 * Instructions that access an address without RAM, on the trap engine: there the access arrives as a page fault, and hv must
 * do what the CPU would have done with the value (KVM does this by itself on the kvm engine).
 */
#ifndef HV_MMIO_H
#define HV_MMIO_H

#include "decode.h"
#include "vcpu.h"

/* Emulates the instruction at v->rip: moves of every form and the string moves. 0; negative when the VM is stopped because
 * the instruction is none of these. An access that faults queues its exception in v->event. */
int mmio_emulate(struct vcpu *v);

/* Can it be carried out? */
bool mmio_can_emulate(const struct insn *insn);

#endif
