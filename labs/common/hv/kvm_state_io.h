/*
 * KVM's own structures as bytes of a stream: field by field, without their padding. What a vCPU consists of is in kvm_pieces.h.
 *
 * KVM checks what it is given against what it could run, so here only that is checked which it would take and no live machine has, or
 * which hv itself relies on: numbers of entries, sizes, switches.
 */
#ifndef HV_KVM_STATE_IO_H
#define HV_KVM_STATE_IO_H

#include "state_io.h"

#include <linux/kvm.h>

/* The 8259 pair, the IOAPIC and the 8254 of KVM. */
struct kvm_chips_state {
	struct kvm_pic_state pic[2];
	struct kvm_ioapic_state ioapic;
	struct kvm_pit_state2 pit;
};
void kvm_chips_state_io(struct kvm_chips_state *state, struct state_io *io);

#endif
