/*
 * The table of `hv popek` as a page that is a slide: 1280 by 720, nothing outside it is needed. What lies silently somewhere comes
 * first and with its values; what always traps, or never matters, needs only a mark.
 */
#include "popek.h"

#include <string.h>

/* Each outcome has a mark as well as a colour. */
static const struct {
	const char *class, *mark, *legend;
} outcomes[] = {
	[POPEK_NOT_HERE] = { "n", "&ndash;", "not on this machine" },
	[POPEK_REFERENCE] = { "r", "", NULL },
	[POPEK_TRAPPED] = { "t", "&#9650;", "trapped" },
	[POPEK_SAME] = { "s", "=", "no trap, same result" },
	[POPEK_DIFFERENT] = { "d", "&ne;", "silently different: value at CPL 0 | value here" },
	[POPEK_ANSWERED] = { "a", "&#9651;", "trapped, the monitor answers otherwise" },
};

static const char style[] =
	"*{box-sizing:border-box}body{margin:0;background:#fff;color:#111}\n"
	".slide{width:1280px;height:720px;padding:8px 12px;overflow:hidden;font:11px/1.15 'DejaVu Sans',Verdana,sans-serif}\n"
	"h1{font-size:20px;margin:0 0 1px}p{margin:0 0 5px;font-size:12px}.panels{display:flex;gap:8px;align-items:flex-start}\n"
	"table{border-collapse:collapse}th,td{border:1px solid #bbb;padding:0 2px;text-align:left;white-space:nowrap}\n"
	"thead th{background:#333;color:#fff;font-size:10px;height:20px}tbody th{background:#f2f2f2;font-size:11px}\n"
	".v{font-size:9.2px;line-height:1.05}.c{text-align:center}\n"
	".t{background:#cfe3f5}.s{background:#e6f2de}.d{background:#ffc9b5}.a{background:#e4dcf4}.n{background:#eee}\n"
	".v b{font-size:12px;line-height:0.8}.d b{color:#8c1500}.verdicts{display:flex;gap:8px;margin-top:6px}\n"
	".verdicts div{flex:1;border:2px solid #333;padding:2px 5px;font-size:10px;height:46px;overflow:hidden}\n"
	".verdicts b{font-size:13px}"
	".legend{font-size:10.5px;line-height:1.4;margin-top:5px}.legend span{border:1px solid #bbb;padding:0 5px;margin-right:6px}\n";

/* A cell's words; the arrow of a long change begins a line. */
static void words(FILE *out, const char *s)
{
	for (; *s; s++)
		if (s[0] == '-' && s[1] == '>')
			fputs(strlen(s) > 5 ? "<br>&rarr;" : "&rarr;", out), s++;
		else
			fputc(*s, out);
}

static const char *manual_mark(const struct popek_row *r)
{
	switch (r->probe->manual) {
	case MANUAL_PRIVILEGED: return "P";
	case MANUAL_IOPL: return "I";
	case MANUAL_CHECKED: return "C";
	case MANUAL_OPTION: return "O";
	case MANUAL_UMIP: return "U";
	case MANUAL_TRAPS: return "A";
	default: return "&ndash;";
	}
}

static const char *trial_mark(const struct popek_row *r) { return r->always ? "A" : r->privileged ? "P" : "&ndash;"; }

/* C control-sensitive, M and L behaviour-sensitive by mode and by location. */
static void class_mark(const struct popek_row *r, FILE *out)
{
	fprintf(out, "<td class=c>%s%s%s%s</td>", r->control ? "C" : "", r->mode ? "M" : "", r->location ? "L" : "",
		popek_sensitive(r) ? "" : "&middot;");
}

static void row_head(const struct popek_row *r, FILE *out)
{
	char cell[100];

	popek_cell(r, POPEK_CPL0, cell, sizeof cell);
	fprintf(out, "<tr><th>%s%s</th><td class=c title=\"%s\">%s&thinsp;%s%s</td><td class=v>", r->probe->name,
		r->probe->robin_irvine ? "*" : "", r->probe->section, manual_mark(r), trial_mark(r), r->manual_agrees ? "" : "&thinsp;!");
	words(out, cell);
	fputs("</td>", out);
}

/* With values: "name a/b" becomes two lines. */
static void wide_cell(const struct popek_row *r, enum popek_config config, FILE *out)
{
	enum popek_outcome o = r->outcome[config];
	char cell[100];

	popek_cell(r, config, cell, sizeof cell);
	fprintf(out, "<td class=\"v %s\"><b>%s</b> ", outcomes[o].class, outcomes[o].mark);
	char *slash = strchr(cell, '/'), *space = NULL;
	if (slash) {
		*slash = 0;
		space = strrchr(cell, ' ');
	}
	if (space) {
		*space = 0;
		words(out, cell);
		fputs("<br>", out);
		words(out, space + 1);
	} else {
		words(out, cell);
	}
	if (slash) {
		fputs(" | ", out);
		words(out, slash + 1);
	}
	fputs("</td>", out);
}

