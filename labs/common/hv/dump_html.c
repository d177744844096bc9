#include "dump_html.h"
#include "dump_picture.h"
#include "dump_tables.h"
#include "trapengine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#define MARGIN 24u

/* Colours: paper, ink, dim ink, lines, boxes, the way, entries by their rights, warnings. */
#define LIGHT \
	":root{--bg:#fff;--fg:#16181d;--dim:#5c6470;--line:#b9c0ca;--box:#f4f5f7;--way:#b4004e;" \
	"--rwx:#ffd9a8;--rw:#bfdcff;--rx:#c4ecc0;--r:#e3e3e8;--no:#fff;--bad:#c40000}"
#define DARK \
	":root{--bg:#14161a;--fg:#eceff4;--dim:#a3abb8;--line:#4a515d;--box:#1f2329;--way:#ff6fa8;" \
	"--rwx:#7a4a10;--rw:#1f4a80;--rx:#22602a;--r:#44464e;--no:#14161a;--bad:#ff7b72}"
#define SANS "'DejaVu Sans',Verdana,sans-serif"
#define MONO "'DejaVu Sans Mono',Menlo,Consolas,monospace"

static const char style[] =
	LIGHT "\n@media (prefers-color-scheme:dark){" DARK "}\n"
	"@page{size:landscape;margin:8mm}@media print{" LIGHT
	"*{print-color-adjust:exact;-webkit-print-color-adjust:exact}pre{page-break-before:always}}\n"
	"body{margin:0;background:var(--bg);color:var(--fg);font:13px/1.35 " SANS "}\n"
	"svg{display:block;width:100%;max-width:1280px;height:auto;margin:0 auto}\n"
	"text{fill:var(--fg);font:11px " SANS "}.m{font:10px " MONO "}.d{fill:var(--dim);font-size:9.5px}.e{text-anchor:end}\n"
	".h{font-size:17px;font-weight:bold}.c{font-size:13px;font-weight:bold}.b{font-weight:bold}\n"
	".box{fill:var(--box);stroke:var(--line)}.link{fill:none;stroke:var(--line)}.key{stroke:var(--line)}\n"
	".rwx{fill:var(--rwx)}.rw{fill:var(--rw)}.rx{fill:var(--rx)}.r{fill:var(--r)}.no{fill:var(--no)}\n"
	".row{cursor:pointer}.row rect{stroke:transparent;stroke-width:2}.row:hover rect{stroke:var(--dim)}\n"
	".row.on rect{stroke:var(--way)}.row.on text{font-weight:bold}.bad text{fill:var(--bad);font-weight:bold}\n"
	".way{display:none}.way.on{display:inline}.way path,.sample{fill:none;stroke:var(--way);stroke-width:3.5}\n"
	".way .gpa{stroke-width:2;stroke-dasharray:5 4}\n"
	"pre,.note{max-width:1232px;margin:12px auto;padding:0 24px;font:12px/1.4 " MONO ";white-space:pre-wrap}\n"
	"pre{display:none}pre.on{display:block}\n";

/* Pointing at a row shows its way, a click or Enter keeps it. Written without the characters that XML wants escaped. */
static const char script[] =
	"let kept='0';const all=s=>[...document.querySelectorAll(s)];\n"
	"function show(p){all('.on').forEach(e=>e.classList.remove('on'));all('.p'+p).forEach(e=>e.classList.add('on'));}\n"
	"all('[data-p]').forEach(e=>{const p=e.dataset.p;e.onmouseenter=()=>show(p);e.onmouseleave=()=>show(kept);"
	"e.onclick=()=>{kept=p;show(p);};e.onkeydown=k=>{if(k.key==='Enter')e.onclick();};});\n";

/* The text of dump_print_way() is ours and made of numbers, but what could be markup is escaped all the same. */
static void escaped(FILE *out, const char *s)
{
	for (; *s; s++) {
		if (*s == '<' || *s == '>' || *s == '&')
			fprintf(out, "&#%d;", *s);
		else
			fputc(*s, out);
	}
}

