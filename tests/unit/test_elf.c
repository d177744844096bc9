// sources: elf.c boot_sector.c boot_vcpu.c loader.c multiboot.c boot_module.c boot.c start_info.c bzimage.c acpi.c acpi_aml.c mptable.c mem.c
/* The ELF loader and boot_load(): every way in which a file can be wrong, and what a guest finds when it is right. */
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (16 * MiB)
#define CODE 0x100000ull
#define DATA 0x200000ull

/* A small correct image: two segments, the second with .bss behind it. Tests damage it. */
struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	uint8_t code[16], data[16];
};

static struct guest_mem mem;
static struct image image;
static struct boot_state boot;
static char err[256];

static Elf64_Phdr segment(uint64_t offset, uint64_t paddr, uint64_t filesz, uint64_t memsz)
{
	return (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = offset, .p_vaddr = paddr, .p_paddr = paddr, .p_filesz = filesz, .p_memsz = memsz,
	};
}

static int setup(void **state)
{
	(void)state;
	memset(&image, 0, sizeof(image));
	memcpy(image.eh.e_ident, ELFMAG, SELFMAG);
	image.eh.e_ident[EI_CLASS] = ELFCLASS64;
	image.eh.e_ident[EI_DATA] = ELFDATA2LSB;
	image.eh.e_ident[EI_VERSION] = EV_CURRENT;
	image.eh.e_type = ET_EXEC;
	image.eh.e_machine = EM_X86_64;
	image.eh.e_entry = CODE + 4;
	image.eh.e_phoff = offsetof(struct image, ph);
	image.eh.e_phentsize = sizeof(Elf64_Phdr);
	image.eh.e_phnum = 3;
	image.ph[0] = (Elf64_Phdr){ .p_type = PT_GNU_STACK, .p_offset = UINT64_MAX, .p_paddr = 0 }; /* not looked at */
	image.ph[1] = segment(offsetof(struct image, code), CODE, sizeof(image.code), sizeof(image.code));
	image.ph[2] = segment(offsetof(struct image, data), DATA, sizeof(image.data), 0x1000);
	memset(image.code, 0xc0, sizeof(image.code));
	memset(image.data, 0xda, sizeof(image.data));
	memset(err, 0, sizeof(err));
	return guest_mem_create(&mem, SIZE);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

/* The sentence has to name the cause, fit in one line, and nothing may have been loaded. */
static void refused_len(size_t len, int error, const char *cause)
{
	/* A copy of exactly that length lets the address sanitizer see any read behind the end. */
	uint8_t *copy = malloc(len ? len : 1);
	memcpy(copy, &image, len);
	int r = elf_load(&mem, copy, len, &boot, err, sizeof(err));
	free(copy);
	assert_int_equal(r, error);
	if (!strstr(err, cause))
		fail_msg("'%s' does not say '%s'", err, cause);
	assert_null(strchr(err, '\n'));
	assert_int_equal(*(uint8_t *)guest_range(&mem, CODE, 1), 0);
}

static void refused(int error, const char *cause)
{
	refused_len(sizeof(image), error, cause);
}

static void test_loads(void **state)
{
	(void)state;
	memset(guest_range(&mem, DATA, 0x2000), 0xff, 0x2000);
	assert_int_equal(elf_load(&mem, (uint8_t *)&image, sizeof(image), &boot, err, sizeof(err)), 0);
	assert_string_equal(boot.kind, "ELF64");
	assert_int_equal(boot.mode, BOOT_LONG);
	assert_int_equal(boot.entry, CODE + 4);
	assert_int_equal(boot.load_lo, CODE);
	assert_int_equal(boot.load_hi, DATA + 0x1000);
	assert_memory_equal(guest_range(&mem, CODE, 16), image.code, 16);
	assert_memory_equal(guest_range(&mem, DATA, 16), image.data, 16);
	const uint8_t *bss = guest_range(&mem, DATA + 16, 0x1000);
	for (unsigned i = 0; i < 0x1000 - 16; i++)
		assert_int_equal(bss[i], 0);
	assert_int_equal(bss[0x1000 - 16], 0xff); /* and not one byte further */
}

static void test_probe(void **state)
{
	(void)state;
	assert_true(elf_probe((uint8_t *)&image, 4));
	assert_false(elf_probe((uint8_t *)&image, 3));
	assert_false(elf_probe((const uint8_t *)"\x7f" "ELE", 4));
}

static void test_truncated_header(void **state)
{
	(void)state;
	for (size_t len = 4; len < sizeof(image.eh); len++)
		refused_len(len, -ENOEXEC, "truncated");
}

static void test_truncated_segment(void **state)
{
	(void)state;
	refused_len(sizeof(image) - 1, -ENOEXEC, "truncated: segment 2");
	image.ph[1].p_offset = UINT64_MAX; /* offset + size wraps */
	refused(-ENOEXEC, "truncated: segment 1");
	image.ph[1].p_offset = sizeof(image) + 1;
	refused(-ENOEXEC, "truncated: segment 1");
}

static void test_elf32_of_another_kind(void **state)
{
	(void)state;
	image.eh.e_ident[EI_CLASS] = ELFCLASS32; /* x32: a 64-bit program with 32-bit pointers */
	refused(-ENOEXEC, "x86-64, machine 62), not 32-bit x86");
	refused_len(52, -ENOEXEC, "32-bit x86"); /* a whole ELF32 header: shorter than an ELF64 one, yet not truncated */
	refused_len(51, -ENOEXEC, "truncated: 51 bytes, and the ELF header alone has 52");
	image.eh.e_ident[EI_CLASS] = ELFCLASS64;
	image.eh.e_machine = EM_386;
	refused(-ENOEXEC, "32-bit x86, machine 3), not x86-64");
}

static void test_bad_class(void **state)
{
	(void)state;
	image.eh.e_ident[EI_CLASS] = 7;
	refused(-ENOEXEC, "class 7");
}

static void test_other_architecture(void **state)
{
	(void)state;
	image.eh.e_machine = EM_AARCH64;
	refused(-ENOEXEC, "AArch64");
	image.eh.e_machine = 0xfffe;
	refused(-ENOEXEC, "machine 65534");
}

static void test_big_endian(void **state)
{
	(void)state;
	image.eh.e_ident[EI_DATA] = ELFDATA2MSB;
	image.eh.e_machine = EM_X86_64 << 8;
	refused(-ENOEXEC, "big-endian");
}

static void test_not_executable(void **state)
{
	(void)state;
	image.eh.e_type = ET_DYN;
	refused(-ENOEXEC, "position independent");
	image.eh.e_type = ET_REL;
	refused(-ENOEXEC, "not an executable");
}

static void test_program_headers_outside(void **state)
{
	(void)state;
	image.eh.e_phnum = 0xffff; /* times e_phentsize is more than the file has */
	refused(-ENOEXEC, "program headers lie outside");
	image.eh.e_phnum = 3;
	image.eh.e_phoff = UINT64_MAX - 8; /* e_phoff + e_phnum * e_phentsize wraps */
	refused(-ENOEXEC, "program headers lie outside");
	image.eh.e_phoff = sizeof(image) - sizeof(image.ph) + 1;
	refused(-ENOEXEC, "program headers lie outside");
	image.eh.e_phoff = sizeof(image.eh);
	image.eh.e_phentsize = 0xffff;
	refused(-ENOEXEC, "program headers of 65535 bytes");
	image.eh.e_phentsize = 0;
	refused(-ENOEXEC, "program headers of 0 bytes");
}

static void test_filesz_over_memsz(void **state)
{
	(void)state;
	image.ph[2].p_memsz = image.ph[2].p_filesz - 1;
	refused(-ENOEXEC, "segment 2 has more bytes in the file");
}

static void test_segment_wraps(void **state)
{
	(void)state;
	image.ph[2].p_memsz = UINT64_MAX;
	refused(-ENOEXEC, "segment 2 at 0x200000 wraps");
	image.ph[2].p_memsz = 0x1000;
	image.ph[2].p_paddr = UINT64_MAX - 0xffe;
	refused(-ENOEXEC, "wraps");
}

static void test_segment_outside_memory(void **state)
{
	(void)state;
	image.ph[2].p_paddr = SIZE - 0xfff;
	refused(-ENOMEM, "outside guest memory of 16 MiB");
	image.ph[2].p_paddr = 1ull << 40;
	refused(-ENOMEM, "segment 2");
	image.ph[2].p_paddr = SIZE - 0x1000; /* up to the last byte is fine */
	assert_int_equal(elf_load(&mem, (uint8_t *)&image, sizeof(image), &boot, err, sizeof(err)), 0);
}

static void test_segments_overlap(void **state)
{
	(void)state;
	image.ph[2].p_paddr = CODE + 15;
	refused(-ENOEXEC, "segments 1 and 2 overlap");
	image.ph[2].p_paddr = CODE;
	refused(-ENOEXEC, "overlap");
	image.ph[1].p_paddr = DATA + 0x800; /* inside the .bss of the other */
	image.ph[2].p_paddr = DATA;
	refused(-ENOEXEC, "overlap");
	image.ph[1].p_paddr = CODE;
	image.ph[2].p_paddr = CODE + 16; /* side by side is fine */
	assert_int_equal(elf_load(&mem, (uint8_t *)&image, sizeof(image), &boot, err, sizeof(err)), 0);
}

static void test_segment_over_boot_data(void **state)
{
	static const uint64_t places[] = { 0, BOOT_GDT, BOOT_PML4, 0xe0000, 0xfffff };

	(void)state;
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		image.ph[2].p_paddr = places[i];
		refused(-ENOEXEC, "below 1 MiB");
	}
}

