#include "shadow_paging.h"
#include "memory_access.h"

/* The same fault comes back so often only if what was filled in does not allow the access. */
#define SAME_FAULT_MAX 32

/* true when the VM had to be stopped because a hidden fault does not go away. */
static bool endless(struct vcpu *v, uint64_t gva, unsigned access)
{
	struct shadow *s = shadow_of(v);
	bool same = s->last.rip == v->rip && s->last.gva == gva && s->last.access == access;

	s->last.times = same ? s->last.times + 1 : 0;
	s->last.rip = v->rip;
	s->last.gva = gva;
	s->last.access = access;
	if (s->last.times < SAME_FAULT_MAX)
		return false;
	vm_stop(v->vm, HV_STOPPED,
		"the page fault of rip 0x%llx at address 0x%llx (%s, CPL %u) came back %u times after the shadow had been filled: "
		"what is in the shadow does not allow the access, or does not stay there", (unsigned long long)v->rip,
		(unsigned long long)gva, access & ACCESS_WRITE ? "write" : access & ACCESS_FETCH ? "fetch" : "read", v->cpl, s->last.times);
	return true;
}

enum fault_action shadow_resolve(struct vcpu *v, uint64_t gva, unsigned access)
{
	enum fault_action action = shadow_fault(v, gva, access);

	switch (action) {
	case FAULT_RETRY:
		trap_note(v, "hidden: the shadow of 0x%llx is filled", (unsigned long long)gva);
		return endless(v, gva, access) ? FAULT_STOP : FAULT_RETRY;
	case FAULT_RAISED:
		trap_note(v, "the guest's own: #PF at 0x%llx, error code 0x%x", (unsigned long long)gva, v->event.error);
		return FAULT_RAISED;
	case FAULT_EMULATE:
		shadow_of(v)->last.times = 0;
		return FAULT_EMULATE;
	default:
		return FAULT_STOP;
	}
}

/*
 * A store to a page table by an instruction that hv cannot carry out (a call, an SSE move). The machine can, so for this one
 * instruction it may write the page: TF brings it back behind that, and then nothing counts any more that was known of the table.
 * Dropping the table's shadows is not enough where the instruction's own address is translated by it: they would be made again first.
 */
static int step_store(struct vcpu *v, uint64_t gva, const struct walk *w)
{
	struct shadow *s = shadow_of(v);

	if (s->store.rip != v->rip)
		s->store.times = 0;
	if (s->store.times++ == SAME_FAULT_MAX) /* it may need two such pages at a time: the VM is stopped, and the sentence names it */
		return memory_emulate(v);
	if (shadow_fill(v, gva, w))
		return -ECANCELED;
	uint64_t *leaf = spt_leaf(s, s->root, gva);
	if (leaf)
		*leaf |= PTE_W;
	s->flush = true;
	s->store.armed = true;
	s->store.gfn = w->gpa / PAGE;
	s->store.rip = v->rip;
	return 0;
}

void shadow_store_over(struct vcpu *v)
{
	struct shadow *s = shadow_of(v);

	if (!s || !s->store.armed)
		return;
	s->store.armed = false;
	spt_write_protect(s, s->store.gfn);
	s->flush = true;
	shadow_written(v, s->store.gfn * PAGE, PAGE);
}

int shadow_emulate(struct vcpu *v, uint64_t gva, unsigned access)
{
	struct insn insn;
	struct walk w;

	if (access & ACCESS_FETCH) {
		insn_fetch(v, &insn); /* stops the VM: the guest runs where nothing is */
		return v->vm->stopping ? -ECANCELED : 0;
	}
	shadow_of(v)->count.emulated++;
	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	if (!memory_can_emulate(&insn) && !guest_translate(v, gva, access, &w) && w.gpa < v->vm->mem.size)
		return step_store(v, gva, &w);
	return memory_emulate(v);
}
