#include "dump_html.h"
#include "dump_picture.h"
#include "dump_tables.h"
#include "trapengine.h"

#include <errno.h>
#include <stdlib.h>

#define MARGIN 24

static const char style[] =
	":root{--bg:#fff;--fg:#16181d;--dim:#5c6470;--line:#b9c0ca;--box:#f4f5f7;--way:#b4004e;--rwx:#ffd9a8;--rw:#bfdcff;--rx:#c4ecc0;"
	"--r:#e3e3e8;--no:#fff;--bad:#c40000}\n"
	"@media (prefers-color-scheme:dark){:root{--bg:#14161a;--fg:#eceff4;--dim:#a3abb8;--line:#4a515d;--box:#1f2329;--way:#ff6fa8;--rwx:#7a4a10;"
	"--rw:#1f4a80;--rx:#22602a;--r:#44464e;--no:#14161a;--bad:#ff7b72}}\n"
	"@media print{:root{--bg:#fff;--fg:#000;--dim:#444;--line:#aaa;--box:#f4f5f7;--way:#b4004e;--rwx:#ffd9a8;--rw:#bfdcff;--rx:#c4ecc0;"
	"--r:#e3e3e8;--no:#fff;--bad:#c40000}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}pre{page-break-before:always}}\n"
	"body{margin:0;background:var(--bg);color:var(--fg);font:13px/1.35 'DejaVu Sans',Verdana,sans-serif}\n"
	"svg{display:block;width:100%;max-width:1280px;height:auto;margin:0 auto}\n"
	"text{fill:var(--fg);font:11px 'DejaVu Sans',Verdana,sans-serif}.m{font:10px 'DejaVu Sans Mono',Menlo,Consolas,monospace}\n"
	".h{font-size:17px;font-weight:bold}.c{font-size:13px;font-weight:bold}.d{fill:var(--dim);font-size:9.5px}.b{font-weight:bold}\n"
	".e{text-anchor:end}.box{fill:var(--box);stroke:var(--line)}.link{fill:none;stroke:var(--line)}\n"
	".rwx{fill:var(--rwx)}.rw{fill:var(--rw)}.rx{fill:var(--rx)}.r{fill:var(--r)}.no{fill:var(--no)}\n"
	".row{cursor:pointer}.row rect{stroke:transparent;stroke-width:2}.row.on rect{stroke:var(--way)}.row:hover rect{stroke:var(--dim)}\n"
	".row.on text{font-weight:bold}.bad text{fill:var(--bad);font-weight:bold}\n"
	".way{display:none}.way.on{display:inline}.way path{fill:none;stroke:var(--way);stroke-width:3.5;stroke-linecap:round}\n"
	".way .gpa{stroke-width:2;stroke-dasharray:2 5}.key{stroke:var(--way);stroke-width:3.5}\n"
	"pre{display:none;max-width:1232px;margin:12px auto;padding:0 24px;font:12px/1.4 'DejaVu Sans Mono',Menlo,Consolas,monospace;"
	"white-space:pre-wrap}pre.on{display:block}.note{max-width:1232px;margin:8px auto;padding:0 24px;color:var(--dim)}\n";

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

static const char *const kind_names[PICTURE_KINDS] = { "kernel", "user", "guest" };

/* The colour of an entry, which is also written in letters. */
static const char *colour(const struct picture_row *row)
{
	if (!(row->entry & PTE_P))
		return "no";
	if (row->entry & PTE_NX)
		return row->entry & PTE_W ? "rw" : "r";
	return row->entry & PTE_W ? "rwx" : "rx";
}

/* Classes and handle of what lies on ways: all those whose row or place it is. */
static void on_ways(const struct picture *pic, const char *class, bool (*has)(const struct picture *, const struct dump_path *, const void *),
		    const void *what, FILE *out)
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
	bool guest = box->kind == PICTURE_GUEST, present = row->entry & PTE_P;
	unsigned y = picture_row_y(box, row);

	on_ways(pic, row->verdict ? "row bad" : "row", row_on_way, row, out);
	fprintf(out, "<rect class=\"%s\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"/><text class=\"m\" x=\"%u\" y=\"%u\">%u", colour(row), box->x + 2,
		y - PICTURE_ROW_H / 2 + 1, PICTURE_BOX_W - 4, PICTURE_ROW_H - 2, box->x + 5, y + 4, row->first);
	if (row->last != row->first)
		fprintf(out, "&#8211;%u", row->last);
	fputs("</text>", out);
	if (!present) {
		fprintf(out, "<text class=\"m e\" x=\"%u\" y=\"%u\">not present</text></g>\n", box->x + PICTURE_BOX_W - 5, y + 4);
		return;
	}
	fprintf(out, "<text class=\"m\" x=\"%u\" y=\"%u\">r%c%c%s%s%s</text>", box->x + 51, y + 4, row->entry & PTE_W ? 'w' : '-',
		row->entry & PTE_NX ? '-' : 'x', guest ? row->entry & PTE_U ? " u" : " k" : "",
		row->verdict == DUMP_BROKEN ? " !!" : row->verdict == DUMP_OLDER ? " !" : "", guest && row->leaf ? sizes[box->level] : "");
	fprintf(out, "<text class=\"m e\" x=\"%u\" y=\"%u\">%llx</text></g>\n", box->x + PICTURE_BOX_W - 5, y + 4,
		(unsigned long long)(row->entry & PTE_ADDR));
}

