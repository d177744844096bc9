/*
 * `hv popek`: runs all trials, and draws the conclusions.
 *
 * Popek and Goldberg (1974): an instruction is privileged if it traps in user mode and not in supervisor mode; control-sensitive
 * if it changes the resources or the mode; behaviour-sensitive if its result depends on the mode, or on where in the machine
 * the program was put. A monitor can be built if all sensitive instructions are privileged (theorem 1).
 */
#include "popek.h"
#include "popek_machine.h"
#include "vm.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

/* The two landed in the same place and left the same. A field counts when the instruction changed it in either of the two: then it
 * must have the same value in both. */
static uint64_t differences(const struct popek_probe *probe, const struct popek_seen *a, const struct popek_seen *b)
{
	uint64_t differs = 0;

	for (unsigned i = 0; i < popek_nfields; i++) {
		bool changed = a->before[i] != a->after[i] || b->before[i] != b->after[i];
		bool is_time = probe->clock && (!strcmp(popek_field_name(i), "rax") || !strcmp(popek_field_name(i), "rdx"));
		if (changed && !is_time && a->after[i] != b->after[i])
			differs |= 1ull << i;
	}
	return differs;
}

static bool same_end(const struct popek_seen *a, const struct popek_seen *b) { return a->end == b->end && a->vector == b->vector; }

static void compare(struct popek_row *row, enum popek_config config)
{
	const struct popek_seen *reference = &row->seen[POPEK_CPL0], *seen = &row->seen[config];
	bool same;

	if (seen->end == END_MISSING) {
		row->outcome[config] = POPEK_NOT_HERE;
		return;
	}
	row->differs[config] = differences(row->probe, reference, seen);
	same = same_end(reference, seen) && !row->differs[config];
	if (config == POPEK_CPL0)
		row->outcome[config] = POPEK_REFERENCE;
	else if (config >= POPEK_TRAP && seen->heard)
		row->outcome[config] = same ? POPEK_TRAPPED : POPEK_ANSWERED;
	else if (config != POPEK_CPL0_MOVED && seen->heard)
		row->outcome[config] = POPEK_TRAPPED;
	else
		row->outcome[config] = same ? POPEK_SAME : POPEK_DIFFERENT;
}

static void classify(struct popek_row *row, bool umip)
{
	const struct popek_seen *reference = &row->seen[POPEK_CPL0];
	const enum popek_outcome *o = row->outcome;
	bool traps = o[POPEK_CPL3_HOME] == POPEK_TRAPPED;

	/* At CPL 0 a trap is one where the instruction was not carried out: what leads to a handler does the same at each level. */
	row->always = reference->heard;
	row->privileged = traps && !row->always;
	for (unsigned i = 0; i < popek_nfields; i++)
		if (!row->always && popek_field_kind(i) == SEEN_PRIVILEGED && reference->before[i] != reference->after[i])
			row->control = true;
	row->mode = o[POPEK_CPL3_HOME] == POPEK_DIFFERENT;
	row->location = !row->always && (o[POPEK_CPL0_MOVED] == POPEK_DIFFERENT || (o[POPEK_CPL3] == POPEK_DIFFERENT && !row->mode));
	bool ended = reference->end != END_STOPPED && row->seen[POPEK_CPL3_HOME].end != END_STOPPED;
	row->manual_agrees = !ended ? false : row->probe->manual == MANUAL_TRAPS ? row->always && traps :
			     traps == popek_manual_traps(row->probe->manual, false) && !row->always &&
			     (!umip || (o[POPEK_UMIP] == POPEK_TRAPPED) == popek_manual_traps(row->probe->manual, true));
}

bool popek_manual_traps(enum popek_manual manual, bool umip)
{
	return manual == MANUAL_UMIP ? umip : manual != MANUAL_ALLOWED;
}

bool popek_breaks(const struct popek_row *row, enum popek_config config)
{
	enum popek_outcome o = row->outcome[config];
	return o == POPEK_DIFFERENT || (o == POPEK_SAME && popek_sensitive(row));
}

bool popek_faithful(const struct popek_table *t)
{
	for (unsigned i = 0; i < t->rows; i++)
		if (t->row[i].probe->idle && popek_sensitive(&t->row[i]))
			return false;
	return true;
}

