/*
 * Page tables with 4 levels (SDM vol. 3, 4.5): entries, the self-map, and trees of them.
 *
 * Level 4 is the root (PML4), level 1 the table whose entries map 4 KiB pages.
 */
#ifndef GUEST_PGTABLE_H
#define GUEST_PGTABLE_H

#include "layout.h"

#include <stdbool.h>
#include <stdint.h>

#define PAGE_SIZE 4096ul
#define PT_ENTRIES 512
#define PT_ROOT 4

typedef uint64_t pte_t;

#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_LEAF (1ull << 7) /* in a level-2 entry: maps 2 MiB */
#define PTE_G (1ull << 8)
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

/* The CPU ignores bits 9 to 11. What the kernel has to remember about a page of user memory is kept right there. */
#define PTE_LAZY (1ull << 9)	  /* P is 0, but the page exists: a zeroed frame comes with the first access */
#define PTE_MAYWRITE (1ull << 10) /* the process may write, even while W is 0 because others share the frame */

/* An entry that points to a table. What may be done is left to the last level. */
#define PTE_TABLE (PTE_P | PTE_W | PTE_U)

/* Where a gpa can be read and written. */
static inline void *direct(uint64_t gpa)
{
	return (void *)(DIRECT_MAP + gpa);
}

/* One store of 8 bytes, never less and no other instruction than MOV: the CPU may read the entry at any time. */
static inline void pt_set(pte_t *e, pte_t value)
{
	*(volatile pte_t *)e = value;
}

/*
 * The self-map: the entry at that level that translates gva in the current address space.
 *
 * Slot SLOT_SELF of each root points to the root itself. A walk that begins with that slot takes the root for the table of
 * the next level, so all levels move up by one and the walk ends, one level early, in a table instead of a page: all level-1
 * tables lie there one after the other, as one array with an entry for each page of the address space. Through the slot
 * twice there are the level-2 tables, and so on.
 *
 * All tables above that entry have to be present.
 */
pte_t *pt_entry(unsigned level, uint64_t gva);
#define PT_ROOT_SELF 0xffffff7fbfdfe000 /* where the root itself is: through the slot four times */

/* The level-1 entry of a user address in the current address space, or NULL when there is no table that could hold one. */
pte_t *pt_find(uint64_t gva);
/* The same; missing tables are made. NULL when there is no memory for them. */
pte_t *pt_make(uint64_t gva);

/* To be called when an entry that the TLB may hold has changed (SDM vol. 3, 4.10.4.2): one page, or all but global ones. */
void pt_flush_page(uint64_t gva);
void pt_flush_all(void);

/* A new root: no user memory, the kernel's half as in the current one, its own self-map. Its gpa, or 0. */
uint64_t pt_new_root(void);
/*
 * Gives the tree below a new root the same shape as the current user memory. copy makes each level-1 entry and may change
 * the one that it copies; the caller flushes. False when memory did not suffice: then a part is missing.
 */
bool pt_copy(uint64_t root, pte_t (*copy)(pte_t *from));
/* Frees a root, its user tables and what they map. It must not be the current one. */
void pt_free(uint64_t root);

#endif
