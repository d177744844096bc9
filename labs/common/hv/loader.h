/*
 * Loaders: put a guest image into guest memory and say how its first instruction is reached.
 *
 * Both kinds of image start in 64-bit mode at CPL 0 with interrupts off, the first 4 GiB mapped one to one (2 MiB pages,
 * tables at BOOT_PML4), a flat GDT (BOOT_GDT) and no IDT. Difference: what RSI/RBX point to.
 *   ELF64 (the course's guests): RBX = gpa of a struct hvm_start_info (the PVH boot protocol's), version 1, with command
 *     line, memory map and, if given, the initrd as module 0.
 *   bzImage (Linux, protocol >= 2.12 with XLF_KERNEL_64): RSI = gpa of the zero page (Documentation/x86/boot.rst,
 *     "64-bit Boot Protocol").
 */
#ifndef HV_LOADER_H
#define HV_LOADER_H

#include "mem.h"

#include <stddef.h>
#include <stdint.h>

/* Where boot data lies: all below 640 KiB, so a guest may be linked at 1 MiB. */
#define BOOT_GDT 0x500         /* null, (unused), code64 at 0x10, data at 0x18, task 0x20 (Linux' __BOOT_CS and __BOOT_DS) */
#define BOOT_START_INFO 0x6000 /* struct hvm_start_info, module list, memory map */
#define BOOT_ZERO_PAGE 0x7000
#define BOOT_PML4 0x9000       /* PML4, PDPT, four page directories: 6 pages up to 0xefff */
#define BOOT_STACK 0x8ff0      /* initial RSP */
#define BOOT_CMDLINE 0x20000   /* at most BOOT_CMDLINE_MAX bytes with the terminating 0 */
#define BOOT_CMDLINE_MAX 2048
#define BOOT_ACPI 0xe0000      /* RSDP first, then the tables */
#define BOOT_CS 0x10
#define BOOT_DS 0x18

struct boot_request {
	const char *image;   /* file names */
	const char *initrd;  /* or NULL */
	const char *append;  /* command line, or NULL for an empty one */
};

/* More segments than any sensible linker script makes; a bound keeps the test for overlaps from becoming slow on a hostile file. */
#define ELF_SEGMENTS 64

struct boot_state {
	const char *kind; /* "ELF64" or "Linux bzImage" */
	uint64_t entry;   /* initial RIP */
	uint64_t rsi, rbx;
	uint64_t load_lo, load_hi; /* gpa range that the image occupies (hi exclusive) */
	struct boot_code {
		uint64_t lo, hi;
	} code[ELF_SEGMENTS]; /* ELF64: where the bytes of its executable segments lie */
	unsigned ncode;
};

/*
 * Loads the image that req names. 0, or -errno with one sentence for the user, without a newline, in err: missing or
 * unreadable file, directory, empty, unknown format, truncated, ELF32, other architecture, no loadable segment, segment
 * outside memory, segments that overlap each other or the boot data, entry outside all segments, bzImage too old, initrd
 * or command line too large. Nothing in the file is trusted.
 */
int boot_load(struct guest_mem *mem, const struct boot_request *req, struct boot_state *boot, char *err, size_t errlen);

/* The formats; image is the whole file in memory. Same errors as boot_load. */
int elf_load(struct guest_mem *mem, const uint8_t *image, size_t len, struct boot_state *boot, char *err, size_t errlen);
int bzimage_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		 struct boot_state *boot, char *err, size_t errlen);
/* True when the file begins like that format (so that the error can be about the format the user meant). */
int elf_probe(const uint8_t *image, size_t len);
int bzimage_probe(const uint8_t *image, size_t len);

/* Boot page tables and GDT (boot.c). */
void boot_tables_write(struct guest_mem *mem);
/* RSDP, XSDT, FADT, FACS, DSDT with \_S5 at BOOT_ACPI (acpi.c); returns the RSDP's gpa. */
uint64_t acpi_tables_write(struct guest_mem *mem);

/* Reads a whole regular file. 0 or -errno with a sentence in err; *data is malloc'ed. */
int file_read_all(const char *path, const char *what, uint8_t **data, size_t *len, char *err, size_t errlen);

#endif
