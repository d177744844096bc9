// sources: migrate_report.c job_facts.c
/* The picture of a migration: what is in it, for few and for very many rounds, and that nothing of what it is told becomes a tag. */
#define _GNU_SOURCE
#include "migrate_report.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Not inline: GCC 12 would then take the text for the variable that points to it, and say that it dangles. */
__attribute__((noinline)) static char *draw(const struct job_facts *f)
{
	char *svg = NULL;
	size_t len;
	FILE *out = open_memstream(&svg, &len);

	migrate_picture(f, out);
	fclose(out);
	return svg;
}

static unsigned count(const char *svg, const char *what)
{
	unsigned n = 0;

	for (const char *at = svg; (at = strstr(at, what)); at += strlen(what))
		n++;
	return n;
}

/* Everything is inside the picture, and a number everywhere. */
static void check_places(const char *svg)
{
	const char *at = svg;
	double x, y, width, height;

	assert_null(strcasestr(strstr(svg, "</desc>"), "nan"));
	assert_null(strcasestr(strstr(svg, "</desc>"), "inf\""));
	while ((at = strstr(at, "<rect x="))) {
		assert_int_equal(sscanf(at, "<rect x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &x, &y, &width, &height), 4);
		assert_true(x >= 0 && y >= 0 && width > 0 && height > 0 && x + width <= 960 && y + height <= 788);
		at++;
	}
}

static void test_bars(void **state)
{
	static struct job_facts f = { .job = "migrate", .state = JOB_DONE, .reason = "moved", .rounds = 3, .part_ms = { 10, 5, 5, 0 },
				      .round = { { 1100, 100, 4e6, 100, 10, 0 }, { 10, 0, 4e4, 1, 1, 30 }, { 1, 0, 4096, 1, 0, 0 } } };
	char *svg = draw(&f);
	double y[3], x, width, height;
	const char *at = svg;
	(void)state;

	check_places(svg);
	assert_non_null(strstr(svg, "<title id=\"title\">migrate, done: 3 rounds, 1111 pages, 20.0 ms of downtime</title>"));
	assert_non_null(strstr(svg, "1011 pages were sent with their contents, 100 as zeros. "
				    "Round 1: 1100 pages, 100 of them zeros, in 100 ms"));
	assert_non_null(strstr(svg, "Downtime: last round 10.0 ms, state 5.0 ms, sending it 5.0 ms, commit 0.0 ms."));
	/* The key's two squares come first; a decade is as high as any other. */
	assert_int_equal(count(svg, "fill=\"#93c5fd\""), 2);
	assert_int_equal(count(svg, "fill=\"#b45309\""), 1 + 2); /* one round was throttled; a part of the downtime, with its key */
	for (unsigned i = 0; i < 5; i++) {
		double bottom;
		at = strstr(at + 1, "<rect x=");
		if (i < 2)
			continue;
		if (i == 3) /* of zeros */
			at = strstr(at + 1, "<rect x=");
		assert_int_equal(sscanf(at, "<rect x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &x, &bottom, &width, &height), 4);
		y[i - 2] = bottom;
	}
	/* 1000, 10, 1 with 10000 at the top: four decades of 42.5 units. */
	assert_true(y[2] - y[0] > 127.4 && y[2] - y[0] < 127.6);
	assert_true(y[2] - y[1] > 42.4 && y[2] - y[1] < 42.6);
	/* The last round's guest wrote nothing: no step, but two of what was sent and one more. */
	assert_int_equal(count(strstr(svg, "written by the guest"), "stroke-width=\"3\""), 2);
	free(svg);
}

static void test_every_number_of_rounds(void **state)
{
	static struct job_facts f = { .job = "migrate", .state = JOB_RUNNING };
	(void)state;

	for (f.rounds = 0; f.rounds <= ROUNDS_MAX; f.rounds++) {
		char *svg = draw(&f);
		check_places(svg);
		/* Three panels have the numbers of their rounds, which stay readable. */
		assert_in_range(count(svg, "text-anchor=\"middle\" fill"), f.rounds ? 3 : 0, 3 * 17);
		assert_non_null(strstr(svg, "the VM never stood still"));
		free(svg);
		if (f.rounds < ROUNDS_MAX)
			f.round[f.rounds] = (struct job_round){ 1e9 / (f.rounds + 1), f.rounds, 1, f.rounds % 3, 7, f.rounds % 100 };
	}
}

static void test_words_stay_words(void **state)
{
	static struct job_facts f = { .job = "<a>&", .state = JOB_FAILED, .reason = "<script>\n\x01 & so on" };
	char *svg = draw(&f);
	(void)state;

	assert_null(strstr(svg, "<script"));
	assert_null(strstr(svg, "<a>"));
	assert_null(strchr(svg, 1));
	assert_int_equal(count(svg, "&lt;script>   &amp; so on"), 2);
	free(svg);
	/* As long as it gets, with blanks and without. */
	for (unsigned blank = 0; blank < 2; blank++) {
		memset(f.reason, 'x', sizeof f.reason - 1);
		for (unsigned i = 10; blank && i < sizeof f.reason - 1; i += 10)
			f.reason[i] = ' ';
		svg = draw(&f);
		assert_in_range(count(svg, "<text x=\"24\" y=\""), 1 + 3, 1 + 3);
		free(svg);
	}
}

static void test_reading(void **state)
{
	struct job_facts f;
	char err[200], good[] = "{\"job\":\"save\",\"state\":\"done\",\"rounds\":[{\"pages\":2,\"zero\":1,\"bytes\":8192,"
				"\"ms\":0.5,\"dirty\":3,\"throttle\":9}],\"dirty_rate\":7,\"bandwidth\":8,"
				"\"expected_downtime_ms\":9,\"downtime\":{\"final_round_ms\":1,\"state_ms\":2,\"send_ms\":3,"
				"\"commit_ms\":4},\"reason\":\"r\",\"more\":[1]}";
	(void)state;

	assert_int_equal(job_facts_read(&f, good, err, sizeof err), 0);
	assert_string_equal(f.job, "save");
	assert_true(f.state == JOB_DONE && f.rounds == 1 && f.round[0].pages == 2 && f.round[0].zero == 1 && f.round[0].bytes == 8192 &&
		    f.round[0].ms == 0.5 && f.round[0].dirty == 3 && f.round[0].throttle == 9 && f.dirty_rate == 7 && f.bandwidth == 8 &&
		    f.expected_ms == 9 && f.part_ms[JOB_FINAL_ROUND] == 1 && f.part_ms[JOB_COMMIT] == 4);
	/* Without any one of its members, or cut off, it is none. */
	for (char *at = good; (at = strchr(at, ':')) && at < strstr(good, ",\"more"); at++) {
		char kept = at[-2];
		at[-2] = '_';
		assert_int_equal(job_facts_read(&f, good, err, sizeof err), -EINVAL);
		assert_int_equal(strncmp(err, "this is no report of a migration: ", 34), 0);
		at[-2] = kept;
	}
	good[sizeof good - 2] = 0;
	assert_int_equal(job_facts_read(&f, good, err, sizeof err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bars),
		cmocka_unit_test(test_every_number_of_rounds),
		cmocka_unit_test(test_words_stay_words),
		cmocka_unit_test(test_reading),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