static void draw_box(const struct picture *pic, const struct picture_box *box, FILE *out)
{
	bool guest = box->kind == PICTURE_GUEST;

	fprintf(out, "<rect class=\"box\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" rx=\"3\"/>", box->x, box->y, PICTURE_BOX_W,
		PICTURE_BOX_HEAD + (box->rows + !!box->more) * PICTURE_ROW_H + 2);
	fprintf(out, "<text class=\"b\" x=\"%u\" y=\"%u\">%s%s%s</text><text class=\"m e\" x=\"%u\" y=\"%u\">%s %llx</text>", box->x + 5, box->y + 12,
		guest ? "" : kind_names[box->kind], guest ? "" : " ", dump_level_names[box->level], box->x + PICTURE_BOX_W - 5, box->y + 12,
		guest ? "gpa" : "ma", (unsigned long long)box->at);
	fprintf(out, "<text class=\"d\" x=\"%u\" y=\"%u\">", box->x + 5, box->y + 24);
	if (!guest && pic->d->shadow->mode == SHADOW_CACHED)
		fprintf(out, "of %s %llx%s", box->p->role & ROLE_DIRECT ? "large page, gfn" : "gfn", (unsigned long long)box->p->key,
			box->p->unsync ? ", unsync" : "");
	else
		fprintf(out, "from gva %llx", (unsigned long long)box->gva);
	fputs("</text>\n", out);
	for (unsigned i = 0; i < box->rows; i++)
		draw_row(pic, box, &box->row[i], out);
	if (box->more)
		fprintf(out, "<text class=\"d\" x=\"%u\" y=\"%u\">&#8230; and %u more</text>\n", box->x + 5,
			box->y + PICTURE_BOX_HEAD + box->rows * PICTURE_ROW_H + 10, box->more);
}