static int run_all(struct popek_table *t)
{
	char err[600];

	t->row = calloc(popek_nprobes, sizeof *t->row);
	if (!t->row) {
		fprintf(stderr, "hv: the host has not enough memory\n");
		return HV_HOST;
	}
	t->rows = popek_nprobes;
	/* One configuration after the other: of lab steps that are not written, the first one needed is named. */
	for (unsigned c = 0; c < POPEK_CONFIGS; c++)
		for (unsigned i = 0; i < t->rows; i++) {
			int status = popek_try(&popek_probes[i], c, &t->row[i].seen[c], err, sizeof err);
			if (status) {
				fprintf(stderr, "hv: %s\n", err);
				return status;
			}
		}
	for (unsigned i = 0; i < t->rows; i++) {
		struct popek_row *row = &t->row[i];
		row->probe = &popek_probes[i];
		for (unsigned c = 0; c < POPEK_CONFIGS; c++)
			compare(row, c);
		t->umip |= row->outcome[POPEK_UMIP] != POPEK_NOT_HERE;
		classify(row, t->umip);
	}
	return HV_OK;
}

static const char help[] =
	"usage: hv popek [--format text|json|html] [--output FILE]...\n"
	"       hv popek --machine FILE\n"
	"Tries out which instructions of this x86 are privileged and which are sensitive, on the bare machine and under the\n"
	"trap engine, and says for each configuration what Popek and Goldberg's theorem says about it.\n\n"
	"  --format FORMAT     text, json or html (a slide); default: text\n"
	"  --output FILE       write it there; may be repeated. FILE.json and FILE.html are written in that format\n"
	"  --machine FILE      the same for a made-up machine, which FILE describes; see docs/machines\n";

static int bad(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv popek --help\n", stderr);
	return HV_USAGE;
}

#define OUTPUTS 8

struct request {
	const char *format, *machine;
	const char *path[OUTPUTS];
	unsigned paths;
};

typedef void (*show_fn)(const struct popek_table *, FILE *);

static show_fn find_format(const char *name)
{
	return !strcmp(name, "text") ? popek_text : !strcmp(name, "json") ? popek_json : !strcmp(name, "html") ? popek_html : NULL;
}

/* The format of a file: its name's ending, or else what was asked for. */
static show_fn format_of(const char *path, const char *format)
{
	const char *dot = strrchr(path, '.');
	show_fn show = dot && strcmp(dot + 1, "text") ? find_format(dot + 1) : NULL;
	return show ? show : find_format(format);
}

static int cannot_write(const char *path)
{
	fprintf(stderr, "hv: cannot write '%s': %s\n", path, strerror(errno));
	return HV_USAGE;
}

/* Runs everything and writes it to all files, or to stdout. */
static int run_and_show(const struct request *r)
{
	struct popek_table table = { 0 };
	FILE *out[OUTPUTS] = { stdout };
	int status = HV_OK;

	/* Opened first, so that nobody waits for an error. */
	for (unsigned i = 0; i < r->paths && !status; i++) {
		out[i] = fopen(r->path[i], "w");
		if (!out[i])
			status = cannot_write(r->path[i]);
	}
	if (!status)
		status = run_all(&table);
	popek_try_end();
	if (!status && !r->paths) {
		find_format(r->format)(&table, stdout);
		if (fflush(stdout) || ferror(stdout))
			status = cannot_write("stdout");
	}
	for (unsigned i = 0; i < r->paths && out[i]; i++) {
		if (!status)
			format_of(r->path[i], r->format)(&table, out[i]);
		bool failed = ferror(out[i]);
		if ((fclose(out[i]) || failed) && !status)
			status = cannot_write(r->path[i]);
	}
	free(table.row);
	return status;
}

int popek_main(int argc, char **argv)
{
	enum { FORMAT, OUTPUT, MACHINE, HELP };
	static const struct option longopts[] = {
		{ "format", 1, 0, FORMAT }, { "output", 1, 0, OUTPUT }, { "machine", 1, 0, MACHINE }, { "help", 0, 0, HELP }, { 0 }
	};
	struct request r = { 0 };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longopts, NULL)) != -1) {
		switch (c) {
		case FORMAT:
			r.format = optarg;
			if (!find_format(optarg))
				return bad("--format takes text, json or html, not \"%s\"", optarg);
			break;
		case OUTPUT:
			if (r.paths == OUTPUTS)
				return bad("there are too many outputs: what is \"%s\"", optarg);
			r.path[r.paths++] = optarg;
			break;
		case MACHINE: r.machine = optarg; break;
		case HELP: fputs(help, stdout); return HV_OK;
		case ':': return bad("%s needs a value", argv[optind - 1]);
		default: return bad("there is no option %s", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return bad("popek takes no image: what is \"%s\"", argv[optind]);
	if (r.machine && (r.format || r.paths))
		return bad("--machine prints its answer, and takes no %s", r.format ? "--format" : "--output");
	if (r.machine)
		return popek_machine_main(r.machine);
	if (!r.format)
		r.format = "text";
	return run_and_show(&r);
}
