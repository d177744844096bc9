// sources: lapic.c state_io.c
/* The local APIC's timer: what it counts, when it interrupts, and what changes under way do to it. */
#include "lapic_fixture.h"

static void one_shot(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	assert_int_equal(in(CURRENT), 1000);
	run_to(400);
	assert_int_equal(in(CURRENT), 600);
	run_to(999);
	assert_int_equal(in(CURRENT), 1);
	assert_false(lapic_pending(&l));
	run_to(1000);
	take(0x40);
	out(EOI, 0);
	assert_int_equal(in(CURRENT), 0);
	assert_int_equal(in(INITIAL), 1000);
	run_to(1000000);
	assert_int_equal(in(CURRENT), 0);
	assert_false(lapic_pending(&l));
	assert_int_equal(l.timer.deadline_ns, 0);
	out(INITIAL, 10); /* only this starts it again */
	run_to(1000009);
	assert_false(lapic_pending(&l));
	run_to(1000010);
	take(0x40);
}

static void stopped_by_zero(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	run_to(10);
	out(INITIAL, 0);
	assert_int_equal(in(CURRENT), 0);
	run_to(100000);
	assert_false(lapic_pending(&l));
	out(TIMER, PERIODIC | 0x40);
	run_to(200000);
	assert_false(lapic_pending(&l));
	assert_int_equal(in(CURRENT), 0);
}

static void periodic(void **state)
{
	(void)state;
	out(TIMER, PERIODIC | 0x40);
	out(INITIAL, 1000000);
	for (unsigned i = 1; i <= 5; i++) {
		run_to(i * 1000000 - 1);
		assert_int_equal(in(CURRENT), 1);
		assert_false(lapic_pending(&l));
		run_to(i * 1000000);
		assert_int_equal(in(CURRENT), 1000000);
		take(0x40);
		out(EOI, 0);
	}
	/* A loop that is late does not shift the grid, and what it missed is one interrupt. */
	now_ns = EPOCH + 8300000;
	l.timer.deadline_ns = 0;
	l.timer.fn(l.timer.opaque);
	take(0x40);
	out(EOI, 0);
	assert_false(lapic_pending(&l));
	run_to(8999999);
	assert_false(lapic_pending(&l));
	run_to(9000000);
	take(0x40);
}

static void a_short_period_spares_the_host(void **state)
{
	(void)state;
	out(TIMER, PERIODIC | 0x40);
	out(INITIAL, 1);
	run_to(10000000);
	assert_in_range(kicks, 50, 101);
	assert_int_equal(in(CURRENT), 1);
}

static void divide(void **state)
{
	static const struct {
		uint32_t code, by;
	} codes[] = { { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };
	uint64_t start = 0;
	(void)state;
	out(TIMER, 0x40);
	for (unsigned i = 0; i < 8; i++) {
		out(DIVIDE, codes[i].code | 0x4); /* bit 2 is nothing */
		assert_int_equal(in(DIVIDE), codes[i].code);
		out(INITIAL, 100);
		run_to(start + 40 * codes[i].by);
		assert_int_equal(in(CURRENT), 60);
		run_to(start + 100 * codes[i].by - 1);
		assert_false(lapic_pending(&l));
		start += 100 * codes[i].by;
		run_to(start);
		take(0x40);
		out(EOI, 0);
	}
}

static void divider_changes_under_way(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	run_to(600);
	out(DIVIDE, BY_2);
	assert_int_equal(in(CURRENT), 400);
	run_to(600 + 799);
	assert_false(lapic_pending(&l));
	run_to(600 + 800);
	take(0x40);
	out(EOI, 0);
	out(DIVIDE, BY_128); /* what has run down stays so */
	assert_int_equal(in(CURRENT), 0);
	run_to(10000000);
	assert_false(lapic_pending(&l));
}

static void mode_changes_under_way(void **state)
{
	(void)state;
	out(TIMER, PERIODIC | 0x40);
	out(INITIAL, 1000000);
	run_to(2400000);
	take(0x40);
	out(EOI, 0);
	out(TIMER, 0x40);
	assert_int_equal(in(CURRENT), 600000);
	run_to(3000000);
	take(0x40);
	out(EOI, 0);
	run_to(9000000);
	assert_false(lapic_pending(&l));
}

/* A count that has run down stays at 0, whatever is changed, until there is a new one. */
static void mode_changes_afterwards(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	run_to(1000);
	take(0x40);
	out(EOI, 0);
	out(TIMER, PERIODIC | 0x40);
	assert_int_equal(in(CURRENT), 0);
	run_to(1300);
	assert_int_equal(in(CURRENT), 0);
	out(DIVIDE, BY_2);
	out(TIMER, PERIODIC | 0x41);
	assert_int_equal(in(CURRENT), 0);
	run_to(10000000);
	assert_false(lapic_pending(&l));
	out(INITIAL, 500000);
	assert_int_equal(in(CURRENT), 500000);
	run_to(11000000);
	take(0x41);
}

static void longest_count(void **state)
{
	uint64_t all = 0xffffffffull * 128;
	(void)state;
	out(TIMER, 0x40);
	out(DIVIDE, BY_128);
	out(INITIAL, 0xffffffff);
	run_to(all - 1);
	assert_int_equal(in(CURRENT), 1);
	assert_false(lapic_pending(&l));
	run_to(all);
	take(0x40);
}

static void masked_timer(void **state)
{
	(void)state;
	out(TIMER, MASKED | 0x40);
	out(INITIAL, 1000);
	assert_int_equal(l.timer.deadline_ns, 0);
	run_to(500);
	assert_int_equal(in(CURRENT), 500); /* it counts all the same */
	out(TIMER, 0x41);
	run_to(1000);
	take(0x41);
	out(EOI, 0);
	out(TIMER, MASKED | 0x41);
	out(INITIAL, 1000);
	run_to(5000);
	out(TIMER, 0x41); /* too late: nothing is remembered */
	run_to(100000);
	assert_false(lapic_pending(&l));
	out(SVR, 0xff); /* masks all of the LVT, and it cannot be unmasked */
	assert_int_equal(in(TIMER), MASKED | 0x41);
	out(TIMER, 0x41);
	assert_int_equal(in(TIMER), MASKED | 0x41);
	out(SVR, 0x1ff);
	assert_int_equal(in(TIMER), MASKED | 0x41);
}

static void due_but_not_yet_told(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	now_ns = EPOCH + 1500; /* the loop's thread has not run */
	out(TIMER, MASKED | 0x40);
	take(0x40);
	assert_int_equal(l.timer.deadline_ns, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(one_shot, setup),
		cmocka_unit_test_setup(stopped_by_zero, setup),
		cmocka_unit_test_setup(periodic, setup),
		cmocka_unit_test_setup(a_short_period_spares_the_host, setup),
		cmocka_unit_test_setup(divide, setup),
		cmocka_unit_test_setup(divider_changes_under_way, setup),
		cmocka_unit_test_setup(mode_changes_under_way, setup),
		cmocka_unit_test_setup(mode_changes_afterwards, setup),
		cmocka_unit_test_setup(longest_count, setup),
		cmocka_unit_test_setup(masked_timer, setup),
		cmocka_unit_test_setup(due_but_not_yet_told, setup),
	};
	return cmocka_run_group_tests_name("lapic timer", tests, NULL, NULL);
}
