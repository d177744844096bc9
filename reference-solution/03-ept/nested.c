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

// SOLUTION 3.3
#define GPA_LIMIT (1ull << 48) /* four levels reach no further */

/* What the entry in *slot says. What leads out of the pool leads to no table. */
static void look(const struct nested *n, const uint64_t *slot, unsigned level, struct nested_entry *e)
{
	n->format->decode(n, *slot, level, e);
	if (e->kind == NESTED_TABLE && !nested_in_pool(n, e->ma))
		*e = (struct nested_entry){ .kind = NESTED_INVALID, .type = TYPE_WB };
}
// END

void nested_walk(struct nested *n, uint64_t gpa, unsigned access, struct nested_walk *w)
{
	*w = (struct nested_walk){ 0 };
	// SOLUTION 3.3
	uint64_t table = n->root_ma;
	unsigned rights = NESTED_RWX;

	for (w->level = PT_LEVELS;; w->level--) {
		struct nested_entry *e = &w->at[w->level];

		w->slot[w->level] = nested_slot(n, table, level_index(gpa, w->level));
		look(n, w->slot[w->level], w->level, e);
		if (e->kind == NESTED_ABSENT || e->kind == NESTED_INVALID) {
			w->end = e->kind == NESTED_ABSENT ? WALK_ABSENT : WALK_INVALID;
			return;
		}
		rights &= e->rights;
		if (e->kind == NESTED_PAGE)
			break;
		table = e->ma;
	}
	w->rights = rights;
	w->ma = w->at[w->level].ma | (gpa & (level_size(w->level) - 1));
	w->end = access & ~rights ? WALK_FORBIDDEN : WALK_OK;
	// STARTER 3.3: follow the entries from n->root_ma, level 4 first, and say how it ended. Hint: nested_slot(), level_index(),
	// n->format->decode(); nested_in_pool() before an entry's table is trusted; rights are what all levels together allow.
	//	(void)gpa, (void)access;
	//	lab_todo(n->vm, "3.3", "nested_walk() in nested.c: from n->root_ma down, rights, and why it ended");
	// END
}

void nested_put(struct nested *n, uint64_t *slot, unsigned level, const struct nested_entry *e)
{
	// SOLUTION 3.4
	struct nested_entry old, now;
	uint64_t entry = n->format->encode(n, e, level);

	look(n, slot, level, &old);
	n->format->decode(n, entry, level, &now);
	/*
	 * A remembered A or D is not written to the entry again, so one that is cleared must be forgotten too. What is remembered with too
	 * few rights costs a look at the tables and nothing else.
	 */
	if (old.kind != NESTED_ABSENT &&
	    (now.kind != old.kind || now.ma != old.ma || now.type != old.type || (old.rights & ~now.rights) ||
	     (old.accessed && !now.accessed) || (old.dirty && !now.dirty)))
		n->flush = true;
	nested_set(n, slot, entry);
	// STARTER 3.4: encode, compare with what was there, store with nested_set(), and set n->flush if the CPU could remember something
	// that is not true any more. Hint: from which changes does nobody take harm?
	//	(void)slot, (void)level, (void)e;
	//	lab_todo(n->vm, "3.4", "nested_put() in nested.c: store an entry, and say whether a flush is due");
	// END
}

// SOLUTION 3.4
/* What leads to a table. A is set already: that saves the CPU a write, and says nothing of a page. */
static struct nested_entry leads_to(uint64_t table)
{
	return (struct nested_entry){
		.kind = NESTED_TABLE, .rights = NESTED_RWX, .type = TYPE_WB, .accessed = true, .ma = table
	};
}
// END

// SOLUTION 3.5
/* The page that *slot maps, e, becomes 512 of the next level. The new table is complete before anything leads to it. 0 or -ENOMEM. */
static int split(struct nested *n, uint64_t *slot, unsigned level, const struct nested_entry *e)
{
	uint64_t table = nested_take(n);
	struct nested_entry piece = *e;

	if (!table)
		return -ENOMEM;
	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		nested_put(n, nested_slot(n, table, i), level - 1, &piece);
		piece.ma += level_size(level - 1);
	}
	piece = leads_to(table);
	nested_put(n, slot, level, &piece);
	n->count.splits++;
	return 0;
}
// END

// SOLUTION 3.4
/* A table that nothing leads to any more goes, and all below it. */
static void release(struct nested *n, uint64_t table, unsigned level)
{
	for (unsigned i = 0; level > 1 && i < PT_ENTRIES; i++) {
		struct nested_entry e;
		look(n, nested_slot(n, table, i), level, &e);
		if (e.kind == NESTED_TABLE)
			release(n, e.ma, level - 1);
	}
	nested_retire(n, table);
}

