// sources: bus.c debugdev.c acpi_pm.c state_io.c
/* The bus, and the small devices that have next to no state, through it. */
#include "bus.h"
#include "devices.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A device that remembers what it was asked last. */
struct probe {
	uint64_t offset, value;
	unsigned size, reads, writes;
};

static uint64_t probe_read(void *dev, uint64_t offset, unsigned size)
{
	struct probe *p = dev;
	p->offset = offset;
	p->size = size;
	p->reads++;
	return p->value;
}

static void probe_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct probe *p = dev;
	p->offset = offset;
	p->size = size;
	p->value = value;
	p->writes++;
}

static const struct device_ops probe_ops = { .name = "probe", .read = probe_read, .write = probe_write };

static char printed[16];
static size_t nprinted;

void console_write(struct console *con, const uint8_t *data, size_t len)
{
	(void)con;
	for (size_t i = 0; i < len && nprinted < sizeof(printed) - 1; i++)
		printed[nprinted++] = (char)data[i];
}

static void access_reaches_its_device(void **state)
{
	struct bus bus;
	struct probe a = { 0 }, b = { 0 };
	uint64_t v;
	(void)state;

	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, 0x3f8, 8, &probe_ops, &a), 0);
	assert_int_equal(bus_add(&bus, 0x400, 4, &probe_ops, &b), 0); /* right behind it */
	assert_true(bus_write(&bus, 0x3fb, 1, 0x1122334455667788));
	assert_int_equal(a.offset, 3);
	assert_int_equal(a.size, 1);
	assert_int_equal(a.value, 0x88); /* cut to the access */
	a.value = 0xaabbccddeeff0011;
	assert_true(bus_read(&bus, 0x3f8, 2, &v));
	assert_int_equal(v, 0x0011);
	assert_int_equal(a.offset, 0);
	assert_true(bus_read(&bus, 0x3fc, 4, &v));
	assert_int_equal(v, 0xeeff0011);
	assert_true(bus_read(&bus, 0x3f8, 8, &v));
	assert_true(v == 0xaabbccddeeff0011);
	assert_true(bus_read(&bus, 0x400, 1, &v));
	assert_int_equal(b.reads, 1);
	assert_int_equal(bus.unclaimed_total, 0);
	assert_string_equal(bus_device_name(&bus, 0x3ff), "probe");
	assert_null(bus_device_name(&bus, 0x404));
}

static void nothing_there_reads_as_ones(void **state)
{
	static const struct {
		unsigned size;
		uint64_t ones;
	} row[] = { { 1, 0xff }, { 2, 0xffff }, { 4, 0xffffffff }, { 8, UINT64_MAX } };
	struct bus bus;
	(void)state;

	bus_init(&bus, "port");
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		uint64_t v = 0;
		assert_false(bus_read(&bus, 0x70, row[i].size, &v));
		assert_true(v == row[i].ones);
	}
	assert_false(bus_write(&bus, 0x70, 1, 0));
	assert_int_equal(bus.nunclaimed, 1);
	assert_int_equal(bus.unclaimed[0].reads, 4);
	assert_int_equal(bus.unclaimed[0].writes, 1);
}

static void access_over_the_end_is_unclaimed(void **state)
{
	struct bus bus;
	struct probe p = { 0 };
	uint64_t v;
	(void)state;

	bus_init(&bus, "address");
	assert_int_equal(bus_add(&bus, 0x10, 4, &probe_ops, &p), 0);
	assert_int_equal(bus_add(&bus, UINT64_MAX - 3, 4, &probe_ops, &p), 0);
	assert_true(bus_read(&bus, 0x12, 2, &v));
	assert_false(bus_read(&bus, 0x13, 2, &v));
	assert_false(bus_read(&bus, 0x0f, 2, &v)); /* only its end lies inside */
	assert_false(bus_write(&bus, 0x10, 8, 0));
	assert_false(bus_read(&bus, 0x14, 1, &v));
	assert_true(bus_read(&bus, UINT64_MAX, 1, &v));
	assert_false(bus_read(&bus, UINT64_MAX, 2, &v)); /* would wrap to 0 */
	assert_true(bus_read(&bus, UINT64_MAX - 3, 4, &v));
	assert_int_equal(p.reads, 3);
	assert_int_equal(p.writes, 0);
	assert_false(bus_read(&bus, 0x10, 3, &v)); /* not a size that a CPU has */
	assert_false(bus_read(&bus, 0x10, 0, &v));
}

static void overlaps_are_refused(void **state)
{
	struct bus bus;
	(void)state;

	bus_init(&bus, "address");
	assert_int_equal(bus_add(&bus, 0x100, 0x10, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x100, 0x10, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x10f, 1, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0xf0, 0x11, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0, 0x1000, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0, UINT64_MAX, &probe_ops, NULL), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x110, 1, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0xff, 1, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, 0x200, 0, &probe_ops, NULL), -EINVAL);
	assert_int_equal(bus_add(&bus, UINT64_MAX, 2, &probe_ops, NULL), -EINVAL);
	assert_int_equal(bus_add(&bus, 2, UINT64_MAX, &probe_ops, NULL), -EINVAL);
	/* Up to the last address, whose end would be 0. */
	assert_int_equal(bus_add(&bus, UINT64_MAX, 1, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, UINT64_MAX - 7, 8, &probe_ops, NULL), -EEXIST);

	bus_init(&bus, "address");
	for (unsigned i = 0; i < BUS_RANGES; i++)
		assert_int_equal(bus_add(&bus, i * 16, 16, &probe_ops, NULL), 0);
	assert_int_equal(bus_add(&bus, BUS_RANGES * 16, 16, &probe_ops, NULL), -ENOSPC);
}

