#include "migrate_report.h"
#include "vm.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where things are, in the picture's units. */
#define WIDTH 960
#define LEFT 96.0
#define RIGHT 936.0
#define SLOT_MAX 96.0	/* of one round: few rounds need not fill the width */
#define NUMBER_WIDTH 32 /* of a bar that has its number above it */
#define LINE 120	/* characters */

static const struct part {
	const char *name, *fill;
} parts[JOB_PARTS] = {
	{ "last round", "#1d4ed8" },
	{ "state", "#15803d" },
	{ "sending it", "#b45309" },
	{ "commit", "#6b7280" },
};

/* --- scales
 * ------------------------------------------------------------------------------------------------------------- */

/*
 * A panel's vertical axis. Rounds differ by orders of magnitude: the first sends all of memory, the last a few pages. So
 * counts are drawn by their logarithm, and powers of ten are marked.
 */
struct axis {
	double top, height;
	double most; /* the value at the top */
	bool logarithmic;
};

static double ordinate(const struct axis *a, double value)
{
	double part = value / a->most;

	if (a->logarithmic)
		part = value > 1 ? log10(value) / log10(a->most) : 0;
	return a->top + a->height * (1 - (part < 0 ? 0 : part > 1 ? 1 : part));
}

/* The next power of ten, 10 at least. */
static double decade(double value)
{
	double most = 10;

	while (most < value)
		most *= 10;
	return most;
}

static double slot(const struct job_facts *f)
{
	double width = (RIGHT - LEFT) / (f->rounds ? f->rounds : 1);

	return width < SLOT_MAX ? width : SLOT_MAX;
}

static double per_second(double count, double ms)
{
	return ms > 0 ? count * 1000 / ms : 0;
}

static double downtime(const struct job_facts *f)
{
	double sum = 0;

	for (unsigned i = 0; i < JOB_PARTS; i++)
		sum += f->part_ms[i];
	return sum;
}

/* --- words
 * -------------------------------------------------------------------------------------------------------------- */

/* Text from somebody else's file: nothing in it may become a tag. */
static void escaped(FILE *out, const char *s, size_t len)
{
	for (; len-- && *s; s++) {
		if (*s == '<')
			fputs("&lt;", out);
		else if (*s == '&')
			fputs("&amp;", out);
		else
			fputc((unsigned char)*s < 0x20 ? ' ' : *s, out);
	}
}

/* 1234567 as "1 234 567" would be read as three numbers by a screen reader: thousands as k, millions as M. */
static void count_text(char *to, size_t len, double value)
{
	if (value >= 1e6)
		snprintf(to, len, "%gM", value / 1e6);
	else if (value >= 1e3)
		snprintf(to, len, "%gk", value / 1e3);
	else
		snprintf(to, len, "%g", value);
}

static const char *outcome(const struct job_facts *f)
{
	static const char *const words[] = { "not ended yet", "done", "failed", "standing" };

	return words[f->state];
}

static void describe(const struct job_facts *f, FILE *out)
{
	double pages = 0, zero = 0;

	for (unsigned i = 0; i < f->rounds; i++) {
		pages += f->round[i].pages;
		zero += f->round[i].zero;
	}
	fputs("<title id=\"title\">", out);
	escaped(out, f->job, SIZE_MAX);
	fprintf(out, ", %s: %u round%s, %.0f pages, %.1f ms of downtime</title>\n<desc id=\"desc\">", outcome(f), f->rounds,
		f->rounds == 1 ? "" : "s", pages, downtime(f));
	if (f->reason[0]) {
		escaped(out, f->reason, SIZE_MAX);
		fputs(". ", out);
	}
	fprintf(out, "%.0f pages were sent with their contents, %.0f as zeros.", pages - zero, zero);
	/* All of many rounds would be too much to listen to. */
	for (unsigned i = 0; i < f->rounds; i++) {
		const struct job_round *r = &f->round[i];
		if (i >= 8 && i + 2 < f->rounds)
			continue;
		fprintf(out, " Round %u: %.0f pages, %.0f of them zeros, in %.0f ms, %.0f written meanwhile", i + 1, r->pages,
			r->zero, r->ms, r->dirty);
		if (r->throttle > 0)
			fprintf(out, ", vCPUs standing for %.0f %% of their time", r->throttle);
		fputc('.', out);
	}
	fprintf(out, " Downtime:");
	for (unsigned i = 0; i < JOB_PARTS; i++)
		fprintf(out, "%s %s %.1f ms", i ? "," : "", parts[i].name, f->part_ms[i]);
	fputs(".</desc>\n", out);
}

static void text(FILE *out, double x, double y, const char *attributes, const char *words)
{
	fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, attributes, words);
}

