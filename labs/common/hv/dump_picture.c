#include "dump_picture.h"
#include "engine.h"
#include "lab2.h"

#include <stdlib.h>

/* How many tables of a level and kind are shown: two lines of guest tables, one line of each shadow. */
static unsigned boxes_max(enum picture_kind kind) { return kind == PICTURE_GUEST ? 2 * PICTURE_ACROSS : PICTURE_ACROSS; }

/* Bits in which the entries of one row are alike. */
#define ROW_BITS (PTE_P | PTE_W | PTE_U | PTE_PS | PTE_G | PTE_NX)

static uint64_t sign_extended(uint64_t gva) { return (uint64_t)((int64_t)(gva << 16) >> 16); }

/* The table through which the way goes at this level: its address, or false. */
static bool way_table(const struct dump_path *way, enum picture_kind kind, unsigned level, uint64_t *at)
{
	if (kind == PICTURE_GUEST) {
		*at = way->w.at[level].gpa & ~(PAGE - 1);
		return way->err != -ECANCELED && level >= way->w.level;
	}
	const struct spage *p = way->side[kind].at[level];
	*at = p ? p->ma : 0;
	return p;
}

const struct picture_row *picture_row(const struct picture *pic, const struct dump_path *way, enum picture_kind kind, unsigned level,
				      const struct picture_box **box)
{
	unsigned slot = level_index(way->gva, level);
	uint64_t at;

	if (!way_table(way, kind, level, &at))
		return NULL;
	for (unsigned i = 0; i < pic->boxes; i++) {
		*box = &pic->box[i];
		if ((*box)->kind != kind || (*box)->level != level || (*box)->at != at)
			continue;
		for (unsigned r = 0; r < (*box)->rows; r++)
			if ((*box)->row[r].first <= slot && slot <= (*box)->row[r].last)
				return &(*box)->row[r];
	}
	return NULL;
}

static void add_box(struct picture *pic, enum picture_kind kind, unsigned level, uint64_t at, const struct spage *p, uint64_t gva)
{
	unsigned same = 0;

	for (unsigned i = 0; i < pic->boxes; i++) {
		if (pic->box[i].kind != kind || pic->box[i].level != level)
			continue;
		if (pic->box[i].at == at) /* it is reached in several ways */
			return;
		same++;
	}
	if (same == boxes_max(kind)) {
		pic->hidden[kind]++;
		return;
	}
	pic->box[pic->boxes++] = (struct picture_box){ .kind = kind, .level = level, .at = at, .p = p, .gva = sign_extended(gva) };
}

/* Puts an entry into the last row, if it is alike and goes on where that ends, or into a new one. On the way that was asked for, an
 * entry has a row of its own, even if it is empty. */
static void add_entry(struct picture *pic, struct picture_box *box, const struct picture_row *next, bool own)
{
	struct picture_row *last = box->rows ? &box->row[box->rows - 1] : NULL;
	uint64_t span = last ? (next->first - last->first) * level_size(box->level) : 0, slot_at;
	bool last_own = last && way_table(&pic->way[0], box->kind, box->level, &slot_at) && slot_at == box->at &&
			last->first == level_index(pic->way[0].gva, box->level);

	if (last && !own && !last_own && last->leaf && next->leaf && last->last + 1 == next->first && last->verdict == next->verdict &&
	    !((last->entry ^ next->entry) & ROW_BITS) && (last->entry & PTE_ADDR) + span == (next->entry & PTE_ADDR)) {
		last->last = next->last;
		return;
	}
	if (box->rows < PICTURE_ROWS) {
		box->row[box->rows++] = *next;
		return;
	}
	box->more++;
	if (own) /* then another one goes */
		*last = *next;
}

