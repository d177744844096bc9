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

/* The CPU marks a descriptor that it loads into a segment register as accessed, in the table. false: the write faulted, which is
 * queued. (SDM vol. 3, 3.4.5.1) */
bool mark_accessed(struct vcpu *v, struct descriptor *d);

/*
 * Returns to the level that cs's RPL names, the present or an outer one: CS and rip, and with ss (not NULL) SS too, are checked as that
 * level would load them, and loaded; v->cpl becomes that level, and data segments that the outer level may not have become null.
 * RSP and RFLAGS are the caller's. false: nothing changed; an exception is queued, or the VM is stopped (32-bit code).
 * (SDM vol. 2, IRET and RET; vol. 3, 5.8; APM vol. 2, 4.10.5)
 */
bool return_to(struct vcpu *v, uint16_t cs, uint64_t rip, const uint16_t *ss);

/* The types of system descriptors in 64-bit mode (SDM vol. 3, table 3-2). */
#define SEG_LDT 2
#define SEG_TSS 9
/* Reads the descriptor of an LDT or of an available TSS: in the GDT, of this type, present, in this order. false: the exception is
 * queued, with the selector as its error code. (SDM vol. 2, LLDT, LTR) */
bool system_descriptor_read(struct vcpu *v, uint16_t selector, unsigned type, struct descriptor *d);

/* Far jumps, calls and returns, an outer level included: an enum emu (lab1.h). */
int far_transfer(struct vcpu *v, const struct insn *insn);

#endif
