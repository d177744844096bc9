/*
 * Lab 2, checkpoints 2.6, 2.12 and 2.13: when the guest flushes.
 *
 * To the guest the shadow is a TLB: it may hold old translations until the guest flushes them, and not a moment longer. With
 * --shadow=vtlb it is one, and a flush empties it. With --shadow=cached it outlives the flush, because nothing can have become old in it
 * but the tables that the guest was allowed to write.
 */
#include "lab2.h"

struct spage *shadow_root(struct vcpu *v)
{
	struct shadow *s = shadow_of(v);
	uint32_t role = shadow_mode_role(v) | ROLE_MONITOR | PT_LEVELS;
	uint64_t key = s->mode == SHADOW_CACHED ? (v->cr3 & PTE_ADDR) / PAGE : 0;

	if (!s->root || s->root->key != key || s->root->role != role) {
		s->root = NULL; /* it may be evicted now */
		s->root = shadow_get(v, key, role, s->clock);
		s->count.roots++;
	}
	return s->root;
}

// SOLUTION 2.12
/* Frees every shadow page. */
static void free_all(struct shadow *s)
{
	for (unsigned i = 0; i < s->npages; i++)
		if (s->pages[i].used)
			spt_free(s, &s->pages[i]);
	s->flush = true;
}

/* vtlb: drops all leaves whose pages are not global. */
static void drop_local(struct shadow *s)
{
	for (unsigned i = 0; i < s->npages; i++) {
		struct spage *p = &s->pages[i];

		if (!p->used || role_level(p->role) != 1)
			continue;
		if (!p->global) {
			spt_free(s, p);
			continue;
		}
		for (unsigned slot = 0; slot < PT_ENTRIES; slot++)
			if (!(p->table[slot] & SPTE_GLOBAL))
				spt_clear(s, p, slot);
	}
	s->flush = true;
}
// END

void shadow_cr3_written(struct vcpu *v)
{
	// SOLUTION 2.12
	struct shadow *s = shadow_of(v);

	if (s->mode == SHADOW_VTLB)
		drop_local(s);
	// STARTER 2.12: a write of CR3 flushes all translations but those of global pages. Hint: spt_free(), spt_clear(),
	// and the machine has a TLB too: s->flush.
	//	if (shadow_of(v)->mode == SHADOW_VTLB)
	//		lab_todo(v->vm, "2.12", "shadow_cr3_written() in flush.c: what must go, what may stay?");
	// END
	// SOLUTION 2.16
	shadow_sync_all(v);
	// STARTER 2.16: with --shadow=cached: from now on the guest may rely on what it wrote. Hint: shadow_sync_all().
	// END
}

void shadow_invlpg(struct vcpu *v, uint64_t gva)
{
	// SOLUTION 2.12
	struct shadow *s = shadow_of(v);
	uint64_t at = (gva & 0xffffffffffff) / PAGE;

	for (unsigned i = 0; i < s->npages; i++) {
		struct spage *p = &s->pages[i];

		if (!p->used || role_level(p->role) != 1)
			continue;
		if (s->mode == SHADOW_VTLB) {
			/* Of a large page all pieces go, wherever in it gva lies. */
			unsigned large = p->large > 1 ? p->large : 2;
			if (p->key >> 9 * (large - 2) != at >> 9 * (large - 1))
				continue;
			if (p->large > 1)
				spt_free(s, p);
			else
				spt_clear(s, p, at % PT_ENTRIES);
			s->flush = true;
		} else if (p->unsync && spt_clear(s, p, at % PT_ENTRIES)) {
			s->flush = true;
		}
	}
	// STARTER 2.12: one page's translations go, for users and for the kernel in all its modes. Hint: the guest's page
	// may be larger than the shadow's. With --shadow=cached nothing can be old but what is in a table that was let go
	// (p->unsync, step 2.16).
	//	(void)gva;
	//	lab_todo(v->vm, "2.12", "shadow_invlpg() in flush.c: drop the page that contains gva");
	// END
}

void shadow_control_changed(struct vcpu *v, uint64_t cr4_changed, uint64_t efer_changed)
{
	// SOLUTION 2.12
	if ((cr4_changed & (CR4_PGE | CR4_SMEP | CR4_SMAP)) || (efer_changed & EFER_NXE))
		free_all(shadow_of(v));
	// STARTER 2.12: some bits flush everything, global pages too. Hint: SDM vol. 3, 4.10.4.1, and NXE changes which
	// entries are valid.
	//	(void)efer_changed;
	//	if (cr4_changed & CR4_PGE)
	//		lab_todo(v->vm, "2.12", "shadow_control_changed() in flush.c: which bits flush everything?");
	// END
}
