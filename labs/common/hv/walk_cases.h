/*
 * The cases of `hv walk`: a CPU's state, an access, and page tables made for it. Each follows from its seed and its number alone,
 * so that one can be looked at without those before it, and so that another program can make exactly the same
 * (labs/02-shadow-paging/checks/walkcases.py does).
 *
 * Numbers come from SplitMix64 (Steele, Lea and Flood, 2014), which begins at seed << 32 | number. How many are drawn, and in which
 * order, depends on nothing: one for the CPU and the access; one for each level's table and index, from level 4 down; one for the
 * rest of the way; then, from level 4 down, four for each entry. Which bits of a number decide what is said in walk_cases.c alone.
 */
#ifndef HV_WALK_CASES_H
#define HV_WALK_CASES_H

#include "mem.h"
#include "paging.h"
#include "vcpu.h"

#include <stdint.h>

/* What occurs in the tables and in the CPU: as much as a checkpoint needs, and nothing that is a later one's. */
enum walk_kind {
	WALK_4K,     /* 4 KiB pages; no access, only the way. Entries are valid or not present */
	WALK_RIGHTS, /* W, U, NX with EFER.NXE, CR0.WP */
	WALK_LARGE,  /* the same with pages of 2 MiB and 1 GiB, reserved bits, and tables where no memory is */
	WALK_SMAP,   /* WALK_RIGHTS with SMEP and SMAP */
	WALK_MARKS,  /* all of it, and the access is done */
	WALK_KINDS
};

#define WALK_MEM MEM_MIN
#define WALK_TABLES 8 /* pages that may hold a table */

/* Where they are: the last page of each 256 KiB, so that the last of them ends where memory ends. */
static inline uint64_t walk_table(unsigned n) { return ((uint64_t)(n + 1) << 18) - PAGE; }

struct walk_case {
	enum walk_kind kind;
	uint64_t seed;   /* below 2^32 */
	uint32_t number;
	unsigned phys_bits;
	uint64_t cr0, cr3, cr4, efer, rflags;
	unsigned cpl, access; /* ACCESS_... */
	uint64_t gva;
	/* By level, 1 to 4. A table may serve several levels, and then one entry may: what the upper one is counts. */
	uint64_t table[PT_LEVELS + 1], entry[PT_LEVELS + 1]; /* gpa of the table; what was put there */
	unsigned index[PT_LEVELS + 1];
};

static inline uint64_t walk_case_gpa(const struct walk_case *c, unsigned level) { return c->table[level] + c->index[level] * 8; }

/* Draws the case that kind, seed and number name. */
void walk_case_make(struct walk_case *c, enum walk_kind kind, uint64_t seed, uint32_t number);

/* Stores the case's entries in *mem, which has WALK_MEM bytes. */
void walk_case_store(const struct walk_case *c, struct guest_mem *mem);

#endif
