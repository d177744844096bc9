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

// SOLUTION 3.18
/* The first gpa behind what the last entry of the walk covers. */
static uint64_t behind(const struct nested_walk *w, uint64_t gpa)
{
	uint64_t size = level_size(w->level);

	return (gpa & -size) + size;
}
// END

unsigned nested_harvest(struct nested *n, uint64_t gpa, uint64_t len, unsigned bits,
			void (*seen)(void *opaque, uint64_t gpa, unsigned level, unsigned bits), void *opaque)
{
	// SOLUTION 3.18
	unsigned pages = 0;
	struct nested_walk w;

	for (uint64_t end = gpa + len; gpa < end; gpa = behind(&w, gpa)) {
		nested_walk(n, gpa, 0, &w);
		struct nested_entry *e = &w.at[w.level];
		unsigned has = (e->accessed ? HARVEST_ACCESSED : 0) | (e->dirty ? HARVEST_DIRTY : 0);

		if (e->kind != NESTED_PAGE || !(has &= bits))
			continue;
		if (has & HARVEST_ACCESSED)
			e->accessed = false;
		if (has & HARVEST_DIRTY)
			e->dirty = false;
		/* Without the flush that this makes due the CPU would not set them again: it remembers that it has. */
		nested_put(n, w.slot[w.level], w.level, e);
		seen(opaque, gpa & -level_size(w.level), w.level, has);
		pages++;
	}
	return pages;
	// STARTER 3.18: go through what is mapped, tell of each page with A or D, and clear what was told. Hint: nested_walk() says how
	// far an entry reaches, an absent one too; nested_put() knows whether a flush is due.
	//	(void)gpa, (void)len, (void)bits, (void)seen, (void)opaque;
	//	lab_todo(n->vm, "3.18", "nested_harvest() in dirty.c: pages with A or D, and these cleared");
	//	return 0;
	// END
}

// SOLUTION 3.19
static bool marked(const struct dirty_log *log, uint64_t gfn)
{
	return log->bitmap[gfn / 64] >> gfn % 64 & 1;
}

/* Takes W from the page that maps gpa, or gives it. *w is how it was. */
static void set_write(struct nested *n, uint64_t gpa, bool on, struct nested_walk *w)
{
	nested_walk(n, gpa, 0, w);
	struct nested_entry e = w->at[w->level];

	/* No format knows W without R. */
	if (e.kind != NESTED_PAGE || !(e.rights & NESTED_R))
		return;
	e.rights = on ? e.rights | NESTED_W : e.rights & ~NESTED_W;
	nested_put(n, w->slot[w->level], w->level, &e);
}

/* Makes the page that maps gpa one of 4 KiB. 0 or -ENOMEM. */
static int split_all(struct nested *n, uint64_t gpa)
{
	for (unsigned level = 3; level > 1; level--)
		if (nested_split(n, gpa, level) == -ENOMEM)
			return -ENOMEM;
	return 0;
}

static uint64_t bitmap_size(const struct dirty_log *log)
{
	return (log->pages + 63) / 64 * 8;
}
// END

int dirty_start(struct nested *n, struct dirty_log *log)
{
	// SOLUTION 3.19
	uint64_t end = log->pages * PAGE;
	struct nested_walk w;

	/* A page that reaches beyond the log's memory is cut at its edge. */
	nested_walk(n, end, 0, &w);
	if (end & (level_size(w.level) - 1) && w.at[w.level].kind == NESTED_PAGE && split_all(n, end))
		return -ENOMEM;
	memset(log->bitmap, 0, bitmap_size(log));
	for (uint64_t gpa = 0; gpa < end; gpa = behind(&w, gpa))
		set_write(n, gpa, false, &w);
	log->on = true;
	return 0;
	// STARTER 3.19: from now on no page may be written without an exit. Hint: a large page loses W as a whole; it is split
	// when somebody writes to it and not before.
	//	(void)log;
	//	return lab_todo(n->vm, "3.19", "dirty_start() in dirty.c: clear the bitmap, take W from what is mapped");
	// END
}

int dirty_fault(struct nested *n, struct dirty_log *log, uint64_t gpa)
{
	// SOLUTION 3.19
	struct nested_walk w;

	if (split_all(n, gpa))
		return -ENOMEM;
	set_write(n, gpa, true, &w);
	log->bitmap[gpa / PAGE / 64] |= 1ull << gpa / PAGE % 64;
	return 0;
	// STARTER 3.19: note the page, and let the guest write to it. Hint: to these 4 KiB only, or what it writes beside them is never
	// noticed.
	//	(void)log, (void)gpa;
	//	return lab_todo(n->vm, "3.19", "dirty_fault() in dirty.c: one bit, and W for 4 KiB");
	// END
}

int dirty_fetch(struct nested *n, struct dirty_log *log, uint64_t *out)
{
	// SOLUTION 3.19
	struct nested_walk w;

	for (uint64_t gfn = 0; gfn < log->pages; gfn++)
		if (marked(log, gfn))
			set_write(n, gfn * PAGE, false, &w);
	memcpy(out, log->bitmap, bitmap_size(log));
	memset(log->bitmap, 0, bitmap_size(log));
	return 0;
	// STARTER 3.19: hand the bitmap out and begin anew. Hint: only what is in it can be written now, so nothing else needs to be
	// protected again.
	//	(void)log, (void)out;
	//	return lab_todo(n->vm, "3.19", "dirty_fetch() in dirty.c: copy, protect what is in it again, clear");
	// END
}

int dirty_stop(struct nested *n, struct dirty_log *log)
{
	// SOLUTION 3.19
	struct nested_walk w;

	for (uint64_t gpa = 0, next; gpa < log->pages * PAGE; gpa = next) {
		nested_walk(n, gpa, 0, &w);
		next = behind(&w, gpa);
		if (w.at[w.level].kind != NESTED_PAGE || (w.rights & NESTED_W))
			continue;
		uint64_t allowed = 0;
		for (uint64_t page = gpa; page < next; page += PAGE)
			allowed += log->may_write(log->opaque, page) ? PAGE : 0;
		if (allowed == next - gpa) {
			set_write(n, gpa, true, &w);
		} else if (allowed) { /* not all of it: 4 KiB are never mixed, so this ends */
			if (nested_split(n, gpa, w.level))
				return -ENOMEM;
			next = gpa;
		}
	}
	log->on = false;
	return 0;
	// STARTER 3.19: what the log forbade is allowed again. Hint: log->may_write() knows what somebody else forbids. A page that may be
	// written all over gets W as large as it is; only a mixed one has to be split.
	//	(void)log;
	//	return lab_todo(n->vm, "3.19", "dirty_stop() in dirty.c: give W back where log->may_write() says so");
	// END
}
