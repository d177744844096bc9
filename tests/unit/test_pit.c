// sources: pit.c state_io.c
/* The timer as its registers and its outputs show it: modes, access, latches, the gate, and what guests measure with it. */
#include "pit_fixture.h"

static unsigned count_of(unsigned counter)
{
	out(0x43, (uint8_t)(counter << 6));
	unsigned low = in(0x40 + counter);
	return low | (unsigned)in(0x40 + counter) << 8;
}

static bool out2(void)
{
	return in(0x61) & 0x20;
}

/* The output of counter 2 over the ticks from..to-1, as text, starting now. */
static void expect_out2(uint64_t from, const char *levels)
{
	char seen[80] = { 0 };
	for (size_t i = 0; levels[i]; i++) {
		run_to(from + i);
		seen[i] = out2() ? '1' : '0';
	}
	assert_string_equal(seen, levels);
}

static void outputs_by_mode(void **state)
{
	static const struct {
		uint8_t control;
		unsigned count;
		const char *levels;
	} row[] = {
		{ 0 << 1, 4, "0000111111111111" },
		{ 2 << 1, 4, "1110111011101110" },
		{ 2 << 1, 2, "1010101010101010" },
		{ 2 << 1, 1, "1010101010101010" }, /* illegal, must not divide by less than 2 */
		{ 3 << 1, 4, "1100110011001100" },
		{ 3 << 1, 5, "1110011100111001" },
		{ 3 << 1, 1, "1010101010101010" },
		{ 6 << 1, 4, "1110111011101110" }, /* an alias of mode 2 */
		{ 7 << 1, 4, "1100110011001100" }, /* and of mode 3 */
		{ 4 << 1, 4, "1111011111111111" },
		{ 1, 0x10, "0000000000111111" }, /* BCD: ten */
	};
	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		setup(NULL);
		run_to(1000);
		out(0x61, 1);
		load(2, row[i].control, row[i].count);
		expect_out2(1000, row[i].levels);
	}
}

static void counts_by_mode(void **state)
{
	static const struct {
		uint8_t control;
		unsigned count, expected[8];
	} row[] = {
		{ 0 << 1, 3, { 3, 2, 1, 0, 0xffff, 0xfffe, 0xfffd, 0xfffc } },
		{ 2 << 1, 3, { 3, 2, 1, 3, 2, 1, 3, 2 } },
		{ 3 << 1, 6, { 6, 4, 2, 6, 4, 2, 6, 4 } },
		{ 3 << 1, 5, { 4, 2, 0, 4, 2, 4, 2, 0 } },
		{ 4 << 1, 2, { 2, 1, 0, 0xffff, 0xfffe, 0xfffd, 0xfffc, 0xfffb } },
		{ 0 << 1, 0, { 0, 0xffff, 0xfffe, 0xfffd, 0xfffc, 0xfffb, 0xfffa, 0xfff9 } },
		{ 2 << 1, 0, { 0, 0xffff, 0xfffe, 0xfffd, 0xfffc, 0xfffb, 0xfffa, 0xfff9 } },
		{ 3 << 1, 0, { 0, 0xfffe, 0xfffc, 0xfffa, 0xfff8, 0xfff6, 0xfff4, 0xfff2 } },
		{ 1, 0x0102, { 0x102, 0x101, 0x100, 0x99, 0x98, 0x97, 0x96, 0x95 } },
		{ 1, 0x0001, { 1, 0, 0x9999, 0x9998, 0x9997, 0x9996, 0x9995, 0x9994 } },
		{ 2 << 1 | 1, 0x0000, { 0, 0x9999, 0x9998, 0x9997, 0x9996, 0x9995, 0x9994, 0x9993 } },
	};
	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		setup(NULL);
		run_to(7777);
		load(1, row[i].control, row[i].count);
		for (unsigned t = 0; t < 8; t++) {
			run_to(7777 + t);
			assert_int_equal(count_of(1), row[i].expected[t]);
		}
	}
}

