/*
 * What the loaders of all image formats share: boot data below 1 MiB, the memory map, the command line, the initrd.
 * loader.h is the public side; only the loaders, start_info.c, boot.c, acpi.c and mptable.c include this.
 *
 * Errors of all loaders: -ENOEXEC the file is not something that hv can start (wrong kind, malformed, truncated),
 * -ENOMEM it does not fit in guest memory, -E2BIG the command line is too long, or what open(2) and read(2) said.
 */
#ifndef HV_BOOT_H
#define HV_BOOT_H

#include "loader.h"

#include <stdbool.h>

/* Images begin here at the lowest: all that hv itself puts into guest memory for the start lies below. */
#define BOOT_IMAGE_MIN (1 * MiB)

/* The memory map as a PC's BIOS would tell it. Types as in ACPI 6.5 table 15.3 (e820 and PVH use the same numbers). */
#define BOOT_MAP_ENTRIES 3
enum { BOOT_MAP_RAM = 1, BOOT_MAP_RESERVED = 2 };
struct boot_map_entry {
	uint64_t gpa, len;
	uint32_t type;
};
void boot_memory_map(const struct guest_mem *mem, struct boot_map_entry map[BOOT_MAP_ENTRIES]);

/*
 * Interrupt wires, as the MADT and the MP table both tell them. Where they differ from "ISA interrupt n is edge-triggered, active high,
 * and on pin n of the IOAPIC": the 8254 is on pin 2, as in every PC, and ACPI's own interrupt is level-triggered.
 */
#define LAPIC_GPA 0xfee00000u
#define IOAPIC_GPA 0xfec00000u
#define IOAPIC_ID 0 /* as its own register says after a reset */
#define IOAPIC_VERSION 0x11
#define IOAPIC_PIN_IRQ0 2
#define CASCADE_IRQ 2 /* joins the two 8259: no interrupt of its own */
#define ACPI_SCI_IRQ 9
#define MP_LEVEL_HIGH 0x0d /* polarity 1: active high; trigger mode 3: level (MP 1.4, table 4-10; ACPI 6.5, table 5.26) */

/* The byte that makes the sum of all len bytes 0. The place where it goes still holds 0. */
uint8_t boot_checksum(const void *data, size_t len);

/* Stores one sentence (printf style) in err and returns error. */
int boot_fail(char *err, size_t errlen, int error, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Zeroed boot data at a BOOT_* address. It always fits: a guest has at least MEM_MIN. */
void *boot_area(const struct guest_mem *mem, uint64_t gpa, uint64_t len);

/* Puts the command line (NULL: an empty one) at BOOT_CMDLINE. limit: longest one the image takes, without the final 0. */
int boot_cmdline_write(struct guest_mem *mem, const char *append, size_t limit, char *err, size_t errlen);

/* A file that lies in guest memory beside the image (boot_module.c). */
struct boot_file {
	uint64_t gpa, len; /* len 0: there is none */
	uint64_t text;     /* gpa of its line, "FILE ARGUMENTS"; 0: none */
};
/* Where such files may lie: page aligned, outside of the image. above_lo to above_hi, and if that is too small 1 MiB to below_hi. */
struct boot_room {
	uint64_t above_lo, above_hi, below_hi;
};
/* All room that a loaded image leaves, with the last byte not above max_addr. */
struct boot_room boot_room(const struct guest_mem *mem, const struct boot_state *boot, uint64_t max_addr);
/* Reads a file into room, which becomes smaller: as low as it goes, or as high. what: what it is called when something is wrong. */
int boot_file_load(struct guest_mem *mem, const char *path, const char *what, struct boot_room *room, bool low, struct boot_file *file,
		   char *err, size_t errlen);
/* The initrd that req names, if it names one, as high as it goes: above the image if there is room, because the guest's allocations begin
 * low; else below it. */
int boot_initrd_load(struct guest_mem *mem, const struct boot_request *req, const struct boot_state *boot, uint64_t max_addr,
		     struct boot_file *initrd, char *err, size_t errlen);
/* The initrd as module 0, if there is one, and the modules that req names, with their lines at BOOT_MODULE_TEXT. How many there are, or
 * -errno. */
int boot_modules_load(struct guest_mem *mem, const struct boot_request *req, const struct boot_state *boot, bool low,
		      struct boot_file file[BOOT_MODULES], char *err, size_t errlen);

/* An ELF file of either class by its e_entry in 32-bit protected mode, whatever notes it has; for multiboot (elf.c). */
int elf_load_protected(struct guest_mem *mem, const uint8_t *image, size_t len, struct boot_state *boot, char *err, size_t errlen);

/* Writes struct hvm_start_info for an ELF guest, with command line, initrd and modules; sets boot->rbx (start_info.c). */
int start_info_write(struct guest_mem *mem, const struct boot_request *req, struct boot_state *boot, char *err,
		     size_t errlen);

#endif