static void test_entry_outside(void **state)
{
	static const uint64_t entries[] = { 0, CODE - 1, CODE + 16, DATA + 0x1000, 0xffffffff81000000 };

	(void)state;
	for (unsigned i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		image.eh.e_entry = entries[i];
		refused(-ENOEXEC, "entry point");
	}
}

static void test_no_segment(void **state)
{
	(void)state;
	image.ph[1].p_type = PT_NULL;
	image.ph[2].p_filesz = image.ph[2].p_memsz = 0; /* occupies nothing, so it does not count */
	refused(-ENOEXEC, "no loadable segment");
	image.eh.e_phnum = 0;
	image.eh.e_phentsize = 0;
	refused(-ENOEXEC, "no loadable segment");
}

static void test_too_many_segments(void **state)
{
	enum { N = 65 };
	struct {
		Elf64_Ehdr eh;
		Elf64_Phdr ph[N];
	} many = { .eh = image.eh };

	(void)state;
	many.eh.e_phnum = N;
	for (unsigned i = 0; i < N; i++)
		many.ph[i] = segment(0, CODE + i * 0x1000, 0, 0x1000);
	assert_int_equal(elf_load(&mem, (uint8_t *)&many, sizeof(many), &boot, err, sizeof(err)), -ENOEXEC);
	assert_non_null(strstr(err, "more than 64"));
}

