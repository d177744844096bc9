// sources: bzimage.c boot_sector.c loader.c multiboot.c boot_module.c boot.c start_info.c elf.c acpi.c acpi_aml.c mptable.c mem.c
/* The bzImage loader: placement, the zero page, and kernels that cannot be started. */
#include "loader.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (64 * MiB)
#define SETUP_SECTS 3
#define SETUP_LEN ((SETUP_SECTS + 1) * 512)
#define KERNEL_LEN 4096
#define SIGNATURE_LEN 100 /* what a signed kernel has behind its end */
#define LEN (SETUP_LEN + KERNEL_LEN + SIGNATURE_LEN)
#define PREF (16 * MiB)
#define INIT_SIZE (32 * MiB)

static struct guest_mem mem;
static uint8_t image[LEN];
static struct setup_header *const h = (struct setup_header *)(image + 0x1f1);
static struct boot_request req;
static struct boot_state boot;
static char err[256];

static int setup(void **state)
{
	(void)state;
	memset(image, 0, sizeof(image));
	image[0x200] = 0xeb; /* jump over the header, up to 0x268 */
	image[0x201] = 0x66;
	h->setup_sects = SETUP_SECTS;
	h->syssize = KERNEL_LEN / 16;
	h->boot_flag = 0xaa55;
	h->header = 0x53726448;
	h->version = 0x20f;
	h->loadflags = LOADED_HIGH;
	h->initrd_addr_max = 0x7fffffff;
	h->kernel_alignment = 2 * MiB;
	h->relocatable_kernel = 1;
	h->xloadflags = XLF_KERNEL_64;
	h->cmdline_size = 100;
	h->pref_address = PREF;
	h->init_size = INIT_SIZE;
	memset(image + SETUP_LEN, 0x4b, KERNEL_LEN);
	memset(image + SETUP_LEN + KERNEL_LEN, 0x51, SIGNATURE_LEN);
	image[0x269] = 0xee; /* code behind the header */
	memset(err, 0, sizeof(err));
	req = (struct boot_request){ .image = "kernel" };
	return guest_mem_create(&mem, SIZE);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

static int load(size_t len)
{
	uint8_t *copy = malloc(len); /* of exactly that length, for the address sanitizer */
	memcpy(copy, image, len);
	int r = bzimage_load(&mem, copy, len, &req, &boot, err, sizeof(err));
	free(copy);
	return r;
}

static void refused_len(size_t len, int error, const char *cause)
{
	assert_int_equal(load(len), error);
	if (!strstr(err, cause))
		fail_msg("'%s' does not say '%s'", err, cause);
	assert_null(strchr(err, '\n'));
}

static void refused(int error, const char *cause)
{
	refused_len(LEN, error, cause);
}

static const struct boot_params *zero_page(void)
{
	return guest_range(&mem, BOOT_ZERO_PAGE, sizeof(struct boot_params));
}

static void test_loads(void **state)
{
	(void)state;
	req.append = "console=ttyS0";
	assert_int_equal(load(LEN), 0);
	assert_string_equal(boot.kind, "Linux bzImage");
	assert_int_equal(boot.entry, PREF + 0x200);
	assert_int_equal(boot.rsi, BOOT_ZERO_PAGE);
	assert_int_equal(boot.load_lo, PREF);
	assert_int_equal(boot.load_hi, PREF + INIT_SIZE);
	const uint8_t *p = guest_range(&mem, PREF, KERNEL_LEN + 1);
	assert_memory_equal(p, image + SETUP_LEN, KERNEL_LEN);
	assert_int_equal(p[KERNEL_LEN], 0); /* the signature is not loaded */
}

static void test_zero_page(void **state)
{
	(void)state;
	req.append = "console=ttyS0";
	h->setup_data = 0x1234; /* must not be taken over: it would be followed as a pointer */
	memset(guest_range(&mem, BOOT_ZERO_PAGE, 4096), 0xff, 4096);
	assert_int_equal(load(LEN), 0);
	const struct boot_params *zp = zero_page();
	const uint8_t *raw = (const uint8_t *)zp;

	assert_int_equal(zp->hdr.header, 0x53726448);
	assert_int_equal(zp->hdr.version, 0x20f);
	assert_int_equal(zp->hdr.init_size, INIT_SIZE);
	assert_int_equal(zp->hdr.type_of_loader, 0xff);
	assert_int_equal(zp->hdr.loadflags, LOADED_HIGH);
	assert_int_equal(zp->hdr.setup_data, 0);
	assert_int_equal(zp->hdr.cmd_line_ptr, BOOT_CMDLINE);
	assert_string_equal(guest_range(&mem, BOOT_CMDLINE, 14), "console=ttyS0");
	assert_int_equal(zp->hdr.ramdisk_image | zp->hdr.ramdisk_size, 0);
	assert_int_equal(zp->acpi_rsdp_addr, BOOT_ACPI);
	assert_int_equal(*(const uint64_t *)(raw + 0x70), BOOT_ACPI);
	assert_int_equal(raw[0x1ef], 0);   /* sentinel: a loader that copies too much leaves it set */
	assert_int_equal(raw[0x269], 0);   /* nothing behind the header */
	assert_int_equal(raw[0x1e8], 3);
	static const struct boot_e820_entry expected[] = {
		{ 0, 0x9fc00, 1 }, { 0xa0000, 0x60000, 2 }, { 0x100000, SIZE - 0x100000, 1 }
	};
	assert_memory_equal(zp->e820_table, expected, sizeof(expected));
}

static void test_probe(void **state)
{
	(void)state;
	assert_true(bzimage_probe(image, 0x206));
	assert_false(bzimage_probe(image, 0x205));
	h->header = 0;
	assert_false(bzimage_probe(image, LEN));
	refused(-ENOEXEC, "not a Linux bzImage");
}

static void test_too_old(void **state)
{
	(void)state;
	h->version = 0x20b;
	refused(-ENOEXEC, "too old: boot protocol 2.11, and 2.12 is needed");
	h->version = 0x200;
	refused(-ENOEXEC, "2.00");
}

/* Fields behind the end of a short header are code, not fields. */
static void test_short_header(void **state)
{
	(void)state;
	image[0x201] = 0x236 - 0x202; /* ends before xloadflags */
	refused(-ENOEXEC, "64-bit entry");
	image[0x201] = 0;
	refused(-ENOEXEC, "too old");
}

/* A header from the future, longer than we know: what is known still counts. */
static void test_long_header(void **state)
{
	(void)state;
	image[0x201] = 0xff;
	assert_int_equal(load(LEN), 0);
	assert_int_equal(zero_page()->hdr.pref_address, PREF);
}

static void test_no_64_bit_entry(void **state)
{
	(void)state;
	h->xloadflags = 0;
	refused(-ENOEXEC, "XLF_KERNEL_64");
}

static void test_zimage(void **state)
{
	(void)state;
	h->loadflags = 0;
	refused(-ENOEXEC, "LOADED_HIGH");
}

static void test_truncated(void **state)
{
	(void)state;
	refused_len(0x206, -ENOEXEC, "truncated inside the bzImage setup header");
	refused_len(SETUP_LEN - 1, -ENOEXEC, "setup part alone has 2048");
	refused_len(SETUP_LEN, -ENOEXEC, "it has 0 of 4096 bytes");
	refused_len(SETUP_LEN + KERNEL_LEN - 1, -ENOEXEC, "truncated");
	h->setup_sects = 0; /* stands for 4 */
	refused_len(5 * 512 - 1, -ENOEXEC, "setup part alone has 2560");
	h->setup_sects = 255;
	refused(-ENOEXEC, "truncated");
	h->setup_sects = SETUP_SECTS;
	h->syssize = UINT32_MAX;
	refused(-ENOEXEC, "truncated");
	h->syssize = 0x200 / 16; /* nothing at the entry point */
	refused(-ENOEXEC, "too short");
}

static void test_larger_than_memory(void **state)
{
	(void)state;
	h->init_size = SIZE - PREF;
	assert_int_equal(load(LEN), 0);
	h->init_size = SIZE - PREF + 1;
	refused(-ENOMEM, "needs 49 MiB of memory from 0x1000000 on; the guest has 64 MiB");
	h->init_size = UINT32_MAX;
	refused(-ENOMEM, "does not fit");
	h->init_size = 0; /* then the file's size counts */
	h->pref_address = SIZE - KERNEL_LEN + 16;
	h->kernel_alignment = 16;
	refused(-ENOMEM, "does not fit");
	h->pref_address = UINT64_MAX; /* rounding up would wrap */
	refused(-ENOMEM, "does not fit");
}

static void test_placement(void **state)
{
	(void)state;
	h->pref_address = 0x1234567; /* rounded up to the alignment */
	assert_int_equal(load(LEN), 0);
	assert_int_equal(boot.load_lo, 20 * MiB);
	h->pref_address = 0; /* no preference: as low as possible */
	assert_int_equal(load(LEN), 0);
	assert_int_equal(boot.load_lo, 2 * MiB);
	h->kernel_alignment = 3;
	refused(-ENOEXEC, "power of two");
	h->kernel_alignment = 0;
	refused(-ENOEXEC, "power of two");
	h->relocatable_kernel = 0; /* then exactly there or nowhere */
	refused(-ENOEXEC, "below 1 MiB");
	h->pref_address = 0x1234567;
	assert_int_equal(load(LEN), 0);
	assert_int_equal(boot.load_lo, 0x1234567);
}

static void test_command_line(void **state)
{
	char line[102];

	(void)state;
	memset(line, 'a', sizeof(line));
	line[101] = 0;
	req.append = line;
	refused(-E2BIG, "command line is 101 bytes long; at most 100");
	line[100] = 0;
	assert_int_equal(load(LEN), 0);
	assert_string_equal(guest_range(&mem, BOOT_CMDLINE, 101), line);
}

/* --- initrd -------------------------------------------------------------------------------------------------------------- */

static char path[] = "/tmp/hv-test-initrd-XXXXXX";

static int setup_initrd(void **state)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	int fd = mkstemp(path);
	if (fd < 0 || write(fd, "initrd", 6) != 6)
		return -1;
	close(fd);
	int r = setup(state);
	req.initrd = path;
	return r;
}

