/*
 * Control, debug and model-specific registers by number: where the guest's copy of each lives, and which values a CPU takes.
 */
#ifndef HV_REGISTERS_H
#define HV_REGISTERS_H

#include "vcpu.h"

/* The guest's control register n; NULL when there is none of this number. */
uint64_t *cr_register(struct vcpu *v, unsigned n);

/* Would a mov to control register n take this value, at CPL 0 in the guest's present mode? What it refuses is #GP(0): reserved bits, paging
 * without protection, features that this CPU does not have, leaving 64-bit mode. (SDM vol. 3, 2.5 and 9.8.5.4; APM vol. 2, 3.1) */
bool cr_value_valid(const struct vcpu *v, unsigned n, uint64_t value);

/* What debug register n holds after this value was written: DR6 and DR7 have bits that always read as one or as zero;
 * values above 32 bits, which a mov to these two refuses with #GP(0), are the caller's affair.
 * (SDM vol. 3, figure 17-1) */
uint64_t dr_value(unsigned n, uint64_t value);

/* The guest's MSR; NULL when this CPU has none of that number, and for the time stamp counter, which the machine has. */
uint64_t *msr_register(struct vcpu *v, uint32_t index);

/* Would wrmsr take this value? Addresses must be canonical, the PAT must hold memory types that exist, and EFER may change in the bits
 * that this CPU has, though not leave long mode. (SDM vol. 4, table 2-2; APM vol. 2, 3.1.7) */
bool msr_value_valid(const struct vcpu *v, uint32_t index, uint64_t value);

#endif