/* Of a 64-bit image the notes say which of its two entries counts. */
static void test_entries_of_elf64(void **state)
{
	struct {
		struct image image;
		struct {
			Elf64_Nhdr head;
			char name[4];
			uint64_t entry;
		} __attribute__((packed)) pvh;
		struct {
			Elf64_Nhdr head;
			char name[12];
		} own;
	} file = { .pvh = { { 4, 8, 18 }, "Xen", CODE + 8 }, .own = { { 9, 0, TRAPDOOR_NOTE_LONG_ENTRY }, "Trapdoor" } };
	Elf64_Phdr note = { .p_type = PT_NOTE, .p_offset = sizeof(image), .p_filesz = sizeof(file.pvh) + sizeof(file.own) };
	(void)state;

	image.ph[0] = note;
	file.image = image;
	/* Both: the 64-bit one, on all engines. */
	assert_int_equal(elf_load(&mem, (uint8_t *)&file, sizeof(file), &boot, err, sizeof(err)), 0);
	assert_int_equal(boot.mode, BOOT_LONG);
	assert_int_equal(boot.entry, CODE + 4);
	/* The PVH note alone, as in vmlinux. */
	file.image.ph[0].p_filesz = sizeof(file.pvh);
	assert_int_equal(elf_load(&mem, (uint8_t *)&file, sizeof(file), &boot, err, sizeof(err)), 0);
	assert_int_equal(boot.mode, BOOT_PROTECTED);
	assert_int_equal(boot.entry, CODE + 8);
	/* Of another owner with a name as long: not ours. */
	file.image.ph[0].p_filesz = note.p_filesz;
	file.own.name[0] = 'X';
	assert_int_equal(elf_load(&mem, (uint8_t *)&file, sizeof(file), &boot, err, sizeof(err)), 0);
	assert_int_equal(boot.mode, BOOT_PROTECTED);
	/* Our note without a PVH note changes nothing. */
	file.own.name[0] = 'T';
	file.pvh.name[0] = 'Y';
	assert_int_equal(elf_load(&mem, (uint8_t *)&file, sizeof(file), &boot, err, sizeof(err)), 0);
	assert_int_equal(boot.mode, BOOT_LONG);
	/* A damaged note is refused in this class, too. */
	file.image.ph[0].p_filesz++;
	assert_int_equal(elf_load(&mem, (uint8_t *)&file, sizeof(file), &boot, err, sizeof(err)), -ENOEXEC);
	assert_non_null(strstr(err, "end behind its end"));
}

