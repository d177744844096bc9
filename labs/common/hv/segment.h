/*
 * Segmentation in the modes that have it: real mode, protected mode, compatibility mode (SDM vol. 3, 3.2 to 3.4 and 5.3; 20.1 for
 * real mode). In 64-bit mode a linear address is the offset, but for the bases of FS and GS.
 */
#ifndef HV_SEGMENT_H
#define HV_SEGMENT_H

#include "decode.h"
#include "vcpu.h"
#include "vm.h"

/*
 * Which code the guest's CPU runs now: 16, 32 or 64. The hidden part of CS decides in every mode: L counts in long mode only, and D is 0
 * in virtual-8086 mode and behind a reset. It also is what decides between a change of CR0.PE and the far jump behind it. The trap
 * engine has 64-bit code only, whatever its guest puts into CS.
 */
static inline unsigned insn_mode(const struct vcpu *v)
{
	if (!v->vm->all_modes || ((v->efer & EFER_LMA) && (v->seg[CS].attr & SEG_L)))
		return 64;
	return v->seg[CS].attr & SEG_DB ? 32 : 16;
}

/* The linear address of the instruction at v->rip. The CPU has fetched it and so checked the limit of CS. */
static inline uint64_t insn_gva(const struct vcpu *v)
{
	return insn_mode(v) == 64 ? v->rip : (uint32_t)(v->seg[CS].base + v->rip);
}

/* rip of the next instruction. Outside 64-bit mode the upper half of rip does not exist, and VM entries check that (SDM vol. 3,
 * 26.3.1.4). */
static inline uint64_t insn_next(const struct vcpu *v, const struct insn *insn)
{
	return insn->mode == 64 ? v->rip + insn->len : (uint32_t)(v->rip + insn->len);
}

/* Bytes of the stack pointer: 8 in 64-bit mode, else what B of SS says (SDM vol. 3, 6.2.3). */
static inline unsigned stack_width(const struct vcpu *v)
{
	return insn_mode(v) == 64 ? 8 : v->seg[SS].attr & SEG_DB ? 4 : 2;
}

/*
 * The linear address of len bytes at an offset in a segment. false: #GP, or #SS for the stack's segment, is queued, because the segment
 * is null, they are not all within its limit, or its type forbids to read or write. In 64-bit mode there are no such checks; an address
 * that is not canonical is found by the access itself.
 */
bool segment_gva(struct vcpu *v, unsigned sreg, uint64_t offset, unsigned len, bool write, uint64_t *gva);

#endif
