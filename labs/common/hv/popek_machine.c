#include "popek_machine.h"
#include "loader.h"
#include "vm.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_LEN 400

struct parser {
	struct made_up_machine *m;
	unsigned line;
	char *err;
	size_t errlen;
};

static int wrong(const struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int wrong(const struct parser *p, const char *fmt, ...)
{
	int n = snprintf(p->err, p->errlen, "line %u: ", p->line);
	va_list ap;

	va_start(ap, fmt);
	if (n > 0 && (size_t)n < p->errlen)
		vsnprintf(p->err + n, p->errlen - (size_t)n, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* Cuts blanks off both ends, in place. */
static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);)
		s[--n] = 0;
	return s;
}

/* The text behind a first word, or NULL when it is another word. */
static char *behind(char *s, const char *word)
{
	size_t n = strlen(word);
	return !strncmp(s, word, n) && (isspace((unsigned char)s[n]) || !s[n]) ? trim(s + n) : NULL;
}

static int find_state(const struct made_up_machine *m, const char *name)
{
	for (unsigned i = 0; i < m->states; i++)
		if (!strcmp(m->state[i], name))
			return (int)i;
	return -1;
}

static int parse_states(struct parser *p, char *s)
{
	struct made_up_machine *m = p->m;
	char *save, *name = strtok_r(s, " \t", &save);

	if (!name)
		return wrong(p, "which state? `state` is followed by one or more names");
	for (; name; name = strtok_r(NULL, " \t", &save)) {
		if (find_state(m, name) >= 0)
			return wrong(p, find_state(m, name) == MADE_UP_MODE ? "every machine has the state \"%s\"; it is not declared"
									    : "the state \"%s\" is declared twice", name);
		if (m->states == MADE_UP_STATES)
			return wrong(p, "there are more than %u states", MADE_UP_STATES - 1);
		if (strlen(name) >= MADE_UP_NAME)
			return wrong(p, "a state's name has at most %u letters", MADE_UP_NAME - 1);
		strcpy(m->state[m->states++], name);
	}
	return 0;
}

/* One of "traps", "nothing", "reads STATE", "writes STATE". */
static int parse_action(struct parser *p, char *s, const char *level, struct made_up_action *a, bool *alone)
{
	char *reads = behind(s, "reads"), *writes = behind(s, "writes"), *name = reads ? reads : writes;

	if (!strcmp(s, "traps") || !strcmp(s, "nothing")) {
		a->traps = *s == 't';
		*alone = true;
		return 0;
	}
	if (!name)
		return wrong(p, "what does \"%s\" mean? An instruction traps, does nothing, reads STATE or writes STATE", s);
	if (!*name)
		return wrong(p, "%s what? A state belongs behind it", s);
	int state = find_state(p->m, name);
	if (state < 0)
		return wrong(p, "there is no state \"%s\" in %s mode's list; declare it with `state %s` above", name, level, name);
	*(reads ? &a->reads : &a->writes) |= 1u << state;
	return 0;
}

/* "LEVEL ACTION, ACTION" */
static int parse_level(struct parser *p, char *s, const char *level, struct made_up_action *a)
{
	bool alone = false;
	unsigned n = 0;

	s = behind(trim(s), level);
	if (!s || !*s)
		return wrong(p, "what it does in %s mode is missing: NAME: supervisor ACTION; user ACTION", level);
	while (s) {
		char *comma = strchr(s, ',');
		if (comma)
			*comma = 0;
		if (parse_action(p, trim(s), level, a, &alone))
			return -EINVAL;
		n++;
		s = comma ? comma + 1 : NULL;
	}
	if (alone && n > 1)
		return wrong(p, "in %s mode it traps or does nothing, or it reads and writes; not both", level);
	return 0;
}

