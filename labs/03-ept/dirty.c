/*
 * Lab 3, checkpoints 3.18 and 3.19: what a guest has touched.
 *
 * Two ways, and hypervisors use both. The CPU leaves A and D in the entries that it used: free while the guest runs, but they are only as
 * fine as the pages are, and somebody must look at all of them. Or writes are forbidden, and the first one to each page is an exit:
 * exact to 4 KiB and known at once, at a price for each page that is written.
 *
 * Reading: Intel SDM vol. 3, 28.3.5 (accessed and dirty flags for EPT), 28.4.3.4 (the flush); AMD APM vol. 2, 15.25.5, 5.4.2.
 */
#include "lab3.h"

unsigned nested_harvest(struct nested *n, uint64_t gpa, uint64_t len, unsigned bits,
			void (*seen)(void *opaque, uint64_t gpa, unsigned level, unsigned bits), void *opaque)
{
	// TODO 3.18: go through what is mapped, tell of each page with A or D, and clear what was told. Hint:
	// nested_walk() says how far an entry reaches, an absent one too; nested_put() knows whether a flush is due.
	(void)gpa, (void)len, (void)bits, (void)seen, (void)opaque;
	lab_todo(n->vm, "3.18", "nested_harvest() in dirty.c: pages with A or D, and these cleared");
	return 0;
}

int dirty_start(struct nested *n, struct dirty_log *log)
{
	// TODO 3.19: from now on no page may be written without an exit. Hint: a large page loses W as a whole; it is
	// split when somebody writes to it and not before.
	(void)log;
	return lab_todo(n->vm, "3.19", "dirty_start() in dirty.c: clear the bitmap, take W from what is mapped");
}

int dirty_fault(struct nested *n, struct dirty_log *log, uint64_t gpa)
{
	// TODO 3.19: note the page, and let the guest write to it. Hint: to these 4 KiB only, or what it writes beside
	// them is never noticed.
	(void)log, (void)gpa;
	return lab_todo(n->vm, "3.19", "dirty_fault() in dirty.c: one bit, and W for 4 KiB");
}

int dirty_fetch(struct nested *n, struct dirty_log *log, uint64_t *out)
{
	// TODO 3.19: hand the bitmap out and begin anew. Hint: only what is in it can be written now, so nothing else
	// needs to be protected again.
	(void)log, (void)out;
	return lab_todo(n->vm, "3.19", "dirty_fetch() in dirty.c: copy, protect what is in it again, clear");
}

int dirty_stop(struct nested *n, struct dirty_log *log)
{
	// TODO 3.19: what the log forbade is allowed again. Hint: log->may_write() knows what somebody else forbids. A
	// page that may be written all over gets W as large as it is; only a mixed one has to be split.
	(void)log;
	return lab_todo(n->vm, "3.19", "dirty_stop() in dirty.c: give W back where log->may_write() says so");
}