static int teardown_initrd(void **state)
{
	unlink(path);
	return teardown(state);
}

static void initrd_size(uint64_t size)
{
	assert_int_equal(truncate(path, (off_t)size), 0);
}

static void test_initrd(void **state)
{
	(void)state;
	initrd_size(5000);
	assert_int_equal(load(LEN), 0);
	assert_int_equal(zero_page()->hdr.ramdisk_image, SIZE - 8192);
	assert_int_equal(zero_page()->hdr.ramdisk_size, 5000);
	assert_memory_equal(guest_range(&mem, SIZE - 8192, 6), "initrd", 6);
}

static void test_initrd_below_its_limit(void **state)
{
	(void)state;
	h->initrd_addr_max = PREF + INIT_SIZE + 0x1fff;
	initrd_size(0x2000);
	assert_int_equal(load(LEN), 0);
	assert_int_equal(zero_page()->hdr.ramdisk_image, PREF + INIT_SIZE);
	initrd_size(0x2001); /* no room above the kernel: below it */
	assert_int_equal(load(LEN), 0);
	assert_int_equal(zero_page()->hdr.ramdisk_image, PREF - 0x3000);
	h->initrd_addr_max = 0x1fffff;
	assert_int_equal(load(LEN), 0);
	assert_int_equal(zero_page()->hdr.ramdisk_image, 0x200000 - 0x3000);
}

