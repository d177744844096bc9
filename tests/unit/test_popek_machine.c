// sources: popek_machine.c loader.c multiboot.c boot_module.c boot.c start_info.c elf.c boot_sector.c bzimage.c acpi.c acpi_aml.c mptable.c mem.c
/* Made-up machines: every way in which a description can be wrong, and Popek and Goldberg's definitions. */
#include "popek_machine.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct made_up_machine m;
static char err[400];

static int parse(const char *text)
{
	err[0] = 0;
	return made_up_parse(text, strlen(text), &m, err, sizeof err);
}

/* It must be refused with a sentence that begins with the line's number and contains the words. */
static void refused(const char *text, unsigned line, const char *words)
{
	char begin[32];

	assert_int_equal(parse(text), -EINVAL);
	snprintf(begin, sizeof begin, "line %u: ", line);
	assert_memory_equal(err, begin, strlen(begin));
	assert_non_null(strstr(err, words));
	assert_null(strchr(err, '\n'));
}

static const struct made_up_insn *insn(const char *name)
{
	for (unsigned i = 0; i < m.insns; i++)
		if (!strcmp(m.insn[i].name, name))
			return &m.insn[i];
	fail_msg("there is no %s", name);
	return NULL;
}

#define GOOD "state r\nA: supervisor nothing; user nothing\n"

static void test_malformed(void **state)
{
	(void)state;
	refused("", 0, "no instruction");
	refused("# nothing\n\nstate r\n", 3, "no instruction");
	refused("hello\n", 1, "begins with");
	refused("states r\n", 1, "begins with");
	refused("\n\nstate\n", 3, "which state");
	refused("state r s r\n", 1, "\"r\" is declared twice");
	refused("state mode\n", 1, "is not declared");
	refused("state abcdefghijklmnopqrstuvwxyzabcdefghi\n", 1, "letters");
	refused("state a b c d e f g h i j k l m n o p\n", 1, "more than 15 states");
	refused("machine a\nmachine b\n" GOOD, 2, "already");
	refused("machine\n" GOOD, 1, "name");
	refused(GOOD "A: supervisor traps; user traps\n", 3, "described twice");
	refused("A supervisor nothing; user nothing\n", 1, "begins with");
	refused(": supervisor nothing; user nothing\n", 1, "no name");
	refused("A: supervisor nothing\n", 1, "semicolon is missing");
	refused("A: supervisor nothing; user nothing; user nothing\n", 1, "one semicolon");
	refused("A: user nothing; supervisor nothing\n", 1, "supervisor mode is missing");
	refused("A: supervisor nothing; user\n", 1, "user mode is missing");
	refused("A: supervisor nothing; usernothing\n", 1, "user mode is missing");
	refused("A: supervisor; user traps\n", 1, "supervisor mode is missing");
	refused("A: supervisor jumps; user traps\n", 1, "\"jumps\"");
	refused("A: supervisor reads; user traps\n", 1, "reads what");
	refused("A: supervisor reads x; user traps\n", 1, "no state \"x\"");
	refused("A: supervisor reads mode,; user traps\n", 1, "\"\"");
	refused("A: supervisor traps, reads mode; user traps\n", 1, "not both");
	refused("A: supervisor nothing, traps; user traps\n", 1, "not both");
	refused("A\001: supervisor nothing; user traps\n", 1, "control character");
	refused("abcdefghijklmnopqrstuvwxyzabcdefghi: supervisor nothing; user traps\n", 1, "letters");
	/* A NUL does not end the text. */
	assert_int_equal(made_up_parse("A\0: supervisor nothing; user traps", 34, &m, err, sizeof err), -EINVAL);
	assert_non_null(strstr(err, "line 1: there is a control character"));
}

static void test_bounds(void **state)
{
	static char text[8192];
	size_t n = 0;

	(void)state;
	memset(text, 'x', 1000);
	text[1000] = 0;
	refused(text, 1, "longer than");
	for (unsigned i = 0; i < MADE_UP_INSNS; i++)
		n += (size_t)sprintf(text + n, "I%u: supervisor nothing; user traps\n", i);
	assert_int_equal(parse(text), 0);
	assert_int_equal(m.insns, MADE_UP_INSNS);
	sprintf(text + n, "ONE MORE: supervisor nothing; user traps\n");
	refused(text, MADE_UP_INSNS + 1, "more than 64 instructions");
}