/* --- panels
 * ------------------------------------------------------------------------------------------------------------- */

static void draw_axis(FILE *out, const struct axis *a, const char *name)
{
	char label[32];

	text(out, LEFT - 72, a->top - 14, "font-weight=\"bold\" fill=\"#111827\"", name);
	for (double v = a->logarithmic ? 1 : 0; v <= a->most * 1.001; v = a->logarithmic ? v * 10 : v + a->most / 4) {
		double y = ordinate(a, v);
		fprintf(out, "<path d=\"M%.1f %.1fH%.1f\" stroke=\"#d1d5db\"/>\n", LEFT, y, RIGHT);
		count_text(label, sizeof label, v);
		text(out, LEFT - 8, y + 5, "text-anchor=\"end\" fill=\"#374151\"", label);
	}
	fprintf(out, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#374151\"/>\n", LEFT, a->top, a->top + a->height);
}

/* The numbers of the rounds below a panel, about sixteen of them at most. */
static void draw_rounds(const struct job_facts *f, FILE *out, double y)
{
	unsigned step = 1;
	char number[16];

	while (f->rounds / step > 16)
		step *= step == 2 || step == 20 ? 5 : 2; /* 1 2 10 20 100: of 5 there would be no room or no need */
	for (unsigned i = 0; i < f->rounds; i++) {
		if ((i + 1) % step && step > 1 && i)
			continue;
		snprintf(number, sizeof number, "%u", i + 1);
		text(out, LEFT + (i + 0.5) * slot(f), y, "text-anchor=\"middle\" fill=\"#374151\"", number);
	}
	text(out, LEFT - 8, y, "text-anchor=\"end\" fill=\"#374151\"", "round");
}

static void bar(FILE *out, const struct axis *a, double x, double width, double value, const char *fill)
{
	double y = ordinate(a, value);
	char number[32];

	if (value <= 0)
		return;
	/* A unit more: one page is the logarithm's zero and shall be seen. */
	fprintf(out, "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y - 1, width,
		a->top + a->height - y + 1, fill);
	if (width < NUMBER_WIDTH)
		return;
	snprintf(number, sizeof number, "%.0f", value);
	text(out, x + width / 2, y - 4, "text-anchor=\"middle\" font-size=\"11\" fill=\"#111827\"", number);
}

static void key(FILE *out, double *x, double y, const char *fill, const char *words)
{
	fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"12\" fill=\"%s\"/>\n", *x, y - 11, fill);
	text(out, *x + 18, y, "fill=\"#111827\"", words);
	*x += 30 + 7.6 * (double)strlen(words);
}

static void draw_pages(const struct job_facts *f, FILE *out, double top)
{
	double most = 1, x = LEFT + 200, width = slot(f);

	for (unsigned i = 0; i < f->rounds; i++)
		most = fmax(most, f->round[i].pages);
	struct axis a = { top, 170, decade(most), true };
	draw_axis(out, &a, "pages sent");
	key(out, &x, top - 14, "#1d4ed8", "with contents");
	key(out, &x, top - 14, "#93c5fd", "of zeros");
	for (unsigned i = 0; i < f->rounds; i++) {
		bar(out, &a, LEFT + i * width + width * 0.12, width * 0.38, f->round[i].pages - f->round[i].zero, "#1d4ed8");
		bar(out, &a, LEFT + i * width + width * 0.50, width * 0.38, f->round[i].zero, "#93c5fd");
	}
	draw_rounds(f, out, top + a.height + 22);
}

/* A step for each round. A rate of nothing has no logarithm, and no step. */
static void steps(const struct job_facts *f, FILE *out, const struct axis *a, bool sent, const char *attributes)
{
	double width = slot(f);

	fputs("<path d=\"", out);
	for (unsigned i = 0; i < f->rounds; i++) {
		const struct job_round *r = &f->round[i];
		double rate = per_second(sent ? r->pages : r->dirty, r->ms);
		if (rate > 0)
			fprintf(out, "M%.2f %.1fh%.2f", LEFT + i * width, ordinate(a, rate), width);
	}
	fprintf(out, "\" fill=\"none\" %s/>\n", attributes);
}

static void draw_rates(const struct job_facts *f, FILE *out, double top)
{
	double most = 1, x = LEFT + 200;

	for (unsigned i = 0; i < f->rounds; i++) {
		const struct job_round *r = &f->round[i];
		most = fmax(most, fmax(per_second(r->pages, r->ms), per_second(r->dirty, r->ms)));
	}
	struct axis a = { top, 130, decade(most), true };
	draw_axis(out, &a, "pages per second");
	key(out, &x, top - 14, "#1d4ed8", "sent by hv");
	key(out, &x, top - 14, "#b3261e", "written by the guest");
	steps(f, out, &a, true, "stroke=\"#1d4ed8\" stroke-width=\"3\"");
	steps(f, out, &a, false, "stroke=\"#b3261e\" stroke-width=\"3\"");
	draw_rounds(f, out, top + a.height + 22);
}