static int parse_insn(struct parser *p, char *name, char *actions)
{
	struct made_up_machine *m = p->m;
	struct made_up_insn *i = &m->insn[m->insns];
	char *user = strchr(actions, ';');

	name = trim(name);
	if (!*name)
		return wrong(p, "the instruction has no name");
	if (strlen(name) >= MADE_UP_NAME)
		return wrong(p, "an instruction's name has at most %u letters", MADE_UP_NAME - 1);
	for (unsigned k = 0; k < m->insns; k++)
		if (!strcmp(m->insn[k].name, name))
			return wrong(p, "the instruction \"%s\" is described twice", name);
	if (m->insns == MADE_UP_INSNS)
		return wrong(p, "there are more than %u instructions", MADE_UP_INSNS);
	if (!user)
		return wrong(p, "a semicolon is missing: NAME: supervisor ACTION; user ACTION");
	*user++ = 0;
	if (strchr(user, ';'))
		return wrong(p, "one semicolon is enough: NAME: supervisor ACTION; user ACTION");
	*i = (struct made_up_insn){ 0 };
	strcpy(i->name, name);
	if (parse_level(p, actions, "supervisor", &i->supervisor) || parse_level(p, user, "user", &i->user))
		return -EINVAL;
	m->insns++;
	return 0;
}

static int parse_line(struct parser *p, char *s)
{
	char *rest, *colon;

	for (const char *c = s; *c; c++)
		if (iscntrl((unsigned char)*c) && *c != '\t' && *c != '\r')
			return wrong(p, "there is a control character: this is not a text file");
	s[strcspn(s, "#")] = 0;
	s = trim(s);
	if (!*s)
		return 0;
	colon = strchr(s, ':');
	if (colon) {
		*colon = 0;
		return parse_insn(p, s, colon + 1);
	}
	if ((rest = behind(s, "state")))
		return parse_states(p, rest);
	if ((rest = behind(s, "machine"))) {
		if (*p->m->name)
			return wrong(p, "the machine has a name already");
		if (!*rest || strlen(rest) >= sizeof p->m->name)
			return wrong(p, "the machine's name has from 1 to %zu letters", sizeof p->m->name - 1);
		strcpy(p->m->name, rest);
		return 0;
	}
	return wrong(p, "a line begins with `machine`, `state` or an instruction's name and a colon");
}

int made_up_parse(const char *text, size_t len, struct made_up_machine *m, char *err, size_t errlen)
{
	struct parser p = { .m = m, .line = 0, .err = err, .errlen = errlen };
	char line[LINE_MAX_LEN];

	*m = (struct made_up_machine){ .states = 1 };
	strcpy(m->state[MADE_UP_MODE], "mode");
	for (size_t at = 0; at < len;) {
		const char *end = memchr(text + at, '\n', len - at);
		size_t n = end ? (size_t)(end - (text + at)) : len - at;
		p.line++;
		if (n >= sizeof line)
			return wrong(&p, "it is longer than %zu letters", sizeof line - 1);
		memcpy(line, text + at, n);
		line[n] = 0;
		if (strlen(line) != n)
			return wrong(&p, "there is a control character: this is not a text file");
		if (parse_line(&p, line))
			return -EINVAL;
		at += n + 1;
	}
	if (!m->insns)
		return wrong(&p, "the file ends, and no instruction was described");
	return 0;
}

/* --- the definitions --- */

bool made_up_privileged(const struct made_up_insn *i) { return i->user.traps && !i->supervisor.traps; }
bool made_up_control_sensitive(const struct made_up_insn *i) { return i->supervisor.writes || i->user.writes; }

bool made_up_location_sensitive(const struct made_up_insn *i)
{
	return (i->supervisor.reads | i->user.reads) & ~(1u << MADE_UP_MODE);
}

bool made_up_mode_sensitive(const struct made_up_insn *i)
{
	if ((i->supervisor.reads | i->user.reads) & 1u << MADE_UP_MODE)
		return true;
	/* It does one thing in one mode and another in the other, and traps in neither. */
	return !i->supervisor.traps && !i->user.traps &&
	       (i->supervisor.reads != i->user.reads || i->supervisor.writes != i->user.writes);
}

bool made_up_sensitive(const struct made_up_insn *i)
{
	return made_up_control_sensitive(i) || made_up_location_sensitive(i) || made_up_mode_sensitive(i);
}

