// sources: boot_sector.c boot.c mem.c
/* Boot sectors: which files are taken for one, and what is in memory and in the vector table when one was loaded. */
#include "guest_fixture.h"
#include "loader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (16 * MiB)

static struct boot_state boot;
static char err[256];
static uint8_t sector[BOOT_SECTOR_MAX + 1];

static int setup(void **state)
{
	(void)state;
	memset(err, 0, sizeof(err));
	return guest_mem_create(&mem, SIZE);
}

static int load_sector(size_t len, const struct boot_request *req)
{
	uint8_t *copy = malloc(len);

	sector[510] = 0x55, sector[511] = 0xaa;
	memcpy(copy, sector, len);
	int r = boot_sector_load(&mem, copy, len, req, &boot, err, sizeof(err));
	free(copy);
	return r;
}

static void test_boot_sector(void **state)
{
	static const size_t lengths[] = { 512, 513, 1024, BOOT_SECTOR_MAX };
	struct boot_request req = { .append = "" };

	(void)state;
	memset(sector, 0xb5, sizeof(sector));
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		memset(guest_range(&mem, 0, 1 * MiB), 0xff, 1 * MiB);
		assert_int_equal(load_sector(lengths[i], &req), 0);
		assert_string_equal(boot.kind, "boot sector");
		assert_int_equal(boot.mode, BOOT_REAL);
		assert_int_equal(boot.entry, 0x7c00);
		assert_int_equal(boot.rdx, 0x80);
		assert_int_equal(boot.load_hi, 0x7c00 + lengths[i]);
		assert_memory_equal(guest_range(&mem, 0x7c00, lengths[i]), sector, lengths[i]);
		assert_int_equal(*(uint8_t *)guest_range(&mem, 0x7c00 + lengths[i], 1), 0xff);
		/* Every vector leads to an IRET. */
		for (unsigned vector = 0; vector < 256; vector++) {
			uint16_t at[2];
			guest_read(&mem, 4 * vector, at, sizeof(at));
			assert_int_equal(*(uint8_t *)guest_range(&mem, at[1] * 16 + at[0], 1), 0xcf);
		}
	}
}

static void test_bad_boot_sector(void **state)
{
	struct boot_request req = { 0 };

	(void)state;
	assert_int_equal(load_sector(511, &req), -ENOEXEC);
	assert_false(boot_sector_probe(sector, 511));
	assert_true(boot_sector_probe(sector, 512));
	assert_int_equal(load_sector(BOOT_SECTOR_MAX + 1, &req), -ENOEXEC);
	assert_non_null(strstr(err, "the file has 32769 bytes, at most 32768 are loaded"));
	req.append = "quiet";
	assert_int_equal(load_sector(512, &req), -ENOEXEC);
	assert_non_null(strstr(err, "neither a command line nor an initrd"));
	req = (struct boot_request){ .initrd = "initrd" };
	assert_int_equal(load_sector(512, &req), -ENOEXEC);
	for (unsigned at = 0; at < 4; at++)
		assert_int_equal(*(uint32_t *)guest_range(&mem, 4 * at, 4), 0);
	assert_int_equal(*(uint8_t *)guest_range(&mem, 0x7c00, 1), 0);
	sector[511] = 0xab;
	assert_false(boot_sector_probe(sector, 512));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_boot_sector, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_boot_sector, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
