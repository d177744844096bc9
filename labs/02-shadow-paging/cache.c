/*
 * Lab 2, checkpoints 2.13, 2.14 and 2.16: shadows that outlive a flush.
 *
 * A virtual TLB forgets everything whenever the guest switches its address space. To keep shadows, hv must know when the guest's
 * tables change. So the pages that hold them are write-protected in the shadow, and a store to one faults. Two answers to that
 * fault: upper levels change rarely, and the store is emulated; a page table of the last level changes often and in bulk, so it is
 * let go: the guest may write it freely, and its shadow is synchronized at the guest's next flush, before which the guest cannot
 * rely on the change.
 */
#include "lab2.h"

void shadow_made(struct vcpu *v, struct spage *p)
{
	struct shadow *s = shadow_of(v);

	// TODO 2.14: from now on stores to the guest table p->key must fault. Hint: spt_write_protect(); the machine's
	// TLB; and what if another shadow of the same table is not synchronized?
	(void)s;
	// TODO 2.13: fill in at once what the guest has used before. Hint: an entry with A set has been used; its
	// rights are what the levels above left of them (p->role) and what shadow_rights() makes of that. With
	// ROLE_DIRECT there is no table: p->key + slot is the page.
	if (role_level(p->role) == 1)
		lab_todo(v->vm, "2.13", "shadow_made() in cache.c: fill a new page table from the guest's");
}

bool shadow_protected(struct shadow *s, uint64_t gfn)
{
	// TODO 2.14: true for a guest page of which there is a shadow that relies on it. Hint: spt_next_of(); with
	// --shadow=vtlb a key is no gfn.
	(void)s, (void)gfn;
	return false;
}

bool shadow_let_write(struct vcpu *v, uint64_t gfn)
{
	// TODO 2.16: a table of the last level may be written freely until the next flush. Hint: p->unsync, s->nunsync;
	// a guest page can be a table of several levels at once.
	(void)v, (void)gfn;
	return false;
}

void shadow_written(struct vcpu *v, uint64_t gpa, uint64_t len)
{
	struct shadow *s = shadow_of(v);

	if (s->mode != SHADOW_CACHED || !len)
		return;
	// TODO 2.14: what the shadows of this table know about these entries is no longer true. Hint: spt_clear(), and
	// the machine's TLB. A table that is written again and again without being used is probably no table any more:
	// spt_free().
	(void)gpa;
}

void shadow_sync_all(struct vcpu *v)
{
	// TODO 2.16: every table that the guest was allowed to write is compared with its shadow, and protected again.
	// Hint: what had a leaf gets the leaf that the guest's entry asks for now, or none.
	(void)v;
}
