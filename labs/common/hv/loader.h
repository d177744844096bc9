/*
 * Loaders: put a guest image into guest memory and say how its first instruction is reached.
 *
 * All kinds of image start at CPL 0 with interrupts off.
 *
 * Two of them start in 64-bit mode, the first 4 GiB mapped one to one (2 MiB pages, tables at BOOT_PML4), with a flat GDT
 * (BOOT_GDT) and no IDT. Difference: what RSI/RBX point to.
 *   ELF64 whose e_entry is 64-bit code: RBX = gpa of a struct hvm_start_info (the PVH boot protocol's), version 1, with command line,
 *     memory map, and modules, of which the initrd, if given, is the first. An ELF64 with a PVH note is code that begins in 32-bit mode,
 *     and that is where it begins (below), unless it says that it has this entry, too: by a note of owner "Trapdoor", type
 *     TRAPDOOR_NOTE_LONG_ENTRY, with an empty descriptor. The course's guests have both, for hv and for bare QEMU.
 *   bzImage (Linux, protocol >= 2.12 with XLF_KERNEL_64): RSI = gpa of the zero page (Documentation/x86/boot.rst,
 *     "64-bit Boot Protocol").
 * The others start where a PC starts, and only an engine whose guest has all modes runs them (not trap):
 *   ELF32 (machine 386), and ELF64 by its PVH note (vmlinux): 32-bit protected mode, paging off, flat segments from the same GDT, no
 *     IDT, EBX = gpa of the same struct hvm_start_info. The entry is that of the PVH note (XEN_ELFNOTE_PHYS32_ENTRY) if there is one, else
 *     e_entry. (Xen, docs/misc/pvh.pandoc)
 *   Multiboot 1 (a file with such a header, an ELF file of either class or not): the same state of the CPU, EAX = 0x2badb002, EBX = gpa of
 *     the multiboot information with memory, command line (the image's name first), memory map, and modules. (multiboot.c)
 *   Boot sector (a file of 512 bytes to BOOT_SECTOR_MAX whose bytes 510 and 511 are 55 AA, and which is nothing of the above): real
 *     mode, loaded whole at BOOT_SECTOR, CS:IP = 0:7c00, the other segments 0, SP = 7c00, DL = 0x80. A BIOS loads only the first 512
 *     bytes; here the rest comes along, because there are no BIOS services to read it with. All 256 interrupt vectors lead to an
 *     IRET at BOOT_IRET, where IBM's BIOS had its own: a stray INT returns and has done nothing. The RSDP is found by looking for it.
 */
#ifndef HV_LOADER_H
#define HV_LOADER_H

#include "mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where boot data lies: all below 640 KiB, so a guest may be linked at 1 MiB. */
#define BOOT_GDT 0x500         /* null, code32 at 8, code64 at 0x10, data at 0x18, task 0x20 (Linux' __BOOT_CS and __BOOT_DS) */
#define BOOT_GDT_LIMIT 0x2f
#define BOOT_START_INFO 0x6000 /* struct hvm_start_info, module list, memory map */
#define BOOT_ZERO_PAGE 0x7000
#define BOOT_PML4 0x9000       /* PML4, PDPT, four page directories: 6 pages up to 0xefff */
#define BOOT_STACK 0x8ff0      /* initial RSP */
#define BOOT_CMDLINE 0x20000   /* at most BOOT_CMDLINE_MAX bytes with the terminating 0 */
#define BOOT_CMDLINE_MAX 2048
#define BOOT_MODULE_TEXT 0x21000 /* the lines of modules */
#define BOOT_MODULE_TEXT_MAX 0x2000u
#define BOOT_MODULES 16u /* with the initrd */
#define BOOT_ACPI 0xe0000      /* RSDP first, then the tables */
#define BOOT_CS32 0x08
#define BOOT_CS 0x10
#define BOOT_DS 0x18
/* Of a boot sector only. */
#define BOOT_IVT_LIMIT 0x3ff /* the real-mode interrupt vectors begin at 0 */
#define BOOT_SECTOR 0x7c00
#define BOOT_SECTOR_MAX 0x8000u
#define BOOT_IRET 0xfff53u

