/*
 * What the page of --dump-html shows, and where: tables as boxes with a row for each run of alike entries, places in the machine's
 * memory, and the ways of some addresses through them. Everything is bounded, and the way that was asked for is always there.
 * Lengths are pixels of a page 1280 wide.
 */
#ifndef HV_DUMP_PICTURE_H
#define HV_DUMP_PICTURE_H

#include "dump_walk.h"

#define PICTURE_WIDTH 1280u
#define PICTURE_ROWS 10u     /* in a box, at most */
#define PICTURE_ROW_H 14u
#define PICTURE_BOX_W 156u
#define PICTURE_BOX_HEAD 29u
#define PICTURE_ACROSS 3u    /* boxes beside each other in a column */
#define PICTURE_PLACES 40u
#define PICTURE_PLACE_H 17u
#define PICTURE_GUEST_X 36u
#define PICTURE_SHADOW_X 540u
#define PICTURE_PLACE_X 1044u
#define PICTURE_PLACE_W (PICTURE_WIDTH - 12 - PICTURE_PLACE_X)
#define PICTURE_WAYS 40u
#define PICTURE_TOP 126u     /* above it: the title, the legend and the columns' names */

/* The columns of tables. Both shadows stand in one column of the page. */
enum picture_kind { PICTURE_KERNEL = DUMP_KERNEL, PICTURE_USER = DUMP_USER, PICTURE_GUEST, PICTURE_KINDS };

struct picture_row {
	unsigned first, last; /* slots */
	uint64_t entry, gva;  /* of the first slot */
	bool leaf, monitor; /* monitor: nothing of the guest's, it leads to the monitor only */
	enum dump_verdict verdict; /* a shadow's leaf: DUMP_OLDER, DUMP_BROKEN or DUMP_SAME */
};

struct picture_box {
	enum picture_kind kind;
	unsigned level;
	uint64_t at, gva;      /* where the table lies (gpa or ma), and the first address that it translates */
	const struct spage *p; /* a shadow */
	struct picture_row row[PICTURE_ROWS];
	unsigned rows, more; /* shown, and not */
	unsigned x, y;
};

/* A part of the machine's memory. */
struct picture_place {
	enum picture_use { PLACE_MONITOR, PLACE_SHADOW, PLACE_TABLE, PLACE_PAGES } use;
	uint64_t ma, size;
	const struct picture_box *box; /* the table that lies there */
	unsigned y;
};

struct picture {
	struct dump *d;
	uint64_t guest_ma; /* machine address of gpa 0 */
	struct picture_box box[PT_LEVELS * (PICTURE_ACROSS * 4)];
	unsigned boxes, hidden[PICTURE_KINDS]; /* hidden: tables that are not shown */
	struct picture_place place[PICTURE_PLACES];
	unsigned places;
	struct dump_path way[PICTURE_WAYS]; /* the first is the one that was asked for */
	unsigned ways;
	unsigned level_y[PT_LEVELS + 1], height;
};

/* Fills *pic for the address. */
void picture_make(struct picture *pic, struct dump *d, uint64_t gva);
/* The row that a way goes through, or NULL; *box is its table. */
const struct picture_row *picture_row(const struct picture *pic, const struct dump_path *way, enum picture_kind kind, unsigned level,
				      const struct picture_box **box);
/* The smallest place of pages that holds this machine address, or NULL. */
const struct picture_place *picture_page(const struct picture *pic, uint64_t ma);
/* The middle of a row. */
static inline unsigned picture_row_y(const struct picture_box *box, const struct picture_row *row)
{
	return box->y + PICTURE_BOX_HEAD + (unsigned)(row - box->row) * PICTURE_ROW_H + PICTURE_ROW_H / 2;
}

#endif
