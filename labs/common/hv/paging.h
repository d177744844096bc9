/*
 * Page tables as the manuals define them (SDM vol. 3, 4.5; APM vol. 2, 5.3), and what a walk through a guest's tables finds.
 * Four levels: 4 = PML4, 3 = PDPT, 2 = page directory, 1 = page table.
 */
#ifndef HV_PAGING_H
#define HV_PAGING_H

#include "mem.h"
#include "vcpu.h"

#include <stdbool.h>
#include <stdint.h>

/* Bits of an entry (SDM vol. 3, tables 4-15 to 4-20). */
#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)  /* in entries that map a page */
#define PTE_PS (1ull << 7) /* levels 2 and 3: the entry maps a page of 2 MiB or 1 GiB */
#define PTE_G (1ull << 8)  /* in entries that map a page */
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

#define PT_ENTRIES 512
#define PT_LEVELS 4

/* What an entry of this level covers, in bytes. */
static inline uint64_t level_size(unsigned level) { return PAGE << 9 * (level - 1); }
/* Which of the 512 entries of its table at this level an address uses. */
static inline unsigned level_index(uint64_t gva, unsigned level) { return gva >> (12 + 9 * (level - 1)) & 511; }

/* An access. Without ACCESS_WRITE and ACCESS_FETCH it reads. */
#define ACCESS_WRITE 1u
#define ACCESS_FETCH 2u
#define ACCESS_USER 4u   /* at CPL 3 */
#define ACCESS_SYSTEM 8u /* by the CPU itself, to the GDT, IDT, TSS or LDT: never a user's, whatever the CPL is (SDM vol. 3, 4.6) */

/* Error code of a page fault (SDM vol. 3, 4.7). */
#define PF_P (1u << 0)
#define PF_W (1u << 1)
#define PF_U (1u << 2)
#define PF_RSVD (1u << 3)
#define PF_I (1u << 4)

struct walk {
	unsigned level; /* of the last entry that was read: the one that maps the page, or the one to blame */
	struct {
		uint64_t gpa, entry; /* where the entry lies and what it held */
	} at[PT_LEVELS + 1];         /* by level: 4 down to `level` */
	uint64_t gpa;                /* the translation */
	bool writable, user, nx;     /* over all levels: W and U in every entry, NX in any */
	bool global, dirty;          /* of the entry that maps the page; global only with CR4.PGE */
	uint32_t error;              /* of a page fault */
};

/* --- Lab 2, walk.c ----------------------------------------------------------------------------------------------------- */

/*
 * Walks the guest's tables from v->cr3. Changes nothing. 0: *w is complete but for error. -EFAULT: there is no translation;
 * w->level is where the walk ended and w->error is 0 (not present) or PF_P | PF_RSVD (a reserved bit is set). Entries outside guest
 * memory read as all ones, as on a bus where nobody answers. gva is canonical. (SDM vol. 3, 4.5, 4.7)
 */
int guest_walk(const struct vcpu *v, uint64_t gva, struct walk *w);

/* May the access (ACCESS_...) be done through this complete walk, with the guest's CR0, CR4 and flags as they are? (SDM vol. 3, 4.6) */
bool walk_allows(const struct vcpu *v, const struct walk *w, unsigned access);

/* Both: 0 with *w complete, or -EFAULT with the page fault's whole error code in w->error. Changes nothing. (SDM vol. 3, 4.7) */
int guest_translate(const struct vcpu *v, uint64_t gva, unsigned access, struct walk *w);

/* The access is done: sets the accessed and dirty bits that a CPU would, in guest memory and in *w. (SDM vol. 3, 4.8) */
void walk_mark(struct vcpu *v, struct walk *w, unsigned access);

#endif
