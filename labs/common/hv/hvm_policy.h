/*
 * What the guest may do with its memory: everything, unless hv has something against it. The nested tables are only the means, and may
 * hold less at any time (not yet mapped, protected for the dirty log); this is what they may hold at most.
 */
#ifndef HV_HVM_POLICY_H
#define HV_HVM_POLICY_H

#include "hvm.h"
#include "lab3.h"

#define POLICY_RANGES 64
#define WATCH_REPORTS 1000
#define POLICY_PASSING 16

struct policy {
	struct vm *vm;
	/* Later ones count where they overlap. */
	struct policy_range {
		uint64_t gpa, len;
		unsigned rights;
		bool watch; /* what is forbidden is reported, and let through */
	} range[POLICY_RANGES];
	unsigned count;
	struct watch_report {
		uint64_t gpa, rip;
		unsigned access;
	} report[WATCH_REPORTS];
	uint64_t reported; /* in all; what came behind the first WATCH_REPORTS is only counted */
	/* Pages whose watch one instruction is let through (hvm_forbidden()): itself, what it reads and writes, each
	 * over two pages, and tables. */
	uint64_t passing[POLICY_PASSING];
	unsigned npassing;
	uint64_t step_rip;   /* the instruction */
	unsigned step_times; /* steps that came back with it still to be carried out */
};

/* The range that decides about gpa, or NULL. */
const struct policy_range *policy_find(const struct policy *p, uint64_t gpa);
/* Is it the same all over [gpa, gpa + len)? */
bool policy_uniform(const struct policy *p, uint64_t gpa, uint64_t len);
/* Adds a range. 0, -ENOSPC. */
int policy_add(struct policy *p, const struct policy_range *r);
/* Is a write to the page at gpa allowed? (struct dirty_log) */
bool policy_may_write(void *opaque, uint64_t gpa);
/* The instruction that was let through a watch is done: its pages are forbidden again. 0 or negative, VM stopped. */
int policy_passed(struct hvm *h);
/* A single step is over: the same, if the instruction was carried out. */
int policy_stepped(struct hvm *h);
/* "watched":[...] of --stats json. */
void policy_json(const struct policy *p, FILE *out);

#endif
