/*
 * Protection checks of 64-bit mode: what the CPU verifies before it lets an instruction have a port, a segment or an MSR value.
 * All checks use the guest's own level (v->cpl) and the guest's own tables.
 */
#ifndef HV_PROTECT_H
#define HV_PROTECT_H

#include "decode.h"
#include "gva.h"
#include "vcpu.h"

/*
 * May the guest use size ports from port on? At CPL <= IOPL always; else the I/O permission map in its TSS decides: one bit a
 * port, all must be clear. false: the exception is queued. (SDM vol. 1, 19.5.2)
 */
bool port_allowed(struct vcpu *v, uint16_t port, unsigned size);

/* Loads ES, SS, DS, FS or GS: type, privilege, present, in this order; marks the descriptor accessed; a load of SS begins an
 * interrupt shadow. false: nothing was loaded, the exception is queued. (SDM vol. 2, MOV; vol. 3, 5.6) */
bool load_data_segment(struct vcpu *v, unsigned sreg, uint16_t selector);

/* Loads SS for a return to level v->cpl: as load_data_segment(), but without the shadow, and below CPL 3 a null selector may have
 * any RPL. (APM vol. 3, IRET; vol. 2, 4.10.5) */
bool load_return_stack(struct vcpu *v, uint16_t selector);

/* The CPU marks a descriptor that it loads into a segment register as accessed, in the table. false: the write faulted, which is
 * queued. (SDM vol. 3, 3.4.5.1) */
bool mark_accessed(struct vcpu *v, struct descriptor *d);

/* Loads CS for a far transfer that stays at the guest's level, and sets v->rip. false: nothing changed, an exception is queued
 * or the VM is stopped (32-bit code). (SDM vol. 2, JMP, CALL, RET; vol. 3, 5.8) */
bool load_code_segment(struct vcpu *v, uint16_t selector, uint64_t rip);

/* Far jumps, calls and returns, an outer level included: an enum emu (lab1.h). */
int far_transfer(struct vcpu *v, const struct insn *insn);

/* Would wrmsr take this value? Addresses must be canonical, the PAT must hold memory types that exist. (SDM vol. 4, table 2-2) */
bool msr_value_valid(uint32_t index, uint64_t value);

#endif
