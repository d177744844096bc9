#include "registers.h"
#include "gva.h"
#include "lapic.h"
#include "segment.h"
#include "trapengine.h"
#include "vm.h"

uint64_t *cr_register(struct vcpu *v, unsigned n)
{
	switch (n) {
	case 0: return &v->cr0;
	case 2: return &v->cr2;
	case 3: return &v->cr3;
	case 4: return &v->cr4;
	case 8: return &v->cr8;
	default: return NULL;
	}
}

bool cr_value_valid(const struct vcpu *v, unsigned n, uint64_t value)
{
	switch (n) {
	case 0: /* PG cannot go while CS is a 64-bit segment, PE not while PG is there, and long mode needs PAE (SDM vol. 3, 4.1.2) */
		if ((value >> 32) || ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
			return false;
		if (!(value & CR0_PG))
			return insn_mode(v) != 64;
		return (v->cr0 & CR0_PG) || !(v->efer & EFER_LME) || (v->cr4 & CR4_PAE);
	case 3:
		return !(value >> (v->vm->shadow || v->vm->all_modes ? v->vm->phys_bits : 52));
	case 4:
		return !(value & ~trap_cr4_allowed(v)) && ((value & CR4_PAE) || !(v->efer & EFER_LMA));
	case 8:
		return !(value >> 4);
	default:
		return true;
	}
}

uint64_t dr_value(unsigned n, uint64_t value)
{
	switch (n) {
	case 6: return (value & 0xe00f) | 0xffff0ff0;
	case 7: return (value & 0xffff2bff) | 0x400;
	default: return value;
	}
}

uint64_t *msr_register(struct vcpu *v, uint32_t index)
{
	switch (index) {
	case MSR_EFER: return &v->efer;
	case MSR_STAR: return &v->msr.star;
	case MSR_LSTAR: return &v->msr.lstar;
	case MSR_CSTAR: return &v->msr.cstar;
	case MSR_SFMASK: return &v->msr.sfmask;
	case MSR_KERNEL_GS_BASE: return &v->msr.kernel_gs_base;
	case MSR_FS_BASE: return &v->seg[FS].base;
	case MSR_GS_BASE: return &v->seg[GS].base;
	case MSR_SYSENTER_CS: return &v->msr.sysenter_cs;
	case MSR_SYSENTER_ESP: return &v->msr.sysenter_esp;
	case MSR_SYSENTER_EIP: return &v->msr.sysenter_eip;
	case MSR_PAT: return &v->msr.pat;
	case MSR_APIC_BASE: return &v->msr.apic_base;
	case MSR_MISC_ENABLE: return &v->msr.misc_enable;
	default: return NULL;
	}
}

/* Each of the eight bytes of the PAT is a memory type that exists (SDM vol. 3, 11.12.2). */
static bool pat_valid(uint64_t pat)
{
	for (unsigned i = 0; i < 8; i++, pat >>= 8)
		if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
			return false;
	return true;
}

bool msr_value_valid(const struct vcpu *v, uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_EFER:
		return !(value & ~(uint64_t)TRAP_EFER_ALLOWED) && (!((value ^ v->efer) & EFER_LME) || !(v->cr0 & CR0_PG));
	case MSR_PAT:
		return pat_valid(value);
	case MSR_APIC_BASE:
		return lapic_base_valid(value);
	case MSR_LSTAR: case MSR_CSTAR: case MSR_FS_BASE: case MSR_GS_BASE: case MSR_KERNEL_GS_BASE:
	case MSR_SYSENTER_ESP: case MSR_SYSENTER_EIP:
		return canonical(value);
	default:
		return true;
	}
}
