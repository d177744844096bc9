/*
 * Lab 2, checkpoints 2.6 to 2.9 and 2.11: from a page fault of the machine to an entry in the shadow, or to a fault of the guest's.
 *
 * The shadow starts empty, so everything that the guest touches faults. The guest's own tables decide what that means: if they
 * forbid the access, the guest gets its fault; if they allow it, only the shadow was behind, and one entry is filled in.
 *
 * Guest kernel and guest programs both run at CPL 3, so the U bit cannot keep them apart: each has a root of its own.
 */
#include "lab2.h"

enum fault_action shadow_fault(struct vcpu *v, uint64_t gva, unsigned access)
{
	struct shadow *s = shadow_of(v);
	struct walk w;

	// TODO 2.7: a true fault: the guest's own tables forbid it, and the guest is told as its CPU would tell it.
	// Hint: guest_translate() has made the error code, raise_page_fault() sets CR2.
	if (guest_translate(v, gva, access, &w))
		return v->vm->stopping ? FAULT_STOP
				       : lab_todo(v->vm, "2.7", "shadow_fault() in fill.c: give the guest its own page fault");
	// TODO 2.11: what lies at w.gpa may be a device and not memory. Hint: such an instruction is carried out by hv,
	// not repeated.
	if (!guest_range(&v->vm->mem, w.gpa & ~(PAGE - 1), PAGE))
		return lab_todo(v->vm, "2.11", "shadow_fault() in fill.c: addresses that are not memory");
	// TODO 2.14: with --shadow=cached, a store to one of the guest's page tables must not go unseen. Hint:
	// shadow_protected(), shadow_let_write() in cache.c.
	if (s->mode == SHADOW_CACHED && (access & ACCESS_WRITE) && spt_next_of(s, w.gpa / PAGE, NULL))
		return lab_todo(v->vm, "2.14", "shadow_fault() in fill.c: a store to a page table of the guest");
	// TODO 2.6: a hidden fault: the guest may do this, the shadow does not know it yet. Hint: walk_mark(), then
	// shadow_fill(), and let the guest try again.
	return lab_todo(v->vm, "2.6", "shadow_fault() in fill.c: mark the guest's entries, fill the shadow, retry");
}

uint32_t shadow_mode_role(const struct vcpu *v)
{
	// TODO 2.8: a program gets tables of its own, in which the kernel's pages are absent. Hint: v->cpl is the level
	// that the guest believes to be at.
	if (v->cpl == 3)
		return lab_todo(v->vm, "2.8", "shadow_mode_role() in fill.c: whose rights does the shadow show?"), 0u;
	// TODO 2.9: the kernel's rights depend on control registers. Hint: CR0.WP, CR4.SMEP, CR4.SMAP; what SMAP
	// forbids depends on RFLAGS too.
	return ROLE_WP;
}

uint64_t shadow_rights(uint32_t role, bool writable, bool user, bool nx, bool dirty)
{
	uint64_t bits = PTE_U; /* the machine's CPL is always 3 */

	// TODO 2.8: what a program may not touch is absent from its tables. Hint: the machine's own U bit says nothing
	// here.
	// TODO 2.9: what the mode of the role changes: WP off lets the kernel write to everything, SMEP and SMAP keep
	// it away from user pages. Hint: ROLE_... in spt.h; 0 means that there must be no entry.
	(void)role, (void)user;
	// TODO 2.10: a page becomes writable in the shadow when the guest's entry is marked as written, not before.
	// Hint: if it were earlier, who would set D?
	(void)dirty;
	if (writable)
		bits |= PTE_W;
	// TODO 2.6: the bits of the shadow's leaf. Hint: all that the machine's CPU checks is in them.
	(void)writable, (void)nx, (void)bits;
	return 0;
}

void shadow_child(const struct vcpu *v, const struct spage *p, unsigned level, uint64_t gva, const struct walk *w, uint64_t *key,
		  uint32_t *role)
{
	bool last = level_index(gva, level) == PT_ENTRIES - 1;

	*role = (p->role & ROLE_MODE) | (last && level > 2 ? p->role & ROLE_MONITOR : 0) | (level - 1);
	// TODO 2.6: for --shadow=vtlb: each shadow page stands for a part of the address space. Hint: lab2.h says which
	// key.
	(void)v;
	*key = 0;
	// TODO 2.13: for --shadow=cached: each shadow page stands for a guest table, or for pieces of a large page.
	// Hint: two ways to one table may differ in their rights, and then need two shadows.
	(void)w;
	*key = 0;
	if (shadow_of(v)->mode == SHADOW_CACHED)
		lab_todo(v->vm, "2.13", "shadow_child() in fill.c: what is a shadow page the shadow of, with --shadow=cached?");
}

int shadow_fill(struct vcpu *v, uint64_t gva, const struct walk *w)
{
	// TODO 2.6: go from the root to the page table of gva, making what is missing, and set the leaf. Hint:
	// shadow_child() says what the next page is the shadow of, shadow_get() finds or makes it.
	(void)gva, (void)w;
	return lab_todo(v->vm, "2.6", "shadow_fill() in fill.c: four levels, made where they are missing");
	// TODO 2.12: remember what a flush will ask for (--shadow=vtlb). Hint: p->large, p->global and SPTE_GLOBAL in
	// spt.h.
	// TODO 2.14: one of the guest's page tables must not become writable here. Hint: shadow_protected().
}
