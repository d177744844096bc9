// sources: acpi.c acpi_aml.c mptable.c boot.c loader.c multiboot.c boot_module.c start_info.c elf.c boot_sector.c bzimage.c mem.c
/* The ACPI tables as a guest follows them from the RSDP; offsets are those of ACPI 6.5 chapter 5. */
#include "acpi_aml.h"
#include "devices.h"
#include "guest_fixture.h"
#include "loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t rsdp;

static int make(const struct boot_request *req)
{
	int r = guest_mem_create(&mem, MEM_MIN);
	if (!r) {
		memset(guest_range(&mem, BOOT_ACPI, 0x1000), 0xff, 0x1000); /* what is not written must not be read as 0 */
		rsdp = acpi_tables_write(&mem, req);
	}
	return r;
}

static int setup(void **state)
{
	struct boot_request req = { 0 };
	(void)state;
	return make(&req);
}

#define CPUS 3
static const struct boot_request platform = {
	.cpus = CPUS,
	.virtio = { { 0xd0000000, 0x200, 5 }, { 0xd0001000, 0x200, 6 }, { 0xd0002000, 0x200, 300 } },
	.nvirtio = 3,
};

static int setup_platform(void **state)
{
	(void)state;
	return make(&platform);
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

/* The whole DSDT is compared with what ACPICA's compiler makes of the same text: the bytes are those of
 * Scope (\_SB) { Device (VIO0) { Name (_HID, "LNRO0005") Name (_UID, 0) Name (_CRS, ResourceTemplate () {
 *     Memory32Fixed (ReadWrite, 0xd0000000, 0x200) Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 5 } }) } ... } */
static const uint8_t first_device[] = {
	0x5b, 0x82, 0x3a, 'V', 'I', 'O', '0',                                         /* Device */
	0x08, '_', 'H', 'I', 'D', 0x0d, 'L', 'N', 'R', 'O', '0', '0', '0', '5', 0x00, /* _HID */
	0x08, '_', 'U', 'I', 'D', 0x00,                                               /* _UID */
	0x08, '_', 'C', 'R', 'S', 0x11, 0x1a, 0x0a, 0x17,                             /* _CRS: Buffer (23) */
	0x86, 0x09, 0x00, 0x01, 0x00, 0x00, 0x00, 0xd0, 0x00, 0x02, 0x00, 0x00,       /* Memory32Fixed */
	0x89, 0x06, 0x00, 0x03, 0x01, 0x05, 0x00, 0x00, 0x00,                         /* Interrupt */
	0x79, 0x00,                                                                   /* end tag */
};

static void test_devices(void **state)
{
	uint64_t dsdt = get(fadt_gpa() + 40, 4), scope = dsdt + 36 + 15;
	uint32_t length = (uint32_t)get(dsdt + 4, 4);

	(void)state;
	check_table(dsdt, "DSDT", length, 2);
	assert_int_equal(get(scope, 1), 0x10);
	/* The scope is longer than 63 bytes: two bytes of length, the first one's low half first. It ends where the table ends. */
	uint8_t lead = (uint8_t)get(scope + 1, 1);
	assert_int_equal(lead >> 6, 1);
	assert_int_equal((lead & 0xf) | get(scope + 2, 1) << 4, dsdt + length - scope - 1);
	assert_memory_equal(guest_range(&mem, scope + 3, 5), "\\_SB_", 5);
	uint64_t device = scope + 8;
	assert_memory_equal(guest_range(&mem, device, sizeof(first_device)), first_device, sizeof(first_device));
	/* The second differs in name, number (OneOp), address, interrupt. The third's number takes a byte with a prefix. */
	device += sizeof(first_device);
	assert_memory_equal(guest_range(&mem, device + 3, 4), "VIO1", 4);
	assert_int_equal(get(device + 27, 1), 1);
	assert_int_equal(get(device + 41, 4), 0xd0001000);
	assert_int_equal(get(device + 54, 4), 6);
	device += sizeof(first_device);
	assert_int_equal(get(device + 27, 2), 0x020a);
	assert_int_equal(get(device + 55, 4), 300);
	assert_int_equal(device + sizeof(first_device) + 1, dsdt + length);
}

/* The tables as ACPICA's disassembler reads them; its compiler makes the same bytes of that text again (behind the header). */
static void test_iasl(void **state)
{
	uint64_t dsdt = get(fadt_gpa() + 40, 4);
	uint32_t length = (uint32_t)get(dsdt + 4, 4);
	char dir[] = "/tmp/test_acpi.XXXXXX", name[64], command[400];

	(void)state;
	if (system("command -v iasl >/dev/null 2>&1"))
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(name, sizeof(name), "%s/a.aml", dir);
	FILE *f = fopen(name, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(guest_range(&mem, dsdt, length), 1, length, f), length);
	assert_int_equal(fclose(f), 0);
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d a.aml >log 2>&1 && ! grep -i error log && iasl -oa -p b a.dsl >log2 2>&1 && "
		 "grep -q LNRO0005 a.dsl && grep -q 'Edge, ActiveHigh, Exclusive' a.dsl && "
		 "grep -c Memory32Fixed a.dsl | grep -qx 3 && tail -c +37 a.aml >a && tail -c +37 b.aml >b && cmp a b",
		 dir);
	int status = system(command);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(status, 0);
}

