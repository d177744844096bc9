/*
 * Instructions that access memory which the machine does not let the guest touch: a device's, or a page that hv protects to see its
 * changes. The access arrives as a page fault (trap) or a violation of the nested tables (hvm), and hv must do what the CPU would have
 * done (KVM does this by itself on the kvm engine).
 */
#ifndef HV_MEMORY_ACCESS_H
#define HV_MEMORY_ACCESS_H

#include "decode.h"
#include "vcpu.h"

/*
 * Emulates the instruction at v->rip: moves of every form, the string moves, and what reads, modifies and writes memory (rmw.h). 0;
 * negative when the VM is stopped because the instruction is none of these. When an access faults its exception is queued in v->event
 * and the instruction has changed nothing; a string move keeps the elements that were done before.
 */
int memory_emulate(struct vcpu *v);

/* Is it one of these? */
static inline bool memory_can_emulate(const struct insn *insn) { return insn->op >= INSN_MOV && insn->op <= INSN_POP; }

#endif