static void mark_cell(const struct popek_row *r, enum popek_config config, FILE *out)
{
	enum popek_outcome o = r->outcome[config];
	char cell[100];

	popek_cell(r, config, cell, sizeof cell);
	fprintf(out, "<td class=\"c %s\" title=\"", outcomes[o].class);
	words(out, cell);
	fprintf(out, "\">%s</td>", outcomes[o].mark);
}

/* Does it belong into the first panel? */
static bool lies(const struct popek_row *r)
{
	for (unsigned c = 1; c < POPEK_COLUMNS; c++)
		if (r->outcome[popek_columns[c].config] == POPEK_DIFFERENT)
			return true;
	return false;
}

static void panel(const struct popek_table *t, bool lying, unsigned skip, unsigned rows, FILE *out)
{
	static const char *const narrow[] = { "", "3", "3U", "T", "TP" };

	fputs("<table><thead><tr><th>instruction</th><th class=c title=\"privileged by manual, by trial\">priv</th><th>at CPL 0</th>", out);
	for (unsigned c = 1; c < POPEK_COLUMNS; c++)
		fprintf(out, "<th class=c title=\"%s\">%s</th>", popek_columns[c].title, lying ? popek_columns[c].title : narrow[c]);
	fputs("<th class=c title=\"sensitive\">S</th></tr></thead><tbody>\n", out);
	for (unsigned i = 0; i < t->rows && rows; i++) {
		const struct popek_row *r = &t->row[i];
		if (lies(r) != lying)
			continue;
		if (skip) {
			skip--;
			continue;
		}
		rows--;
		row_head(r, out);
		for (unsigned c = 1; c < POPEK_COLUMNS; c++)
			(lying ? wide_cell : mark_cell)(r, popek_columns[c].config, out);
		class_mark(r, out);
		fputs("</tr>\n", out);
	}
	fputs("</tbody></table>\n", out);
}

static void verdicts(const struct popek_table *t, FILE *out)
{
	char names[1024];

	fputs("<div class=verdicts>", out);
	for (unsigned c = 1; c < POPEK_COLUMNS; c++) {
		unsigned named, n = popek_breakers(t, popek_columns[c].config, names, sizeof names, &named);
		fprintf(out, "<div><b>%s: ", popek_columns[c].title);
		if (popek_columns[c].config == POPEK_UMIP && !t->umip)
			fputs("not on this machine</b>", out);
		else if (!n)
			fputs("the condition holds</b>", out);
		else
			fprintf(out, "broken by %u</b> (%u*)<br>%s", n, named, names);
		fputs("</div>", out);
	}
	fputs("</div>\n", out);
}

void popek_html(const struct popek_table *t, FILE *out)
{
	unsigned lying = 0, rest, disagree = 0;

	for (unsigned i = 0; i < t->rows; i++) {
		lying += lies(&t->row[i]);
		disagree += !t->row[i].manual_agrees;
	}
	rest = t->rows - lying;
	fprintf(out, "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>Popek and Goldberg, tried out</title>\n"
		"<style>%stbody tr{height:%.1fpx}</style></head><body><div class=slide>\n"
		"<h1>Popek and Goldberg, tried out: is every sensitive instruction privileged?</h1>\n"
		"<p>%u x86-64 instructions and forms; every cell was run. CPL 0: the bare machine. CPL 3: deprivileged, and the "
		"machine&rsquo;s tables and flags are the monitor&rsquo;s. Left table: what is silently different somewhere.</p>\n"
		"<div class=panels>\n",
		style, lying > 22 ? 539.0 / lying : 24.5, t->rows); /* 22 rows fill it */
	panel(t, true, 0, lying, out);
	panel(t, false, 0, (rest + 1) / 2, out);
	panel(t, false, (rest + 1) / 2, rest / 2, out);
	fputs("</div>\n", out);
	verdicts(t, out);
	fputs("<div class=legend>", out);
	for (unsigned o = POPEK_NOT_HERE; o <= POPEK_ANSWERED; o++)
		if (outcomes[o].legend && (o != POPEK_NOT_HERE || !t->umip))
			fprintf(out, "<span class=%s>%s %s</span>", outcomes[o].class, outcomes[o].mark, outcomes[o].legend);
	fprintf(out, "3 CPL 3, 3U with UMIP, T trap engine, TP with patching<br>"
		"priv, by manual and by trial: P privileged, &ndash; no, A always traps, I by IOPL, C by a check of this operand, "
		"U with UMIP, O by an option; the two %s. S, sensitive: C control, M mode, L location, &middot; innocuous. "
		"Numbers are hexadecimal. * in Robin and Irvine&rsquo;s list (2000).%s</div>\n</div></body></html>\n",
		disagree ? "disagree where there is a !" : "agree everywhere",
		popek_faithful(t) ? "" : " <b>Even NOP leaves a difference on this machine: use the test host.</b>");
}