static void rect(FILE *out, const char *class, unsigned x, unsigned y, unsigned width, unsigned height)
{
	fprintf(out, "<rect class=\"%s\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"/>", class, x, y, width, height);
}

/* y is the line that the letters stand on. */
static __attribute__((format(printf, 5, 6))) void text(FILE *out, const char *class, unsigned x, unsigned y, const char *fmt, ...)
{
	va_list ap;

	fprintf(out, "<text class=\"%s\" x=\"%u\" y=\"%u\">", class, x, y);
	va_start(ap, fmt);
	vfprintf(out, fmt, ap);
	va_end(ap);
	fputs("</text>\n", out);
}

struct point {
	unsigned x, y;
};

/* A Bezier curve that leaves a towards b and comes to d from c. */
static void curve(FILE *out, const char *class, struct point a, struct point b, struct point c, struct point d)
{
	fprintf(out, "<path class=\"%s\" d=\"M%u %uC%u %u %u %u %u %u\"/>\n", class, a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y);
}

static const char *const kind_names[PICTURE_KINDS] = { "kernel", "user", "guest" };

/* The colour of an entry, which is also written in letters. */
static const char *colour(const struct picture_row *row)
{
	if (!(row->entry & PTE_P) || row->monitor)
		return "no";
	if (row->entry & PTE_NX)
		return row->entry & PTE_W ? "rw" : "r";
	return row->entry & PTE_W ? "rwx" : "rx";
}

/* Classes and handle of what lies on ways: all those whose row or place it is. */
static void on_ways(const struct picture *pic, const char *class,
		    bool (*has)(const struct picture *, const struct dump_path *, const void *), const void *what, FILE *out)
{
	int first = -1;

	fprintf(out, "<g class=\"%s", class);
	for (unsigned i = 0; i < pic->ways; i++)
		if (has(pic, &pic->way[i], what)) {
			fprintf(out, " p%u%s", i, i ? "" : " on");
			if (first < 0)
				first = (int)i;
		}
	fputc('"', out);
	if (first >= 0)
		fprintf(out, " data-p=\"%d\" tabindex=\"0\"", first);
	fputc('>', out);
}

static bool row_on_way(const struct picture *pic, const struct dump_path *way, const void *what)
{
	const struct picture_box *box;

	for (enum picture_kind kind = 0; kind < PICTURE_KINDS; kind++)
		for (unsigned level = 1; level <= PT_LEVELS; level++)
			if (picture_row(pic, way, kind, level, &box) == what)
				return true;
	return false;
}

static void draw_row(const struct picture *pic, const struct picture_box *box, const struct picture_row *row, FILE *out)
{
	static const char *const sizes[] = { "", "", " 2M", " 1G", "" };
	bool guest = box->kind == PICTURE_GUEST;
	unsigned y = picture_row_y(box, row), right = box->x + PICTURE_BOX_W - 5;

	on_ways(pic, row->verdict ? "row bad" : "row", row_on_way, row, out);
	rect(out, colour(row), box->x + 2, y - PICTURE_ROW_H / 2 + 1, PICTURE_BOX_W - 4, PICTURE_ROW_H - 2);
	if (row->last == row->first)
		text(out, "m", box->x + 5, y + 4, "%u", row->first);
	else
		text(out, "m", box->x + 5, y + 4, "%u&#8211;%u", row->first, row->last);
	if (row->monitor) {
		text(out, "m e", right, y + 4, "the monitor");
	} else if (row->entry & PTE_P) {
		text(out, "m", box->x + 51, y + 4, "r%c%c%s%s%s", row->entry & PTE_W ? 'w' : '-', row->entry & PTE_NX ? '-' : 'x',
		     !guest ? "" : row->entry & PTE_U ? " u" : " k", guest && row->leaf ? sizes[box->level] : "",
		     row->verdict == DUMP_BROKEN ? " !!" : row->verdict == DUMP_OLDER ? " !" : "");
		text(out, "m e", right, y + 4, "%llx", (unsigned long long)(row->entry & PTE_ADDR));
	} else {
		text(out, "m e", right, y + 4, "not present");
	}
	fputs("</g>\n", out);
}

static void draw_box(const struct picture *pic, const struct picture_box *box, FILE *out)
{
	bool guest = box->kind == PICTURE_GUEST;
	unsigned x = box->x + 5;

	rect(out, "box", box->x, box->y, PICTURE_BOX_W, PICTURE_BOX_HEAD + (box->rows + !!box->more) * PICTURE_ROW_H + 2);
	text(out, "b", x, box->y + 12, "%s%s%s", guest ? "" : kind_names[box->kind], guest ? "" : " ", dump_level_names[box->level]);
	text(out, "m e", box->x + PICTURE_BOX_W - 5, box->y + 12, "%s %llx", guest ? "gpa" : "ma",
	     (unsigned long long)box->at);
	if (!guest && pic->d->shadow->mode == SHADOW_CACHED)
		text(out, "d", x, box->y + 24, "of %sgfn %llx%s", box->p->role & ROLE_DIRECT ? "a large page, " : "",
		     (unsigned long long)box->p->key, box->p->unsync ? ", unsync" : "");
	else
		text(out, "d", x, box->y + 24, "from gva %llx", (unsigned long long)box->gva);
	for (unsigned i = 0; i < box->rows; i++)
		draw_row(pic, box, &box->row[i], out);
	if (box->more)
		text(out, "d", x, box->y + PICTURE_BOX_HEAD + box->rows * PICTURE_ROW_H + 10, "&#8230; and %u more", box->more);
}

/* From a row to the table that it leads to: on the left to a table in the same place of its line, else from the right. */
static void draw_link(const struct picture_box *from, const struct picture_row *row, const struct picture_box *to, const char *class,
		      FILE *out)
{
	unsigned left = from->x, right = left + PICTURE_BOX_W, middle = to->x + PICTURE_BOX_W / 2, y = picture_row_y(from, row);

	if (to->x == left)
		curve(out, class, (struct point){ left, y }, (struct point){ left - 15, y + 4 },
		      (struct point){ left - 15, to->y + 5 }, (struct point){ left, to->y + 9 });
	else
		curve(out, class, (struct point){ right, y }, (struct point){ right + 26, y + 10 },
		      (struct point){ middle, to->y - 26 }, (struct point){ middle, to->y });
}

static void draw_links(const struct picture *pic, FILE *out)
{
	for (unsigned i = 0; i < pic->boxes; i++)
		for (unsigned r = 0; r < pic->box[i].rows; r++) {
			const struct picture_box *box = &pic->box[i];
			for (unsigned t = 0; t < pic->boxes && !box->row[r].leaf; t++) {
				const struct picture_box *to = &pic->box[t];
				if (to->kind == box->kind && to->level + 1 == box->level && to->at == (box->row[r].entry & PTE_ADDR))
					draw_link(box, &box->row[r], to, "link", out);
			}
		}
}

static void draw_to_place(const struct picture_box *from, const struct picture_row *row, const struct picture_place *to,
			  const char *class, FILE *out)
{
	unsigned x = from->x + PICTURE_BOX_W, y = picture_row_y(from, row), end = to->y + PICTURE_PLACE_H / 2;

	curve(out, class, (struct point){ x, y }, (struct point){ x + 90, y }, (struct point){ PICTURE_PLACE_X - 90, end },
	      (struct point){ PICTURE_PLACE_X, end });
}

/* The place that a way ends at, by one of the columns. */
static const struct picture_place *way_end(const struct picture *pic, const struct dump_path *way, enum picture_kind kind)
{
	if (kind == PICTURE_GUEST)
		return !way->err && way->memory ? picture_page(pic, way->w.gpa + pic->guest_ma) : NULL;
	return way->side[kind].leaf ? picture_page(pic, dump_leaf_gpa(&way->side[kind], way->gva) + GUEST_MA) : NULL;
}

static bool place_on_way(const struct picture *pic, const struct dump_path *way, const void *what)
{
	for (enum picture_kind kind = 0; kind < PICTURE_KINDS; kind++)
		if (way_end(pic, way, kind) == what)
			return true;
	return false;
}

/* Where the guest's tables lead, and what they allow. */
static void guest_caption(const struct dump_path *way, FILE *out)
{
	if (way->err == -ECANCELED)
		fputs("the guest's tables cannot be walked", out);
	else if (way->err)
		fprintf(out, "the guest has no translation, %s at level %u", dump_fault(&way->w), way->w.level);
	else
		fprintf(out, "the guest's tables lead to gpa 0x%llx and allow the kernel %s, programs %s",
			(unsigned long long)way->w.gpa, dump_rights(way->side[DUMP_KERNEL].guest).s,
			dump_rights(way->side[DUMP_USER].guest).s);
}

/* The same of a shadow, and why it differs. */
static void shadow_caption(const struct dump_path *way, enum dump_whose whose, FILE *out)
{
	const struct dump_side *side = &way->side[whose];

	fprintf(out, "The %s's shadow ", dump_whose_names[whose]);
	if (side->leaf)
		fprintf(out, "leads to ma 0x%llx and allows %s: it ",
			(unsigned long long)(dump_leaf_gpa(side, way->gva) + GUEST_MA), dump_rights(side->shadow).s);
	fputs(dump_verdict(side->verdict), out);
}

static void draw_way(const struct picture *pic, unsigned number, FILE *out)
{
	const struct dump_path *way = &pic->way[number];

	fprintf(out, "<g class=\"way p%u%s\"><text x=\"%u\" y=\"44\">Way of 0x%llx: ", number, number ? "" : " on", MARGIN,
		(unsigned long long)way->gva);
	guest_caption(way, out);
	for (enum dump_whose whose = 0; pic->d->shadow && whose < DUMP_SIDES; whose++) {
		fprintf(out, ".</text>\n<text x=\"%u\" y=\"%u\">", MARGIN, 60u + 16u * (unsigned)whose);
		shadow_caption(way, whose, out);
	}
	fputs(".</text>\n", out);
	for (enum picture_kind kind = 0; kind < PICTURE_KINDS; kind++) {
		const struct picture_box *above = NULL, *box;
		const struct picture_row *row_above = NULL;
		for (unsigned level = PT_LEVELS; level >= 1; level--) {
			const struct picture_row *row = picture_row(pic, way, kind, level, &box);
			if (!row)
				continue;
			if (row_above)
				draw_link(above, row_above, box, "", out);
			above = box;
			row_above = row;
		}
		const struct picture_place *end = way_end(pic, way, kind);
		if (row_above && end)
			draw_to_place(above, row_above, end, kind == PICTURE_GUEST && pic->d->shadow ? "gpa" : "", out);
	}
	fputs("</g>\n", out);
}

static void draw_place(const struct picture *pic, const struct picture_place *p, FILE *out)
{
	unsigned x = PICTURE_PLACE_X + 66, y = p->y + 12;
	unsigned long long gpa = p->ma - pic->guest_ma;
	const char *table = dump_level_names[p->box ? p->box->level : 0];

	on_ways(pic, "row", place_on_way, p, out);
	rect(out, "box", PICTURE_PLACE_X, p->y + 1, PICTURE_PLACE_W, PICTURE_PLACE_H - 2);
	text(out, "m", PICTURE_PLACE_X + 5, y, "%llx", (unsigned long long)p->ma);
	switch (p->use) {
	case PLACE_MONITOR: text(out, "", x, y, "the monitor"); break;
	case PLACE_SHADOW: text(out, "", x, y, "shadow: %s %s", kind_names[p->box->kind], table); break;
	case PLACE_TABLE: text(out, "", x, y, "guest's %s (gpa %llx)", table, gpa); break;
	case PLACE_PAGES: text(out, "", x, y, "gpa %llx&#8211;%llx", gpa, gpa + (unsigned long long)p->size - 1); break;
	}
	fputs("</g>\n", out);
}

static const char *shadow_title(const struct picture *pic)
{
	if (pic->d->shadow)
		return pic->d->shadow->mode == SHADOW_VTLB ? "gva to ma (vtlb)" : "gva to ma (cached)";
	return pic->guest_ma ? "none, memory is flat" : "none, the machine walks the guest's";
}

/* The title, the legend, and the names of columns and levels. */
static void draw_frame(const struct picture *pic, FILE *out)
{
	static const char *const rights[][2] = {
		{ "rwx", "rwx" }, { "rw", "rw-" }, { "rx", "r-x" }, { "r", "r--" }, { "no", "none" }
	};
	unsigned tables = pic->hidden[PICTURE_GUEST], shadows = pic->hidden[PICTURE_KERNEL] + pic->hidden[PICTURE_USER];

	text(out, "h", MARGIN, 24, "Three address spaces: the guest's tables, their shadows, the machine's memory");
	for (unsigned i = 0; i < sizeof rights / sizeof *rights; i++) {
		rect(out, "key", MARGIN + i * 52, 86, 14, 12);
		rect(out, rights[i][0], MARGIN + i * 52, 86, 14, 12);
		text(out, "m", MARGIN + 18 + i * 52, 96, "%s", rights[i][1]);
	}
	text(out, "d", MARGIN + 270, 96,
	     "W and NX of the entry itself; u programs too, k kernel only; 2M, 1G a large page; where it leads, hexadecimal; ! older than "
	     "the guest's tables, !! forbidden");
	fprintf(out, "<path class=\"sample\" d=\"M%u 92h24\"/>", PICTURE_PLACE_X);
	text(out, "d", PICTURE_PLACE_X + 30, 96, "the way; point at a row for another");
	text(out, "c", PICTURE_GUEST_X, 118, "Guest: gva to gpa");
	text(out, "c", PICTURE_SHADOW_X, 118, "Shadow: %s", shadow_title(pic));
	text(out, "c", PICTURE_PLACE_X, 118, "Machine: ma = gpa%s", pic->guest_ma ? " + 400000" : "");
	for (unsigned level = 1; level <= PT_LEVELS; level++)
		fprintf(out, "<text class=\"d e\" transform=\"translate(13 %u) rotate(-90)\">level %u</text>\n",
			pic->level_y[level] + 6, level);
	if (tables || shadows)
		text(out, "d", MARGIN, pic->height - 8, "not shown: at least %u more of the guest's tables and %u more shadow pages",
		     tables, shadows);
}

static void draw(const struct picture *pic, FILE *out)
{
	fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" role=\"img\" aria-labelledby=\"t s\">\n"
		     "<title id=\"t\">Guest page tables, shadow page tables and machine memory</title>\n<desc id=\"s\">",
		PICTURE_WIDTH, pic->height);
	fprintf(out, "The way of address 0x%llx: ", (unsigned long long)pic->way[0].gva);
	guest_caption(&pic->way[0], out);
	for (enum dump_whose whose = 0; pic->d->shadow && whose < DUMP_SIDES; whose++) {
		fputs(". ", out);
		shadow_caption(&pic->way[0], whose, out);
	}
	fputs(". The whole way stands in words below the picture.</desc>\n", out);
	draw_frame(pic, out);
	draw_links(pic, out);
	for (unsigned i = 0; i < pic->ways; i++)
		draw_way(pic, i, out);
	for (unsigned i = 0; i < pic->boxes; i++)
		draw_box(pic, &pic->box[i], out);
	for (unsigned i = 0; i < pic->places; i++)
		draw_place(pic, &pic->place[i], out);
	fputs("</svg>\n", out);
}

/* The way in words. */
static void words(struct dump *d, unsigned number, uint64_t gva, FILE *out)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return;
	dump_print_way(d, gva, f);
	fclose(f);
	fprintf(out, "<pre class=\"p%u%s\">", number, number ? "" : " on");
	escaped(out, text);
	fputs("</pre>\n", out);
	free(text);
}

void dump_html(struct dump *d, uint64_t gva, FILE *out)
{
	static struct picture pic; /* large */

	picture_make(&pic, d, gva);
	fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>Tables of 0x%llx</title>\n"
		     "<meta name=\"viewport\" content=\"width=device-width\"/><meta name=\"color-scheme\" content=\"light dark\"/>\n"
		     "<style>%s</style></head><body>\n",
		(unsigned long long)gva, style);
	draw(&pic, out);
	if (d->unwalkable || d->step[0]) {
		fputs("<p class=\"note\">No walk: ", out);
		escaped(out, d->unwalkable ? d->unwalkable : d->step);
		fputs("</p>\n", out);
	}
	for (unsigned i = 0; i < pic.ways; i++)
		words(d, i, pic.way[i].gva, out);
	fprintf(out, "<script>%s</script></body></html>\n", script);
}
