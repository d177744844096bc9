/*
 * Lab 2, shadow paging: what the frame calls and the lab's files provide. (walk.c: see paging.h.)
 *
 * The guest builds page tables of guest physical addresses; the machine must only ever see tables of machine addresses, ours. When
 * the machine raises a page fault, shadow_fault() finds out whose it is: the guest's tables forbid the access (a true fault, the
 * guest gets it), or only the shadow lacks it (a hidden fault, the shadow is filled and the guest never hears of it).
 *
 * The invariant: what is in the shadow is allowed by the guest's tables as of its last flush.
 */
#ifndef HV_LAB2_H
#define HV_LAB2_H

#include "gva.h"
#include "spt.h"
#include "trapengine.h"
#include "vcpu.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

/* The shadow of the VM that this CPU belongs to. Only with --shadow=vtlb or cached. */
static inline struct shadow *shadow_of(const struct vcpu *v) { return v->vm->shadow; }

/* Width of physical addresses, in bits: CPUID 0x80000008. Address bits above it are reserved in entries. (SDM vol. 3, 4.1.4) */
static inline unsigned maxphyaddr(const struct vcpu *v) { return v->vm->phys_bits; }

/* --- fill.c: from a fault to an entry ---------------------------------------------------------------------------------- */

enum fault_action {
	FAULT_STOP = -ECANCELED, /* the VM is stopped */
	FAULT_RETRY = 0,         /* hidden: the guest repeats the instruction */
	FAULT_RAISED,            /* true: the exception is queued */
	FAULT_EMULATE            /* the instruction must be carried out by hv: a device's address, or a store to a page table */
};

/* The machine raised a page fault for this access of the guest's. (SDM vol. 3, 4.7; design.md, section 6) */
enum fault_action shadow_fault(struct vcpu *v, uint64_t gva, unsigned access);

/* The mode bits of the role under which the guest runs now. */
uint32_t shadow_mode_role(const struct vcpu *v);

/* What a leaf may allow to a guest in that mode: bits for spt_set_leaf(); 0 when the page must not be there at all. writable, user, nx
 * are the rights over all levels, dirty is the D bit of the guest's entry. */
uint64_t shadow_rights(uint32_t role, bool writable, bool user, bool nx, bool dirty);

/* Sets the way from the present root to gva's leaf, and the leaf. 0 or negative, VM stopped. */
int shadow_fill(struct vcpu *v, uint64_t gva, const struct walk *w);

/*
 * What the shadow page below entry level_index(gva, level) of p is the shadow of: key and role.
 * vtlb: a part of the address space, key = gva >> 12 + 9 * (level - 1); its role is the mode and the level.
 * cached: the guest table that the walk found there, key = its gfn; or, where the guest's page is at least as large as the entry, the
 * pieces of that page, key = the gfn at which they begin. (Called by shadow_fill().)
 */
void shadow_child(const struct vcpu *v, const struct spage *p, unsigned level, uint64_t gva, const struct walk *w, uint64_t *key,
		  uint32_t *role);

/* --- flush.c: when the guest flushes ------------------------------------------------------------------------------------- */

/* The guest wrote CR3 (v->cr3 is the new value, perhaps the old one again). Pages with the G bit may stay. (SDM vol. 3, 4.10.4.1) */
void shadow_cr3_written(struct vcpu *v);
/* The guest executed INVLPG: the page that contains gva, whatever its size, global or not. */
void shadow_invlpg(struct vcpu *v, uint64_t gva);
/* The guest changed bits of CR4 or EFER after which hv flushes everything, global pages too: CR4.PGE, SMEP and SMAP (the SDM demands it
 * for PGE and for SMEP that is set; more is always allowed), and EFER.NXE, which changes what entries mean. (SDM vol. 3, 4.10.4.1) */
void shadow_control_changed(struct vcpu *v, uint64_t cr4_changed, uint64_t efer_changed);
/* The root for the guest's present mode and CR3: made if need be. NULL, VM stopped, only while step 2.15 is
 * not written: then the pool yields one. */
struct spage *shadow_root(struct vcpu *v);

/* --- pool.c: a bounded pool ------------------------------------------------------------------------------------------------ */

/* The shadow page of that key and role: found or made, evicting the one that was not used for longest if the pool is empty. What
 * the machine's CPU uses (s->root) and what has been touched since s->clock was `since` stays. */
struct spage *shadow_get(struct vcpu *v, uint64_t key, uint32_t role, uint64_t since);
/* It is used now. */
static inline void shadow_touch(struct shadow *s, struct spage *p)
{
	p->stamp = ++s->clock;
	p->writes = 0;
}

/* --- cache.c: --shadow=cached ------------------------------------------------------------------------------------------------ */

/* A new shadow page of a guest table, or of pieces of a large page, was made. */
void shadow_made(struct vcpu *v, struct spage *p);
/* Must stores to this guest page be seen? */
bool shadow_protected(struct shadow *s, uint64_t gfn);
/* The guest is about to store to a protected table. true: from now on it may, and the shadow is synchronized at the next flush. false:
 * the store must be emulated. */
bool shadow_let_write(struct vcpu *v, uint64_t gfn);
/* Guest memory was written by hv, for an instruction of the guest's or for a device. Any length, any alignment, over pages. */
void shadow_written(struct vcpu *v, uint64_t gpa, uint64_t len);
/* Makes all shadows true again whose tables the guest was allowed to write. May free some of them. */
void shadow_sync_all(struct vcpu *v);

#endif
