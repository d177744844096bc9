/*
 * The table of `hv popek` in words, and as text and JSON.
 */
#include "popek.h"
#include "trace.h"

#include <string.h>

const struct popek_column popek_columns[POPEK_COLUMNS] = {
	{ POPEK_CPL0, "cpl0", "CPL 0" },
	{ POPEK_CPL3, "cpl3", "CPL 3" },
	{ POPEK_UMIP, "cpl3_umip", "CPL 3, UMIP" },
	{ POPEK_TRAP, "trap", "trap engine" },
	{ POPEK_PATCH, "trap_patch", "with patching" },
};

static const char *const outcome_words[] = {
	[POPEK_NOT_HERE] = "not on this machine", [POPEK_REFERENCE] = "reference", [POPEK_TRAPPED] = "trapped",
	[POPEK_SAME] = "same", [POPEK_DIFFERENT] = "different", [POPEK_ANSWERED] = "trapped, other answer",
};

const char *popek_manual_word(enum popek_manual manual)
{
	static const char *const words[] = {
		[MANUAL_PRIVILEGED] = "privileged", [MANUAL_IOPL] = "IOPL", [MANUAL_CHECKED] = "checked", [MANUAL_OPTION] = "by option",
		[MANUAL_UMIP] = "UMIP only", [MANUAL_ALLOWED] = "no", [MANUAL_TRAPS] = "always traps",
	};
	return words[manual];
}

const char *popek_trial_word(const struct popek_row *row)
{
	return row->always ? "always traps" : row->privileged ? "yes" : "no";
}

const char *popek_class(const struct popek_row *row, char *buf, size_t len)
{
	snprintf(buf, len, "%s%s%s%s%s", row->control ? "control" : "", row->control && (row->mode || row->location) ? ", " : "",
		 row->mode ? "mode" : "", row->mode && row->location ? ", " : "", row->location ? "location" : "");
	if (!*buf)
		snprintf(buf, len, "innocuous");
	return buf;
}

static const char *end_words(const struct popek_seen *seen, char *buf, size_t len)
{
	switch (seen->end) {
	case END_BEHIND: snprintf(buf, len, "goes on"); break;
	case END_TARGET: snprintf(buf, len, "jumps"); break;
	case END_SYSCALL: snprintf(buf, len, "to LSTAR"); break;
	case END_HALTED: snprintf(buf, len, "halts"); break;
	case END_STOPPED: snprintf(buf, len, "stopped"); break;
	case END_VECTOR:
		if (seen->vector < 32)
			snprintf(buf, len, "%s", vector_name(seen->vector));
		else
			snprintf(buf, len, "vector %x", seen->vector);
		break;
	default: snprintf(buf, len, "%s", outcome_words[POPEK_NOT_HERE]);
	}
	return buf;
}

/* Hexadecimal. The monitor's addresses, all near the end of the address space, are too wide for a table. */
static const char *number(uint64_t value, char *buf, size_t len)
{
	if (value >> 32 == 0xffffffff)
		snprintf(buf, len, "ff..%llx", (unsigned long long)value & 0xffffff);
	else
		snprintf(buf, len, "%llx", (unsigned long long)value);
	return buf;
}

/* The most telling thing that the instruction did on the bare machine at CPL 0. */
static void did(const struct popek_seen *seen, char *buf, size_t len)
{
	char a[24], b[24];
	int best = -1;

	if (seen->end != END_BEHIND && seen->end != END_TARGET) {
		end_words(seen, buf, len);
		return;
	}
	for (unsigned i = 0; i < popek_nfields; i++) {
		if (seen->before[i] == seen->after[i])
			continue;
		if (popek_field_kind(i) == SEEN_PRIVILEGED) {
			snprintf(buf, len, "%s %s->%s", popek_field_name(i), number(seen->before[i], a, sizeof a),
				 number(seen->after[i], b, sizeof b));
			return;
		}
		if (best < 0)
			best = (int)i;
	}
	if (best < 0)
		snprintf(buf, len, "%s", seen->end == END_TARGET ? "jumps" : "nothing seen");
	else
		snprintf(buf, len, "%s %s", popek_field_name((unsigned)best), number(seen->after[best], a, sizeof a));
}