static void draw_throttle(const struct job_facts *f, FILE *out, double top)
{
	struct axis a = { top, 70, 100, false };
	double width = slot(f);

	draw_axis(out, &a, "throttle: vCPUs stand still for so many percent of their time");
	for (unsigned i = 0; i < f->rounds; i++)
		bar(out, &a, LEFT + i * width + width * 0.12, width * 0.76, f->round[i].throttle, "#b45309");
	draw_rounds(f, out, top + a.height + 22);
}

static void draw_downtime(const struct job_facts *f, FILE *out, double top)
{
	double total = downtime(f), x = LEFT, at = LEFT;
	char words[80];

	snprintf(words, sizeof words, total > 0 ? "downtime: %.1f ms" : "downtime: none, the VM never stood still", total);
	text(out, LEFT - 72, top - 14, "font-weight=\"bold\" fill=\"#111827\"", words);
	for (unsigned i = 0; i < JOB_PARTS && total > 0; i++) {
		double width = (RIGHT - LEFT) * f->part_ms[i] / total;
		if (width > 0)
			fprintf(out, "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"28\" fill=\"%s\"/>\n", x, top,
				width, parts[i].fill);
		x += width;
		snprintf(words, sizeof words, "%s %.1f ms", parts[i].name, f->part_ms[i]);
		key(out, &at, top + 52, parts[i].fill, words);
	}
}

/* --- all of it
 * ---------------------------------------------------------------------------------------------------------- */

/* How it ended, in as many lines as it takes. */
static void draw_reason(const struct job_facts *f, FILE *out)
{
	const char *s = f->reason;

	for (double y = 56; *s; y += 18) {
		size_t len = strlen(s), most = len < LINE ? len : LINE;
		for (len = most; s[len] && len > LINE / 2 && s[len] != ' '; len--)
			;
		if (s[len] && s[len] != ' ')
			len = most; /* a very long word */
		fprintf(out, "<text x=\"24\" y=\"%.0f\" fill=\"#374151\">", y);
		escaped(out, s, len);
		fputs("</text>\n", out);
		s += len + (s[len] == ' ');
	}
}

void migrate_picture(const struct job_facts *f, FILE *out)
{
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d 788\" width=\"%d\" height=\"788\" role=\"img\" "
		"aria-labelledby=\"title desc\" font-family=\"Liberation Sans, Arial, sans-serif\" font-size=\"15\">\n",
		WIDTH, WIDTH);
	describe(f, out);
	fprintf(out, "<rect width=\"%d\" height=\"788\" fill=\"#ffffff\"/>\n", WIDTH);
	fputs("<text x=\"24\" y=\"34\" font-size=\"20\" font-weight=\"bold\" fill=\"#1e3a8a\">", out);
	escaped(out, f->job, SIZE_MAX);
	fprintf(out, ": %s</text>\n", outcome(f));
	draw_reason(f, out);
	draw_pages(f, out, 140);
	draw_rates(f, out, 380);
	draw_throttle(f, out, 582);
	draw_downtime(f, out, 722);
	fputs("</svg>\n", out);
}

static char *read_all(FILE *in)
{
	char *all = NULL;
	size_t size = 0;
	ssize_t n = getdelim(&all, &size, 0, in);

	if (n >= 0)
		return all;
	free(all);
	return NULL;
}

int migrate_report_main(int argc, char **argv)
{
	static struct job_facts f;
	char err[200] = "it is empty";

	if (argc != 2 || !strcmp(argv[1], "--help")) {
		fputs("usage: hv migrate-report FILE >PICTURE.svg\nDraws what hv ctl migrate printed at its end. FILE may "
		      "be -, for stdin.\n",
		      argc == 2 ? stdout : stderr);
		return argc == 2 ? HV_OK : HV_USAGE;
	}
	FILE *in = strcmp(argv[1], "-") ? fopen(argv[1], "r") : stdin;
	if (!in) {
		fprintf(stderr, "hv: cannot read %s: %s\n", argv[1], strerror(errno));
		return HV_USAGE;
	}
	char *json = read_all(in);
	int r = json ? job_facts_read(&f, json, err, sizeof err) : -EINVAL;
	if (in != stdin)
		fclose(in);
	free(json);
	if (r) {
		fprintf(stderr, "hv: %s: %s\n", argv[1], err);
		return HV_USAGE;
	}
	migrate_picture(&f, stdout);
	return HV_OK;
}
