/*
 * The vCPU of the trap and hvm engines as bytes of SECTION_CPU: one form for both, so that a guest that was saved on one goes on
 * on the other. What only one of them has (shadows, an event on its way into the guest) is brought to that form, or made anew.
 *
 * What is loaded is checked as a whole, before anything of it is used: values that no CPU of this machine can be in are refused with a
 * sentence. An engine that runs less than the other refuses what it cannot run.
 */
#ifndef HV_VCPU_STATE_H
#define HV_VCPU_STATE_H

#include "machine_state.h"
#include "vcpu.h"

struct vcpu_state {
	struct vcpu cpu;  /* cpu.vm: the VM that it is, or is to be */
	bool nmi_pending; /* cpu.event: what was on its way into the guest, an NMI as exception 2 */
	bool nmi_blocked; /* it is in its NMI handler */
	bool flat;	  /* the guest's page tables do not count: trap without shadow paging */
	bool patched;	  /* its image is one that trap's --patch has changed */
	struct fpu_state fpu;
};

/* Begins with what struct vcpu says of vm now: cpu, flat and patched; *s is zero beyond that. */
void vcpu_state_of(struct vm *vm, struct vcpu_state *s);
/* Both directions. Saving: brings it to the common form first. Loading: s->cpu.vm is set; what is not valid there fails io. */
void vcpu_state_io(struct vcpu_state *s, struct state_io *io);

#endif