static bool table_empty(struct nested *n, uint64_t table)
{
	const uint64_t *entry = nested_slot(n, table, 0);

	for (unsigned i = 0; i < PT_ENTRIES; i++)
		if (entry[i])
			return false;
	return true;
}

/* Are these pages of 4 KiB that four levels can reach? */
static bool valid_range(uint64_t gpa, uint64_t len)
{
	return gpa % PAGE == 0 && len % PAGE == 0 && gpa <= GPA_LIMIT && len <= GPA_LIMIT - gpa;
}

/*
 * The entry of `level` for gpa, with tables made and large pages split on the way. NULL when there are not enough tables; this is asked
 * first, so that no empty ones are left where nothing gets mapped.
 */
static uint64_t *entry_for(struct nested *n, uint64_t gpa, unsigned level)
{
	uint64_t table = n->root_ma;
	struct nested_walk w;

	nested_walk(n, gpa, 0, &w);
	if (w.level > level && nested_left(n) < w.level - level)
		return NULL;
	for (unsigned l = PT_LEVELS; l > level; l--) {
		uint64_t *slot = nested_slot(n, table, level_index(gpa, l));
		struct nested_entry e;

		look(n, slot, l, &e);
		// END
		// SOLUTION 3.5
		if (e.kind == NESTED_PAGE) {
			split(n, slot, l, &e);
			look(n, slot, l, &e);
		}
		// END
		// SOLUTION 3.4
		if (e.kind != NESTED_TABLE) {
			e = leads_to(nested_take(n));
			nested_put(n, slot, l, &e);
		}
		table = e.ma;
	}
	return nested_slot(n, table, level_index(gpa, level));
}
// END

/* How large a page can begin at gpa, with so much left to map. */
static unsigned page_level(const struct nested *n, uint64_t gpa, uint64_t ma, uint64_t len, unsigned max_level)
{
	// SOLUTION 3.5
	for (unsigned level = max_level; level > 1; level--)
		if ((level == 3 ? n->caps.page_1g : n->caps.page_2m) && (gpa | ma) % level_size(level) == 0 &&
		    len >= level_size(level))
			return level;
	// STARTER 3.5: as large a page as may begin here. Hint: gpa, ma, what is left, n->caps and max_level all have a say. (And when a
	// large page is in the way of a small one, nested_map() must split it, not lose it.)
	//	(void)n, (void)gpa, (void)ma, (void)len, (void)max_level;
	// END
	return 1;
}

int nested_map(struct nested *n, uint64_t gpa, uint64_t ma, uint64_t len, unsigned rights, enum nested_type type,
	       unsigned max_level)
{
	// SOLUTION 3.4
	uint64_t ma_limit = 1ull << n->caps.phys_bits;

	if (!valid_range(gpa, len) || ma % PAGE || ma > ma_limit || len > ma_limit - ma || !nested_can(n, rights))
		return -EINVAL;
	while (len) {
		unsigned level = page_level(n, gpa, ma, len, max_level);
		uint64_t *slot = entry_for(n, gpa, level), size = level_size(level);
		struct nested_entry old, page = { .kind = NESTED_PAGE, .rights = rights, .type = type, .ma = ma };

		if (!slot)
			return -ENOMEM;
		look(n, slot, level, &old);
		nested_put(n, slot, level, &page);
		if (old.kind == NESTED_TABLE)
			release(n, old.ma, level - 1);
		n->count.mapped++;
		gpa += size;
		ma += size;
		len -= size;
	}
	return 0;
	// STARTER 3.4: page by page: the entry that maps it, with the tables that are missing on the way, and what was there replaced.
	// Hint: first what -EINVAL is for; nested_take() and nested_left(), nested_put(). An entry that led to a table leaves it, and
	// all below it, to nested_retire().
	//	(void)page_level, (void)gpa, (void)ma, (void)len, (void)rights, (void)type, (void)max_level;
	//	return lab_todo(n->vm, "3.4", "nested_map() in nested.c: tables from the pool, entries of 4 KiB, what was there replaced");
	// END
}

// SOLUTION 3.4
/*
 * In the part of [gpa, end) that this table of `level` covers: gives pages these rights, or takes them away if there are none, with
 * the tables that become empty. 0 or -ENOMEM.
 */