static void access_modes(void **state)
{
	(void)state;
	out(0x43, 0x54); /* counter 1, low byte only, mode 2 */
	out(0x41, 0x80);
	run_to(1);
	assert_int_equal(in(0x41), 0x7f);
	assert_int_equal(in(0x41), 0x7f);
	out(0x43, 0x64); /* high byte only */
	out(0x41, 0x80);
	run_to(2);
	assert_int_equal(in(0x41), 0x7f);
	out(0x43, 0x74); /* low, then high */
	out(0x41, 0x34);
	out(0x41, 0x12);
	assert_int_equal(in(0x41), 0x34);
	assert_int_equal(in(0x41), 0x12);
	assert_int_equal(in(0x41), 0x34);
	/* A wide access counts by its low byte; the control register cannot be read. */
	out(0x43, 0x54);
	pit_ops.write(&pit, 1, 2, 0xab40);
	assert_int_equal(in(0x41), 0x40);
	assert_int_equal(in(0x43), 0xff);
}

static void latch_holds_until_read(void **state)
{
	(void)state;
	load(1, 2 << 1, 1000);
	run_to(10);
	out(0x43, 0x40);
	run_to(500);
	out(0x43, 0x40); /* ignored: the first has not been read */
	assert_int_equal(in(0x41), 990 & 0xff);
	run_to(600);
	assert_int_equal(in(0x41), 990 >> 8);
	assert_int_equal(in(0x41), 400 & 0xff); /* live again */
	assert_int_equal(in(0x41), 400 >> 8);
}

static void read_back(void **state)
{
	(void)state;
	out(0x61, 1);
	load(0, 2 << 1, 1000);
	load(2, 0 << 1, 100);
	run_to(10);
	out(0x43, 0xca); /* count and status of counters 0 and 2 */
	run_to(150);
	assert_int_equal(in(0x40), 0xb4); /* OUT high, both bytes, mode 2 */
	assert_int_equal(in(0x40), 990 & 0xff);
	assert_int_equal(in(0x40), 990 >> 8);
	assert_int_equal(in(0x42), 0x30); /* OUT still low, mode 0 */
	assert_int_equal(in(0x42), 90);
	assert_int_equal(in(0x42), 0);
	out(0x43, 0xe8); /* status of counter 2 alone */
	assert_int_equal(in(0x42), 0xb0);
	out(0x43, 0xb0);
	out(0x43, 0xe8);
	assert_int_equal(in(0x42), 0x70); /* null count: nothing has been loaded */
	out(0x42, 1);
	out(0x43, 0xe8);
	assert_int_equal(in(0x42), 0x70);
	out(0x42, 0);
	out(0x43, 0xe8);
	assert_int_equal(in(0x42), 0x30);
	out(0x43, 0xd8); /* count of counter 2 alone; a new control word drops it */
	out(0x43, 0x92);
	out(0x43, 0xe8);
	assert_int_equal(in(0x42), 0xd2);
}

