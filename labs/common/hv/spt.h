/*
 * Shadow page tables: the tables that the machine really walks while the guest believes in its own.
 *
 * This file is the bookkeeping: pages from a bounded pool, found again by what they are the shadow of, and for every entry that is
 * set a link, so that all entries that lead to a guest page or to a shadow page can be found from there. What is put into an entry, and
 * when it must go, is Lab 2's.
 *
 * Shadow leaves always map 4 KiB. The entries of upper levels allow everything; the leaf alone says what is allowed.
 *
 * Under the trap engine the machine is at CPL 3 whatever the guest believes, and the last 2 MiB of the address space belong to the monitor
 * in every shadow: these entries are here whatever is set or cleared. Under the hvm engine the guest has its own CPL and changes it
 * without an exit: nothing but the guest's memory is in its shadows, and leaves of the kernel's roles are out of CPL 3's reach.
 */
#ifndef HV_SPT_H
#define HV_SPT_H

#include "mem.h"
#include "paging.h"

#include <stdbool.h>
#include <stdint.h>

struct vm;

/*
 * What kind of shadow a page is. Two shadows of one guest table differ in their role.
 * Whose rights: ROLE_USER for CPL 3, else the kernel's, and what of the control registers these depend on.
 */
#define ROLE_LEVEL 7u        /* 1 to 4 */
#define ROLE_USER (1u << 3)
#define ROLE_WP (1u << 4)    /* kernel: CR0.WP is on */
#define ROLE_SMEP (1u << 5)  /* kernel: CR4.SMEP is on */
#define ROLE_SMAP (1u << 6)  /* kernel: CR4.SMAP is on and RFLAGS.AC is off */
#define ROLE_MODE (ROLE_USER | ROLE_WP | ROLE_SMEP | ROLE_SMAP)
/* The place: this shadow contains, or leads to, the monitor's entries. */
#define ROLE_MONITOR (1u << 7)
/* --shadow=cached only: what the guest's levels above have already taken away, and pieces of large pages. */
#define ROLE_NO_WRITE (1u << 8)
#define ROLE_NO_USER (1u << 9)
#define ROLE_NO_EXEC (1u << 10)
#define ROLE_CLEAN (1u << 11)  /* the large page's D bit is not set */
#define ROLE_DIRECT (1u << 12) /* pieces of a large page: the key is its first gfn here, no guest table lies behind this shadow */

static inline unsigned role_level(uint32_t role) { return role & ROLE_LEVEL; }

struct spage {
	uint64_t key;     /* what it is the shadow of: see shadow_child() in lab2.h */
	uint32_t role;
	bool used;
	bool unsync;      /* cached: the guest may write the table that this is the shadow of */
	bool global;      /* vtlb, level 1: holds leaves of global pages */
	uint8_t large;    /* vtlb, level 1: the largest guest page (level) of which it has held pieces since it was made */
	uint8_t writes;   /* cached: stores of the guest to its table since it was last used */
	unsigned entries; /* that are set */
	uint64_t stamp;   /* when it was last used: see shadow_touch() */
	uint64_t *table;  /* the 512 entries, in the machine's memory */
	uint64_t ma;
	/* The bookkeeping's own. */
	uint32_t hash_next, parents;
	uint32_t *next, *prev; /* by slot: the lists that the entries are in */
};

/* Bits of a shadow entry that the CPU ignores (SDM vol. 3, table 4-20: 9-11). */
#define SPTE_GLOBAL (1ull << 9) /* vtlb: the guest's page is global */

enum shadow_mode { SHADOW_OFF, SHADOW_VTLB, SHADOW_CACHED };

/* What was counted, for --stats json. */
struct shadow_counts {
	uint64_t hidden, true_faults, emulated; /* page faults, by what became of them; emulated: devices and stores to page tables */
	uint64_t unsync, synced;                /* shadow pages let go, and synchronized again */
	uint64_t cr3_loads, roots;              /* of the machine's CR3: a new root, or only to flush; changes of the root */
	uint64_t switches;                      /* hvm: faults that were about nothing but the wrong root, after a change of CPL */
	uint64_t made, evicted, zapped;         /* shadow pages; zapped: after too many stores */
	unsigned peak;                          /* shadow pages in use at most */
};