/* --- 32-bit images ------------------------------------------------------------------------------------------------------ */

/* The same with 32 bits, and a PVH note that names another entry. */
static struct image32 {
	Elf32_Ehdr eh;
	Elf32_Phdr ph[3];
	struct {
		Elf32_Nhdr head;
		char name[4];
		uint32_t entry;
	} note[2];
	uint8_t code[16], data[16];
} image32;

static Elf32_Phdr segment32(uint32_t type, uint32_t offset, uint32_t paddr, uint32_t size)
{
	return (Elf32_Phdr){ .p_type = type, .p_offset = offset, .p_vaddr = 0xc0000000 + paddr, .p_paddr = paddr, .p_filesz = size,
			     .p_memsz = size, .p_flags = PF_R | PF_X };
}

static int setup32(void **state)
{
	image32 = (struct image32){
		.eh = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC, .e_machine = EM_386, .e_entry = CODE + 4, .e_phoff = offsetof(struct image32, ph),
			.e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 3 },
		.ph = { segment32(PT_NOTE, offsetof(struct image32, note), 0, sizeof(image32.note)),
			segment32(PT_LOAD, offsetof(struct image32, code), CODE, sizeof(image32.code)),
			segment32(PT_LOAD, offsetof(struct image32, data), DATA, sizeof(image32.data)) },
		.note = { { { 4, 4, 1 }, "GNU", 7 }, { { 4, 4, 18 }, "Xen", CODE + 8 } },
	};
	image32.ph[2].p_memsz = 0x1000;
	memset(image32.code, 0xc0, sizeof(image32.code));
	memset(image32.data, 0xda, sizeof(image32.data));
	return setup(state);
}

static int load32(size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	memcpy(copy, &image32, len);
	int r = elf_load(&mem, copy, len, &boot, err, sizeof(err));
	free(copy);
	return r;
}

static void refused32(size_t len, int error, const char *cause)
{
	assert_int_equal(load32(len), error);
	if (!strstr(err, cause))
		fail_msg("'%s' does not say '%s'", err, cause);
	assert_int_equal(*(uint8_t *)guest_range(&mem, CODE, 1), 0);
}

static void test_loads32(void **state)
{
	(void)state;
	memset(guest_range(&mem, DATA, 0x2000), 0xff, 0x2000);
	assert_int_equal(load32(sizeof(image32)), 0);
	assert_string_equal(boot.kind, "ELF32");
	assert_int_equal(boot.mode, BOOT_PROTECTED);
	assert_int_equal(boot.entry, CODE + 8);
	assert_int_equal(boot.load_lo, CODE);
	assert_int_equal(boot.load_hi, DATA + 0x1000);
	assert_int_equal(boot.ncode, 2);
	assert_memory_equal(guest_range(&mem, CODE, 16), image32.code, 16);
	assert_memory_equal(guest_range(&mem, DATA, 16), image32.data, 16);
	assert_int_equal(*(uint8_t *)guest_range(&mem, DATA + 0xfff, 1), 0); /* .bss */
	assert_int_equal(*(uint8_t *)guest_range(&mem, DATA + 0x1000, 1), 0xff);

	image32.note[1].name[0] = 'Z'; /* somebody else's note: the header's entry counts */
	assert_int_equal(load32(sizeof(image32)), 0);
	assert_int_equal(boot.entry, CODE + 4);
	memcpy(image32.note[1].name, "Xen", 4);
	image32.note[1].head.n_type = 17;
	assert_int_equal(load32(sizeof(image32)), 0);
	assert_int_equal(boot.entry, CODE + 4);
}

static void test_bad_elf32(void **state)
{
	(void)state;
	for (size_t len = 5; len < sizeof(image32.eh); len++)
		refused32(len, -ENOEXEC, "truncated");
	refused32(sizeof(image32) - 1, -ENOEXEC, "truncated: segment 2");
	image32.eh.e_phoff = UINT32_MAX;
	refused32(sizeof(image32), -ENOEXEC, "program headers lie outside");
	image32.eh.e_phoff = offsetof(struct image32, ph);
	image32.eh.e_phentsize = sizeof(Elf64_Phdr);
	refused32(sizeof(image32), -ENOEXEC, "program headers of 56 bytes; ELF32 has 32");
	image32.eh.e_phentsize = sizeof(Elf32_Phdr);
	image32.ph[2].p_paddr = UINT32_MAX - 0xffe;
	refused32(sizeof(image32), -ENOMEM, "outside guest memory");
	image32.ph[2].p_paddr = CODE;
	refused32(sizeof(image32), -ENOEXEC, "overlap");
	image32.ph[2].p_paddr = 0x7c00;
	refused32(sizeof(image32), -ENOEXEC, "below 1 MiB");
	image32.ph[2].p_paddr = DATA;
	image32.note[1].entry = CODE + 16;
	refused32(sizeof(image32), -ENOEXEC, "entry point 0x100010 lies outside");
}