static void gate_of_counter_2(void **state)
{
	(void)state;
	/* Mode 0: a low gate stops the count. */
	load(2, 0 << 1, 100);
	run_to(50);
	assert_int_equal(count_of(2), 100);
	out(0x61, 1);
	run_to(90);
	assert_int_equal(count_of(2), 60);
	out(0x61, 2);
	run_to(1000);
	assert_int_equal(count_of(2), 60);
	assert_false(out2());
	out(0x61, 3);
	run_to(1059);
	assert_false(out2());
	run_to(1060);
	assert_true(out2());
	assert_int_equal(in(0x61) & 0x0f, 3);

	/* Mode 1: the gate starts a shot, and starts it again. A new count waits for the next one. */
	out(0x61, 0);
	load(2, 1 << 1, 10);
	assert_true(out2());
	run_to(2000);
	out(0x61, 1);
	assert_false(out2());
	run_to(2005);
	out(0x61, 0);
	out(0x61, 1);
	out(0x42, 20);
	out(0x42, 0);
	run_to(2014);
	assert_false(out2());
	run_to(2015);
	assert_true(out2());
	out(0x61, 0);
	out(0x61, 1);
	run_to(2034);
	assert_false(out2());
	run_to(2035);
	assert_true(out2());

	/* Mode 2 and 3: a low gate raises the output, a rising one starts a new cycle. */
	load(2, 3 << 1, 10);
	run_to(2042);
	assert_false(out2());
	out(0x61, 0);
	assert_true(out2());
	run_to(2100);
	assert_true(out2());
	out(0x61, 1);
	expect_out2(2100, "1111100000111110");

	/* Mode 5: one strobe after the gate. */
	out(0x61, 0);
	load(2, 5 << 1, 3);
	run_to(2200);
	assert_true(out2());
	out(0x61, 1);
	expect_out2(2200, "11101111");
}

static void new_count_waits_for_the_cycle(void **state)
{
	(void)state;
	out(0x61, 1);
	load(2, 2 << 1, 4);
	run_to(1);
	out(0x42, 3);
	out(0x42, 0);
	out(0x43, 0xe8);
	assert_int_equal(in(0x42) & 0x40, 0x40);
	expect_out2(1, "110110110"); /* the rest of four, then threes */
	out(0x43, 0xe8);
	assert_int_equal(in(0x42) & 0x40, 0);

	setup(NULL);
	out(0x61, 1);
	load(2, 3 << 1, 8);
	run_to(1);
	out(0x42, 4);
	out(0x42, 0);
	expect_out2(1, "111" "00" "11" "00" "11"); /* the high half of eight is finished, the low one is of four */

	setup(NULL);
	out(0x61, 1);
	load(2, 3 << 1, 8);
	run_to(5);
	out(0x42, 4);
	out(0x42, 0);
	expect_out2(5, "000" "11" "00" "11");
}

static void tsc_calibration_of_linux(void **state)
{
	uint64_t polls = 0;
	(void)state;
	out(0x61, (in(0x61) & ~0x02) | 0x01);
	out(0x43, 0xb0);
	out(0x42, 59659 & 0xff); /* 50 ms */
	out(0x42, 59659 >> 8);
	while (!(in(0x61) & 0x20)) {
		now_ns += 1000;
		polls++;
	}
	assert_in_range(polls, 49990, 50010);

	/* The quick one reads the high byte again and again, unlatched. */
	out(0x43, 0xb0);
	out(0x42, 0xff);
	out(0x42, 0xff);
	unsigned last = 0xff;
	for (unsigned i = 0; i < 2000; i++) {
		in(0x42);
		unsigned high = in(0x42);
		assert_true(high == last || high == last - 1);
		last = high;
		now_ns += 10000;
	}
	assert_true(last < 0xff - 80);
}

static void refresh_bit_toggles(void **state)
{
	unsigned changes = 0, last = 0;
	(void)state;
	for (unsigned i = 0; i < 1800; i++) {
		run_to(i);
		unsigned bit = in(0x61) & 0x10;
		changes += bit != last;
		last = bit;
	}
	assert_int_equal(changes, 99);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(outputs_by_mode, setup),
		cmocka_unit_test_setup(counts_by_mode, setup),
		cmocka_unit_test_setup(access_modes, setup),
		cmocka_unit_test_setup(latch_holds_until_read, setup),
		cmocka_unit_test_setup(read_back, setup),
		cmocka_unit_test_setup(gate_of_counter_2, setup),
		cmocka_unit_test_setup(new_count_waits_for_the_cycle, setup),
		cmocka_unit_test_setup(tsc_calibration_of_linux, setup),
		cmocka_unit_test_setup(refresh_bit_toggles, setup),
	};
	return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