struct shadow {
	struct vm *vm;
	enum shadow_mode mode;
	struct spage *pages; /* npages of them */
	unsigned npages, free;
	struct spage *root;  /* in use now, or NULL */
	bool flush;          /* the machine's TLB may hold what is no longer in the shadow */
	uint64_t cr3;        /* the machine's, until the next entry; 0: that page is no root any more */
	unsigned nunsync;    /* pages with unsync set */
	uint64_t clock;      /* of the stamps */
	bool deprivileged;   /* the guest's CPL is not the machine's: the trap engine */
	bool system;         /* hvm: the leaf that is being set is for the CPU's own accesses, CPL 3 must not reach it */
	struct shadow_counts count;
	struct {
		uint64_t rip, gva;
		unsigned access, times;
	} last; /* hidden page fault, and how often it came in a row */
	struct {
		bool armed;
		uint64_t gfn, rip;
		unsigned times;
	} store; /* to a page of tables, by the machine itself: see shadow_emulate(); and how often in vain */
	/* The bookkeeping's own. */
	uint32_t *hash, *leaves; /* shadow pages by key; leaves by gfn */
	uint32_t *links;
	uint64_t ngfns, pdpt_ma, pd_ma;
};

/* One instruction may need six ways at a time: itself, what it reads and what it writes, each in two pages. Three tables each, and
 * the root. */
#define SHADOW_PAGES_MIN 20
#define SHADOW_PAGES_MAX 500
#define SHADOW_PAGES 500 /* unless --shadow-pages says otherwise */

/* Makes the pool in the machine's page-table memory (pool: its host address). deprivileged: see above. 0 or -ENOMEM. */
int spt_create(struct shadow *s, struct vm *vm, enum shadow_mode mode, uint8_t *pool, unsigned npages, bool deprivileged);
void spt_destroy(struct shadow *s);

/* The shadow page of that key and role, or NULL. */
struct spage *spt_find(struct shadow *s, uint64_t key, uint32_t role);
/* A new, empty one. NULL when the pool is used up. */
struct spage *spt_alloc(struct shadow *s, uint64_t key, uint32_t role);
/* Clears all its entries and all entries that lead to it, and gives it back. The machine's TLB is the caller's affair. */
void spt_free(struct shadow *s, struct spage *p);

/* Sets a leaf: guest page gpa, bits of PTE_W, PTE_U, PTE_NX, SPTE_... beside PTE_P. Replaces what was there. */
void spt_set_leaf(struct shadow *s, struct spage *p, unsigned slot, uint64_t gpa, uint64_t bits);
/* Makes the entry lead to child, whose level is one less. Replaces what was there. */
void spt_set_table(struct shadow *s, struct spage *p, unsigned slot, struct spage *child);
/* Empties the entry. true when there was something in it. */
bool spt_clear(struct shadow *s, struct spage *p, unsigned slot);

/* Is something set there that did not come from the monitor? */
bool spt_present(const struct shadow *s, const struct spage *p, unsigned slot);
/* The page that an entry of level 2 and above leads to, or NULL. */
struct spage *spt_child(const struct shadow *s, const struct spage *p, unsigned slot);
/* The leaf of that address below root, or NULL when the way ends before. */
uint64_t *spt_leaf(const struct shadow *s, const struct spage *root, uint64_t gva);
/* The guest page that a leaf maps. */
uint64_t spt_leaf_gpa(const struct spage *p, unsigned slot);

/* Goes through the shadow pages of one guest table (ROLE_DIRECT has none): the first with p NULL, NULL behind the last. */
struct spage *spt_next_of(struct shadow *s, uint64_t gfn, const struct spage *p);
/* Takes W from all leaves that map this guest page. true when there were any. */
bool spt_write_protect(struct shadow *s, uint64_t gfn);

#endif
