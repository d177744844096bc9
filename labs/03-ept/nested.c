/*
 * Lab 3, checkpoints 3.3 to 3.6: nested page tables, whatever their entries look like.
 *
 * The CPU walks these tables itself and remembers what it found. So there are two things to get right with each change: what the tables
 * say afterwards, and whether the CPU may still act on what they said before.
 *
 * All entries that lead to tables allow everything: the one that maps the page decides. A walk intersects the rights of all levels
 * nevertheless, as the CPU does.
 *
 * Reading: Intel SDM vol. 3, 28.3 (EPT), 28.4.2 and 28.4.3 (what is cached, and for how long); AMD APM vol. 2, 15.25.
 */
#include "lab3.h"

void nested_walk(struct nested *n, uint64_t gpa, unsigned access, struct nested_walk *w)
{
	*w = (struct nested_walk){ 0 };
	// TODO 3.3: follow the entries from n->root_ma, level 4 first, and say how it ended. Hint: nested_slot(),
	// level_index(), n->format->decode(); nested_in_pool() before an entry's table is trusted; rights are what all
	// levels together allow.
	(void)gpa, (void)access;
	lab_todo(n->vm, "3.3", "nested_walk() in nested.c: from n->root_ma down, rights, and why it ended");
}

void nested_put(struct nested *n, uint64_t *slot, unsigned level, const struct nested_entry *e)
{
	// TODO 3.4: encode, compare with what was there, store with nested_set(), and set n->flush if the CPU could
	// remember something that is not true any more. Hint: from which changes does nobody take harm?
	(void)slot, (void)level, (void)e;
	lab_todo(n->vm, "3.4", "nested_put() in nested.c: store an entry, and say whether a flush is due");
}

/* How large a page can begin at gpa, with so much left to map. */
static unsigned page_level(const struct nested *n, uint64_t gpa, uint64_t ma, uint64_t len, unsigned max_level)
{
	// TODO 3.5: as large a page as may begin here. Hint: gpa, ma, what is left, n->caps and max_level all have a
	// say. (And when a large page is in the way of a small one, nested_map() must split it, not lose it.)
	(void)n, (void)gpa, (void)ma, (void)len, (void)max_level;
	return 1;
}

int nested_map(struct nested *n, uint64_t gpa, uint64_t ma, uint64_t len, unsigned rights, enum nested_type type,
	       unsigned max_level)
{
	// TODO 3.4: page by page: the entry that maps it, with the tables that are missing on the way, and what was
	// there replaced. Hint: first what -EINVAL is for; nested_take() and nested_left(), nested_put(). An entry that
	// led to a table leaves it, and all below it, to nested_retire().
	(void)page_level, (void)gpa, (void)ma, (void)len, (void)rights, (void)type, (void)max_level;
	return lab_todo(n->vm, "3.4", "nested_map() in nested.c: tables from the pool, entries of 4 KiB, what was there replaced");
}

int nested_unmap(struct nested *n, uint64_t gpa, uint64_t len)
{
	// TODO 3.4: take the entries out, then the tables that became empty, up to the root, which stays. Hint: a range
	// may be large and mostly empty: what is absent at level 4 needs no look at 2^27 entries below. (3.5: a page
	// that reaches beyond is split first.)
	(void)gpa, (void)len;
	return lab_todo(n->vm, "3.4", "nested_unmap() in nested.c: clear entries, retire tables that became empty");
}

int nested_protect(struct nested *n, uint64_t gpa, uint64_t len, unsigned rights)
{
	// TODO 3.6: other rights for the pages that are mapped there. Hint: it goes through the tables as
	// nested_unmap() does, large pages that reach beyond included; memory type, A and D of an entry stay as they
	// are.
	(void)gpa, (void)len, (void)rights;
	return lab_todo(n->vm, "3.6", "nested_protect() in nested.c: other rights, everything else stays");
}

int nested_split(struct nested *n, uint64_t gpa, unsigned level)
{
	// TODO 3.5: one entry becomes a table of 512. Hint: the new table is complete before anything leads to it, and
	// each piece says what the page said: rights, type, A and D.
	(void)gpa, (void)level;
	return lab_todo(n->vm, "3.5", "nested_split() in nested.c: 512 pieces that say what the page said");
}

int nested_join(struct nested *n, uint64_t gpa, unsigned level)
{
	// TODO 3.5: a table of 512 that are alike becomes one entry. Hint: what must all of them have in common so that
	// nobody can tell the difference, and what may differ?
	(void)gpa, (void)level;
	return lab_todo(n->vm, "3.5", "nested_join() in nested.c: one page in place of 512 that are alike");
}
