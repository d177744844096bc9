/*
 * Lab 2, checkpoint 2.15: a bounded pool.
 *
 * A guest can make as many page tables as it has memory; the hypervisor's memory for their shadows is bounded. A shadow holds nothing
 * that cannot be made again, so when the pool is empty somebody else's goes.
 */
#include "lab2.h"

struct spage *shadow_get(struct vcpu *v, uint64_t key, uint32_t role, uint64_t since)
{
	struct shadow *s = shadow_of(v);
	struct spage *p = spt_find(s, key, role);

	// TODO 2.16: a page that the guest was allowed to write may be out of date, this one or one below. Hint: who
	// asks here links it in a new place, and no flush is due there before the guest uses it.
	if (p)
		return p;
	p = spt_alloc(s, key, role);
	// TODO 2.15: the pool is empty: some page must go. Hint: which one is needed least, which ones must stay, and
	// what does the machine's CPU still remember of it?
	(void)since;
	if (!p)
		return lab_todo(v->vm, "2.15", "shadow_get() in pool.c: evict a shadow page"), NULL;
	shadow_touch(s, p);
	if (s->mode == SHADOW_CACHED)
		shadow_made(v, p);
	return p;
}
