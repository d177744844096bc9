// sources: elf.c boot_sector.c boot_vcpu.c loader.c multiboot.c boot_module.c boot.c start_info.c bzimage.c acpi.c acpi_aml.c mptable.c mem.c
/* boot_load(): which loader takes a file, what it refuses, and what a guest starts with: registers, start info, tables. */
#include "elf_fixture.h"
#include "vcpu.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[] = "/tmp/hv-test-elf-XXXXXX", initrd_path[] = "/tmp/hv-test-initrd-XXXXXX";

static void write_file(char *name, const void *data, size_t len)
{
	strcpy(name + strlen(name) - 6, "XXXXXX"); /* mkstemp() has replaced them in the test before */
	int fd = mkstemp(name);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static void file_refused(const struct boot_request *req, int error, const char *cause)
{
	assert_int_equal(boot_load(&mem, req, &boot, err, sizeof(err)), error);
	if (!strstr(err, cause))
		fail_msg("'%s' does not say '%s'", err, cause);
}

static void test_start_info(void **state)
{
	struct boot_request req = { .image = path, .initrd = initrd_path, .append = "a=1 b" };
	char initrd[5000];

	(void)state;
	memset(initrd, 'i', sizeof(initrd));
	write_file(path, &image, sizeof(image));
	write_file(initrd_path, initrd, sizeof(initrd));
	int r = boot_load(&mem, &req, &boot, err, sizeof(err));
	unlink(path);
	unlink(initrd_path);
	assert_int_equal(r, 0);

	uint64_t info = boot.rbx;
	assert_int_equal(info, BOOT_START_INFO);
	assert_int_equal(get(info, 4), 0x336ec578);
	assert_int_equal(get(info + 4, 4), 1);  /* version */
	assert_int_equal(get(info + 12, 4), 1); /* modules */
	assert_string_equal(guest_range(&mem, get(info + 24, 8), 6), "a=1 b");
	assert_int_equal(get(info + 32, 8), BOOT_ACPI);
	assert_memory_equal(guest_range(&mem, get(info + 32, 8), 8), "RSD PTR ", 8);

	uint64_t module = get(info + 16, 8), at = get(module, 8);
	assert_int_equal(get(module + 8, 8), sizeof(initrd));
	assert_int_equal(at % 4096, 0);
	assert_int_equal(at, SIZE - 8192);
	assert_memory_equal(guest_range(&mem, at, sizeof(initrd)), initrd, sizeof(initrd));

	static const uint64_t expected[3][3] = {
		{ 0, 0x9fc00, 1 }, { 0xa0000, 0x60000, 2 }, { 0x100000, SIZE - 0x100000, 1 }
	};
	uint64_t map = get(info + 40, 8);
	assert_int_equal(get(info + 48, 4), 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(get(map + 24 * i, 8), expected[i][0]);
		assert_int_equal(get(map + 24 * i + 8, 8), expected[i][1]);
		assert_int_equal(get(map + 24 * i + 16, 4), expected[i][2]);
	}
}

/* What boot_load() makes of the other kinds, and which registers they begin with. */
static void test_start_of_the_other_kinds(void **state)
{
	struct boot_request req = { .image = path, .append = "x" };
	uint8_t sector[1024] = { 0 };
	struct vcpu v;

	(void)state;
	write_file(path, &image32, sizeof(image32));
	assert_int_equal(boot_load(&mem, &req, &boot, err, sizeof(err)), 0);
	unlink(path);
	assert_int_equal(boot.rbx, BOOT_START_INFO);
	assert_int_equal(get(boot.rbx, 4), 0x336ec578);
	boot_vcpu(&v, &boot);
	assert_int_equal(v.rip, CODE + 8);
	assert_int_equal(v.gpr[RBX], BOOT_START_INFO);
	assert_int_equal(v.cr0, CR0_PE | CR0_ET);
	assert_int_equal(v.cr4 | v.efer | v.cr3, 0);
	assert_int_equal(v.rflags, FLAG_FIXED);
	/* The hidden parts are what the table says. */
	for (unsigned i = 0; i < 6; i++) {
		uint64_t d = get(v.gdtr.base + v.seg[i].selector, 8);
		assert_int_equal(d >> 40 & 0xf0ff, v.seg[i].attr);
		assert_int_equal(v.seg[i].base, 0);
		assert_int_equal(v.seg[i].limit, 0xffffffff);
	}
	assert_int_equal(v.seg[CS].attr & (SEG_DB | SEG_L), SEG_DB);

	/* A bzImage has 55 AA where a boot sector has it: its own probe wins. */
	sector[510] = 0x55, sector[511] = 0xaa;
	memcpy(sector + 0x202, "HdrS", 4);
	write_file(path, sector, sizeof(sector));
	file_refused(&req, -ENOEXEC, "this kernel is too old");
	memset(sector + 0x202, 0, 4);
	write_file(path, sector, sizeof(sector));
	file_refused(&req, -ENOEXEC, "neither a command line");
	req.append = NULL;
	memset(guest_range(&mem, 0, SIZE), 0, SIZE);
	assert_int_equal(boot_load(&mem, &req, &boot, err, sizeof(err)), 0);
	unlink(path);
	assert_int_equal(get(BOOT_PML4, 8), 0); /* its memory is its own */
	assert_memory_equal(guest_range(&mem, BOOT_ACPI, 8), "RSD PTR ", 8);
	boot_vcpu(&v, &boot);
	assert_int_equal(v.rip, 0x7c00);
	assert_int_equal(v.gpr[RSP], 0x7c00);
	assert_int_equal(v.gpr[RDX], 0x80);
	assert_int_equal(v.cr0, CR0_ET);
	assert_int_equal(v.idtr.limit, 0x3ff);
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(v.seg[i].selector | v.seg[i].base, 0);
		assert_int_equal(v.seg[i].limit, 0xffff);
		assert_int_equal(v.seg[i].attr, i == CS ? 0x9b : 0x93);
	}
}

