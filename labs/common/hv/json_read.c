#include "json_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One character of a string, unescaped. json_string() escapes single bytes, so \u stands for one. */
static const char *unescape(const char *s, char *c)
{
	if (*s != '\\') {
		*c = *s;
		return s + 1;
	}
	if (s[1] != 'u') {
		*c = s[1];
		return s[1] ? s + 2 : s + 1;
	}
	char digits[5] = "";
	size_t n = strnlen(s + 2, 4);
	memcpy(digits, s + 2, n);
	*c = (char)strtoul(digits, NULL, 16);
	return s + 2 + n;
}

bool json_unquote(const char **json, char *value, size_t len)
{
	const char *s = *json;

	if (*s++ != '"')
		return false;
	while (*s && *s != '"' && len > 1) {
		s = unescape(s, value++);
		len--;
	}
	*value = 0;
	*json = s + 1;
	return *s == '"';
}

bool json_member(const char *json, const char *key, char *value, size_t len)
{
	char quoted[64];

	/* It cannot be found inside a string: there the quotes are escaped. */
	snprintf(quoted, sizeof quoted, "\"%s\":", key);
	const char *s = strstr(json, quoted);
	if (!s)
		return false;
	s += strlen(quoted);
	if (*s == '"')
		return json_unquote(&s, value, len);
	size_t n = strcspn(s, ",}]");
	if (n >= len)
		return false;
	memcpy(value, s, n);
	value[n] = 0;
	return true;
}
