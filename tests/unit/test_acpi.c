// sources: acpi.c boot.c loader.c start_info.c elf.c boot_sector.c bzimage.c mem.c
/* The ACPI tables as a guest follows them from the RSDP; offsets are those of ACPI 6.5 chapter 5. */
#include "devices.h"
#include "loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct guest_mem mem;
static uint64_t rsdp;

static int setup(void **state)
{
	(void)state;
	int r = guest_mem_create(&mem, MEM_MIN);
	if (!r) {
		memset(guest_range(&mem, BOOT_ACPI, 0x1000), 0xff, 0x1000); /* what is not written must not be read as 0 */
		rsdp = acpi_tables_write(&mem);
	}
	return r;
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

static uint64_t get(uint64_t gpa, unsigned size)
{
	uint64_t value = 0;
	assert_int_equal(guest_read(&mem, gpa, &value, size), 0);
	return value;
}

static uint8_t sum(uint64_t gpa, uint64_t len)
{
	const uint8_t *p = guest_range(&mem, gpa, len);
	uint8_t total = 0;

	assert_non_null(p);
	for (uint64_t i = 0; i < len; i++)
		total += p[i];
	return total;
}

/* A table with the common header: right name, length and sum, and inside the gap below 1 MiB that the memory map reserves. */
static void check_table(uint64_t gpa, const char *signature, uint32_t length, unsigned revision)
{
	assert_memory_equal(guest_range(&mem, gpa, 4), signature, 4);
	assert_int_equal(get(gpa + 4, 4), length);
	assert_int_equal(get(gpa + 8, 1), revision);
	assert_int_equal(sum(gpa, length), 0);
	assert_in_range(gpa, 0xa0000, 1 * MiB - length);
}

static uint64_t fadt_gpa(void)
{
	return get(get(rsdp + 24, 8) + 36, 8);
}

static void test_rsdp(void **state)
{
	(void)state;
	assert_int_equal(rsdp, BOOT_ACPI); /* the zero page and the start info rely on it */
	assert_int_equal(rsdp % 16, 0);
	assert_memory_equal(guest_range(&mem, rsdp, 8), "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(get(rsdp + 15, 1), 2);
	assert_int_equal(get(rsdp + 16, 4), 0); /* no RSDT */
	assert_int_equal(get(rsdp + 20, 4), 36);
	assert_int_equal(sum(rsdp, 36), 0);
}

static void test_xsdt(void **state)
{
	(void)state;
	check_table(get(rsdp + 24, 8), "XSDT", 36 + 8, 1);
}

static void test_fadt(void **state)
{
	uint64_t fadt = fadt_gpa();

	(void)state;
	check_table(fadt, "FACP", 276, 6);
	assert_int_equal(get(fadt + 46, 2), 9); /* SCI_INT */
	assert_int_equal(get(fadt + 48, 4), 0); /* SMI_CMD: always in ACPI mode */
	assert_int_equal(get(fadt + 56, 4), ACPI_PM1A_EVT);
	assert_int_equal(get(fadt + 64, 4), ACPI_PM1A_CNT);
	assert_int_equal(get(fadt + 88, 1), 4);
	assert_int_equal(get(fadt + 89, 1), 2);
	assert_int_equal(get(fadt + 76, 4) | get(fadt + 91, 1), 0); /* no PM timer */
	assert_int_equal(get(fadt + 109, 2), 1 << 0 | 1 << 2);      /* legacy devices, no VGA; no 8042 */
	assert_true(get(fadt + 112, 4) & 1 << 10);                  /* there is a reset register: */
	assert_int_equal(get(fadt + 116, 4), 0x01000801);           /* I/O port, 8 bits, offset 0, by byte */
	assert_int_equal(get(fadt + 120, 8), 0x64);
	assert_int_equal(get(fadt + 128, 1), 0xfe);
	/* The 64-bit fields say the same as the 32-bit ones. */
	assert_int_equal(get(fadt + 140, 8), get(fadt + 40, 4));
	assert_int_equal(get(fadt + 148, 4), 0x02002001);
	assert_int_equal(get(fadt + 152, 8), ACPI_PM1A_EVT);
	assert_int_equal(get(fadt + 172, 4), 0x02001001);
	assert_int_equal(get(fadt + 176, 8), ACPI_PM1A_CNT);
}

static void test_facs(void **state)
{
	uint64_t facs = get(fadt_gpa() + 36, 4);

	(void)state;
	assert_int_equal(facs % 64, 0);
	assert_memory_equal(guest_range(&mem, facs, 4), "FACS", 4);
	assert_int_equal(get(facs + 4, 4), 64);
	assert_int_equal(get(facs + 32, 1), 2);
	assert_int_equal(get(facs + 16, 4), 0); /* the global lock is free */
}

static void test_dsdt(void **state)
{
	/* Name (\_S5, Package () { 5, 5, 0, 0 }) as iasl compiles it with byte constants. */
	static const uint8_t s5[] = { 0x08, 0x5c, 0x5f, 0x53, 0x35, 0x5f, 0x12, 0x08, 0x04, 0x0a, 0x05, 0x0a, 0x05, 0x00, 0x00 };
	uint64_t dsdt = get(fadt_gpa() + 40, 4);

	(void)state;
	check_table(dsdt, "DSDT", 36 + sizeof(s5), 2);
	assert_memory_equal(guest_range(&mem, dsdt + 36, sizeof(s5)), s5, sizeof(s5));
	assert_int_equal(ACPI_SLP_TYP_S5, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rsdp, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xsdt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fadt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_facs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dsdt, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