static int change(struct nested *n, uint64_t table, unsigned level, uint64_t gpa, uint64_t end, unsigned rights)
{
	uint64_t size = level_size(level), next;
	int err = 0;

	for (; gpa < end && !err; gpa = next) {
		uint64_t *slot = nested_slot(n, table, level_index(gpa, level));
		struct nested_entry e;

		next = (gpa & -size) + size < end ? (gpa & -size) + size : end;
		look(n, slot, level, &e);
		// END
		// SOLUTION 3.5
		if (e.kind == NESTED_PAGE && next - gpa < size) {
			err = split(n, slot, level, &e);
			if (err)
				return err;
			look(n, slot, level, &e);
		}
		// END
		// SOLUTION 3.4
		if (e.kind == NESTED_TABLE) {
			err = change(n, e.ma, level - 1, gpa, next, rights);
			if (!rights && table_empty(n, e.ma)) {
				nested_put(n, slot, level, &(struct nested_entry){ .kind = NESTED_ABSENT });
				nested_retire(n, e.ma);
			}
		} else if (e.kind == NESTED_PAGE && rights) {
			e.rights = rights;
			nested_put(n, slot, level, &e);
		} else if (!rights) {
			nested_put(n, slot, level, &(struct nested_entry){ .kind = NESTED_ABSENT });
		}
	}
	return err;
}
// END

int nested_unmap(struct nested *n, uint64_t gpa, uint64_t len)
{
	// SOLUTION 3.4
	if (!valid_range(gpa, len))
		return -EINVAL;
	return change(n, n->root_ma, PT_LEVELS, gpa, gpa + len, 0);
	// STARTER 3.4: take the entries out, then the tables that became empty, up to the root, which stays. Hint: a range may be large and
	// mostly empty: what is absent at level 4 needs no look at 2^27 entries below. (3.5: a page that reaches beyond is split first.)
	//	(void)gpa, (void)len;
	//	return lab_todo(n->vm, "3.4", "nested_unmap() in nested.c: clear entries, retire tables that became empty");
	// END
}

int nested_protect(struct nested *n, uint64_t gpa, uint64_t len, unsigned rights)
{
	// SOLUTION 3.6
	if (!valid_range(gpa, len) || !nested_can(n, rights))
		return -EINVAL;
	return change(n, n->root_ma, PT_LEVELS, gpa, gpa + len, rights);
	// STARTER 3.6: other rights for the pages that are mapped there. Hint: it goes through the tables as nested_unmap() does, large
	// pages that reach beyond included; memory type, A and D of an entry stay as they are.
	//	(void)gpa, (void)len, (void)rights;
	//	return lab_todo(n->vm, "3.6", "nested_protect() in nested.c: other rights, everything else stays");
	// END
}

int nested_split(struct nested *n, uint64_t gpa, unsigned level)
{
	// SOLUTION 3.5
	struct nested_walk w;

	nested_walk(n, gpa, 0, &w);
	if (level < 2 || level > 3 || w.level != level || w.at[level].kind != NESTED_PAGE)
		return -ENOENT;
	return split(n, w.slot[level], level, &w.at[level]);
	// STARTER 3.5: one entry becomes a table of 512. Hint: the new table is complete before anything leads to it, and each piece
	// says what the page said: rights, type, A and D.
	//	(void)gpa, (void)level;
	//	return lab_todo(n->vm, "3.5", "nested_split() in nested.c: 512 pieces that say what the page said");
	// END
}

int nested_join(struct nested *n, uint64_t gpa, unsigned level)
{
	// SOLUTION 3.5
	struct nested_entry page, piece;
	struct nested_walk w;

	if (level < 2 || level > 3 || !(level == 3 ? n->caps.page_1g : n->caps.page_2m))
		return -EOPNOTSUPP;
	nested_walk(n, gpa, 0, &w);
	if (w.level >= level) /* the walk ended there or above it: no table below */
		return -ENOENT;
	uint64_t table = w.at[level].ma;

	look(n, nested_slot(n, table, 0), level - 1, &page);
	if (page.kind != NESTED_PAGE || page.ma % level_size(level))
		return -EBUSY;
	for (unsigned i = 1; i < PT_ENTRIES; i++) {
		look(n, nested_slot(n, table, i), level - 1, &piece);
		if (piece.kind != NESTED_PAGE || piece.ma != page.ma + i * level_size(level - 1) ||
		    piece.rights != page.rights || piece.type != page.type)
			return -EBUSY;
		page.accessed |= piece.accessed;
		page.dirty |= piece.dirty;
	}
	nested_put(n, w.slot[level], level, &page);
	nested_retire(n, table);
	n->count.joins++;
	return 0;
	// STARTER 3.5: a table of 512 that are alike becomes one entry. Hint: what must all of them have in common so that nobody can
	// tell the difference, and what may differ?
	//	(void)gpa, (void)level;
	//	return lab_todo(n->vm, "3.5", "nested_join() in nested.c: one page in place of 512 that are alike");
	// END
}
