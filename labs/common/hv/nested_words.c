#include "nested_words.h"

#include <stdarg.h>
#include <stdlib.h>

int words_problem(struct script *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->problem, sizeof s->problem, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int parse_number(struct script *s, const char *name, const char *word, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(word, &end, word[0] == '0' && word[1] == 'x' ? 16 : 10);
	if (*word < '0' || *word > '9' || *end || errno)
		return words_problem(s, "%s is a number such as 4096 or 0x1000, not \"%s\"", name, word);
	return 0;
}

/* A word of len letters, each of which is the one of `letters` in its place, bit by bit, or "-". */
static bool parse_letters(const char *letters, const char *word, uint64_t *value)
{
	size_t len = strlen(letters);

	*value = 0;
	if (strlen(word) != len)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (word[i] == letters[i])
			*value |= 1u << i;
		else if (word[i] != '-')
			return false;
	}
	return true;
}

static bool parse_choice(const char *const *choices, unsigned count, const char *word, uint64_t *value)
{
	for (*value = 0; *value < count; ++*value)
		if (choices[*value] && !strcmp(word, choices[*value]))
			return true;
	return false;
}

static const char *const formats[] = { "ept", "npt" };
static const char *const kinds[] = { "absent", "table", "page", "invalid" };
static const char *const types[] = {
	[TYPE_UC] = "uc", [TYPE_WC] = "wc", [TYPE_WT] = "wt", [TYPE_WP] = "wp", [TYPE_WB] = "wb"
};

static bool parse_caps(const char *word, uint64_t *value)
{
	static const char *const caps[] = { "2m", "1g", "ad", "x" };
	char copy[32], *rest = NULL;

	*value = 0;
	if (!strcmp(word, "-"))
		return true;
	if (strlen(word) >= sizeof copy)
		return false;
	strcpy(copy, word);
	for (char *cap = strtok_r(copy, ",", &rest); cap; cap = strtok_r(NULL, ",", &rest)) {
		uint64_t bit;
		if (!parse_choice(caps, 4, cap, &bit))
			return false;
		*value |= 1u << bit;
	}
	return *value;
}

int words_parse(struct script *s, const char *name, const char *word, uint64_t *value)
{
	if (!strcmp(name, "RIGHTS"))
		return parse_letters("rwx", word, value)
			       ? 0
			       : words_problem(s, "RIGHTS is a word such as rwx or r--, not \"%s\"", word);
	if (!strcmp(name, "AD"))
		return parse_letters("ad", word, value) ? 0 : words_problem(s, "AD is ad, a-, -d or --, not \"%s\"", word);
	if (!strcmp(name, "TYPE"))
		return parse_choice(types, sizeof types / sizeof *types, word, value)
			       ? 0
			       : words_problem(s, "TYPE is uc, wc, wt, wp or wb, not \"%s\"", word);
	if (!strcmp(name, "KIND"))
		return parse_choice(kinds, 3, word, value)
			       ? 0
			       : words_problem(s, "KIND is absent, table or page, not \"%s\"", word);
	if (!strcmp(name, "FORMAT"))
		return parse_choice(formats, 2, word, value) ? 0
							     : words_problem(s, "FORMAT is ept or npt, not \"%s\"", word);
	if (!strcmp(name, "CAPS"))
		return parse_caps(word, value)
			       ? 0
			       : words_problem(s, "CAPS is a list of 2m, 1g, ad and x, or -, not \"%s\"", word);

	unsigned min, max;
	int err = parse_number(s, name, word, value);
	if (err)
		return err;
	if (sscanf(name, "LEVEL:%u-%u", &min, &max) == 2 && (*value < min || *value > max))
		return words_problem(s, "LEVEL is from %u to %u here, not %s", min, max, word);
	if (!strcmp(name, "GPA") && *value >= GPA_END) /* START may be anything: the lab's code is asked to refuse it */
		return words_problem(s, "four levels reach no GPA above 0x%llx", GPA_END - 1);
	if (!strcmp(name, "GVA") && !canonical(*value))
		return words_problem(s, "%s is not canonical (bits 63 to 47 differ)", word);
	return 0;
}

static const char *letters(const char *all, unsigned bits, char text[4])
{
	unsigned i;

	for (i = 0; all[i]; i++)
		text[i] = (bits >> i & 1) ? all[i] : '-';
	text[i] = 0;
	return text;
}

const char *words_rights(unsigned rights)
{
	static char text[4];
	return letters("rwx", rights, text);
}

const char *words_ad(bool accessed, bool dirty)
{
	static char text[4];
	return letters("ad", accessed | dirty << 1, text);
}

const char *words_status(int status)
{
	static char text[24];

	switch (status) {
	case 0: return "0";
	case -EINVAL: return "-EINVAL";
	case -ENOMEM: return "-ENOMEM";
	case -ENOENT: return "-ENOENT";
	case -EBUSY: return "-EBUSY";
	case -EOPNOTSUPP: return "-EOPNOTSUPP";
	default: snprintf(text, sizeof text, "%d", status); return text;
	}
}

const char *words_kind(enum nested_kind kind)
{
	return kinds[kind];
}

const char *words_type(enum nested_type type)
{
	return type < sizeof types / sizeof *types && types[type] ? types[type] : "??";
}
