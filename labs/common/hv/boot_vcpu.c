#include "lapic.h"
#include "loader.h"
#include "vcpu.h"

/* Segments as each mode begins with them: accessed bits set, as a CPU that loaded them would have (SDM vol. 3, 3.4.5 and 9.1). */
static void boot_segments(struct vcpu *v, const struct boot_state *boot)
{
	struct segment data = { .selector = BOOT_DS, .attr = 0xc093, .limit = ~0u };
	struct segment code = { .selector = BOOT_CS, .attr = 0xa09b, .limit = ~0u };

	if (boot->mode == BOOT_PROTECTED) {
		code.selector = BOOT_CS32;
		code.attr = 0xc09b;
	} else if (boot->mode == BOOT_REAL) {
		data = (struct segment){ .attr = 0x93, .limit = 0xffff };
		code = (struct segment){ .attr = 0x9b, .limit = 0xffff };
	}
	for (unsigned i = 0; i < 6; i++)
		v->seg[i] = data;
	v->seg[CS] = code;
	v->tr = (struct segment){ .attr = 0x8b, .limit = boot->mode == BOOT_PROTECTED ? 0x67 : 0xffff }; /* PVH wants 0x67 */
	v->ldtr = (struct segment){ .attr = 0x82, .limit = 0xffff };
	if (boot->mode == BOOT_REAL) {
		v->gdtr = (struct dtable){ 0, 0xffff };
		v->idtr = (struct dtable){ 0, BOOT_IVT_LIMIT };
	} else {
		v->gdtr = (struct dtable){ BOOT_GDT, BOOT_GDT_LIMIT };
	}
}

void boot_vcpu(struct vcpu *v, const struct boot_state *boot)
{
	struct vm *vm = v->vm;

	*v = (struct vcpu){ .vm = vm, .rip = boot->entry, .rflags = FLAG_FIXED };
	v->gpr[RSP] = boot->mode == BOOT_REAL ? BOOT_SECTOR : BOOT_STACK;
	v->gpr[RAX] = boot->rax;
	v->gpr[RSI] = boot->rsi;
	v->gpr[RBX] = boot->rbx;
	v->gpr[RDX] = boot->rdx;
	boot_segments(v, boot);
	switch (boot->mode) {
	case BOOT_REAL: v->cr0 = CR0_ET; break;
	case BOOT_PROTECTED: v->cr0 = CR0_PE | CR0_ET; break;
	case BOOT_LONG:
		v->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
		v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
		v->cr3 = BOOT_PML4;
		v->efer = EFER_LME | EFER_LMA;
		break;
	}
	/* What else a reset leaves (SDM vol. 3, table 9-1). */
	v->dr[6] = 0xffff0ff0;
	v->dr[7] = 0x400;
	v->msr.pat = 0x0007040600070406;
	v->msr.misc_enable = 1;
	v->msr.apic_base = LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP;
}