/* Both values of what differs first: at CPL 0, and here. */
static void both(const struct popek_row *row, enum popek_config config, char *buf, size_t len)
{
	const struct popek_seen *reference = &row->seen[POPEK_CPL0], *seen = &row->seen[config];
	char a[24], b[24];

	if (reference->end != seen->end || reference->vector != seen->vector) {
		snprintf(buf, len, "%s/%s", end_words(reference, a, sizeof a), end_words(seen, b, sizeof b));
		return;
	}
	unsigned i = (unsigned)__builtin_ctzll(row->differs[config]);
	snprintf(buf, len, "%s %s/%s", popek_field_name(i), number(reference->after[i], a, sizeof a),
		 number(seen->after[i], b, sizeof b));
}

void popek_cell(const struct popek_row *row, enum popek_config config, char *buf, size_t len)
{
	buf[0] = 0;
	switch (row->outcome[config]) {
	case POPEK_REFERENCE: did(&row->seen[config], buf, len); break;
	case POPEK_TRAPPED:
		if (config < POPEK_TRAP)
			end_words(&row->seen[config], buf, len);
		break;
	case POPEK_DIFFERENT:
	case POPEK_ANSWERED: both(row, config, buf, len); break;
	default: break;
	}
}

/* Length of the instruction's own name, which stands before its operands. */
static size_t bare_name(const char *name) { return strcspn(name, ", "); }

static bool same_instruction(const char *a, const char *b)
{
	return bare_name(a) == bare_name(b) && !strncmp(a, b, bare_name(a));
}

/* Is there an earlier row of this instruction, of those that break the condition (or, config < 0, of all)? */
static bool seen_before(const struct popek_table *t, unsigned row, int config)
{
	for (unsigned k = 0; k < row; k++)
		if ((config < 0 || popek_breaks(&t->row[k], (enum popek_config)config)) &&
		    same_instruction(t->row[k].probe->name, t->row[row].probe->name))
			return true;
	return false;
}

unsigned popek_named(const struct popek_table *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < t->rows; i++)
		n += t->row[i].probe->robin_irvine && !seen_before(t, i, -1);
	return n;
}

unsigned popek_breakers(const struct popek_table *t, enum popek_config config, char *buf, size_t len, unsigned *named)
{
	unsigned n = 0;
	size_t used = 0;

	buf[0] = 0;
	*named = 0;
	for (unsigned i = 0; i < t->rows; i++) {
		const struct popek_probe *p = t->row[i].probe;
		if (!popek_breaks(&t->row[i], config) || seen_before(t, i, (int)config))
			continue;
		if (used < len)
			used += (size_t)snprintf(buf + used, len - used, "%s%.*s", n ? " " : "", (int)bare_name(p->name), p->name);
		n++;
		*named += p->robin_irvine;
	}
	return n;
}

/* --- text --- */

static void text_cell(const struct popek_row *row, enum popek_config config, char *buf, size_t len)
{
	static const char *const marks[] = {
		[POPEK_NOT_HERE] = "-", [POPEK_REFERENCE] = "", [POPEK_TRAPPED] = "trap ", [POPEK_SAME] = "same", [POPEK_DIFFERENT] = "! ",
		[POPEK_ANSWERED] = "trap, ",
	};
	char cell[80];

	popek_cell(row, config, cell, sizeof cell);
	snprintf(buf, len, "%s%s", marks[row->outcome[config]], cell);
}

/* The cell of a column: a ditto mark where it is the one on its left, of which it is a variation. */
static void text_column(const struct popek_row *row, unsigned column, char *buf, size_t len)
{
	enum popek_config config = popek_columns[column].config;
	char left[100];

	text_cell(row, config, buf, len);
	if (config != POPEK_UMIP && config != POPEK_PATCH)
		return;
	text_cell(row, popek_columns[column - 1].config, left, sizeof left);
	if (!strcmp(left, buf))
		snprintf(buf, len, "\"");
}

