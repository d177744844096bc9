/*
 * Lab 2, checkpoint 2.15: a bounded pool.
 *
 * A guest can make as many page tables as it has memory; the hypervisor's memory for their shadows is bounded. A shadow holds nothing
 * that cannot be made again, so when the pool is empty somebody else's goes.
 */
#include "lab2.h"

// SOLUTION 2.15
/* The page that was not used for longest, but not the root in use, and nothing of the way that is being built. */
static struct spage *victim(struct shadow *s, uint64_t since)
{
	struct spage *oldest = NULL;

	for (unsigned i = 0; i < s->npages; i++) {
		struct spage *p = &s->pages[i];
		if (p->used && p != s->root && p->stamp <= since && (!oldest || p->stamp < oldest->stamp))
			oldest = p;
	}
	return oldest;
}
// END

struct spage *shadow_get(struct vcpu *v, uint64_t key, uint32_t role, uint64_t since)
{
	struct shadow *s = shadow_of(v);
	struct spage *p = spt_find(s, key, role);

	// SOLUTION 2.16
	/* Who asks is about to reach it on a new way, where nobody can have seen what page tables below it held before the guest's
	 * stores. */
	if (p && s->nunsync && role_level(role) < PT_LEVELS) {
		shadow_sync_all(v);
		p = spt_find(s, key, role); /* nothing may be left of it */
	}
	// STARTER 2.16: a page that the guest was allowed to write may be out of date, this one or one below. Hint: who asks here
	// links it in a new place, and no flush is due there before the guest uses it.
	// END
	if (p)
		return p;
	p = spt_alloc(s, key, role);
	// SOLUTION 2.15
	if (!p) {
		spt_free(s, victim(s, since));
		s->count.evicted++;
		s->flush = true; /* before the page is anything else to the CPU, it must have forgotten what it was */
		p = spt_alloc(s, key, role);
	}
	// STARTER 2.15: the pool is empty: some page must go. Hint: which one is needed least, which ones must stay, and
	// what does the machine's CPU still remember of it?
	//	(void)since;
	//	if (!p)
	//		return lab_todo(v->vm, "2.15", "shadow_get() in pool.c: evict a shadow page"), NULL;
	// END
	shadow_touch(s, p);
	if (s->mode == SHADOW_CACHED)
		shadow_made(v, p);
	return p;
}
