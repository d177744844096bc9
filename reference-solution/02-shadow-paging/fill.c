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

	// SOLUTION 2.7
	if (guest_translate(v, gva, access, &w)) {
		if (v->vm->stopping)
			return FAULT_STOP;
		s->count.true_faults++;
		raise_page_fault(v, gva, w.error);
		return FAULT_RAISED;
	}
	// STARTER 2.7: a true fault: the guest's own tables forbid it, and the guest is told as its CPU would tell it. Hint:
	// guest_translate() has made the error code, raise_page_fault() sets CR2.
	//	if (guest_translate(v, gva, access, &w))
	//		return v->vm->stopping ? FAULT_STOP
	//				       : lab_todo(v->vm, "2.7", "shadow_fault() in fill.c: give the guest its own page fault");
	// END
	// SOLUTION 2.6
	walk_mark(v, &w, access);
	// END
	// SOLUTION 2.11
	if (!guest_range(&v->vm->mem, w.gpa & ~(PAGE - 1), PAGE)) /* no memory: a device answers, or nobody */
		return FAULT_EMULATE;
	// STARTER 2.11: what lies at w.gpa may be a device and not memory. Hint: such an instruction is carried out by hv,
	// not repeated.
	//	if (!guest_range(&v->vm->mem, w.gpa & ~(PAGE - 1), PAGE))
	//		return lab_todo(v->vm, "2.11", "shadow_fault() in fill.c: addresses that are not memory");
	// END
	// SOLUTION 2.14
	if ((access & ACCESS_WRITE) && shadow_protected(s, w.gpa / PAGE) && !shadow_let_write(v, w.gpa / PAGE))
		return FAULT_EMULATE;
	// STARTER 2.14: with --shadow=cached, a store to one of the guest's page tables must not go unseen. Hint:
	// shadow_protected(), shadow_let_write() in cache.c.
	//	if (s->mode == SHADOW_CACHED && (access & ACCESS_WRITE) && spt_next_of(s, w.gpa / PAGE, NULL))
	//		return lab_todo(v->vm, "2.14", "shadow_fault() in fill.c: a store to a page table of the guest");
	// END
	// SOLUTION 2.6
	s->count.hidden++;
	return shadow_fill(v, gva, &w) ? FAULT_STOP : FAULT_RETRY;
	// STARTER 2.6: a hidden fault: the guest may do this, the shadow does not know it yet. Hint: walk_mark(), then
	// shadow_fill(), and let the guest try again.
	//	return lab_todo(v->vm, "2.6", "shadow_fault() in fill.c: mark the guest's entries, fill the shadow, retry");
	// END
}

uint32_t shadow_mode_role(const struct vcpu *v)
{
	// SOLUTION 2.8
	if (v->cpl == 3)
		return ROLE_USER;
	// STARTER 2.8: a program gets tables of its own, in which the kernel's pages are absent. Hint: v->cpl is the level
	// that the guest believes to be at.
	//	if (v->cpl == 3)
	//		return lab_todo(v->vm, "2.8", "shadow_mode_role() in fill.c: whose rights does the shadow show?"), 0u;
	// END
	// SOLUTION 2.9
	return (v->cr0 & CR0_WP ? ROLE_WP : 0) | (v->cr4 & CR4_SMEP ? ROLE_SMEP : 0) |
	       ((v->cr4 & CR4_SMAP) && !(v->rflags & FLAG_AC) ? ROLE_SMAP : 0);
	// STARTER 2.9: the kernel's rights depend on control registers. Hint: CR0.WP, CR4.SMEP, CR4.SMAP; what SMAP forbids
	// depends on RFLAGS too.
	//	return ROLE_WP;
	// END
}

uint64_t shadow_rights(uint32_t role, bool writable, bool user, bool nx, bool dirty)
{
	uint64_t bits = PTE_U; /* the machine's CPL is always 3 */

	// SOLUTION 2.8
	if ((role & ROLE_USER) && !user)
		return 0;
	// STARTER 2.8: what a program may not touch is absent from its tables. Hint: the machine's own U bit says nothing here.
	// END
	// SOLUTION 2.9
	if ((role & ROLE_SMAP) && user)
		return 0;
	if ((role & ROLE_SMEP) && user)
		nx = true;
	if (!(role & (ROLE_USER | ROLE_WP)))
		writable = true;
	// STARTER 2.9: what the mode of the role changes: WP off lets the kernel write to everything, SMEP and SMAP keep it away
	// from user pages. Hint: ROLE_... in spt.h; 0 means that there must be no entry.
	//	(void)role, (void)user;
	// END
	// SOLUTION 2.10
	/* Only a write sets D, so as long as it is clear the next write must be seen. */
	if (writable && dirty)
		bits |= PTE_W;
	// STARTER 2.10: a page becomes writable in the shadow when the guest's entry is marked as written, not before. Hint:
	// if it were earlier, who would set D?
	//	(void)dirty;
	//	if (writable)
	//		bits |= PTE_W;
	// END
	// SOLUTION 2.6
	return bits | (nx ? PTE_NX : 0);
	// STARTER 2.6: the bits of the shadow's leaf. Hint: all that the machine's CPU checks is in them.
	//	(void)writable, (void)nx, (void)bits;
	//	return 0;
	// END
}

