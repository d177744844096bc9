/*
 * Page tables outside long mode: two levels of 32-bit entries, or with CR4.PAE three levels of 64-bit ones (SDM vol. 3, 4.3, 4.4).
 * Lab 2's walk knows the four levels of long mode; a guest that begins in protected mode may use these.
 */
#ifndef HV_LEGACY_WALK_H
#define HV_LEGACY_WALK_H

#include "paging.h"

/* Do these tables count for the guest now? It has paging on and is not in long mode. */
static inline bool legacy_paging(const struct vcpu *v)
{
	return (v->cr0 & CR0_PG) && !(v->efer & EFER_LMA);
}

/* As guest_walk(), guest_translate() and walk_mark() in paging.h, with the same results in *w. gva has 32 bits. The four entries of
 * PAE's first level are read from memory each time; a CPU may keep those that it read when CR3 was loaded (SDM vol. 3, 4.4.1). */
int legacy_walk(const struct vcpu *v, uint64_t gva, struct walk *w);
int legacy_translate(const struct vcpu *v, uint64_t gva, unsigned access, struct walk *w);
void legacy_mark(struct vcpu *v, struct walk *w, unsigned access);

#endif
