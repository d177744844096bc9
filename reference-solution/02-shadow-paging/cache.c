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

// SOLUTION 2.13
/* Sets the leaf of one slot from what the guest's entry says now. Only where the guest has used it: or who would set A? */
static void load_leaf(struct vcpu *v, struct spage *p, unsigned slot)
{
	struct shadow *s = shadow_of(v);
	uint64_t entry, gpa, bits;

	if (p->role & ROLE_DIRECT) {
		gpa = (p->key + slot) * PAGE;
		entry = PTE_W | PTE_U | (p->role & ROLE_CLEAN ? 0 : PTE_D);
	} else {
		if (guest_read(&v->vm->mem, p->key * PAGE + slot * 8, &entry, 8))
			return;
		gpa = entry & PTE_ADDR;
		if (!(entry & PTE_P) || !(entry & PTE_A) || gpa >> maxphyaddr(v) || (entry & PTE_NX && !(v->efer & EFER_NXE)))
			return;
	}
	if (gpa / PAGE >= s->ngfns)
		return;
	bits = shadow_rights(p->role, (entry & PTE_W) && !(p->role & ROLE_NO_WRITE), (entry & PTE_U) && !(p->role & ROLE_NO_USER),
			     (entry & PTE_NX) || (p->role & ROLE_NO_EXEC), entry & PTE_D);
	if (shadow_protected(s, gpa / PAGE))
		bits &= ~PTE_W;
	if (bits)
		spt_set_leaf(s, p, slot, gpa, bits);
}
// END

void shadow_made(struct vcpu *v, struct spage *p)
{
	struct shadow *s = shadow_of(v);

	// SOLUTION 2.14
	if (!(p->role & ROLE_DIRECT)) {
		/* From now on stores to the table must be seen. Another shadow of it may be out of step: bring it back first. */
		for (struct spage *other = spt_next_of(s, p->key, NULL); other; other = spt_next_of(s, p->key, other))
			if (other->unsync) {
				shadow_sync_all(v);
				break;
			}
		if (spt_write_protect(s, p->key))
			s->flush = true;
	}
	// STARTER 2.14: from now on stores to the guest table p->key must fault. Hint: spt_write_protect(); the machine's
	// TLB; and what if another shadow of the same table is not synchronized?
	//	(void)s;
	// END
	// SOLUTION 2.13
	if (role_level(p->role) == 1)
		for (unsigned slot = 0; slot < PT_ENTRIES; slot++)
			load_leaf(v, p, slot);
	// STARTER 2.13: fill in at once what the guest has used before. Hint: an entry with A set has been used; its rights
	// are what the levels above left of them (p->role) and what shadow_rights() makes of that. With ROLE_DIRECT there is
	// no table: p->key + slot is the page.
	//	if (role_level(p->role) == 1)
	//		lab_todo(v->vm, "2.13", "shadow_made() in cache.c: fill a new page table from the guest's");
	// END
}

bool shadow_protected(struct shadow *s, uint64_t gfn)
{
	// SOLUTION 2.14
	if (s->mode == SHADOW_CACHED)
		for (struct spage *p = spt_next_of(s, gfn, NULL); p; p = spt_next_of(s, gfn, p))
			if (!p->unsync)
				return true;
	// STARTER 2.14: true for a guest page of which there is a shadow that relies on it. Hint: spt_next_of(); with
	// --shadow=vtlb a key is no gfn.
	//	(void)s, (void)gfn;
	// END
	return false;
}

bool shadow_let_write(struct vcpu *v, uint64_t gfn)
{
	// SOLUTION 2.16
	struct shadow *s = shadow_of(v);

	for (struct spage *p = spt_next_of(s, gfn, NULL); p; p = spt_next_of(s, gfn, p))
		if (role_level(p->role) > 1)
			return false;
	for (struct spage *p = spt_next_of(s, gfn, NULL); p; p = spt_next_of(s, gfn, p))
		if (!p->unsync) {
			p->unsync = true;
			s->nunsync++;
			s->count.unsync++;
		}
	return true;
	// STARTER 2.16: a table of the last level may be written freely until the next flush. Hint: p->unsync, s->nunsync; a
	// guest page can be a table of several levels at once.
	//	(void)v, (void)gfn;
	//	return false;
	// END
}

// SOLUTION 2.14
/* So many stores to a table that nobody used in between: it is probably no table any more. */
#define STORES_MAX 3
// END

void shadow_written(struct vcpu *v, uint64_t gpa, uint64_t len)
{
	struct shadow *s = shadow_of(v);

	if (s->mode != SHADOW_CACHED || !len)
		return;
	// SOLUTION 2.14
	for (uint64_t at = gpa & ~7ull; at < gpa + len; at += 8) {
		struct spage *p = spt_next_of(s, at / PAGE, NULL), *next;

		for (; p; p = next) {
			next = spt_next_of(s, at / PAGE, p);
			if (p->unsync) /* that is what synchronizing is for */
				continue;
			s->flush |= spt_clear(s, p, at / 8 % PT_ENTRIES);
			if (++p->writes > STORES_MAX && p != s->root) {
				spt_free(s, p);
				s->count.zapped++;
				s->flush = true;
			}
		}
	}
	// STARTER 2.14: what the shadows of this table know about these entries is no longer true. Hint: spt_clear(), and the
	// machine's TLB. A table that is written again and again without being used is probably no table any more: spt_free().
	//	(void)gpa;
	// END
}

// SOLUTION 2.16
/* Compares every leaf with the guest's entry as it is now, and protects the table again. */
static void sync(struct vcpu *v, struct spage *p)
{
	struct shadow *s = shadow_of(v);

	p->unsync = false;
	s->nunsync--;
	s->count.synced++;
	for (unsigned slot = 0; slot < PT_ENTRIES; slot++)
		if (spt_clear(s, p, slot))
			load_leaf(v, p, slot);
	spt_write_protect(s, p->key);
	s->flush = true;
}
// END

void shadow_sync_all(struct vcpu *v)
{
	// SOLUTION 2.16
	struct shadow *s = shadow_of(v);

	for (unsigned i = 0; i < s->npages && s->nunsync; i++) {
		struct spage *p = &s->pages[i];
		if (!p->used || !p->unsync)
			continue;
		sync(v, p);
		if (!p->entries) /* nothing is left of it: the guest has other plans with that page */
			spt_free(s, p);
	}
	// STARTER 2.16: every table that the guest was allowed to write is compared with its shadow, and protected again.
	// Hint: what had a leaf gets the leaf that the guest's entry asks for now, or none.
	//	(void)v;
	// END
}