/* From a row to the table that it leads to: on the left to a table in the same place of its line, else from the right. */
static void draw_link(const struct picture_box *from, const struct picture_row *row, const struct picture_box *to, const char *class, FILE *out)
{
	unsigned x = from->x + PICTURE_BOX_W, y = picture_row_y(from, row), tx = to->x + PICTURE_BOX_W / 2, ty = to->y;

	if (to->x == from->x) {
		x = from->x;
		ty += 9;
		fprintf(out, "<path class=\"%s\" d=\"M%u %uC%u %u %u %u %u %u\"/>\n", class, x, y, x - 15, y + 4, x - 15, ty - 4, x, ty);
		return;
	}
	fprintf(out, "<path class=\"%s\" d=\"M%u %uC%u %u %u %u %u %u\"/>\n", class, x, y, x + 26, y + 10, tx, ty - 26, tx, ty);
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

static void draw_to_place(const struct picture_box *from, const struct picture_row *row, const struct picture_place *to, const char *class, FILE *out)
{
	unsigned x = from->x + PICTURE_BOX_W, y = picture_row_y(from, row), ty = to->y + PICTURE_PLACE_H / 2;

	fprintf(out, "<path class=\"%s\" d=\"M%u %uC%u %u %u %u %u %u\"/>\n", class, x, y, x + 90, y, PICTURE_PLACE_X - 90, ty, PICTURE_PLACE_X, ty);
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
		fprintf(out, "the guest's tables lead to gpa 0x%llx and allow the kernel %s, programs %s", (unsigned long long)way->w.gpa,
			dump_rights(way->side[DUMP_KERNEL].guest).s, dump_rights(way->side[DUMP_USER].guest).s);
}

/* The same of a shadow, and why it differs. */
static void shadow_caption(const struct dump_path *way, enum dump_whose whose, FILE *out)
{
	const struct dump_side *side = &way->side[whose];

	fprintf(out, "The %s's shadow ", dump_whose_names[whose]);
	if (side->leaf)
		fprintf(out, "leads to ma 0x%llx and allows %s: it ", (unsigned long long)(dump_leaf_gpa(side, way->gva) + GUEST_MA),
			dump_rights(side->shadow).s);
	fputs(dump_verdict(side->verdict), out);
}

static void draw_way(const struct picture *pic, unsigned number, FILE *out)
{
	const struct dump_path *way = &pic->way[number];

	fprintf(out, "<g class=\"way p%u%s\"><text x=\"%u\" y=\"44\">Way of 0x%llx: ", number, number ? "" : " on", MARGIN,
		(unsigned long long)way->gva);
	guest_caption(way, out);
	for (enum dump_whose whose = 0; pic->d->shadow && whose < DUMP_SIDES; whose++) {
		fprintf(out, ".</text>\n<text x=\"%u\" y=\"%u\">", MARGIN, 60 + 16 * whose);
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
	on_ways(pic, "row", place_on_way, p, out);
	fprintf(out, "<rect class=\"no\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"/><rect class=\"box\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"/>"
		     "<text class=\"m\" x=\"%u\" y=\"%u\">%llx</text><text x=\"%u\" y=\"%u\">",
		PICTURE_PLACE_X, p->y, PICTURE_PLACE_W, PICTURE_PLACE_H, PICTURE_PLACE_X, p->y + 1, PICTURE_PLACE_W, PICTURE_PLACE_H - 2,
		PICTURE_PLACE_X + 5, p->y + 12, (unsigned long long)p->ma, PICTURE_PLACE_X + 66, p->y + 12);
	unsigned long long gpa = p->ma - pic->guest_ma;
	switch (p->use) {
	case PLACE_MONITOR: fputs("the monitor", out); break;
	case PLACE_SHADOW: fprintf(out, "shadow: %s %s", kind_names[p->box->kind], dump_level_names[p->box->level]); break;
	case PLACE_TABLE: fprintf(out, "guest's %s (gpa %llx)", dump_level_names[p->box->level], gpa); break;
	case PLACE_PAGES: fprintf(out, "gpa %llx&#8211;%llx", gpa, gpa + (unsigned long long)p->size - 1); break;
	}
	fputs("</text></g>\n", out);
}

static void swatch(FILE *out, unsigned x, const char *class, const char *words)
{
	fprintf(out, "<rect class=\"%s\" x=\"%u\" y=\"86\" width=\"14\" height=\"12\" stroke=\"currentColor\" stroke-width=\"0.5\"/>"
		     "<text class=\"m\" x=\"%u\" y=\"96\">%s</text>", class, x, x + 18, words);
}

static void draw_frame(const struct picture *pic, FILE *out)
{
	const struct dump *d = pic->d;

	fprintf(out, "<text class=\"h\" x=\"%u\" y=\"24\">Three address spaces: the guest's tables, their shadows, the machine's memory</text>\n", MARGIN);
	swatch(out, MARGIN, "rwx", "rwx");
	swatch(out, 80, "rw", "rw-");
	swatch(out, 136, "rx", "r-x");
	swatch(out, 192, "r", "r--");
	swatch(out, 248, "no", "none");
	fprintf(out, "<text class=\"d\" x=\"312\" y=\"96\">by each entry's own W and NX; u for programs too, k kernel only; then where it leads; 2M, 1G: large page; ! older than the "
		     "guest's tables; !! not allowed</text>"
		     "<path class=\"key\" d=\"M1044 92H1070\"/><text class=\"d\" x=\"1076\" y=\"96\">the way; point at a row for another</text>\n");
	fprintf(out, "<text class=\"c\" x=\"%u\" y=\"118\">Guest: gva to gpa</text>", PICTURE_GUEST_X);
	fprintf(out, "<text class=\"c\" x=\"%u\" y=\"118\">Shadow: %s</text>", PICTURE_SHADOW_X,
		!d->shadow ? pic->guest_ma ? "none, memory is flat" : "none, the machine walks the guest's"
			   : d->shadow->mode == SHADOW_VTLB ? "gva to ma (vtlb)" : "gva to ma (cached)");
	fprintf(out, "<text class=\"c\" x=\"%u\" y=\"118\">Machine: ma%s</text>\n", PICTURE_PLACE_X,
		pic->guest_ma ? " = gpa + 400000" : " = gpa");
	for (unsigned level = 1; level <= PT_LEVELS; level++)
		fprintf(out, "<text class=\"d\" transform=\"translate(13 %u) rotate(-90)\" text-anchor=\"end\">level %u</text>\n", pic->level_y[level] + 6,
			level);
	unsigned hidden = pic->hidden[PICTURE_GUEST], shadows = pic->hidden[PICTURE_KERNEL] + pic->hidden[PICTURE_USER];
	if (hidden || shadows)
		fprintf(out, "<text class=\"d\" x=\"%u\" y=\"%u\">not shown: %u more of the guest's tables and %u more shadow pages, at least</text>\n", MARGIN,
			pic->height - 8, hidden, shadows);
}

static void draw(const struct picture *pic, FILE *out)
{
	fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" role=\"img\" aria-labelledby=\"t s\">\n"
		     "<title id=\"t\">Guest page tables, shadow page tables and machine memory</title>\n<desc id=\"s\">", PICTURE_WIDTH, pic->height);
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
		     "<meta name=\"viewport\" content=\"width=device-width\"/><meta name=\"color-scheme\" content=\"light dark\"/>\n<style>%s</style></head><body>\n",
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
