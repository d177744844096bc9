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

void shadow_cr3_written(struct vcpu *v)
{
	// TODO 2.12: a write of CR3 flushes all translations but those of global pages. Hint: spt_free(), spt_clear(),
	// and the machine has a TLB too: s->flush.
	if (shadow_of(v)->mode == SHADOW_VTLB)
		lab_todo(v->vm, "2.12", "shadow_cr3_written() in flush.c: what must go, what may stay?");
	// TODO 2.16: with --shadow=cached: from now on the guest may rely on what it wrote. Hint: shadow_sync_all().
}

void shadow_invlpg(struct vcpu *v, uint64_t gva)
{
	// TODO 2.12: one page's translations go, for users and for the kernel in all its modes. Hint: the guest's page
	// may be larger than the shadow's. With --shadow=cached nothing can be old but what is in a table that was let
	// go (p->unsync, step 2.16).
	(void)gva;
	lab_todo(v->vm, "2.12", "shadow_invlpg() in flush.c: drop the page that contains gva");
}

void shadow_control_changed(struct vcpu *v, uint64_t cr4_changed, uint64_t efer_changed)
{
	// TODO 2.12: some bits flush everything, global pages too. Hint: SDM vol. 3, 4.10.4.1, and NXE changes which
	// entries are valid.
	(void)efer_changed;
	if (cr4_changed & CR4_PGE)
		lab_todo(v->vm, "2.12", "shadow_control_changed() in flush.c: which bits flush everything?");
}
