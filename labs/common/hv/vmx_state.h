/*
 * Between the three files of the VMX back end: vmx_machine.c (the back end), vmx_fields.c (fields and the mailbox), vmx_state.c (the
 * guest's registers in fields).
 */
#ifndef HV_VMX_STATE_H
#define HV_VMX_STATE_H

#include "vmx.h"
#include "vmx_monitor.h"

/* --- vmx_fields.c */

/* The capability MSR of a field of controls: bits that must be 1 in 31:0, bits that may be 1 in 63:32. */
uint32_t vmx_capability_msr(enum vmcs_field f);
/* One of the machine's MSRs. 0, or negative with the VM stopped. */
int vmx_read_msr(struct hvm *h, uint32_t index, uint64_t *value);

/* Runs the monitor from its first instruction, or (VMX_LOOK) through its loop, until it answers. 0 or negative, VM stopped. */
int vmx_monitor_run(struct vmx *s, bool start);
/* With the next run of the machine its CPU stands before the monitor's loop. */
void vmx_stand_at_loop(struct vmx *s);
/* Reads fields that are not known. 0 or negative, VM stopped. */
int vmx_look(struct vmx *s, const uint16_t *fields, unsigned n);
/* The monitor has done its list of writes. */
void vmx_written(struct vmx *s);
/* The guest was left: what the CPU changes is not known any more. Then the values in a list that the monitor has read are. */
void vmx_forget(struct vmx *s);
void vmx_learn(struct vmx *s, const struct vmx_pair *list, uint64_t n);
/* Stops the VM with a sentence for an instruction of VMX that failed. -ECANCELED. */
int vmx_failed(struct vmx *s);

/* --- vmx_state.c */

/* What of vm->vcpu differs from s->before goes into fields, and DR6 into the machine. 0 or negative, VM stopped. */
int vmx_put_state(struct vmx *s);
/* The fields that the exit has read go into vm->vcpu. 0 or negative, VM stopped. */
int vmx_take_state(struct vmx *s);
/* The others, and the machine's registers. 0 or negative, VM stopped. */
int vmx_take_rest(struct vmx *s);
/* vm->vcpu's MSRs and debug registers that are no fields go into the machine. 0 or negative, VM stopped. */
int vmx_put_machine(struct vmx *s);

#endif
