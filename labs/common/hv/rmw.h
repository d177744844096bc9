/*
 * Instructions that read, modify and write memory, and those that calculate with a memory operand or compare with it: what
 * kernels use on page-table entries, besides moves.
 */
#ifndef HV_RMW_H
#define HV_RMW_H

#include "decode.h"
#include "vcpu.h"

/*
 * Emulates an instruction from INSN_ADD to INSN_POP; stepping over it is the caller's. false: an access faulted, its exception is
 * queued in v->event, and no register, no flag and no byte of memory has changed.
 *
 * What writes memory asks for a write before it reads: its page fault is a write's (SDM vol. 3, 4.7), and a page that it marks, it
 * marks as written (4.8). LOCK changes nothing here: the guest has one CPU, and no other instruction of it runs at this time.
 * Flags that the manual calls undefined become what the CPU that hv runs on makes of them.
 */
bool rmw_emulate(struct vcpu *v, const struct insn *insn);

#endif