static void test_boot_tables(void **state)
{
	(void)state;
	boot_tables_write(&mem);
	/* Walk for the first and the last byte of each GiB: one to one, writable, for the user too. */
	for (uint64_t gva = 0; gva < 4 * GiB; gva += GiB / 2 - 1) {
		uint64_t entry = get(BOOT_PML4 + 8 * (gva >> 39), 8);
		assert_int_equal(entry & 0xfff, 7);
		entry = get((entry & ~0xfffull) + 8 * (gva >> 30 & 511), 8);
		assert_int_equal(entry & 0xfff, 7);
		entry = get((entry & ~0xfffull) + 8 * (gva >> 21 & 511), 8);
		assert_int_equal(entry & 0xfff, 0x87);
		assert_int_equal(entry & ~0xfffull, gva & ~(2 * MiB - 1));
	}
	assert_int_equal(get(BOOT_PML4 + 8, 8), 0);
	assert_int_equal(get(BOOT_PML4 + 0x1000 + 4 * 8, 8), 0);
	/* Access bytes: code with L and without D, data, available TSS. */
	assert_int_equal(get(BOOT_GDT, 8), 0);
	assert_int_equal(get(BOOT_GDT + BOOT_CS + 5, 2), 0xaf9b);
	assert_int_equal(get(BOOT_GDT + BOOT_DS + 5, 2), 0xcf93);
	assert_int_equal(get(BOOT_GDT + 0x20 + 5, 1), 0x89);
}

static void test_bad_files(void **state)
{
	struct boot_request req = { .image = "/nonexistent/image" };

	(void)state;
	file_refused(&req, -ENOENT, "'/nonexistent/image': No such file");
	req.image = "/tmp";
	file_refused(&req, -EISDIR, "is a directory");
	req.image = "/dev/zero";
	file_refused(&req, -EINVAL, "not a regular file");
	req.image = path;
	write_file(path, "", 0);
	file_refused(&req, -ENODATA, "is empty");
	assert_int_equal(truncate(path, 4 * GiB), 0);
	file_refused(&req, -EFBIG, "larger than the largest guest memory");
	unlink(path);
	write_file(path, "#!/bin/sh\n", 10);
	file_refused(&req, -ENOEXEC, "neither an ELF file nor a multiboot image nor a Linux bzImage nor a boot sector");
	assert_memory_equal(err, path, strlen(path)); /* the sentence begins with the file's name */
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	file_refused(&req, -EINVAL, "not a regular file"); /* and does not wait for a writer */
	unlink(path);
}

static void test_bad_initrd_and_command_line(void **state)
{
	struct boot_request req = { .image = path, .initrd = initrd_path };
	static char line[BOOT_CMDLINE_MAX + 1];

	(void)state;
	write_file(path, &image, sizeof(image));
	write_file(initrd_path, "x", 1);
	assert_int_equal(truncate(initrd_path, SIZE - DATA), 0); /* neither above the image nor below it */
	file_refused(&req, -ENOMEM, "does not fit beside the image");
	assert_int_equal(truncate(initrd_path, SIZE - DATA - 0x1000), 0); /* exactly up to the image */
	assert_int_equal(boot_load(&mem, &req, &boot, err, sizeof(err)), 0);
	unlink(initrd_path);
	file_refused(&req, -ENOENT, "initrd");

	req.initrd = NULL;
	memset(line, 'a', BOOT_CMDLINE_MAX);
	req.append = line;
	file_refused(&req, -E2BIG, "command line is 2048 bytes long; at most 2047");
	line[BOOT_CMDLINE_MAX - 1] = 0;
	assert_int_equal(boot_load(&mem, &req, &boot, err, sizeof(err)), 0);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_start_info),
		TEST32(test_start_of_the_other_kinds),
		TEST(test_boot_tables),
		TEST(test_bad_files),
		TEST(test_bad_initrd_and_command_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
