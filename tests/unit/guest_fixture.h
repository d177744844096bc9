/*
 * The guest memory of a test that looks at what was written into it. A test's setup creates it, because each needs another
 * size and other contents.
 */
#ifndef GUEST_FIXTURE_H
#define GUEST_FIXTURE_H

#include "mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct guest_mem mem;

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

/* A little-endian number of up to 8 bytes. */
__attribute__((unused)) static uint64_t get(uint64_t gpa, unsigned size)
{
	uint64_t value = 0;
	assert_int_equal(guest_read(&mem, gpa, &value, size), 0);
	return value;
}

/* Of bytes, modulo 256: 0 for a table whose checksum is right. */
__attribute__((unused)) static uint8_t sum(uint64_t gpa, uint64_t len)
{
	const uint8_t *p = guest_range(&mem, gpa, len);
	uint8_t total = 0;

	assert_non_null(p);
	for (uint64_t i = 0; i < len; i++)
		total += p[i];
	return total;
}

#endif