static void fill_box(struct picture *pic, struct picture_box *box)
{
	const struct dump_path *asked = &pic->way[0];
	uint64_t at;
	bool on_way = way_table(asked, box->kind, box->level, &at) && at == box->at;

	for (unsigned slot = 0; slot < PT_ENTRIES; slot++) {
		struct picture_row row = { .first = slot, .last = slot, .gva = sign_extended(box->gva + slot * level_size(box->level)) };
		bool own = on_way && slot == level_index(asked->gva, box->level);
		struct dump_path path;

		if (box->kind != PICTURE_GUEST && !own && !spt_present(pic->d->shadow, box->p, slot))
			continue;
		dump_path(pic->d, own ? asked->gva : row.gva, &path);
		if (box->kind == PICTURE_GUEST) {
			row.entry = path.w.at[box->level].entry;
			row.leaf = !path.err && path.w.level == box->level;
			if (!own && !(row.entry & PTE_P))
				continue;
			if (path.err != -ECANCELED && path.w.level < box->level)
				add_box(pic, box->kind, box->level - 1, path.w.at[box->level - 1].gpa & ~(PAGE - 1), NULL, row.gva);
		} else {
			const struct spage *child = box->level > 1 ? spt_child(pic->d->shadow, box->p, slot) : NULL;
			row.entry = box->p->table[slot];
			row.leaf = box->level == 1 && (row.entry & PTE_P);
			row.monitor = row.entry && !spt_present(pic->d->shadow, box->p, slot);
			if (row.leaf && path.side[box->kind].verdict >= DUMP_OLDER)
				row.verdict = path.side[box->kind].verdict;
			if (child)
				add_box(pic, box->kind, box->level - 1, child->ma, child, row.gva);
		}
		add_entry(pic, box, &row, own);
	}
}

/* The tables of the way that was asked for come first, or others might leave no room for them; then level by level what leads on. */
static void make_boxes(struct picture *pic)
{
	const struct dump_path *asked = &pic->way[0];
	uint64_t at;

	for (enum picture_kind kind = 0; kind < PICTURE_KINDS; kind++)
		for (unsigned level = PT_LEVELS; level >= 1; level--)
			if (way_table(asked, kind, level, &at))
				add_box(pic, kind, level, at, kind == PICTURE_GUEST ? NULL : asked->side[kind].at[level],
					level < PT_LEVELS ? asked->gva & ~(level_size(level + 1) - 1) : 0);
	for (unsigned level = PT_LEVELS; level >= 1; level--)
		for (unsigned i = 0; i < pic->boxes; i++)
			if (pic->box[i].level == level)
				fill_box(pic, &pic->box[i]);
}

static void add_place(struct picture *pic, enum picture_use use, uint64_t ma, uint64_t size, const struct picture_box *box)
{
	for (unsigned i = 0; i < pic->places; i++)
		if (pic->place[i].use == use && pic->place[i].ma == ma && pic->place[i].size == size)
			return;
	if (pic->places < PICTURE_PLACES)
		pic->place[pic->places++] = (struct picture_place){ .use = use, .ma = ma, .size = size, .box = box };
}

/* Pages that a row maps, if they are in memory. */
static void add_pages(struct picture *pic, const struct picture_box *box, const struct picture_row *row)
{
	bool guest = box->kind == PICTURE_GUEST;
	uint64_t each = level_size(box->level), first = row->entry & PTE_ADDR & ~(each - 1), size = (row->last - row->first + 1) * each;

	if (guest && guest_range(&pic->d->vm->mem, first, size))
		add_place(pic, PLACE_PAGES, first + pic->guest_ma, size, NULL);
	else if (!guest)
		add_place(pic, PLACE_PAGES, first, size, NULL);
}

static int by_address(const void *a, const void *b)
{
	const struct picture_place *x = a, *y = b;

	if (x->ma != y->ma)
		return x->ma < y->ma ? -1 : 1;
	return x->size == y->size ? 0 : x->size < y->size ? 1 : -1;
}

