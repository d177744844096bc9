// sources: ioapic.c state_io.c
/* The IOAPIC, with a bus on which this test is the local APIC. */
#include "ioapic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MASKED (1ull << 16)
#define LEVEL (1ull << 15)
#define REMOTE_IRR (1ull << 14)
#define LOGICAL (1ull << 11)
#define NMI 0x400

static struct ioapic io;
static struct apic_message last;
static unsigned messages;
static bool refuse;

static bool send(void *opaque, const struct apic_message *m)
{
	assert_ptr_equal(opaque, &io);
	if (refuse)
		return false;
	last = *m;
	messages++;
	return true;
}

static void out(uint8_t reg, uint32_t value)
{
	ioapic_mmio_ops.write(&io, 0x00, 4, reg);
	ioapic_mmio_ops.write(&io, 0x10, 4, value);
}

static uint32_t in(uint8_t reg)
{
	ioapic_mmio_ops.write(&io, 0x00, 4, reg);
	return (uint32_t)ioapic_mmio_ops.read(&io, 0x10, 4);
}

static void set_entry(unsigned pin, uint64_t entry)
{
	out((uint8_t)(0x11 + 2 * pin), (uint32_t)(entry >> 32));
	out((uint8_t)(0x10 + 2 * pin), (uint32_t)entry);
}

static uint64_t entry(unsigned pin)
{
	return in((uint8_t)(0x10 + 2 * pin)) | (uint64_t)in((uint8_t)(0x11 + 2 * pin)) << 32;
}

static void pulse(unsigned pin)
{
	ioapic_set_line(&io, pin, true);
	ioapic_set_line(&io, pin, false);
}

static int setup(void **state)
{
	(void)state;
	ioapic_init(&io, send, &io);
	memset(&last, 0, sizeof last);
	messages = 0;
	refuse = false;
	return 0;
}

static void after_reset(void **state)
{
	(void)state;
	assert_int_equal(in(0), 0);
	assert_int_equal(in(1), 0x00170020);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		assert_int_equal(entry(pin), MASKED);
		pulse(pin);
	}
	assert_int_equal(messages, 0);
	assert_int_equal(in(0x0f), 0);
	assert_int_equal(in(0x40), 0); /* the entry behind the last one */
	assert_int_equal(in(0xff), 0);
}

static void registers_keep_what_they_can(void **state)
{
	(void)state;
	out(0, 0xffffffff);
	assert_int_equal(in(0), 0x0f000000);
	assert_int_equal(in(2), 0x0f000000); /* arbitration */
	out(1, 0xffffffff);
	assert_int_equal(in(1), 0x00170020);
	set_entry(7, UINT64_MAX);
	assert_int_equal(entry(7), 0xff0000000001afff); /* not delivery status and remote IRR */
	set_entry(7, 0);
	assert_int_equal(entry(7), 0);
	assert_int_equal(entry(6), MASKED);
	assert_int_equal(entry(8), MASKED);
	set_entry(7, MASKED);
	for (unsigned reg = 0x40; reg <= 0xff; reg++)
		out((uint8_t)reg, 0);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		assert_int_equal(entry(pin), MASKED);
	ioapic_mmio_ops.write(&io, 0x00, 1, 0x1e); /* the selector is a byte */
	assert_int_equal(ioapic_mmio_ops.read(&io, 0x00, 4), 0x1e);
	ioapic_mmio_ops.write(&io, 0x10, 1, 0); /* and the window is not */
	assert_int_equal(entry(7), MASKED);
}

static void edges(void **state)
{
	(void)state;
	set_entry(4, 0x0500000000000034 | LOGICAL);
	ioapic_set_line(&io, 4, true);
	assert_int_equal(messages, 1);
	assert_int_equal(last.vector, 0x34);
	assert_int_equal(last.dest, 5);
	assert_int_equal(last.mode, APIC_FIXED);
	assert_true(last.logical);
	assert_false(last.level);
	ioapic_set_line(&io, 4, true); /* the same level again is no edge */
	assert_int_equal(messages, 1);
	ioapic_eoi(&io, 0x34); /* and it waits for no EOI */
	assert_int_equal(messages, 1);
	ioapic_set_line(&io, 4, false);
	ioapic_set_line(&io, 4, true);
	assert_int_equal(messages, 2);
	set_entry(4, 0x35);
	assert_int_equal(messages, 2);
}

static void an_edge_on_a_masked_pin_is_lost(void **state)
{
	(void)state;
	set_entry(4, 0x34 | MASKED);
	ioapic_set_line(&io, 4, true);
	set_entry(4, 0x34);
	assert_int_equal(messages, 0);
	ioapic_set_line(&io, 4, false);
	ioapic_set_line(&io, 4, true);
	assert_int_equal(messages, 1);
}

