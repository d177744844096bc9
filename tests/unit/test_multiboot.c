// sources: multiboot.c elf.c boot_module.c boot.c loader.c start_info.c bzimage.c boot_sector.c boot_vcpu.c acpi.c acpi_aml.c mptable.c mem.c
/* Multiboot: what a kernel is told, modules, and every way in which a file can be wrong. */
#include "loader.h"
#include "vcpu.h"

#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (8 * MiB)
#define LOAD 0x100000u
#define MAGIC 0x1badb002u
#define ALIGNED 1u
#define MEMORY 2u
#define VIDEO 4u
#define ADDRESSES 0x10000u

/* A flat image whose header lies 16 bytes behind its beginning. Tests damage it. */
struct flat {
	uint8_t before[16];
	uint32_t magic, flags, checksum, header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr, mode, width, height, depth;
	uint8_t code[64];
};

/* A 32-bit ELF file, linked at 0xc0100000 as kernels for the upper half are, and loaded at 1 MiB. */
struct elf32 {
	Elf32_Ehdr eh;
	Elf32_Phdr ph[1];
	uint32_t magic, flags, checksum;
	uint8_t code[64];
};

static struct guest_mem mem;
static struct boot_state boot;
static struct flat flat;
static char err[400], directory[] = "/tmp/multiboot-test-XXXXXX", path[3][64];

static uint32_t word(uint64_t gpa)
{
	uint32_t value;
	assert_int_equal(guest_read(&mem, gpa, &value, sizeof value), 0);
	return value;
}

static const char *text(uint64_t gpa) { return guest_range(&mem, gpa, 1); }

static void set_flags(uint32_t flags)
{
	flat.flags = flags;
	flat.checksum = -(MAGIC + flags);
}