bool made_up_user_sensitive(const struct made_up_insn *i) { return i->user.writes || i->user.reads & ~(1u << MADE_UP_MODE); }

bool made_up_virtualizable(const struct made_up_machine *m)
{
	for (unsigned k = 0; k < m->insns; k++)
		if (made_up_sensitive(&m->insn[k]) && !made_up_privileged(&m->insn[k]))
			return false;
	return true;
}

bool made_up_hybrid(const struct made_up_machine *m)
{
	for (unsigned k = 0; k < m->insns; k++)
		if (made_up_user_sensitive(&m->insn[k]) && !made_up_privileged(&m->insn[k]))
			return false;
	return true;
}

/* --- the answer --- */

static const char *class_of(const struct made_up_insn *i, char *buf, size_t len)
{
	bool control = made_up_control_sensitive(i), mode = made_up_mode_sensitive(i), location = made_up_location_sensitive(i);

	snprintf(buf, len, "%s%s%s%s%s", control ? "control" : "", control && (mode || location) ? ", " : "", mode ? "mode" : "",
		 mode && location ? ", " : "", location ? "location" : "");
	return *buf ? buf : "innocuous";
}

/* Prints the names of those that are in the set and not privileged. */
static void name_breakers(const struct made_up_machine *m, bool (*set)(const struct made_up_insn *), FILE *out)
{
	const char *comma = "";

	for (unsigned k = 0; k < m->insns; k++)
		if (set(&m->insn[k]) && !made_up_privileged(&m->insn[k])) {
			fprintf(out, "%s%s", comma, m->insn[k].name);
			comma = ", ";
		}
	fputc('\n', out);
}

void made_up_show(const struct made_up_machine *m, FILE *out)
{
	char class[64];

	fprintf(out, "%s\n\n%-*s privileged   user-sensitive  sensitive\n", *m->name ? m->name : "A machine without a name", MADE_UP_NAME,
		"instruction");
	for (unsigned k = 0; k < m->insns; k++) {
		const struct made_up_insn *i = &m->insn[k];
		bool privileged = made_up_privileged(i);
		fprintf(out, "%-*s %-12s %-15s %s%s\n", MADE_UP_NAME, i->name, privileged ? "yes" : i->user.traps ? "always traps" : "no",
			made_up_user_sensitive(i) ? "yes" : "no", class_of(i, class, sizeof class),
			made_up_sensitive(i) && !privileged ? "   <- breaks the condition" : "");
	}
	fputs("\nTheorem 1 (a monitor): ", out);
	if (made_up_virtualizable(m)) {
		fputs("virtualizable. Every sensitive instruction is privileged.\n"
		      "Theorem 2 (monitors in monitors): recursively virtualizable too, if the monitor can be written without timing\n"
		      "dependencies.\n"
		      "Theorem 3 (a hybrid monitor): is not needed.\n", out);
		return;
	}
	fputs("not virtualizable by trap and emulate. Sensitive and not privileged: ", out);
	name_breakers(m, made_up_sensitive, out);
	fputs("Theorem 2 (monitors in monitors): does not apply, because theorem 1 does not.\nTheorem 3 (a hybrid monitor): ", out);
	if (made_up_hybrid(m)) {
		fputs("possible. Every user-sensitive instruction is privileged, so it is enough to interpret all\n"
		      "that runs in the virtual supervisor mode.\n", out);
		return;
	}
	fputs("not possible. User-sensitive and not privileged: ", out);
	name_breakers(m, made_up_user_sensitive, out);
}

int popek_machine_main(const char *path)
{
	static struct made_up_machine m;
	char err[400];
	uint8_t *text;
	size_t len;

	if (file_read_all(path, "machine", &text, &len, err, sizeof err)) {
		fprintf(stderr, "hv: %s\n", err);
		return HV_USAGE;
	}
	int failed = made_up_parse((const char *)text, len, &m, err, sizeof err);
	free(text);
	if (failed) {
		fprintf(stderr, "hv: %s, %s\n", path, err);
		return HV_USAGE;
	}
	made_up_show(&m, stdout);
	return HV_OK;
}