static void text_verdicts(const struct popek_table *t, FILE *out)
{
	char names[1024];

	fputs("\nTheorem 1: a monitor can be built if every sensitive instruction is privileged, that is, traps. Is it so?\n", out);
	for (unsigned c = 1; c < POPEK_COLUMNS; c++) {
		enum popek_config config = popek_columns[c].config;
		unsigned named;
		fprintf(out, "  %-14s ", popek_columns[c].title);
		if (config == POPEK_UMIP && !t->umip) {
			fputs("this machine has no UMIP\n", out);
			continue;
		}
		unsigned n = popek_breakers(t, config, names, sizeof names, &named);
		if (!n)
			fputs("yes, for all that was tried\n", out);
		else
			fprintf(out, "no, because of %u (%u of Robin and Irvine's %u): %s\n", n, named, popek_named(t), names);
	}
}

static void text_disagreements(const struct popek_table *t, FILE *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < t->rows; i++) {
		const struct popek_row *r = &t->row[i];
		char a[40], b[40];
		if (r->manual_agrees)
			continue;
		if (!n++)
			fputs("\nThis machine and the manual disagree:\n", out);
		fprintf(out, "  %-17s by manual: %s (%s); by trial, CPL 0: %s, CPL 3: %s\n", r->probe->name,
			popek_manual_word(r->probe->manual), r->probe->section, end_words(&r->seen[POPEK_CPL0], a, sizeof a),
			end_words(&r->seen[POPEK_CPL3_HOME], b, sizeof b));
		if (r->seen[POPEK_CPL0].end == END_STOPPED)
			fprintf(out, "  %-17s %s\n", "", r->seen[POPEK_CPL0].reason);
	}
	if (!n)
		fputs("\nManual and trial agree everywhere.\n", out);
	if (!popek_faithful(t))
		fputs("Even NOP leaves a difference on this machine, so the table is about this machine and not about x86. Use the\n"
		      "test host: make popek\n", out);
}

void popek_text(const struct popek_table *t, FILE *out)
{
	int width[POPEK_COLUMNS];
	char cell[100];

	for (unsigned c = 0; c < POPEK_COLUMNS; c++) {
		width[c] = (int)strlen(popek_columns[c].title);
		for (unsigned i = 0; i < t->rows; i++) {
			text_column(&t->row[i], c, cell, sizeof cell);
			if ((int)strlen(cell) > width[c])
				width[c] = (int)strlen(cell);
		}
	}
	fputs("Every cell was run. CPL 0: what the instruction did on the bare machine. CPL 3: deprivileged, and the machine's\n"
	      "tables and flags are the monitor's. \"trap\": it trapped; \"same\": it did not, and nothing differs; \"! x a/b\":\n"
	      "silently different, x was a at CPL 0 and is b here. A \" is the cell on its left again. Numbers are hexadecimal.\n"
	      "*: in Robin and Irvine's list.\n\n", out);
	fprintf(out, "  %-17s %-12s %-12s", "instruction", "by manual", "privileged");
	for (unsigned c = 0; c < POPEK_COLUMNS; c++)
		fprintf(out, " %-*s", width[c], popek_columns[c].title);
	fputs(" sensitive\n", out);
	for (unsigned i = 0; i < t->rows; i++) {
		const struct popek_row *r = &t->row[i];
		fprintf(out, "%c %-17s %-12s %-12s", r->probe->robin_irvine ? '*' : ' ', r->probe->name,
			popek_manual_word(r->probe->manual), popek_trial_word(r));
		for (unsigned c = 0; c < POPEK_COLUMNS; c++) {
			text_column(r, c, cell, sizeof cell);
			fprintf(out, " %-*s", width[c], cell);
		}
		fprintf(out, " %s\n", popek_class(r, cell, sizeof cell));
	}
	text_disagreements(t, out);
	text_verdicts(t, out);
}