static int setup(void **state)
{
	(void)state;
	flat = (struct flat){
		.magic = MAGIC,
		.header_addr = LOAD + 16,
		.load_addr = LOAD,
		.bss_end_addr = LOAD + 0x3000,
		.entry_addr = LOAD + offsetof(struct flat, code),
	};
	memset(flat.code, 0x90, sizeof flat.code);
	set_flags(ALIGNED | MEMORY | ADDRESSES);
	err[0] = 0;
	return guest_mem_create(&mem, SIZE);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

/* In a copy of exactly that length, so that the address sanitizer sees any read behind the end. */
static int load(const void *image, size_t len, const struct boot_request *req)
{
	static const struct boot_request none = { .image = "kernel" };
	uint8_t *copy = malloc(len ? len : 1);

	memcpy(copy, image, len);
	int r = multiboot_load(&mem, copy, len, req ? req : &none, &boot, err, sizeof err);
	free(copy);
	return r;
}

static void refused(int error, const char *cause)
{
	assert_int_equal(load(&flat, sizeof flat, NULL), error);
	if (!strstr(err, cause))
		fail_msg("'%s' does not say '%s'", err, cause);
	assert_null(strchr(err, '\n'));
	assert_int_equal(word(LOAD), 0); /* nothing was loaded */
}

static void write_file(const char *name, const void *data, size_t len)
{
	FILE *f = fopen(name, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void loads_by_addresses(void **state)
{
	struct boot_request req = { .image = "kernel", .append = "a=1 b" };
	(void)state;

	memset(guest_range(&mem, LOAD, 0x4000), 0xff, 0x4000);
	assert_int_equal(load(&flat, sizeof flat, &req), 0);
	assert_memory_equal(guest_range(&mem, LOAD, sizeof flat), &flat, sizeof flat);
	const uint8_t *behind = guest_range(&mem, LOAD, 0x4000);
	for (unsigned i = sizeof flat; i < 0x3000; i++)
		assert_int_equal(behind[i], 0);
	assert_int_equal(behind[0x3000], 0xff);
	assert_string_equal(boot.kind, "multiboot image");
	assert_int_equal(boot.mode, BOOT_PROTECTED);
	assert_int_equal(boot.entry, flat.entry_addr);

	struct vcpu v = { 0 };
	boot_vcpu(&v, &boot);
	assert_int_equal(v.gpr[RAX], 0x2badb002);
	assert_int_equal(v.rip, flat.entry_addr);
	assert_int_equal(v.cr0 & 0x80000001, 1);
	uint64_t mb = v.gpr[RBX];
	assert_int_equal(word(mb), 0x24d); /* memory, command line, modules, map, loader */
	assert_int_equal(word(mb + 4), 639);
	assert_int_equal(word(mb + 8), SIZE / KiB - 1024);
	assert_string_equal(text(word(mb + 16)), "kernel a=1 b");
	assert_int_equal(word(mb + 20), 0);
	assert_string_equal(text(word(mb + 64)), "Trapdoor");
	/* The memory map: its entries say how long they are; together they cover all there is up to the end of RAM. */
	uint64_t at = word(mb + 48), end = at + word(mb + 44), next = 0;
	unsigned usable = 0;
	for (; at < end; at += 4 + word(at)) {
		assert_int_equal(word(at), 20);
		assert_true(word(at + 4) >= next);
		next = word(at + 4) + (uint64_t)word(at + 12);
		usable += word(at + 20) == 1 ? word(at + 12) : 0;
	}
	assert_int_equal(next, SIZE);
	assert_int_equal(usable, SIZE - 1 * MiB + 639 * KiB);
}

static void header_anywhere_in_the_first_8_kib(void **state)
{
	static uint8_t file[8192 + 64];
	uint32_t header[3] = { MAGIC, MEMORY, -(MAGIC + MEMORY) };
	(void)state;

	for (unsigned at = 0; at <= 8192 + 4; at += 2) {
		memset(file, 0, sizeof file);
		memcpy(file + at, header, sizeof header);
		assert_int_equal(multiboot_probe(file, sizeof file), at % 4 == 0 && at <= 8192 - 12);
	}
	/* The magic number alone, as in a kernel's own code, is none. */
	header[2]++;
	memset(file, 0, sizeof file);
	memcpy(file, header, sizeof header);
	assert_false(multiboot_probe(file, sizeof file));
	for (size_t len = 0; len < 12; len++)
		assert_false(multiboot_probe((uint8_t *)&flat.magic, len));
}

static struct elf32 make_elf(void)
{
	struct elf32 e = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC, .e_machine = EM_386, .e_version = EV_CURRENT, .e_entry = LOAD + offsetof(struct elf32, code),
			.e_phoff = offsetof(struct elf32, ph), .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 1 },
		.ph = { { .p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = 0xc0000000 + LOAD, .p_paddr = LOAD,
			  .p_filesz = sizeof(struct elf32), .p_memsz = 0x2000 } },
		.magic = MAGIC, .flags = MEMORY, .checksum = -(MAGIC + MEMORY),
	};
	return e;
}

static void loads_elf(void **state)
{
	struct elf32 e = make_elf();
	(void)state;

	assert_int_equal(load(&e, sizeof e, NULL), 0);
	assert_int_equal(boot.entry, LOAD + offsetof(struct elf32, code));
	assert_int_equal(boot.load_hi, LOAD + 0x2000);
	/* A virtual entry is taken for the place it is loaded at. */
	e.eh.e_entry += 0xc0000000;
	assert_int_equal(load(&e, sizeof e, NULL), 0);
	assert_int_equal(boot.entry, LOAD + offsetof(struct elf32, code));
	e.eh.e_entry = 0xd0000000;
	assert_int_equal(load(&e, sizeof e, NULL), -ENOEXEC);
	assert_non_null(strstr(err, "entry point 0xd0000000 lies outside"));
	/* With addresses the ELF header does not count. */
	e = make_elf();
	e.flags |= ADDRESSES;
	e.checksum = -(MAGIC + e.flags);
	uint32_t addresses[5] = { 0x200000 + offsetof(struct elf32, magic), 0x200000, 0, 0, 0x200040 };
	memcpy(e.code, addresses, sizeof addresses);
	assert_int_equal(load(&e, sizeof e, NULL), 0);
	assert_int_equal(boot.entry, 0x200040);
	/* Neither addresses nor ELF. */
	e = make_elf();
	e.eh.e_ident[0] = 0;
	assert_int_equal(load(&e, sizeof e, NULL), -ENOEXEC);
	assert_non_null(strstr(err, "no ELF file"));
}

static void wishes(void **state)
{
	(void)state;
	for (unsigned bit = 3; bit < 16; bit++) {
		set_flags(ADDRESSES | 1u << bit);
		refused(-ENOEXEC, "requires something unknown");
	}
	set_flags(ADDRESSES | VIDEO); /* type 0: graphics */
	refused(-ENOEXEC, "requires a graphics mode");
	flat.mode = 1;
	flat.width = 132;
	refused(-ENOEXEC, "requires a graphics mode");
	flat.width = 80;
	flat.height = 50;
	refused(-ENOEXEC, "requires a graphics mode");
	flat.height = 25;
	assert_int_equal(load(&flat, sizeof flat, NULL), 0);
	flat.width = flat.height = 0; /* any */
	assert_int_equal(load(&flat, sizeof flat, NULL), 0);
	set_flags(ADDRESSES | 0xfffe0000); /* bits 17 and above may be ignored */
	assert_int_equal(load(&flat, sizeof flat, NULL), 0);
}

static void bad_addresses(void **state)
{
	(void)state;
	struct flat good = flat;
	flat.load_addr = LOAD + 20;
	refused(-ENOEXEC, "behind it");
	flat = good;
	flat.load_addr = LOAD - 4;
	refused(-ENOEXEC, "before the file does");
	flat = good;
	flat.load_end_addr = LOAD - 1;
	refused(-ENOEXEC, "the file has");
	flat.load_end_addr = LOAD + sizeof flat + 1;
	refused(-ENOEXEC, "the file has");
	flat = good;
	flat.bss_end_addr = LOAD + 8;
	refused(-ENOEXEC, "with its zeros");
	flat = good;
	flat.bss_end_addr = 0xffffffff;
	refused(-ENOMEM, "outside guest memory");
	flat = good;
	flat.entry_addr = LOAD - 1;
	refused(-ENOEXEC, "entry point");
	flat.entry_addr = flat.bss_end_addr;
	refused(-ENOEXEC, "entry point");
	flat = good;
	flat.header_addr = 0x7c10;
	flat.load_addr = 0x7c00;
	flat.entry_addr = 0x7c50;
	flat.bss_end_addr = 0;
	refused(-ENOEXEC, "below 1 MiB");
	flat.header_addr = 0xfffffff8;
	flat.load_addr = 0xffffffe8;
	refused(-ENOMEM, "outside guest memory");
	flat = good;
	flat.load_end_addr = LOAD + 100; /* a part of the file only */
	assert_int_equal(load(&flat, sizeof flat, NULL), 0);
	assert_int_equal(*(uint8_t *)guest_range(&mem, LOAD + 99, 1), 0x90);
	assert_int_equal(*(uint8_t *)guest_range(&mem, LOAD + 100, 1), 0);
}

/* Cut off anywhere, the file is loaded as far as it goes or refused; nothing behind its end is read. */
static void truncated(void **state)
{
	struct elf32 e = make_elf();
	(void)state;

	for (size_t len = 0; len < sizeof flat; len++) {
		int r = load(&flat, len, NULL);
		assert_int_equal(r, len < 16 + 32 ? -ENOEXEC : 0);
	}
	for (size_t len = 0; len < sizeof e; len++)
		assert_int_equal(load(&e, len, NULL), -ENOEXEC);
}

/* Any byte of the header changed: no crash, and what is loaded lies in guest memory. */
static void damaged(void **state)
{
	uint32_t x = 1;
	(void)state;

	for (unsigned i = 0; i < 20000; i++) {
		struct flat good = flat;
		for (unsigned n = 0; n < 3; n++) {
			x = x * 1664525 + 1013904223;
			((uint8_t *)&flat)[16 + (x >> 24) % 48] = (uint8_t)(x >> 16);
		}
		flat.magic = MAGIC;
		flat.checksum = -(flat.magic + flat.flags);
		if (!load(&flat, sizeof flat, NULL)) {
			assert_true(boot.load_lo >= LOAD && boot.load_hi <= SIZE && boot.load_lo < boot.load_hi);
			assert_true(boot.entry < SIZE);
		} else {
			assert_int_not_equal(strlen(err), 0);
		}
		flat = good;
	}
}

static void modules(void **state)
{
	char line[2][100];
	const char *list[2] = { line[0], line[1] };
	struct boot_request req = { .image = "kernel", .initrd = path[0], .module = list, .nmodules = 2 };
	static uint8_t big[10000];
	(void)state;

	memset(big, 'b', sizeof big);
	write_file(path[0], "initrd", 6);
	write_file(path[1], big, sizeof big);
	write_file(path[2], "x", 1);
	snprintf(line[0], sizeof line[0], "%s with=arguments  and blanks", path[1]);
	snprintf(line[1], sizeof line[1], "%s", path[2]);
	assert_int_equal(load(&flat, sizeof flat, &req), 0);
	assert_int_equal(word(boot.rbx + 20), 3);
	uint64_t m = word(boot.rbx + 24), end = boot.load_hi;
	const char *const strings[] = { path[0], line[0], line[1] };
	const size_t lengths[] = { 6, sizeof big, 1 };
	for (unsigned i = 0; i < 3; i++, m += 16) {
		/* One behind the other, none over the kernel's .bss. */
		assert_int_equal(word(m) % PAGE, 0);
		assert_true(word(m) >= end);
		end = word(m + 4);
		assert_int_equal(end - word(m), lengths[i]);
		assert_string_equal(text(word(m + 8)), strings[i]);
	}
	assert_true(end < boot.load_hi + 5 * PAGE);

	/* A kernel that leaves no room above it, and then none at all. */
	flat.header_addr = 0x600010;
	flat.load_addr = 0x600000;
	flat.entry_addr = 0x600050;
	flat.bss_end_addr = SIZE;
	assert_int_equal(load(&flat, sizeof flat, &req), 0);
	m = word(boot.rbx + 24);
	for (unsigned i = 0; i < 3; i++, m += 16)
		assert_true(word(m) >= LOAD && word(m + 4) <= 0x600000);
	flat.header_addr = LOAD + 16;
	flat.load_addr = LOAD;
	flat.entry_addr = LOAD + 80;
	assert_int_equal(load(&flat, sizeof flat, &req), -ENOMEM);
	assert_non_null(strstr(err, "the initrd"));
	assert_non_null(strstr(err, "does not fit"));
	req.initrd = NULL;
	assert_int_equal(load(&flat, sizeof flat, &req), -ENOMEM);
	assert_non_null(strstr(err, "the module"));

	flat.bss_end_addr = 0;
	snprintf(line[1], sizeof line[1], "%s/absent x", directory);
	assert_int_equal(load(&flat, sizeof flat, &req), -ENOENT);
	assert_non_null(strstr(err, "absent': No such file"));
	line[1][0] = 0;
	assert_true(load(&flat, sizeof flat, &req) < 0);
}

static void too_many_modules(void **state)
{
	const char *list[BOOT_MODULES + 1];
	struct boot_request req = { .image = "kernel", .module = list, .nmodules = BOOT_MODULES };
	(void)state;

	write_file(path[0], "m", 1);
	for (unsigned i = 0; i <= BOOT_MODULES; i++)
		list[i] = path[0];
	assert_int_equal(load(&flat, sizeof flat, &req), 0);
	assert_int_equal(word(boot.rbx + 20), BOOT_MODULES);
	req.initrd = path[0];
	assert_int_equal(load(&flat, sizeof flat, &req), -E2BIG);
	assert_non_null(strstr(err, "more than 16 modules"));

	static char line[BOOT_MODULE_TEXT_MAX + 1];
	memset(line, 'a', sizeof line - 1);
	memcpy(line, path[0], strlen(path[0]));
	line[strlen(path[0])] = ' ';
	list[0] = line;
	req = (struct boot_request){ .image = "kernel", .module = list, .nmodules = 1 };
	assert_int_equal(load(&flat, sizeof flat, &req), -E2BIG);
	assert_non_null(strstr(err, "longer than"));
	line[BOOT_MODULE_TEXT_MAX - 1] = 0;
	assert_int_equal(load(&flat, sizeof flat, &req), 0);
	assert_string_equal(text(word(word(boot.rbx + 24) + 8)), line);
	assert_int_equal(*text(BOOT_MODULE_TEXT + BOOT_MODULE_TEXT_MAX), 0);

	static char append[BOOT_CMDLINE_MAX];
	memset(append, 'a', sizeof append - 1);
	req = (struct boot_request){ .image = "kernel", .append = append };
	assert_int_equal(load(&flat, sizeof flat, &req), -E2BIG);
}

/* PVH has them, too; the other kinds of image say that they do not. */
static void modules_of_other_images(void **state)
{
	char line[100];
	const char *list[1] = { line };
	struct boot_request req = { .image = path[0], .module = list, .nmodules = 1 };
	struct elf32 e = make_elf();
	uint8_t sector[512] = { 0 };
	(void)state;

	write_file(path[1], "module", 6);
	snprintf(line, sizeof line, "%s args", path[1]);
	e.magic = 0;
	write_file(path[0], &e, sizeof e);
	assert_int_equal(boot_load(&mem, &req, &boot, err, sizeof err), 0);
	assert_string_equal(boot.kind, "ELF32");
	assert_int_equal(word(boot.rbx + 12), 1);
	uint64_t entry = word(boot.rbx + 16);
	assert_memory_equal(guest_range(&mem, word(entry), 6), "module", 6);
	assert_int_equal(word(entry + 8), 6);
	assert_string_equal(text(word(entry + 16)), line);
	sector[510] = 0x55;
	sector[511] = 0xaa;
	write_file(path[0], sector, sizeof sector);
	assert_int_equal(boot_load(&mem, &req, &boot, err, sizeof err), -ENOEXEC);
	assert_non_null(strstr(err, "modules are for multiboot and ELF images"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(loads_by_addresses), TEST(header_anywhere_in_the_first_8_kib), TEST(loads_elf), TEST(wishes), TEST(bad_addresses),
		TEST(truncated), TEST(damaged), TEST(modules), TEST(too_many_modules), TEST(modules_of_other_images),
	};
	if (!mkdtemp(directory))
		return 1;
	for (unsigned i = 0; i < 3; i++)
		snprintf(path[i], sizeof path[i], "%s/file%u", directory, i);
	int failed = cmocka_run_group_tests_name("multiboot", tests, NULL, NULL);
	for (unsigned i = 0; i < 3; i++)
		unlink(path[i]);
	return rmdir(directory) ? 1 : failed;
}
