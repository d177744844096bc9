// sources: mem.c
/* Guest memory: the one place where addresses that come from a guest are bounded. */
#include "mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define SIZE (4 * MiB)

static struct guest_mem mem;

static int setup(void **state)
{
	(void)state;
	return guest_mem_create(&mem, SIZE);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

static void test_sizes(void **state)
{
	struct guest_mem m = { 0 };

	(void)state;
	assert_int_equal(guest_mem_create(&m, 0), -EINVAL);
	assert_int_equal(guest_mem_create(&m, MEM_MIN - 4 * KiB), -EINVAL);
	assert_int_equal(guest_mem_create(&m, MEM_MIN + 1), -EINVAL);
	assert_int_equal(guest_mem_create(&m, MEM_MAX + 4 * KiB), -EINVAL);
	assert_int_equal(guest_mem_create(&m, UINT64_MAX), -EINVAL);
	assert_null(m.hva);
	assert_int_equal(guest_mem_create(&m, MEM_MIN), 0);
	guest_mem_destroy(&m);
	assert_int_equal(guest_mem_create(&m, MEM_MAX), 0);
	m.hva[MEM_MAX - 1] = 1; /* the last byte exists */
	guest_mem_destroy(&m);
	guest_mem_destroy(&m); /* twice does no harm */
}

static void test_fresh_memory_is_zero(void **state)
{
	(void)state;
	for (uint64_t gpa = 0; gpa < SIZE; gpa += 8) {
		uint64_t value;
		assert_int_equal(guest_read(&mem, gpa, &value, sizeof(value)), 0);
		assert_int_equal(value, 0);
	}
	assert_int_equal((uintptr_t)mem.hva % (2 * MiB), 0); /* as huge pages want it */
}

static void test_range_inside(void **state)
{
	(void)state;
	assert_ptr_equal(guest_range(&mem, 0, SIZE), mem.hva);
	assert_ptr_equal(guest_range(&mem, 0, 0), mem.hva);
	assert_ptr_equal(guest_range(&mem, 0x1234, 1), mem.hva + 0x1234);
	assert_ptr_equal(guest_range(&mem, SIZE - 1, 1), mem.hva + SIZE - 1);
	assert_ptr_equal(guest_range(&mem, SIZE, 0), mem.hva + SIZE);
}

static void test_range_outside(void **state)
{
	(void)state;
	assert_null(guest_range(&mem, SIZE, 1));
	assert_null(guest_range(&mem, SIZE - 1, 2));
	assert_null(guest_range(&mem, 0, SIZE + 1));
	assert_null(guest_range(&mem, SIZE + 1, 0));
}

/* gpa + len wraps around to a small number: the sum must not be what is compared. */
static void test_range_wraps(void **state)
{
	(void)state;
	assert_null(guest_range(&mem, UINT64_MAX, 1));
	assert_null(guest_range(&mem, UINT64_MAX, 2));
	assert_null(guest_range(&mem, UINT64_MAX - 15, 32));
	assert_null(guest_range(&mem, 16, UINT64_MAX));
	assert_null(guest_range(&mem, SIZE - 1, UINT64_MAX));
	assert_null(guest_range(&mem, UINT64_MAX, UINT64_MAX));
}

static void test_copy(void **state)
{
	char in[] = "abcdef", out[sizeof(in)] = "......";

	(void)state;
	assert_int_equal(guest_write(&mem, 4093, in, sizeof(in)), 0); /* across a page boundary */
	assert_int_equal(guest_read(&mem, 4093, out, sizeof(out)), 0);
	assert_string_equal(out, in);
}

/* All or nothing: a copy that does not fit as a whole changes neither side. */
static void test_copy_outside(void **state)
{
	uint8_t in[4] = { 1, 2, 3, 4 }, out[4] = { 9, 9, 9, 9 }, last[2];

	(void)state;
	assert_int_equal(guest_write(&mem, SIZE - 2, in, sizeof(in)), -EFAULT);
	assert_int_equal(guest_read(&mem, SIZE - 2, last, sizeof(last)), 0);
	assert_int_equal(last[0] | last[1], 0);
	assert_int_equal(guest_read(&mem, SIZE - 2, out, sizeof(out)), -EFAULT);
	assert_int_equal(out[0], 9);
	assert_int_equal(guest_read(&mem, UINT64_MAX - 1, out, sizeof(out)), -EFAULT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test_setup_teardown(test_fresh_memory_is_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(test_range_inside, setup, teardown),
		cmocka_unit_test_setup_teardown(test_range_outside, setup, teardown),
		cmocka_unit_test_setup_teardown(test_range_wraps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_copy_outside, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