/* The MADT, entry by entry. */
static void test_madt(void **state)
{
	uint64_t xsdt = get(rsdp + 24, 8), madt = get(xsdt + 44, 8);
	unsigned cpus = 0, ioapics = 0, overrides = 0, nmis = 0;
	uint32_t length = (uint32_t)get(madt + 4, 4);

	(void)state;
	check_table(xsdt, "XSDT", 36 + 2 * 8, 1);
	check_table(madt, "APIC", length, 5);
	assert_int_equal(get(madt + 36, 4), 0xfee00000);
	assert_int_equal(get(madt + 40, 4), 1); /* and a pair of 8259 */
	uint64_t at = madt + 44;
	for (; at < madt + length; at += get(at + 1, 1)) {
		assert_in_range(get(at + 1, 1), 2, madt + length - at);
		switch (get(at, 1)) {
		case 0:
			assert_int_equal(get(at + 1, 1), 8);
			assert_int_equal(get(at + 3, 1), cpus);
			assert_int_equal(get(at + 4, 4), 1);
			cpus++;
			break;
		case 1:
			assert_int_equal(get(at + 1, 1), 12);
			assert_int_equal(get(at + 4, 4), 0xfec00000);
			assert_int_equal(get(at + 8, 4), 0);
			ioapics++;
			break;
		case 2: {
			unsigned irq = (unsigned)get(at + 3, 1);
			assert_int_equal(get(at + 1, 1), 10);
			assert_int_equal(get(at + 4, 4), irq ? 9 : 2);
			assert_int_equal(get(at + 8, 2), irq ? 0x0d : 0);
			assert_true(irq == 0 || irq == 9);
			overrides++;
			break;
		}
		case 4:
			assert_int_equal(get(at + 1, 1), 6);
			assert_int_equal(get(at + 2, 1), 0xff);
			assert_int_equal(get(at + 5, 1), 1);
			nmis++;
			break;
		default: fail_msg("an entry of type %u", (unsigned)get(at, 1));
		}
	}
	assert_int_equal(at, madt + length);
	assert_int_equal(cpus, CPUS);
	assert_int_equal(ioapics, 1);
	assert_int_equal(overrides, 2);
	assert_int_equal(nmis, 1);
}

/* No byte is written behind the buffer's end, and that there was no room is told. */
static void test_aml_room(void **state)
{
	uint8_t whole[64], bytes[64];

	(void)state;
	for (unsigned room = 0; room <= sizeof(bytes); room++) {
		struct aml a = { .bytes = bytes, .room = room };
		memset(bytes, 0xa5, sizeof(bytes));
		size_t device = aml_device(&a, "VIO0");
		aml_name(&a, "_CRS");
		size_t resources = aml_resources(&a);
		aml_memory32(&a, 0xd0000000, 0x200);
		aml_interrupt(&a, 5);
		aml_resources_end(&a, resources);
		aml_end(&a, device);
		if (room == 0)
			assert_true(a.full);
		if (!a.full) {
			memcpy(whole, bytes, sizeof(whole));
			assert_in_range(a.len, 36, room);
		}
		for (unsigned i = room; i < sizeof(bytes); i++)
			assert_int_equal(bytes[i], 0xa5);
	}
	assert_int_equal(whole[2], 37); /* of 39 bytes all but 0x5b 0x82 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rsdp, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xsdt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fadt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_facs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dsdt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_devices, setup_platform, teardown),
		cmocka_unit_test_setup_teardown(test_iasl, setup_platform, teardown),
		cmocka_unit_test_setup_teardown(test_madt, setup_platform, teardown),
		cmocka_unit_test(test_aml_room),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