void shadow_child(const struct vcpu *v, const struct spage *p, unsigned level, uint64_t gva, const struct walk *w, uint64_t *key,
		  uint32_t *role)
{
	bool last = level_index(gva, level) == PT_ENTRIES - 1;

	*role = (p->role & ROLE_MODE) | (last && level > 2 ? p->role & ROLE_MONITOR : 0) | (level - 1);
	// SOLUTION 2.6
	if (shadow_of(v)->mode == SHADOW_VTLB) {
		*key = (gva & 0xffffffffffff) / level_size(level);
		return;
	}
	// STARTER 2.6: for --shadow=vtlb: each shadow page stands for a part of the address space. Hint: lab2.h says which key.
	//	(void)v;
	//	*key = 0;
	// END
	// SOLUTION 2.13
	/* A table can be reached in several ways. What the levels above it have taken away goes into the role. */
	uint64_t entry = w->level >= level ? w->at[w->level].entry : w->at[level].entry;
	*role |= p->role & (ROLE_NO_WRITE | ROLE_NO_USER | ROLE_NO_EXEC);
	*role |= (entry & PTE_W ? 0 : ROLE_NO_WRITE) | (entry & PTE_U ? 0 : ROLE_NO_USER) | (entry & PTE_NX ? ROLE_NO_EXEC : 0);
	if (w->level < level) {
		*key = (entry & PTE_ADDR) / PAGE;
	} else { /* the guest's page reaches over the whole entry: what lies below are pieces of it */
		*key = (w->gpa & ~(level_size(level) - 1)) / PAGE;
		*role |= ROLE_DIRECT | (entry & PTE_D ? 0 : ROLE_CLEAN);
	}
	// STARTER 2.13: for --shadow=cached: each shadow page stands for a guest table, or for pieces of a large page. Hint: two
	// ways to one table may differ in their rights, and then need two shadows.
	//	(void)w;
	//	*key = 0;
	//	if (shadow_of(v)->mode == SHADOW_CACHED)
	//		lab_todo(v->vm, "2.13", "shadow_child() in fill.c: what is a shadow page the shadow of, with --shadow=cached?");
	// END
}

int shadow_fill(struct vcpu *v, uint64_t gva, const struct walk *w)
{
	// SOLUTION 2.6
	struct shadow *s = shadow_of(v);
	uint64_t since = s->clock, key;
	struct spage *p = shadow_root(v);
	uint32_t role;

	for (unsigned level = PT_LEVELS; level > 1; level--) {
		unsigned slot = level_index(gva, level);
		struct spage *child = spt_child(s, p, slot);

		shadow_touch(s, p);
		shadow_child(v, p, level, gva, w, &key, &role);
		if (!child || child->key != key || child->role != role) {
			if (child)
				s->flush = true;
			child = shadow_get(v, key, role, since);
			if (!child)
				return -ECANCELED;
			spt_set_table(s, p, slot, child);
		}
		p = child;
	}
	shadow_touch(s, p);
	// STARTER 2.6: go from the root to the page table of gva, making what is missing, and set the leaf. Hint:
	// shadow_child() says what the next page is the shadow of, shadow_get() finds or makes it.
	//	(void)gva, (void)w;
	//	return lab_todo(v->vm, "2.6", "shadow_fill() in fill.c: four levels, made where they are missing");
	// END
	// SOLUTION 2.6
	uint64_t gpa = w->gpa & ~(PAGE - 1), bits = shadow_rights(p->role, w->writable, w->user, w->nx, w->dirty);
	// END
	// SOLUTION 2.12
	if (s->mode == SHADOW_VTLB) {
		if (w->level > p->large)
			p->large = (uint8_t)w->level;
		p->global |= w->global;
		bits |= w->global ? SPTE_GLOBAL : 0;
	}
	// STARTER 2.12: remember what a flush will ask for (--shadow=vtlb). Hint: p->large, p->global and SPTE_GLOBAL in spt.h.
	// END
	// SOLUTION 2.14
	if (shadow_protected(s, gpa / PAGE))
		bits &= ~PTE_W;
	// STARTER 2.14: one of the guest's page tables must not become writable here. Hint: shadow_protected().
	// END
	// SOLUTION 2.6
	if (bits)
		spt_set_leaf(s, p, level_index(gva, 1), gpa, bits);
	return 0;
	// END
}