/* Whatever the bytes are, it answers, and what it accepts it can show. */
static void test_garbage(void **state)
{
	static const char good[] = "machine M\nstate r s\nA: supervisor reads r, writes s; user traps # c\n"
				   "B: supervisor nothing; user nothing\n";
	FILE *out = fopen("/dev/null", "w");
	char text[sizeof good];
	unsigned refusals = 0;

	(void)state;
	assert_non_null(out);
	srand(7);
	for (unsigned round = 0; round < 20000; round++) {
		memcpy(text, good, sizeof good);
		for (unsigned k = 0; k <= round % 4; k++)
			text[rand() % (sizeof good - 1)] = (char)rand();
		size_t len = round % 3 ? sizeof good - 1 : (size_t)rand() % sizeof good;
		if (made_up_parse(text, len, &m, err, sizeof err))
			refusals++;
		else
			made_up_show(&m, out);
	}
	fclose(out);
	assert_true(refusals > 1000 && refusals < 20000);
}

static void test_definitions(void **state)
{
	(void)state;
	assert_int_equal(parse("\tmachine  A name \r\nstate r\nstate s # behind it\n"
			       "PLAIN: supervisor nothing; user nothing\n"
			       "CALL: supervisor traps; user traps\n"
			       "LOAD R: supervisor writes r, reads s; user traps\n"
			       "SHOW: supervisor reads s; user reads s\n"
			       "LEVEL: supervisor reads mode; user reads mode\n"
			       "RETURN: supervisor writes mode; user nothing\n"
			       "IDLE: supervisor nothing; user traps"), 0);
	assert_string_equal(m.name, "A name");
	assert_int_equal(m.states, 3);
	assert_int_equal(m.insns, 7);

	assert_false(made_up_sensitive(insn("PLAIN")));
	assert_false(made_up_privileged(insn("PLAIN")));

	assert_false(made_up_privileged(insn("CALL"))); /* it traps in both modes */
	assert_false(made_up_sensitive(insn("CALL")));

	assert_true(made_up_privileged(insn("LOAD R")));
	assert_true(made_up_control_sensitive(insn("LOAD R")) && made_up_location_sensitive(insn("LOAD R")));
	assert_false(made_up_mode_sensitive(insn("LOAD R")) || made_up_user_sensitive(insn("LOAD R")));

	assert_true(made_up_location_sensitive(insn("SHOW")) && made_up_user_sensitive(insn("SHOW")));
	assert_false(made_up_control_sensitive(insn("SHOW")) || made_up_mode_sensitive(insn("SHOW")));

	assert_true(made_up_mode_sensitive(insn("LEVEL")));
	assert_false(made_up_location_sensitive(insn("LEVEL")) || made_up_user_sensitive(insn("LEVEL")));

	assert_true(made_up_control_sensitive(insn("RETURN")) && made_up_mode_sensitive(insn("RETURN")));
	assert_false(made_up_user_sensitive(insn("RETURN")) || made_up_privileged(insn("RETURN")));

	assert_true(made_up_privileged(insn("IDLE")));
	assert_false(made_up_sensitive(insn("IDLE")));
}

static void test_theorems(void **state)
{
	(void)state;
	assert_int_equal(parse(GOOD "B: supervisor writes r; user traps\nC: supervisor traps; user traps\n"), 0);
	assert_true(made_up_virtualizable(&m) && made_up_hybrid(&m));
	/* The PDP-10's JRST 1: only a hybrid monitor. */
	assert_int_equal(parse(GOOD "B: supervisor writes mode; user nothing\n"), 0);
	assert_false(made_up_virtualizable(&m));
	assert_true(made_up_hybrid(&m));
	/* Neither. */
	assert_int_equal(parse(GOOD "B: supervisor reads r; user reads r\n"), 0);
	assert_false(made_up_virtualizable(&m) || made_up_hybrid(&m));
	assert_int_equal(parse(GOOD "B: supervisor nothing; user writes r\n"), 0);
	assert_false(made_up_virtualizable(&m) || made_up_hybrid(&m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_malformed), cmocka_unit_test(test_bounds), cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_definitions), cmocka_unit_test(test_theorems),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