#define BOOT_VIRTIO_MAX 8

struct boot_request {
	const char *image;   /* file names */
	const char *initrd;  /* or NULL */
	const char *append;  /* command line, or NULL for an empty one */
	const char *const *module; /* each "FILE ARGUMENTS" */
	unsigned nmodules;
	/* The machine as ACPI and MP tables describe it to the guest. */
	unsigned cpus; /* with a local APIC each, and one IOAPIC; 0: the tables say nothing of CPUs and interrupts */
	struct boot_device {
		uint32_t gpa, len;
		unsigned gsi; /* edge-triggered, active high */
	} virtio[BOOT_VIRTIO_MAX]; /* virtio-mmio devices */
	unsigned nvirtio;
};

#define TRAPDOOR_NOTE_LONG_ENTRY 1

/* More segments than any sensible linker script makes; a bound keeps the test for overlaps from becoming slow on a hostile file. */
#define ELF_SEGMENTS 64

struct boot_state {
	const char *kind; /* "ELF64", "Linux bzImage", "ELF32", "multiboot image", "boot sector" */
	enum boot_mode { BOOT_LONG, BOOT_PROTECTED, BOOT_REAL } mode;
	uint64_t entry; /* initial RIP */
	uint64_t rax, rsi, rbx, rdx;
	uint64_t load_lo, load_hi; /* gpa range that the image occupies (hi exclusive) */
	struct boot_code {
		uint64_t lo, hi;
	} code[ELF_SEGMENTS]; /* ELF: where the bytes of its executable segments lie */
	unsigned ncode;
};

/*
 * Loads the image that req names. 0, or -errno with one sentence for the user, without a newline, in err: missing or
 * unreadable file, directory, empty, unknown format, truncated, other architecture, no loadable segment, segment
 * outside memory, segments that overlap each other or the boot data, malformed note, entry outside all segments, bzImage too
 * old, initrd or command line too large, boot sector too large or with one of these. Nothing in the file is trusted.
 */
int boot_load(struct guest_mem *mem, const struct boot_request *req, struct boot_state *boot, char *err, size_t errlen);

/* The formats; image is the whole file in memory. Same errors as boot_load. */
int elf_load(struct guest_mem *mem, const uint8_t *image, size_t len, struct boot_state *boot, char *err, size_t errlen);
int bzimage_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		 struct boot_state *boot, char *err, size_t errlen);
int multiboot_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		   struct boot_state *boot, char *err, size_t errlen);
int boot_sector_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		     struct boot_state *boot, char *err, size_t errlen);
/* True when the file begins like that format (so that the error can be about the format the user meant). */
int elf_probe(const uint8_t *image, size_t len);
int bzimage_probe(const uint8_t *image, size_t len);
int multiboot_probe(const uint8_t *image, size_t len); /* ask it before elf_probe(): most such files are ELF files */
/* A bzImage has the same two bytes at 510: ask bzimage_probe() first. */
int boot_sector_probe(const uint8_t *image, size_t len);

/* The guest's CPU as its image's kind is promised above; everything in *v but v->vm is set (boot_vcpu.c). */
struct vcpu;
void boot_vcpu(struct vcpu *v, const struct boot_state *boot);

/* Boot page tables and GDT (boot.c). */
void boot_tables_write(struct guest_mem *mem);
/* RSDP, XSDT, FADT, FACS, DSDT with \_S5 and devices, and with req->cpus a MADT, at BOOT_ACPI (acpi.c); returns the RSDP's gpa. */
uint64_t acpi_tables_write(struct guest_mem *mem, const struct boot_request *req);

/* Reads a whole regular file. 0 or -errno with a sentence in err; *data is malloc'ed. */
int file_read_all(const char *path, const char *what, uint8_t **data, size_t *len, char *err, size_t errlen);

#endif
