/*
 * Two small correct ELF images, one of each class, and the guest memory that they are loaded into. Tests damage the images.
 */
#ifndef ELF_FIXTURE_H
#define ELF_FIXTURE_H

#include "guest_fixture.h"
#include "loader.h"

#include <elf.h>
#include <string.h>

#define SIZE (16 * MiB)
#define CODE 0x100000ull
#define DATA 0x200000ull

/* Two segments, the second with .bss behind it. */
struct image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	uint8_t code[16], data[16];
};

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

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST32(f) cmocka_unit_test_setup_teardown(f, setup32, teardown)

#endif
