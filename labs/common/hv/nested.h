/*
 * Nested page tables: gpa to machine address, walked by the CPU itself for every access of a guest in guest mode. Intel calls them
 * extended page tables (EPT), AMD nested page tables (NPT). One interface, two formats of an entry.
 *
 * This header is the tables and their bookkeeping (nested_pool.c, frame). What an entry looks like is ept.c's and npt.c's, what is
 * done with the tables nested.c's, and what is read out of their accessed and dirty bits dirty.c's: Lab 3.
 *
 * Four levels as in paging.h, 4 at the top; level_size() and level_index() serve here too.
 */
#ifndef HV_NESTED_H
#define HV_NESTED_H

#include "paging.h"

#include <stdbool.h>
#include <stdint.h>

/* Rights of a mapping, and the kind of an access. */
#define NESTED_R 1u
#define NESTED_W 2u
#define NESTED_X 4u
#define NESTED_RWX 7u

/* Memory types, as EPT entries encode them (SDM vol. 3, 28.3.7.2). NPT takes the type from the guest's PAT and the machine's. */
enum nested_type { TYPE_UC = 0, TYPE_WC = 1, TYPE_WT = 4, TYPE_WP = 5, TYPE_WB = 6 };

/* What an entry is. */
enum nested_kind {
	NESTED_ABSENT,  /* nothing is mapped: a violation */
	NESTED_TABLE,   /* leads to a table of the next lower level */
	NESTED_PAGE,    /* maps a page of level_size(level) */
	NESTED_INVALID  /* no entry that software may make: EPT misconfiguration, NPT reserved bit */
};

struct nested_entry {
	enum nested_kind kind;
	unsigned rights;        /* NESTED_R, W, X */
	enum nested_type type;  /* EPT pages only; TYPE_WB elsewhere */
	bool accessed, dirty;   /* dirty: pages only */
	uint64_t ma;            /* of the table or page */
};

struct nested;

/* The format of entries. ept.c and npt.c have one function for each. */
struct nested_format {
	const char *name; /* "ept", "npt" */
	/* The entry at `level` (4 to 1) that says what *e says. 0 for NESTED_ABSENT. Rights that can be expressed: nested_can(). */
	uint64_t (*encode)(const struct nested *n, const struct nested_entry *e, unsigned level);
	/* What an entry found at `level` says. Never fails: what is not valid is NESTED_INVALID, with nothing else filled in. */
	void (*decode)(const struct nested *n, uint64_t entry, unsigned level, struct nested_entry *e);
	/* What the CPU is given to begin its walk: EPT pointer, nCR3. */
	uint64_t (*root)(const struct nested *n);
};
extern const struct nested_format format_ept, format_npt; /* nested_pool.c, with the functions of lab3.h */

/* What this CPU's nested paging can do. (SDM vol. 3, A.10, IA32_VMX_EPT_VPID_CAP; APM vol. 2, 15.25, CPUID 0x80000001) */
struct nested_caps {
	unsigned phys_bits; /* width of machine addresses: bits above are reserved in entries */
	bool exec_only;     /* X without R (EPT only) */
	bool page_2m, page_1g;
	bool accessed_dirty; /* the CPU sets A and D (always on AMD; EPT: EPTP bit 6) */
};

struct nested_counts {
	uint64_t violations, mapped, splits, joins, flushes; /* mapped: pages, of any size, put in */
	unsigned peak; /* tables in use at most */
};

/*
 * Entries are stored through nested_set() only. It remembers what changed: a CPU may have translations from the old entry in its
 * TLB until it is told to forget them. `flush` says that this is due before the guest runs again; the engine does it (INVEPT, or
 * TLB_CONTROL in the VMCB), and calls nested_flushed() then.
 */
#define NESTED_CHANGES 512
struct nested {
	struct vm *vm;      /* whose tables these are; told of lab steps that are not written */
	const struct nested_format *format;
	struct nested_caps caps;
	uint8_t *pool;      /* host address of the tables' memory */
	uint64_t pool_ma;   /* its machine address */
	unsigned npages;    /* tables that fit */
	uint64_t root_ma;   /* the table of level 4; 0 until nested_create() */
	bool flush;         /* Lab 3: set when the CPU must forget translations before the guest runs on */
	struct nested_counts count;
	/* The bookkeeping's own. */
	unsigned used, retired_count;
	uint16_t *free_list, *retired;
	uint8_t *state;     /* of each page of the pool */
	unsigned nfree;
	unsigned nchanges;  /* NESTED_CHANGES + 1: more than were noted */
	uint64_t *change[NESTED_CHANGES]; /* entries that said something and were changed since the last flush */
};

/* Prepares an empty set of tables in npages (4 to 65535) pages of memory at pool. 0 or -ENOMEM. */
int nested_create(struct nested *n, struct vm *vm, const struct nested_format *f, const struct nested_caps *caps, uint8_t *pool,
		  uint64_t pool_ma, unsigned npages);
void nested_destroy(struct nested *n);

/* Can a present entry express these rights on this CPU? EPT: not W without R, X alone only with caps.exec_only, and none at all is an
 * absent entry. NPT: with R only. */
bool nested_can(const struct nested *n, unsigned rights);

/* The entry of the table at machine address table_ma. The table must be one of the pool. */
uint64_t *nested_slot(struct nested *n, uint64_t table_ma, unsigned slot);
/* The machine address of an entry. */
static inline uint64_t nested_slot_ma(const struct nested *n, const uint64_t *slot)
{
	return n->pool_ma + (uint64_t)((const uint8_t *)slot - n->pool);
}
/* Is this the machine address of a page of the pool? (A damaged entry may lead anywhere.) */
bool nested_in_pool(const struct nested *n, uint64_t ma);
/* Stores an entry. Notes the change when the old one was not 0: of an entry that says nothing no CPU remembers anything. */
void nested_set(struct nested *n, uint64_t *slot, uint64_t entry);

/* A zeroed table from the pool, its machine address; 0 when there is none. */
uint64_t nested_take(struct nested *n);
/* How many times nested_take() will give one. */
static inline unsigned nested_left(const struct nested *n) { return n->nfree; }
/* Tables go back in two steps: out of use now, free for something else only behind the next flush. Until then the CPU may still walk
 * through them. The caller has taken out the entry that led here. What the table still holds is cleared, by nested_set(). */
void nested_retire(struct nested *n, uint64_t table_ma);
/* The CPU has forgotten everything: n->flush becomes false, retired tables become free. */
void nested_flushed(struct nested *n);

#endif