static void level_asks_until_served(void **state)
{
	(void)state;
	set_entry(9, 0x59 | LEVEL);
	ioapic_set_line(&io, 9, true);
	assert_int_equal(messages, 1);
	assert_true(last.level);
	assert_int_equal(entry(9), 0x59 | LEVEL | REMOTE_IRR);
	ioapic_set_line(&io, 9, false);
	ioapic_set_line(&io, 9, true); /* not before the EOI */
	assert_int_equal(messages, 1);
	ioapic_eoi(&io, 0x58); /* somebody else's */
	assert_int_equal(messages, 1);
	ioapic_eoi(&io, 0x59);
	assert_int_equal(messages, 2); /* still asserted */
	assert_int_equal(entry(9), 0x59 | LEVEL | REMOTE_IRR);
	ioapic_set_line(&io, 9, false);
	ioapic_eoi(&io, 0x59);
	assert_int_equal(messages, 2);
	assert_int_equal(entry(9), 0x59 | LEVEL);
}

static void a_masked_level_comes_when_unmasked(void **state)
{
	(void)state;
	set_entry(9, 0x59 | LEVEL | MASKED);
	ioapic_set_line(&io, 9, true);
	assert_int_equal(messages, 0);
	set_entry(9, 0x59 | LEVEL);
	assert_int_equal(messages, 1);
	set_entry(9, 0x59 | LEVEL | MASKED); /* remote IRR is not software's to change */
	assert_int_equal(entry(9), 0x59 | LEVEL | MASKED | REMOTE_IRR);
	ioapic_eoi(&io, 0x59);
	assert_int_equal(messages, 1);
	assert_int_equal(entry(9), 0x59 | LEVEL | MASKED);
}

static void refused_level_is_not_in_service(void **state)
{
	(void)state;
	refuse = true;
	set_entry(9, 0x59 | LEVEL);
	ioapic_set_line(&io, 9, true);
	assert_int_equal(entry(9), 0x59 | LEVEL);
	refuse = false;
	set_entry(9, 0x59 | LEVEL);
	assert_int_equal(messages, 1);
}

static void shared_vector(void **state)
{
	(void)state;
	set_entry(9, 0x59 | LEVEL);
	set_entry(10, 0x59 | LEVEL);
	ioapic_set_line(&io, 9, true);
	ioapic_set_line(&io, 10, true);
	assert_int_equal(messages, 2);
	ioapic_eoi(&io, 0x59);
	assert_int_equal(messages, 4);
}

static void ways_to_end_it_directly(void **state)
{
	(void)state;
	set_entry(9, 0x59 | LEVEL);
	ioapic_set_line(&io, 9, true);
	ioapic_set_line(&io, 9, false);
	ioapic_mmio_ops.write(&io, 0x40, 4, 0x59); /* the EOI register */
	assert_int_equal(entry(9), 0x59 | LEVEL);
	ioapic_set_line(&io, 9, true);
	assert_int_equal(messages, 2);
	set_entry(9, 0x59 | MASKED); /* to edge and back */
	set_entry(9, 0x59 | LEVEL);
	assert_int_equal(messages, 3);
}

static void nmi_has_no_end(void **state)
{
	(void)state;
	set_entry(3, NMI | LEVEL);
	ioapic_set_line(&io, 3, true);
	assert_int_equal(messages, 1);
	assert_int_equal(last.mode, APIC_NMI);
	assert_false(last.level);
	assert_int_equal(entry(3), NMI | LEVEL);
	pulse(3); /* it was asserted: no edge */
	assert_int_equal(messages, 1);
	pulse(3);
	assert_int_equal(messages, 2);
}

static void no_access_breaks_it(void **state)
{
	static const unsigned sizes[] = { 1, 2, 4, 8 };
	(void)state;
	for (unsigned select = 0; select < 256; select++)
		for (unsigned offset = 0; offset < 0x80; offset++)
			for (unsigned i = 0; i < 4; i++) {
				ioapic_mmio_ops.write(&io, 0x00, 4, select);
				ioapic_mmio_ops.write(&io, offset, sizes[i], 0xa5a5a5a5a5a5a5a5ull);
				ioapic_mmio_ops.read(&io, offset, sizes[i]);
			}
	ioapic_set_line(&io, IOAPIC_PINS, true);
	ioapic_set_line(&io, UINT32_MAX, true);
	assert_int_equal(io.lines, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(after_reset, setup),
		cmocka_unit_test_setup(registers_keep_what_they_can, setup),
		cmocka_unit_test_setup(edges, setup),
		cmocka_unit_test_setup(an_edge_on_a_masked_pin_is_lost, setup),
		cmocka_unit_test_setup(level_asks_until_served, setup),
		cmocka_unit_test_setup(a_masked_level_comes_when_unmasked, setup),
		cmocka_unit_test_setup(refused_level_is_not_in_service, setup),
		cmocka_unit_test_setup(shared_vector, setup),
		cmocka_unit_test_setup(ways_to_end_it_directly, setup),
		cmocka_unit_test_setup(nmi_has_no_end, setup),
		cmocka_unit_test_setup(no_access_breaks_it, setup),
	};
	return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
