/*
 * What both engines do with a page fault under shadow paging, around the lab's shadow_fault(): an end to faults that come back for ever,
 * and instructions that hv carries out because of the memory that they access.
 */
#ifndef HV_SHADOW_PAGING_H
#define HV_SHADOW_PAGING_H

#include "lab2.h"

/* shadow_fault() with a note for --trace; FAULT_STOP also when a hidden fault does not go away. */
enum fault_action shadow_resolve(struct vcpu *v, uint64_t gva, unsigned access);

/*
 * FAULT_EMULATE: hv carries the instruction at rip out. One that it cannot carry out and that stores to a page of tables is left to the
 * machine: then s->store.armed is set, nothing has happened yet for the guest, and the engine runs one instruction of it (TF). 0 or
 * negative, VM stopped.
 */
int shadow_emulate(struct vcpu *v, uint64_t gva, unsigned access);

/* The machine is back from the guest. If it was let store to a page of tables, that is over. */
void shadow_store_over(struct vcpu *v);

#endif