static void report_names_addresses(void **state)
{
	struct bus bus;
	char *text = NULL;
	size_t len;
	uint64_t v;
	(void)state;

	bus_init(&bus, "port");
	for (unsigned i = 0; i < 3; i++)
		bus_read(&bus, 0x70, 1, &v);
	bus_write(&bus, 0x70, 1, 0);
	FILE *f = open_memstream(&text, &len);
	bus_report_unclaimed(&bus, f);
	fclose(f);
	assert_string_equal(text, "nothing answers at port 0x70: 3 reads, 1 write\n");
	free(text);

	/* A scan of all ports fills the table, and no more than that; the rest is still counted. */
	for (unsigned port = 0x1000; port < 0x1000 + 2 * BUS_UNCLAIMED; port++)
		bus_read(&bus, port, 1, &v);
	assert_int_equal(bus.nunclaimed, BUS_UNCLAIMED);
	assert_int_equal(bus.unclaimed_total, 4 + 2 * BUS_UNCLAIMED);
	f = open_memstream(&text, &len);
	bus_report_unclaimed(&bus, f);
	fclose(f);
	assert_non_null(strstr(text, "\nnothing answers at any further port: 65 accesses\n"));
	free(text);
}

static uint32_t exit_code;
static unsigned events;

static void on_exit_code(void *opaque, uint32_t code)
{
	(void)opaque;
	exit_code = code;
	events++;
}

static void on_event(void *opaque)
{
	(void)opaque;
	events++;
}

static void debug_ports(void **state)
{
	struct bus bus;
	struct debugdev dev;
	uint64_t v;
	(void)state;

	debugdev_init(&dev, NULL, on_exit_code, NULL);
	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, 0xe9, 1, &debugcon_ops, &dev), 0);
	assert_int_equal(bus_add(&bus, 0xf4, 4, &debugexit_ops, &dev), 0);

	bus_write(&bus, 0xe9, 1, 'h');
	bus_write(&bus, 0xe9, 1, 'i');
	assert_string_equal(printed, "hi");
	assert_true(bus_read(&bus, 0xe9, 1, &v));
	assert_int_equal(v, 0xe9);

	events = 0;
	bus_write(&bus, 0xf4, 4, 0x12345678);
	assert_int_equal(exit_code, 0x12345678);
	bus_write(&bus, 0xf4, 1, 0x105);
	assert_int_equal(exit_code, 5);
	assert_int_equal(events, 2);
}

static void acpi_registers(void **state)
{
	struct bus bus;
	struct acpi_pm pm = { .poweroff = on_event };
	uint64_t v;
	(void)state;

	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, ACPI_PM1A_EVT, ACPI_PM_LEN, &acpi_pm_ops, &pm), 0);
	events = 0;

	pm.pm1_sts = 0x0101;
	bus_write(&bus, 0x600, 2, 0x0100);
	bus_read(&bus, 0x600, 2, &v);
	assert_int_equal(v, 0x0001);
	bus_write(&bus, 0x602, 2, 0xffff);
	bus_read(&bus, 0x600, 4, &v);
	assert_int_equal(v, 0x47210001);
	bus_write(&bus, 0x603, 1, 0); /* one half of a register leaves the other alone */
	bus_read(&bus, 0x602, 2, &v);
	assert_int_equal(v, 0x0021);

	bus_write(&bus, 0x604, 2, 0);
	bus_read(&bus, 0x604, 2, &v);
	assert_int_equal(v, 0x0001); /* SCI_EN */
	bus_write(&bus, 0x604, 2, 5 << 10); /* the type alone */
	bus_write(&bus, 0x604, 2, 1 << 13 | 3 << 10); /* another sleep state */
	assert_int_equal(events, 0);
	bus_read(&bus, 0x604, 2, &v);
	assert_int_equal(v, 3 << 10 | 1); /* SLP_EN is not kept */
	bus_write(&bus, 0x604, 2, 1 << 13 | 5 << 10);
	assert_int_equal(events, 1);
	bus_write(&bus, 0x605, 1, 1 << 5 | 5 << 2);
	assert_int_equal(events, 2);
	bus_write(&bus, 0x606, 2, 0xffff);
	bus_read(&bus, 0x606, 2, &v);
	assert_int_equal(v, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(access_reaches_its_device),
		cmocka_unit_test(nothing_there_reads_as_ones),
		cmocka_unit_test(access_over_the_end_is_unclaimed),
		cmocka_unit_test(overlaps_are_refused),
		cmocka_unit_test(report_names_addresses),
		cmocka_unit_test(debug_ports),
		cmocka_unit_test(acpi_registers),
	};
	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
