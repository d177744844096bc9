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

/*
 * A store to a page table by an instruction that hv cannot carry out (a call, an SSE move). The machine can, so for this one
 * instruction it may write the page: TF brings it back behind that, and then nothing counts any more that was known of the table.
 * Dropping the table's shadows is not enough where the instruction's own address is translated by it: they would be made again first.
 */
static int step_store(struct vcpu *v, struct trap_engine *e, uint64_t gva, const struct walk *w)
{
	struct shadow *s = v->vm->shadow;

	if (e->store.rip != v->rip)
		e->store.times = 0;
	if (e->store.times++ == SAME_FAULT_MAX) /* it may need two such pages at a time: the VM is stopped, and the sentence names it */
		return memory_emulate(v);
	if (shadow_fill(v, gva, w))
		return -ECANCELED;
	struct spage *p = s->root;
	for (unsigned level = PT_LEVELS; p && level > 1; level--)
		p = spt_child(s, p, level_index(gva, level));
	if (p && spt_present(s, p, level_index(gva, 1)))
		p->table[level_index(gva, 1)] |= PTE_W;
	s->flush = true;
	e->store.armed = e->hidden = true;
	e->store.gfn = w->gpa / PAGE;
	e->store.rip = v->rip;
	return 0;
}

void trap_store_over(struct vcpu *v, struct trap_engine *e)
{
	struct shadow *s = v->vm->shadow;

	if (!e->store.armed)
		return;
	e->store.armed = false;
	spt_write_protect(s, e->store.gfn);
	s->flush = true;
	shadow_written(v, e->store.gfn * PAGE, PAGE);
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
	if (!memory_can_emulate(&insn) && !guest_translate(v, cr2, access, &w) && w.gpa < v->vm->mem.size)
		return step_store(v, e, cr2, &w);
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
