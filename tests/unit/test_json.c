// sources: json.c
/* Strings as JSON: what a reader of JSON makes of them, and that it is JSON whatever the bytes are. */
#include "json.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* To be freed. */
static char *written(const char *s)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	json_string(out, s);
	fclose(out);
	return text;
}

/* What is written, without the quotes, and what a reader finds there. */
static void becomes(const char *s, const char *json, const char *read)
{
	char *text = written(s), quoted[200];
	cJSON *value = cJSON_Parse(text);

	snprintf(quoted, sizeof quoted, "\"%s\"", json);
	assert_string_equal(text, quoted);
	assert_true(cJSON_IsString(value));
	assert_string_equal(value->valuestring, read);
	cJSON_Delete(value);
	free(text);
}

static void test_escapes(void **state)
{
	(void)state;
	becomes("", "", "");
	becomes("disk 1~", "disk 1~", "disk 1~");
	becomes("a\"b\\c/", "a\\\"b\\\\c/", "a\"b\\c/");
	becomes("\n\t\x1b[2J\x7f", "\\u000a\\u0009\\u001b[2J\\u007f", "\n\t\x1b[2J\x7f");
	becomes("\xc2\x80\xc2\x9b\xc2\x9f", "\\u0080\\u009b\\u009f", "\xc2\x80\xc2\x9b\xc2\x9f");
}

/* RFC 3629, section 4: the first and the last character of each length, and beside the surrogates. */
static void test_utf8_stays(void **state)
{
	static const char *const good[] = { "Müßiggang",	"█ 日本 😀",	   "\xc2\xa0",	   "\xdf\xbf",
					    "\xe0\xa0\x80",	"\xed\x9f\xbf",	   "\xee\x80\x80", "\xef\xbf\xbf",
					    "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf" };
	(void)state;

	for (unsigned i = 0; i < sizeof good / sizeof *good; i++)
		becomes(good[i], good[i], good[i]);
}

static void test_bytes_that_are_no_utf8(void **state)
{
	static const struct {
		const char *bytes, *read;
	} bad[] = {
		{ "\x80", "\\x80" }, /* continues nothing */
		{ "\xbfz", "\\xbfz" },
		{ "\xc3", "\\xc3" }, /* cut off, as by snprintf() */
		{ "\xe2\x96", "\\xe2\\x96" },
		{ "\xf0\x9f\x98", "\\xf0\\x9f\\x98" },
		{ "\xc3(\xc3\xa4", "\\xc3(ä" }, /* what follows is read again */
		{ "\xe2\xc3\xa4", "\\xe2ä" },
		{ "\xc0\xaf", "\\xc0\\xaf" }, /* longer than need be */
		{ "\xc1\xbf", "\\xc1\\xbf" },
		{ "\xe0\x9f\xbf", "\\xe0\\x9f\\xbf" },
		{ "\xf0\x8f\xbf\xbf", "\\xf0\\x8f\\xbf\\xbf" },
		{ "\xed\xa0\x80", "\\xed\\xa0\\x80" }, /* surrogates */
		{ "\xed\xbf\xbf", "\\xed\\xbf\\xbf" },
		{ "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80" }, /* behind U+10FFFF */
		{ "\xf5\x80\x80\x80", "\\xf5\\x80\\x80\\x80" },
		{ "\xfe\xff", "\\xfe\\xff" },
		{ "M\xfc\xdf", "M\\xfc\\xdf" }, /* Latin-1 */
	};
	(void)state;

	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		char json[100], *end = json;

		for (const char *c = bad[i].read; *c; c++) {
			if (*c == '\\')
				*end++ = '\\';
			*end++ = *c;
		}
		*end = 0;
		becomes(bad[i].bytes, json, bad[i].read);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_escapes),
		cmocka_unit_test(test_utf8_stays),
		cmocka_unit_test(test_bytes_that_are_no_utf8),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
