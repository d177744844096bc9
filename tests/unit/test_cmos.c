// sources: cmos.c state_io.c
#include "devices.h"
#include "mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct cmos cmos;
static struct timespec host;

static int host_time(clockid_t clock, struct timespec *now)
{
	assert_int_equal(clock, CLOCK_REALTIME);
	*now = host;
	return 0;
}

static uint8_t get(uint8_t index)
{
	cmos_ops.write(&cmos, 0, 1, index);
	return (uint8_t)cmos_ops.read(&cmos, 1, 1);
}

static void set(uint8_t index, uint8_t value)
{
	cmos_ops.write(&cmos, 0, 1, index);
	cmos_ops.write(&cmos, 1, 1, value);
}

static unsigned get16(uint8_t index)
{
	return get(index) | (unsigned)get(index + 1) << 8;
}

static int setup(void **state)
{
	(void)state;
	cmos_init(&cmos, 64 * MiB);
	cmos.gettime = host_time;
	host = (struct timespec){ .tv_sec = 1709210096 }; /* 2024-02-29 12:34:56 UTC, a Thursday */
	return 0;
}

static void expect(const uint8_t (*row)[2], size_t n)
{
	for (size_t i = 0; i < n; i++)
		assert_int_equal(get(row[i][0]), row[i][1]);
}

static void bcd_and_24_hours(void **state)
{
	static const uint8_t row[][2] = { { 0, 0x56 }, { 2, 0x34 }, { 4, 0x12 }, { 6, 5 },      { 7, 0x29 },
					  { 8, 0x02 }, { 9, 0x24 }, { 0x32, 0x20 }, { 0x0b, 0x02 }, { 0x0d, 0x80 } };
	(void)state;
	expect(row, sizeof(row) / sizeof(row[0]));
	host.tv_sec = 946684799; /* 1999-12-31 23:59:59, a Friday */
	static const uint8_t old[][2] = { { 0, 0x59 }, { 2, 0x59 }, { 4, 0x23 },   { 6, 6 },
					  { 7, 0x31 }, { 8, 0x12 }, { 9, 0x99 }, { 0x32, 0x19 } };
	expect(old, sizeof(old) / sizeof(old[0]));
	host.tv_sec++;
	static const uint8_t next[][2] = { { 0, 0 }, { 2, 0 }, { 4, 0 }, { 6, 7 },
					   { 7, 1 }, { 8, 1 }, { 9, 0 }, { 0x32, 0x20 } };
	expect(next, sizeof(next) / sizeof(next[0]));
}

static void binary(void **state)
{
	static const uint8_t row[][2] = { { 0, 56 }, { 2, 34 }, { 4, 12 }, { 7, 29 }, { 8, 2 }, { 9, 24 }, { 0x32, 20 } };
	(void)state;
	set(0x0b, 0x06);
	assert_int_equal(get(0x0b), 0x06);
	expect(row, sizeof(row) / sizeof(row[0]));
}

static void twelve_hours(void **state)
{
	static const uint8_t hour[24] = { 0x12, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x10, 0x11,
					  0x92, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x90, 0x91 };
	(void)state;
	set(0x0b, 0x00);
	for (unsigned h = 0; h < 24; h++) {
		host.tv_sec = h * 3600;
		assert_int_equal(get(4), hour[h]);
	}
}

static void update_in_progress(void **state)
{
	(void)state;
	assert_int_equal(get(0x0a), 0x26);
	host.tv_nsec = 999700000;
	assert_int_equal(get(0x0a), 0x26);
	host.tv_nsec = 999800000;
	assert_int_equal(get(0x0a), 0xa6);
	set(0x0b, 0x82); /* SET: no update */
	assert_int_equal(get(0x0a), 0x26);
	set(0x0a, 0xaf); /* the bit itself is read-only */
	assert_int_equal(get(0x0a), 0x2f);
}

static void guest_cannot_set_the_time(void **state)
{
	static const uint8_t reg[] = { 0, 2, 4, 6, 7, 8, 9, 0x32, 0x0c, 0x0d };
	(void)state;
	for (size_t i = 0; i < sizeof(reg); i++) {
		uint8_t before = get(reg[i]);
		set(reg[i], 0x77);
		assert_int_equal(get(reg[i]), before);
	}
	assert_int_equal(get(0x0c), 0); /* no interrupt is flagged */
}

static void memory_cells(void **state)
{
	(void)state;
	set(0x0f, 0x0a); /* xv6 and others leave the shutdown code here */
	set(0x01, 0x30); /* alarm */
	set(0x7f, 0x99);
	assert_int_equal(get(0x0f), 0x0a);
	assert_int_equal(get(0x01), 0x30);
	assert_int_equal(get(0x7f), 0x99);
	/* Bit 7 of the index is the NMI mask: there are 128 registers, no more. */
	for (unsigned i = 0; i < 256; i++) {
		set((uint8_t)i, (uint8_t)i);
		get((uint8_t)i);
	}
	assert_int_equal(get(0xff), 0xff);
	assert_int_equal(get(0x7f), 0xff);
	assert_int_equal(cmos_ops.read(&cmos, 0, 1), 0xff);
	cmos_ops.write(&cmos, 0, 4, 0x8f);
	assert_int_equal(cmos.index, 0x0f);
}

static void memory_sizes(void **state)
{
	static const struct {
		uint64_t size;
		unsigned above_1m, above_16m;
	} row[] = {
		{ 64 * MiB, 63 * 1024, 48 * 16 }, { 2 * MiB, 1024, 0 },        { 16 * MiB, 15 * 1024, 0 },
		{ 512 * MiB, 0xffff, 496 * 16 },  { 3 * GiB, 0xffff, 3056 * 16 }, { 64 * KiB, 0, 0 },
		{ 8 * GiB, 0xffff, 0xffff },
	};
	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		cmos_init(&cmos, row[i].size);
		assert_int_equal(get16(0x15), 640);
		assert_int_equal(get16(0x17), row[i].above_1m);
		assert_int_equal(get16(0x30), row[i].above_1m);
		assert_int_equal(get16(0x34), row[i].above_16m);
	}
}

/* With the host's own clock, read the way a careful guest does. */
static void real_clock(void **state)
{
	(void)state;
	cmos_init(&cmos, 64 * MiB);
	set(0x0b, 0x06);
	struct tm tm = { 0 };
	int second;
	time_t before = time(NULL);
	do {
		second = get(0);
		tm = (struct tm){ .tm_sec = second, .tm_min = get(2), .tm_hour = get(4), .tm_mday = get(7),
				  .tm_mon = get(8) - 1, .tm_year = get(9) + get(0x32) * 100 - 1900 };
	} while (second != get(0));
	time_t seen = timegm(&tm);
	/* time() may lag behind the precise clock by a tick of the host. */
	assert_in_range(seen, before, time(NULL) + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(bcd_and_24_hours, setup),
		cmocka_unit_test_setup(binary, setup),
		cmocka_unit_test_setup(twelve_hours, setup),
		cmocka_unit_test_setup(update_in_progress, setup),
		cmocka_unit_test_setup(guest_cannot_set_the_time, setup),
		cmocka_unit_test_setup(memory_cells, setup),
		cmocka_unit_test_setup(memory_sizes, setup),
		cmocka_unit_test_setup(real_clock, setup),
	};
	return cmocka_run_group_tests_name("cmos", tests, NULL, NULL);
}
