/* The command line of a test guest: words, and numbers like `seed=12`. */
#ifndef TEST_OPTIONS_H
#define TEST_OPTIONS_H

#include "string.h"

#include <stdbool.h>
#include <stdint.h>

static inline bool option_at(const char *s, const char *name, size_t len)
{
	return !strncmp(s, name, len) && (s[len] == ' ' || s[len] == 0 || s[len] == '=');
}

/* Where the word begins, or NULL. */
static inline const char *option_find(const char *cmdline, const char *name)
{
	size_t len = strlen(name);

	for (const char *s = cmdline; *s; s++)
		if ((s == cmdline || s[-1] == ' ') && option_at(s, name, len))
			return s;
	return NULL;
}

static inline bool option_word(const char *cmdline, const char *name)
{
	return option_find(cmdline, name);
}

/* The decimal number behind `name=`, or otherwise. */
static inline uint64_t option_number(const char *cmdline, const char *name, uint64_t otherwise)
{
	const char *s = option_find(cmdline, name);
	uint64_t n = 0;

	if (!s || s[strlen(name)] != '=')
		return otherwise;
	for (s += strlen(name) + 1; *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (unsigned)(*s - '0');
	return n;
}

#endif
