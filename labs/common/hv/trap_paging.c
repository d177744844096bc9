/*
 * Page faults of the machine under the trap engine. With flat memory they are a device's, or the guest's own; with shadow paging
 * the lab decides (lab2.h).
 */
#include "memory_access.h"
#include "shadow_paging.h"
#include "trap_state.h"

#include <errno.h>

static int flat_fault(struct vcpu *v, uint64_t cr2, uint32_t error)
{
	struct insn insn;
	uint64_t gpa;

	/* An address without RAM is a device's, or nobody's. */
	if (!gva_translate(v, cr2, &gpa) && !(error & PF_I))
		return memory_emulate(v);
	if (!gva_translate(v, cr2, &gpa)) {
		insn_fetch(v, &insn); /* stops the VM: the guest runs where nothing is */
		return -ECANCELED;
	}
	/* The guest's own page fault, as its own tables would have raised it: the page is absent, and what the machine saw as an access
	 * from CPL 3 came from the guest's own level. */
	v->cr2 = cr2;
	error = (error & (PF_W | (v->efer & EFER_NXE ? PF_I : 0))) | (v->cpl == 3 ? PF_U : 0);
	return handle_trap(v, VEC_PF, error);
}

/*
 * With SMAP and without SMEP the kernel may execute a program's page and not read it (SDM vol. 3, 4.6.1). No entry of a page table says
 * that, so no shadow can. true when the guest's kernel wants it.
 */
static bool execute_only(const struct vcpu *v, uint64_t gva, unsigned access)
{
	struct walk w;

	if (access != ACCESS_FETCH || (v->cr4 & (CR4_SMAP | CR4_SMEP)) != CR4_SMAP || (v->rflags & FLAG_AC))
		return false;
	return !guest_translate(v, gva, access, &w) && w.user;
}

int trap_page_fault(struct vcpu *v, struct trap_engine *e, uint32_t error)
{
	uint64_t cr2 = *(uint64_t *)(e->mon + MON_CR2);
	unsigned access = (error & PF_W ? ACCESS_WRITE : 0) | (error & PF_I ? ACCESS_FETCH : 0) | (v->cpl == 3 ? ACCESS_USER : 0);
	struct walk w;

	if (!v->vm->shadow)
		return flat_fault(v, cr2, error);
	if (cr2 >= MONITOR_GVA && !guest_translate(v, cr2, access, &w))
		return vm_stop(v->vm, HV_STOPPED,
			       "the guest maps and uses address 0x%llx, but the last 2 MiB of the address space are the monitor's: "
			       "address-space compression, the trap engine cannot give the guest all of it", (unsigned long long)cr2);
	if (execute_only(v, cr2, access))
		return vm_stop(v->vm, HV_STOPPED,
			       "the guest's kernel executes 0x%llx, a program's page, with SMAP on and SMEP off: it may be executed and "
			       "not read, and page tables have no such pages", (unsigned long long)cr2);
	switch (shadow_resolve(v, cr2, access)) {
	case FAULT_RETRY:
		e->hidden = true;
		return 0;
	case FAULT_RAISED:
		return 0;
	case FAULT_EMULATE:
		if (shadow_emulate(v, cr2, access))
			return -ECANCELED;
		e->hidden = v->vm->shadow->store.armed;
		return 0;
	default:
		return -ECANCELED;
	}
}