static void test_malformed_notes(void **state)
{
	(void)state;
	image32.ph[0].p_filesz = sizeof(image32);
	refused32(sizeof(image32), -ENOEXEC, "the notes in segment 0 end behind its end");
	image32.ph[0].p_filesz = sizeof(image32.note) - 1;
	refused32(sizeof(image32), -ENOEXEC, "notes in segment 0 are malformed");
	image32.ph[0].p_filesz = sizeof(image32.note[0]) + 5; /* not even a note's header */
	refused32(sizeof(image32), -ENOEXEC, "malformed");
	image32.ph[0].p_filesz = sizeof(image32.note);
	image32.note[0].head.n_namesz = UINT32_MAX; /* plus what pads it, more than 32 bits hold */
	refused32(sizeof(image32), -ENOEXEC, "malformed");
	image32.note[0].head.n_namesz = 4;
	image32.note[0].head.n_descsz = UINT32_MAX - 2;
	refused32(sizeof(image32), -ENOEXEC, "malformed");
}

/* Whatever a byte of the headers is, the loader ends with an answer and, if it loads, with an entry in what it loaded. */
static void test_damaged_elf32(void **state)
{
	struct image32 good = image32;

	(void)state;
	for (size_t at = 4; at < offsetof(struct image32, code); at++)
		for (unsigned byte = 0; byte < 256; byte++) {
			image32 = good;
			((uint8_t *)&image32)[at] = (uint8_t)byte;
			int r = load32(sizeof(image32));
			assert_true(r == 0 || r == -ENOEXEC || r == -ENOMEM);
			if (!r)
				assert_true(boot.load_lo <= boot.entry && boot.entry < boot.load_hi);
		}
}

/* --- boot sectors ------------------------------------------------------------------------------------------------------- */

static uint8_t sector[BOOT_SECTOR_MAX + 1];

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

/* --- boot_load(): files, and what a guest finds at RBX ------------------------------------------------------------------- */

static char path[] = "/tmp/hv-test-elf-XXXXXX", initrd_path[] = "/tmp/hv-test-initrd-XXXXXX";

static void write_file(char *name, const void *data, size_t len)
{
	strcpy(name + strlen(name) - 6, "XXXXXX"); /* mkstemp() has replaced them in the test before */
	int fd = mkstemp(name);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static uint64_t get(uint64_t gpa, unsigned size)
{
	uint64_t value = 0;
	assert_int_equal(guest_read(&mem, gpa, &value, size), 0);
	return value;
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
	memset(sector, 0, sizeof(sector));
	sector[510] = 0x55, sector[511] = 0xaa;
	memcpy(sector + 0x202, "HdrS", 4);
	write_file(path, sector, 1024);
	file_refused(&req, -ENOEXEC, "this kernel is too old");
	memset(sector + 0x202, 0, 4);
	write_file(path, sector, 1024);
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST32(f) cmocka_unit_test_setup_teardown(f, setup32, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_loads),
		TEST(test_probe),
		TEST(test_truncated_header),
		TEST(test_truncated_segment),
		TEST(test_elf32_of_another_kind),
		TEST(test_bad_class),
		TEST(test_other_architecture),
		TEST(test_big_endian),
		TEST(test_not_executable),
		TEST(test_program_headers_outside),
		TEST(test_filesz_over_memsz),
		TEST(test_segment_wraps),
		TEST(test_segment_outside_memory),
		TEST(test_segments_overlap),
		TEST(test_segment_over_boot_data),
		TEST(test_entry_outside),
		TEST(test_no_segment),
		TEST(test_too_many_segments),
		TEST(test_entries_of_elf64),
		TEST32(test_loads32),
		TEST32(test_bad_elf32),
		TEST32(test_malformed_notes),
		TEST32(test_damaged_elf32),
		TEST(test_boot_sector),
		TEST(test_bad_boot_sector),
		TEST(test_start_info),
		TEST32(test_start_of_the_other_kinds),
		TEST(test_boot_tables),
		TEST(test_bad_files),
		TEST(test_bad_initrd_and_command_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
