// sources: pit.c state_io.c
/* The timer's interrupt: it comes when it should, however late the loop is, and nothing that a guest writes is too much. */
#include "pit_fixture.h"

static void periodic_irq_does_not_drift(void **state)
{
	(void)state;
	load(0, 2 << 1, 1193); /* about 1000 Hz */
	assert_int_equal(edges, 0); /* programming it raises none */
	run_to(1192);
	assert_int_equal(edges, 0);
	run_to(1193);
	assert_int_equal(edges, 1);
	run_to(3600ull * PIT_HZ); /* one hour */
	assert_int_equal(edges, 3600ull * PIT_HZ / 1193);
	assert_int_equal(pit.ticks, edges);
	assert_int_equal(pit.coalesced, 0);
	assert_int_equal(pit.timer.deadline_ns, tick_ns((uint64_t)(edges + 1) * 1193));
	out(0x43, 0x30); /* a new control word stops it */
	assert_int_equal(pit.timer.deadline_ns, 0);
}

static void late_callbacks_keep_the_grid(void **state)
{
	(void)state;
	load(0, 3 << 1, 11932); /* about 100 Hz */
	for (unsigned i = 1; i <= 1000; i++) {
		assert_int_equal(pit.timer.deadline_ns, tick_ns(i * 11932ull));
		now_ns = pit.timer.deadline_ns + 3000000; /* always 3 ms late */
		pit.timer.fn(pit.timer.opaque);
	}
	assert_int_equal(edges, 1000);
	assert_int_equal(pit.coalesced, 0);
}

static void missed_ticks_are_made_up_for(void **state)
{
	(void)state;
	load(0, 2 << 1, 11932);
	now_ns = tick_ns(3 * 11932); /* the loop slept through two edges and the third is due */
	pit.timer.fn(pit.timer.opaque);
	assert_int_equal(edges, 1);
	/* The others follow one by one, with time between them to answer. */
	assert_true(pit.timer.deadline_ns >= now_ns + 2000000);
	run_to(4 * 11932);
	assert_int_equal(edges, 4);
	assert_int_equal(pit.coalesced, 0);

	/* Ten seconds in a debugger: not a thousand interrupts in a row. */
	setup(NULL);
	load(0, 2 << 1, 11932);
	now_ns = tick_ns(1000 * 11932);
	pit.timer.fn(pit.timer.opaque);
	run_to(1010 * 11932);
	assert_int_equal(pit.coalesced + edges, 1010);
	assert_int_equal(edges, 1 + 3 + 10);
}

static void reading_a_late_counter_loses_nothing(void **state)
{
	(void)state;
	load(0, 2 << 1, 5000);
	out(0x40, 7000 & 0xff); /* takes over at 5000 */
	out(0x40, 7000 >> 8);
	now_ns = tick_ns(5000 + 7100); /* nobody has run the timer yet */
	assert_int_equal(in(0x40), 6900 & 0xff);
	assert_int_equal(in(0x40), 6900 >> 8);
	out(0x43, 0xc2); /* status and count */
	assert_int_equal(in(0x40), 0xb4);
	assert_int_equal(in(0x40), 6900 & 0xff);
	assert_int_equal(in(0x40), 6900 >> 8);
	pit.timer.fn(pit.timer.opaque);
	run_to(5000 + 2 * 7000 - 1);
	assert_int_equal(edges, 2);
	run_to(5000 + 2 * 7000);
	assert_int_equal(edges, 3);
}

static void tiny_period_is_bounded(void **state)
{
	(void)state;
	load(0, 2 << 1, 2);
	run_to(PIT_HZ / 10);
	assert_in_range(edges, 900, 1100); /* of 59659 in a tenth of a second */
	assert_true(pit.coalesced > 50000);
}

static void one_shot_modes(void **state)
{
	(void)state;
	load(0, 0 << 1, 1000);
	assert_false(wire);
	run_to(999);
	assert_int_equal(edges, 0);
	run_to(1000);
	assert_int_equal(edges, 1);
	run_to(200000);
	assert_int_equal(edges, 1); /* once, although the count goes round */
	out(0x40, 0x10); /* the first byte of a new count lowers the output */
	assert_false(wire);
	run_to(300000);
	assert_int_equal(edges, 1);
	out(0x40, 0x00);
	run_to(300016);
	assert_int_equal(edges, 2);
	load(0, 4 << 1, 50);
	run_to(300016 + 50);
	assert_int_equal(edges, 2);
	run_to(300016 + 51); /* the strobe is over, the output rises */
	assert_int_equal(edges, 3);
	load(0, 1 << 1, 50); /* counter 0's gate never rises */
	load(0, 5 << 1, 50);
	run_to(400000);
	assert_int_equal(edges, 3);
	assert_int_equal(pit.timer.deadline_ns, 0);
}

static void change_of_period(void **state)
{
	(void)state;
	load(0, 2 << 1, 1000);
	run_to(1500);
	out(0x40, 3000 & 0xff);
	out(0x40, 3000 >> 8);
	run_to(1999);
	assert_int_equal(edges, 1);
	run_to(2000); /* the present cycle is finished */
	assert_int_equal(edges, 2);
	run_to(4999);
	assert_int_equal(edges, 2);
	run_to(5000);
	assert_int_equal(edges, 3);

	setup(NULL);
	load(0, 3 << 1, 1000);
	run_to(100);
	out(0x40, 3000 & 0xff);
	out(0x40, 3000 >> 8);
	run_to(1999); /* high half of 500, low half of 1500 */
	assert_int_equal(edges, 0);
	run_to(2000);
	assert_int_equal(edges, 1);
	run_to(5000);
	assert_int_equal(edges, 2);
}

/* Whatever a guest writes, nothing overflows or divides by zero (the sanitizers watch). */
static void any_sequence_is_safe(void **state)
{
	uint32_t random = 4711;
	(void)state;
	for (unsigned i = 0; i < 300000; i++) {
		random = random * 1664525 + 1013904223;
		unsigned port = random >> 29;
		port = port > 3 ? 0x61 : 0x40 + port;
		if (random & 0x100)
			out(port, (uint8_t)(random >> 16));
		else
			in(port);
		now_ns += random >> 9 & 0xfffff;
		if (pit.timer.deadline_ns && pit.timer.deadline_ns <= now_ns) {
			assert_true(pit.next_edge != UINT64_MAX);
			pit.timer.deadline_ns = 0;
			pit.timer.fn(pit.timer.opaque);
			assert_true(!pit.timer.deadline_ns || pit.timer.deadline_ns > now_ns);
			assert_true(pit.timer.deadline_ns < now_ns + 1000000000);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(periodic_irq_does_not_drift, setup),
		cmocka_unit_test_setup(late_callbacks_keep_the_grid, setup),
		cmocka_unit_test_setup(missed_ticks_are_made_up_for, setup),
		cmocka_unit_test_setup(reading_a_late_counter_loses_nothing, setup),
		cmocka_unit_test_setup(tiny_period_is_bounded, setup),
		cmocka_unit_test_setup(one_shot_modes, setup),
		cmocka_unit_test_setup(change_of_period, setup),
		cmocka_unit_test_setup(any_sequence_is_safe, setup),
	};
	return cmocka_run_group_tests_name("pit irq", tests, NULL, NULL);
}
