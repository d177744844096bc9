/*
 * What --dump-tables shows, collected: an address's way through the guest's tables and through the shadows of them, and what the
 * two allow. dump_tables.c prints it, dump_html.c draws it.
 *
 * The guest's tables are read by guest_walk() and judged by walk_allows() only, the lab's own functions, as they are. They and the
 * shadow are looked at after the guest's end, and nothing is changed.
 */
#ifndef HV_DUMP_WALK_H
#define HV_DUMP_WALK_H

#include "paging.h"
#include "spt.h"
#include "vm.h"

#include <stdio.h>

/* What may be done with a page. */
#define DUMP_R 1u
#define DUMP_W 2u
#define DUMP_X 4u

enum dump_whose { DUMP_KERNEL, DUMP_USER, DUMP_SIDES };

/* What the shadow's rights are beside the guest's. */
enum dump_verdict {
	DUMP_SAME,
	DUMP_UNKNOWN,    /* what the guest's tables say could not be found out */
	/* The shadow allows less: the machine will fault, and hv decides. */
	DUMP_NO_ROOT,    /* there is no shadow at all for this level in the present mode */
	DUMP_NOT_FILLED, /* no entry */
	DUMP_DEVICE,     /* no entry, because no memory is there */
	DUMP_MONITOR,    /* the monitor's part of the address space */
	DUMP_NOT_DIRTY,  /* read-only until the first write, which must set D */
	DUMP_TABLE,      /* read-only because the page is one of the guest's tables */
	DUMP_NARROWER,   /* made when the guest's tables allowed less */
	/* The shadow allows more, or leads somewhere else. */
	DUMP_OLDER,      /* which is right if the guest has not flushed since it changed its tables */
	DUMP_BROKEN      /* which nothing excuses */
};

struct dump {
	struct vm *vm;
	struct vcpu v;         /* the guest's state at its end; its vm is: */
	struct vm lab;         /* for the lab's functions: a step that is not written stops this one and not the VM that has ended */
	struct shadow *shadow; /* NULL: memory is flat, or the machine walks the guest's tables itself */
	const char *unwalkable; /* why the guest's tables cannot be walked, or NULL */
	char step[200];        /* the first step of the lab that turned out not to be written, as a sentence */
	struct spage *root[DUMP_SIDES]; /* of the present CR3 and mode; NULL: there is none */
};

struct dump_path {
	uint64_t gva;
	int err; /* of guest_walk(): 0; -EFAULT, no translation; -ECANCELED, the step is not written (w says nothing) */
	struct walk w;
	bool memory; /* there is some at w.gpa */
	struct dump_side {
		unsigned guest, shadow;               /* DUMP_R and so on: who allows what */
		unsigned level;                       /* of the last shadow entry on the way; 0 without a root */
		const struct spage *at[PT_LEVELS + 1]; /* by level: the shadow pages on the way */
		bool leaf;                            /* the way ends at a leaf */
		enum dump_verdict verdict;
	} side[DUMP_SIDES];
};

/* The state of a VM that has ended but is not yet torn down. Only on the vCPU's thread. */
void dump_begin(struct dump *d, struct vm *vm);
/* The way of an address. */
void dump_path(struct dump *d, uint64_t gva, struct dump_path *path);
/* The guest page that the leaf at the end of a way maps. */
uint64_t dump_leaf_gpa(const struct dump_side *side, uint64_t gva);

/* A range of the guest's address space in which all pages have the same rights. */
struct dump_run {
	uint64_t gva, size;
	bool mapped;        /* else no page is, but a shadow holds something */
	uint64_t gpa, last; /* the lowest and the highest byte that it is mapped to */
	bool scattered;     /* the pages do not lie one behind the other there */
	bool writable, user, nx, memory;
	unsigned levels; /* bit n: there are pages of level n */
	struct dump_count {
		uint64_t leaves, writable; /* shadow entries, each for 4 KiB */
		uint64_t older, broken;    /* of these: see the verdicts */
	} count[DUMP_SIDES];
};

/*
 * Calls fn for each run, in order. A guest can map more than anybody wants to read (a table that is its own child 512 times, say), so
 * the number of steps is bounded: true when everything was seen; else *next is the address where it stopped.
 */
bool dump_runs(struct dump *d, void (*fn)(void *opaque, const struct dump_run *run), void *opaque, uint64_t *next);

/* A bounded string, for a line that is put together from words. */
struct dump_text {
	char s[160];
};
/* The bits of an entry that are set, by name: "P W U A D PS G NX". PS and G only where they mean something. */
struct dump_text dump_bits(uint64_t entry, unsigned level);
/* "rwx", with a dash for what is not allowed. */
struct dump_text dump_rights(unsigned rights);
/* What a shadow page is the shadow of, and its role. */
struct dump_text dump_shadow_of(const struct shadow *s, const struct spage *p);
struct dump_text dump_role(const struct shadow *s, const struct spage *p);
/* The verdict as a clause behind "the shadow ". */
const char *dump_verdict(enum dump_verdict verdict);
/* How a fault of a walk that ends early comes about. */
const char *dump_fault(const struct walk *w);

/* Names of the tables by level. */
extern const char *const dump_level_names[PT_LEVELS + 1];
extern const char *const dump_whose_names[DUMP_SIDES];

#endif