/* --- JSON; no name in here needs escaping --- */

static void json_seen(const struct popek_row *row, enum popek_config config, const char *key, FILE *out)
{
	const struct popek_seen *reference = &row->seen[POPEK_CPL0], *seen = &row->seen[config];
	const char *comma = "";
	char cell[100];

	fprintf(out, "\"%s\": {\"outcome\": \"%s\"", key, outcome_words[row->outcome[config]]);
	if (seen->end == END_MISSING) {
		fputc('}', out);
		return;
	}
	popek_cell(row, config, cell, sizeof cell);
	fprintf(out, ", \"cell\": \"%s\", \"end\": ", cell);
	fprintf(out, "\"%s\", \"changed\": {", end_words(seen, cell, sizeof cell));
	for (unsigned i = 0; i < popek_nfields; i++)
		if (seen->before[i] != seen->after[i]) {
			fprintf(out, "%s\"%s\": [%llu, %llu]", comma, popek_field_name(i), (unsigned long long)seen->before[i],
				(unsigned long long)seen->after[i]);
			comma = ", ";
		}
	fputs("}, \"differs\": {", out);
	comma = "";
	for (unsigned i = 0; i < popek_nfields; i++)
		if (row->outcome[config] != POPEK_TRAPPED && row->differs[config] & 1ull << i) {
			fprintf(out, "%s\"%s\": [%llu, %llu]", comma, popek_field_name(i), (unsigned long long)reference->after[i],
				(unsigned long long)seen->after[i]);
			comma = ", ";
		}
	fputs("}}", out);
}

void popek_json(const struct popek_table *t, FILE *out)
{
	char text[1024];

	fprintf(out, "{\"umip\": %s,\n \"instructions\": [", t->umip ? "true" : "false");
	for (unsigned i = 0; i < t->rows; i++) {
		const struct popek_row *r = &t->row[i];
		fprintf(out, "%s\n  {\"name\": \"%s\", \"robin_irvine\": %s, \"manual\": \"%s\", \"section\": \"%s\", \"trial\": \"%s\", "
			"\"manual_agrees\": %s, \"control\": %s, \"mode\": %s, \"location\": %s,\n   ", i ? "," : "", r->probe->name,
			r->probe->robin_irvine ? "true" : "false", popek_manual_word(r->probe->manual), r->probe->section,
			popek_trial_word(r), r->manual_agrees ? "true" : "false", r->control ? "true" : "false",
			r->mode ? "true" : "false", r->location ? "true" : "false");
		for (unsigned c = 0; c < POPEK_COLUMNS; c++) {
			json_seen(r, popek_columns[c].config, popek_columns[c].key, out);
			fputs(",\n   ", out);
		}
		/* The two that tell the level's part from the place's. */
		json_seen(r, POPEK_CPL0_MOVED, "cpl0_moved", out);
		fputs(",\n   ", out);
		json_seen(r, POPEK_CPL3_HOME, "cpl3_home", out);
		fputc('}', out);
	}
	fputs("\n ],\n \"verdicts\": {", out);
	for (unsigned c = 1; c < POPEK_COLUMNS; c++) {
		const char *comma = "";
		if (popek_columns[c].config == POPEK_UMIP && !t->umip)
			continue;
		unsigned named, n = popek_breakers(t, popek_columns[c].config, text, sizeof text, &named);
		fprintf(out, "%s\n  \"%s\": {\"virtualizable\": %s, \"instructions\": %u, \"robin_irvine\": %u, \"broken_by\": [",
			c > 1 ? "," : "", popek_columns[c].key, n ? "false" : "true", n, named);
		for (unsigned i = 0; i < t->rows; i++)
			if (popek_breaks(&t->row[i], popek_columns[c].config)) {
				fprintf(out, "%s\"%s\"", comma, t->row[i].probe->name);
				comma = ", ";
			}
		fputs("]}", out);
	}
	fputs("\n }}\n", out);
}