static void make_places(struct picture *pic)
{
	const struct picture_box *box;

	if (pic->guest_ma)
		add_place(pic, PLACE_MONITOR, MONITOR_MA, MONITOR_SIZE, NULL);
	/* First what the way needs, because the number is bounded. */
	for (enum picture_kind kind = 0; kind < PICTURE_KINDS; kind++)
		for (unsigned level = 1; level <= PT_LEVELS; level++) {
			const struct picture_row *row = picture_row(pic, &pic->way[0], kind, level, &box);
			if (row && row->leaf)
				add_pages(pic, box, row);
		}
	for (unsigned i = 0; i < pic->boxes; i++) {
		bool guest = pic->box[i].kind == PICTURE_GUEST;
		if (!guest || guest_range(&pic->d->vm->mem, pic->box[i].at, PAGE))
			add_place(pic, guest ? PLACE_TABLE : PLACE_SHADOW, pic->box[i].at + (guest ? pic->guest_ma : 0), PAGE,
				  &pic->box[i]);
	}
	for (unsigned i = 0; i < pic->boxes; i++)
		for (unsigned r = 0; r < pic->box[i].rows; r++)
			if (pic->box[i].row[r].leaf)
				add_pages(pic, &pic->box[i], &pic->box[i].row[r]);
	qsort(pic->place, pic->places, sizeof *pic->place, by_address);
}

const struct picture_place *picture_page(const struct picture *pic, uint64_t ma)
{
	const struct picture_place *best = NULL;

	for (unsigned i = 0; i < pic->places; i++) {
		const struct picture_place *p = &pic->place[i];
		if (p->use == PLACE_PAGES && p->ma <= ma && ma - p->ma < p->size && (!best || p->size < best->size))
			best = p;
	}
	return best;
}

/* Besides the way that was asked for, those of all leaves that are shown. */
static void make_ways(struct picture *pic)
{
	for (unsigned i = 0; i < pic->boxes; i++)
		for (unsigned r = 0; r < pic->box[i].rows && pic->ways < PICTURE_WAYS; r++) {
			const struct picture_row *row = &pic->box[i].row[r];
			uint64_t size = level_size(pic->box[i].level);
			bool known = !row->leaf;
			for (unsigned w = 0; w < pic->ways && !known; w++)
				known = pic->way[w].gva / PAGE == row->gva / PAGE ||
					(!w && row->first == row->last && pic->way[0].gva / size == row->gva / size);
			if (!known)
				dump_path(pic->d, row->gva, &pic->way[pic->ways++]);
		}
}

static unsigned max_of(unsigned a, unsigned b) { return a > b ? a : b; }

/* Puts the boxes of one level into lines, beginning at y. Returns where the last one ends. */
static unsigned lay_out(struct picture *pic, unsigned level, bool guest, unsigned x, unsigned y)
{
	unsigned n = 0, end = y;

	for (enum picture_kind kind = 0; kind < PICTURE_KINDS; kind++)
		for (unsigned i = 0; i < pic->boxes; i++) {
			struct picture_box *box = &pic->box[i];
			if (box->level != level || box->kind != kind || (kind == PICTURE_GUEST) != guest)
				continue;
			if (n == PICTURE_ACROSS) {
				n = 0;
				y = end + 8;
			}
			box->x = x + n++ * (PICTURE_BOX_W + 8);
			box->y = y;
			end = max_of(end, y + PICTURE_BOX_HEAD + (box->rows + !!box->more) * PICTURE_ROW_H + 3);
		}
	return end;
}

void picture_make(struct picture *pic, struct dump *d, uint64_t gva)
{
	unsigned y = PICTURE_TOP;

	*pic = (struct picture){ .d = d, .guest_ma = d->vm->engine == &engine_trap ? GUEST_MA : 0, .ways = 1 };
	dump_path(d, gva, &pic->way[0]);
	make_boxes(pic);
	make_places(pic);
	make_ways(pic);
	for (unsigned level = PT_LEVELS; level >= 1; level--) {
		pic->level_y[level] = y;
		unsigned end = lay_out(pic, level, true, PICTURE_GUEST_X, y + 4);
		y = max_of(end, lay_out(pic, level, false, PICTURE_SHADOW_X, y + 4)) + 22;
	}
	for (unsigned i = 0; i < pic->places; i++)
		pic->place[i].y = PICTURE_TOP + 4 + i * PICTURE_PLACE_H;
	pic->height = max_of(y, PICTURE_TOP + pic->places * PICTURE_PLACE_H + 24) + 4;
}
