/*
 * Page faults of the machine under the trap engine. With flat memory they are a device's, or the guest's own; with shadow paging
 * the lab decides (lab2.h).
 */
#include "memory_access.h"
#include "trap_state.h"

#include <errno.h>

/* The same fault comes back so often only if what was filled in does not allow the access. */
#define SAME_FAULT_MAX 32

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

/* An instruction that hv carries out because of what it accesses. */
static int emulate_access(struct vcpu *v, struct trap_engine *e, uint64_t cr2, unsigned access)
{
	struct shadow *s = v->vm->shadow;
	struct insn insn;
	struct walk w;

	if (access & ACCESS_FETCH) {
		insn_fetch(v, &insn); /* stops the VM: the guest runs where nothing is */
		return v->vm->stopping ? -ECANCELED : 0;
	}
	s->count.emulated++;
	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	if (!memory_can_emulate(&insn) && !guest_translate(v, cr2, access, &w) && w.gpa < v->vm->mem.size) {
		/* A store to a page table by an instruction that hv cannot carry out: without a shadow of that table, the machine can. */
		struct spage *p;
		while ((p = spt_next_of(s, w.gpa / PAGE, NULL)))
			spt_free(s, p);
		s->flush = true;
		e->hidden = true;
		return 0;
	}
	return memory_emulate(v);
}

/* true when the VM had to be stopped because a hidden fault does not go away. */
static bool endless(struct vcpu *v, struct trap_engine *e, uint64_t gva, unsigned access)
{
	bool same = e->last.rip == v->rip && e->last.gva == gva && e->last.access == access;

	e->last.times = same ? e->last.times + 1 : 0;
	e->last.rip = v->rip;
	e->last.gva = gva;
	e->last.access = access;
	if (e->last.times < SAME_FAULT_MAX)
		return false;
	vm_stop(v->vm, HV_STOPPED,
		"the page fault of rip 0x%llx at address 0x%llx (%s, CPL %u) came back %u times after the shadow had been filled: "
		"what is in the shadow does not allow the access, or does not stay there", (unsigned long long)v->rip,
		(unsigned long long)gva, access & ACCESS_WRITE ? "write" : access & ACCESS_FETCH ? "fetch" : "read", v->cpl, e->last.times);
	return true;
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
	switch (shadow_fault(v, cr2, access)) {
	case FAULT_RETRY:
		e->hidden = true;
		trap_note(v, "hidden: the shadow of 0x%llx is filled", (unsigned long long)cr2);
		return endless(v, e, cr2, access) ? -ECANCELED : 0;
	case FAULT_RAISED:
		trap_note(v, "the guest's own: #PF at 0x%llx, error code 0x%x", (unsigned long long)cr2, v->event.error);
		return 0;
	case FAULT_EMULATE:
		e->last.times = 0;
		return emulate_access(v, e, cr2, access);
	default:
		return -ECANCELED;
	}
}
