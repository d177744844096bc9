// sources: elf.c boot.c mem.c
/* The ELF loader: every way in which a file can be wrong, and what is in memory when it is right. */
#include "elf_fixture.h"

#include <errno.h>
#include <stdlib.h>

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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
