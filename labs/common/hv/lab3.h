/*
 * Lab 3, hardware-assisted virtualization: what the frame calls and the lab's files provide.
 */
#ifndef HV_LAB3_H
#define HV_LAB3_H

#include "gva.h"
#include "hvm.h"
#include "irqchip.h"
#include "nested.h"
#include "vcpu.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

/* --- ept.c, npt.c: one entry ---------------------------------------------------------------------------------------------- */

/* Contracts: struct nested_format in nested.h. EPT: SDM vol. 3, 28.3.2 (tables 28-1 to 28-7), 28.3.3.1 (misconfigurations), 24.6.11
 * (EPTP). NPT: APM vol. 2, 15.25, 5.3: the entries of ordinary page tables, walked as a user's. */
uint64_t ept_encode(const struct nested *n, const struct nested_entry *e, unsigned level);
void ept_decode(const struct nested *n, uint64_t entry, unsigned level, struct nested_entry *e);
uint64_t ept_root(const struct nested *n);
uint64_t npt_encode(const struct nested *n, const struct nested_entry *e, unsigned level);
void npt_decode(const struct nested *n, uint64_t entry, unsigned level, struct nested_entry *e);
uint64_t npt_root(const struct nested *n);

/* --- nested.c: the tables ---------------------------------------------------------------------------------------------------- */

/* How a walk ended. */
enum nested_end {
	WALK_OK,
	WALK_ABSENT,    /* an entry of kind NESTED_ABSENT */
	WALK_FORBIDDEN, /* the rights over all levels lack something */
	WALK_INVALID    /* an entry of kind NESTED_INVALID, or a table outside the pool */
};

struct nested_walk {
	enum nested_end end;
	unsigned level;             /* of the last entry that was read */
	uint64_t *slot[PT_LEVELS + 1];           /* the entries, by level: 4 down to `level` */
	struct nested_entry at[PT_LEVELS + 1];   /* and what they say */
	unsigned rights;            /* over all levels; 0 when the walk did not come to a page */
	uint64_t ma;                /* WALK_OK, WALK_FORBIDDEN: the translation */
};

/* Walks as the CPU does for an access that needs these rights (NESTED_..., 0: none is asked for). Changes nothing, sets no A or D. Rights
 * are the intersection over all levels. An absent or invalid entry ends the walk where it is; missing rights are found at the end.
 * gpa is below 2^48. (SDM vol. 3, 28.3.3; APM vol. 2, 15.25.6) */
void nested_walk(struct nested *n, uint64_t gpa, unsigned access, struct nested_walk *w);

/*
 * Stores what *e says in the entry at `slot`, of `level`, and sets n->flush when the CPU may remember something of the old entry that is
 * not true any more. What was absent is not remembered, and an access that a remembered entry forbids is looked up in the tables again:
 * more rights need no flush. All changes of entries go through here. (SDM vol. 3, 28.4.3.4; APM vol. 2, 5.5.3, 15.16.1)
 */
void nested_put(struct nested *n, uint64_t *slot, unsigned level, const struct nested_entry *e);

/*
 * Maps [gpa, gpa + len) to [ma, ma + len) with these rights, in pages as large as alignment, length, the CPU (n->caps) and max_level
 * (1 to 3) allow. What was mapped there before is replaced. 0; -EINVAL (not multiples of 4 KiB, beyond 2^48 or caps.phys_bits, rights that
 * nested_can() refuses); -ENOMEM (no table left; then what is mapped is mapped, the rest is as it was).
 */
int nested_map(struct nested *n, uint64_t gpa, uint64_t ma, uint64_t len, unsigned rights, enum nested_type type, unsigned max_level);
/* Takes away what is mapped there; large pages that reach beyond are split first, and tables that become empty are retired.
 * 0, -EINVAL, -ENOMEM (as above). */
int nested_unmap(struct nested *n, uint64_t gpa, uint64_t len);
/* Changes the rights of what is mapped there; what is not mapped stays so. Large pages that reach beyond are split first. Memory type, A
 * and D stay. 0, -EINVAL, -ENOMEM. */
int nested_protect(struct nested *n, uint64_t gpa, uint64_t len, unsigned rights);
/* Cuts the page of `level` (3 or 2) that maps gpa into 512 of the next level: same memory, rights, type, A and D. 0; -ENOENT (there is none
 * of that level), -ENOMEM. */
int nested_split(struct nested *n, uint64_t gpa, unsigned level);
/* The other way: the table of level - 1 below gpa's entry becomes one page of `level` (2 or 3). Its 512 entries must map one aligned piece
 * of memory in order, with the same rights and type; A and D are set if any had them. 0; -ENOENT (no table there), -EBUSY (they are not
 * alike), -EOPNOTSUPP (no such pages on this CPU). */
int nested_join(struct nested *n, uint64_t gpa, unsigned level);

/* --- dirty.c: what the CPU left in the tables ---------------------------------------------------------------------------------- */

#define HARVEST_ACCESSED 1u
#define HARVEST_DIRTY 2u
/* Goes through what is mapped in [gpa, gpa + len) and calls seen() for each page (its first gpa, its level) that has A or D, with which
 * of `bits` it has; these are cleared in the entry. Only entries that map pages count: A in a table's entry says nothing of a single
 * page. Returns how many pages were seen. */