static void test_initrd_too_large(void **state)
{
	(void)state;
	initrd_size(SIZE - PREF - INIT_SIZE);
	assert_int_equal(load(LEN), 0); /* fills the memory above the kernel */
	initrd_size(SIZE - PREF - INIT_SIZE + 1);
	refused(-ENOMEM, "16384 KiB does not fit beside the image in the 64 MiB");
	initrd_size(1 * MiB + 1);
	h->initrd_addr_max = 0x1fffff;
	refused(-ENOMEM, "in the 2 MiB of guest memory that it may use");
	h->initrd_addr_max = 0;
	initrd_size(1);
	refused(-ENOMEM, "does not fit");
	initrd_size(1 * GiB);
	h->initrd_addr_max = 0x7fffffff;
	refused(-ENOMEM, "does not fit");
}

static void test_initrd_missing(void **state)
{
	(void)state;
	req.initrd = "/nonexistent/initrd";
	refused(-ENOENT, "the initrd '/nonexistent/initrd'");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_INITRD(f) cmocka_unit_test_setup_teardown(f, setup_initrd, teardown_initrd)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_loads),
		TEST(test_zero_page),
		TEST(test_probe),
		TEST(test_too_old),
		TEST(test_short_header),
		TEST(test_long_header),
		TEST(test_no_64_bit_entry),
		TEST(test_zimage),
		TEST(test_truncated),
		TEST(test_larger_than_memory),
		TEST(test_placement),
		TEST(test_command_line),
		TEST_INITRD(test_initrd),
		TEST_INITRD(test_initrd_below_its_limit),
		TEST_INITRD(test_initrd_too_large),
		TEST_INITRD(test_initrd_missing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