unsigned nested_harvest(struct nested *n, uint64_t gpa, uint64_t len, unsigned bits,
			void (*seen)(void *opaque, uint64_t gpa, unsigned level, unsigned bits), void *opaque);

/* The dirty log: which pages of 4 KiB were written since the last look, by write protection. One bit for each gfn of guest memory. */
struct dirty_log {
	bool on;
	uint64_t pages;    /* of guest memory */
	uint64_t *bitmap;  /* frame: allocated when a log is wanted first */
	/* The frame's policy: would the guest be allowed to write to this page of 4 KiB if there was no log? */
	bool (*may_write)(void *opaque, uint64_t gpa);
	void *opaque;
};
/* While the log is on, whoever maps memory in it (exit_violation()) maps it without W, or writes to it would not be seen. */
/* Begins: clears the bitmap, takes W from everything that is mapped below gfn log->pages, page by page as large as it is. 0, -ENOMEM. */
int dirty_start(struct nested *n, struct dirty_log *log);
/* The guest tried to write to gpa, which is write-protected for the log and for nothing else: notes the page, and lets it be
 * written from now on: 4 KiB, whatever size of page maps it. 0, -ENOMEM. */
int dirty_fault(struct nested *n, struct dirty_log *log, uint64_t gpa);
/* Copies the bitmap to out, and begins anew: the pages in it are clean and protected again. 0, -ENOMEM. */
int dirty_fetch(struct nested *n, struct dirty_log *log, uint64_t *out);
/* Ends: everything that is mapped below gfn log->pages may be written again, but for what log->may_write() refuses. 0, -ENOMEM (a large
 * page of which only a part may be written had to be split). */
int dirty_stop(struct nested *n, struct dirty_log *log);

/* --- twodim.c: the two-dimensional walk ------------------------------------------------------------------------------------------ */

/* One memory reference of the CPU's. */
struct reference {
	enum { REF_GUEST, REF_NESTED, REF_DATA } what; /* an entry of the guest's tables, of the nested ones, the access itself */
	unsigned guest_level;  /* whose gpa is being translated: 4 to 1 a guest table's, 0 the data's */
	unsigned level;        /* REF_NESTED: level of the nested entry */
	uint64_t gpa, ma;      /* REF_GUEST, REF_DATA: of the entry or datum; REF_NESTED: the gpa that is being translated;
				* the entry's ma */
	uint64_t entry;        /* what was read; REF_DATA: 0 */
};
#define REFERENCES_MAX 25
/*
 * All memory references that the CPU makes to translate gva and to reach the data, in order, when no TLB helps: for each entry of the
 * guest's tables first those that translate its gpa. Ends where the CPU's walk would. Returns how many: at most 24 and the data.
 * The access is a read. Where the nested tables keep A and D, reading one of the guest's entries needs W there as well: A may have to be
 * set in it. (APM vol. 2, 15.25.5, figure 15-14; SDM vol. 3, 28.3.2, 28.3.3.2)
 */
unsigned twodim_walk(struct vcpu *v, struct nested *n, uint64_t gva, struct reference *refs);
/* How many references a walk costs, the data not counted, when the guest's page and the nested pages are of these levels (1 to 3). */
unsigned twodim_cost(unsigned guest_level, unsigned nested_level);

/* --- svm.c, vmx.c: the control structures ------------------------------------------------------------------------------------------ */

struct svm;
struct vmx;
/* What the guest is left for, and where its tables are: svm.h, vmx.h have the fields. */
void svm_controls(struct svm *s);
int vmx_controls(struct vmx *s);
/* The CPU's account of an exit in the common vocabulary. */
void svm_decode_exit(const struct svm *s, struct hvm_exit *x);
void vmx_decode_exit(struct vmx *s, struct hvm_exit *x);
/* An event for the next entry (valid or not), and the windows. */
void svm_inject(struct svm *s, const struct hvm_event *e);
void vmx_inject(struct vmx *s, const struct hvm_event *e);
void svm_windows(struct svm *s, bool irq, bool nmi);
void vmx_windows(struct vmx *s, bool irq, bool nmi);

/* --- exits.c: what is done about an exit ---------------------------------------------------------------------------------------------- */

/* Each: 0 when the guest goes on (perhaps with v->event queued), negative with the VM stopped. */
int exit_violation(struct vcpu *v, const struct hvm_exit *x);
int exit_cpuid(struct vcpu *v, const struct hvm_exit *x);
int exit_io(struct vcpu *v, const struct hvm_exit *x);
int exit_msr(struct vcpu *v, const struct hvm_exit *x);
int exit_cr(struct vcpu *v, const struct hvm_exit *x);
int exit_hlt(struct vcpu *v, const struct hvm_exit *x);

/* --- events.c: what is injected ------------------------------------------------------------------------------------------------------ */

/* Behind each exit, before it is handled: an event whose delivery it interrupted must not be lost. */
void events_interrupted(struct vcpu *v, const struct hvm_exit *x);
/* Before each entry: sets h->inject, h->irq_window and h->nmi_window. Of what waits (an interrupted delivery, v->event, h->nmi_pending, the
 * 8259) at most one event goes in; a window is asked for when something waits that the guest does not take yet. */
void events_next(struct vcpu *v);

#endif
