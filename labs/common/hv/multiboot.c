/*
 * Multiboot version 1 (GNU, "Multiboot Specification version 0.6.96"; numbers of sections are its): how GRUB starts many small kernels. A
 * header with a magic number near the beginning of the file says what the kernel wants. The image itself is an ELF file, or, with flag 16,
 * anything at all whose addresses the header gives. A kernel for 64-bit mode in an ELF64 file starts here, too, in 32-bit mode.
 */
#define _GNU_SOURCE /* asprintf */
#include "boot.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEARCH 8192 /* 3.1: the whole header lies in this many bytes */
#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u /* in EAX */

/* 3.1.2. Bits 0 to 15 are requirements: a loader that does not know one must refuse. */
enum { WANT_ALIGNED = 1 << 0, WANT_MEMORY = 1 << 1, WANT_VIDEO = 1 << 2, HAS_ADDRESSES = 1 << 16 };
#define REQUIREMENTS 0xffffu
#define VIDEO_TEXT 1

struct header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; /* with HAS_ADDRESSES */
	uint32_t mode_type, width, height, depth;				  /* with WANT_VIDEO */
};
#define HEADER_MIN 12
#define HEADER_ADDRESSES 32

/* 3.3. */
enum { INFO_MEMORY = 1 << 0, INFO_CMDLINE = 1 << 2, INFO_MODULES = 1 << 3, INFO_MAP = 1 << 6, INFO_LOADER = 1 << 9 };
struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, boot_loader_name, apm_table;
	uint8_t video[44]; /* of VBE and of a frame buffer: there are none */
};

struct module {
	uint32_t start, end, string, reserved;
};

struct map_entry {
	uint32_t size; /* of what follows */
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

/* All of it in one piece of guest memory. */
struct block {
	struct info info;
	struct module module[BOOT_MODULES];
	struct map_entry map[BOOT_MAP_ENTRIES];
	char name[12];
};
_Static_assert(sizeof(struct header) == 48 && sizeof(struct info) == 116, "layout of the multiboot structures");
_Static_assert(BOOT_START_INFO + sizeof(struct block) <= BOOT_ZERO_PAGE, "the information fits in its page");

/* The header, with zeros behind what the file has of it, and where it lies in the file. false when there is none. */
static bool find_header(const uint8_t *image, size_t len, struct header *h, size_t *at)
{
	size_t end = len < SEARCH ? len : SEARCH;

	for (*at = 0; *at + HEADER_MIN <= end; *at += 4) {
		size_t n = end - *at < sizeof(*h) ? end - *at : sizeof(*h);
		*h = (struct header){ 0 };
		memcpy(h, image + *at, n);
		/* The sum, because the magic number alone also stands in the kernel's own code. */
		if (h->magic == HEADER_MAGIC && !(h->magic + h->flags + h->checksum))
			return true;
	}
	return false;
}

int multiboot_probe(const uint8_t *image, size_t len)
{
	struct header h;
	size_t at;

	return find_header(image, len, &h, &at);
}

static int check_wishes(const struct header *h, size_t header_len, char *err, size_t errlen)
{
	uint32_t unknown = h->flags & REQUIREMENTS & ~(uint32_t)(WANT_ALIGNED | WANT_MEMORY | WANT_VIDEO);

	if (unknown)
		return boot_fail(err, errlen, -ENOEXEC, "this kernel requires something unknown (multiboot flags 0x%x)",
				 unknown);
	if (header_len < HEADER_ADDRESSES && h->flags & HAS_ADDRESSES)
		return boot_fail(err, errlen, -ENOEXEC, "the multiboot header is truncated: it has %zu bytes", header_len);
	if (!(h->flags & WANT_VIDEO))
		return 0;
	if (header_len < sizeof(*h))
		return boot_fail(err, errlen, -ENOEXEC, "the multiboot header is truncated: it has %zu bytes", header_len);
	/* 0 stands for "any". What there is is what begins anyway. */
	if (h->mode_type != VIDEO_TEXT || (h->width && h->width != 80) || (h->height && h->height != 25))
		return boot_fail(
			err, errlen, -ENOEXEC,
			"this kernel requires a graphics mode (multiboot video type %u, %u x %u), and there is only text "
			"of 80 x 25",
			h->mode_type, h->width, h->height);
	return 0;
}

/* 3.1.3: the header's own addresses say what part of the file goes where. */
static int load_by_addresses(struct guest_mem *mem, const uint8_t *image, size_t len, const struct header *h, size_t at,
			     struct boot_state *boot, char *err, size_t errlen)
{
	if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > at)
		return boot_fail(err, errlen, -ENOEXEC,
				 "the multiboot header lies at 0x%x, and the image would begin at 0x%x, %s", h->header_addr,
				 h->load_addr, h->load_addr > h->header_addr ? "behind it" : "before the file does");
	size_t offset = at - (h->header_addr - h->load_addr), size = len - offset;
	uint64_t lo = h->load_addr, hi = lo + size;

	if (h->load_end_addr) {
		if (h->load_end_addr < lo || h->load_end_addr - lo > size)
			return boot_fail(err, errlen, -ENOEXEC,
					 "the image is to be loaded at 0x%llx-0x%x, and the file has %zu bytes for it",
					 (unsigned long long)lo, h->load_end_addr, size);
		size = h->load_end_addr - lo;
		hi = h->load_end_addr;
	}
	if (h->bss_end_addr) {
		if (h->bss_end_addr < hi)
			return boot_fail(err, errlen, -ENOEXEC,
					 "the image ends at 0x%llx, and with its zeros at 0x%x already",
					 (unsigned long long)hi, h->bss_end_addr);
		hi = h->bss_end_addr;
	}
	if (lo < BOOT_IMAGE_MIN)
		return boot_fail(err, errlen, -ENOEXEC,
				 "the image is to be loaded at 0x%llx, below 1 MiB, where the boot data is; link it at 1 "
				 "MiB or above",
				 (unsigned long long)lo);
	uint8_t *dst = guest_range(mem, lo, hi - lo);
	if (!dst)
		return boot_fail(err, errlen, -ENOMEM, "the image at 0x%llx-0x%llx lies outside guest memory of %llu MiB",
				 (unsigned long long)lo, (unsigned long long)hi, (unsigned long long)(mem->size / MiB));
	if (h->entry_addr < lo || h->entry_addr >= hi)
		return boot_fail(err, errlen, -ENOEXEC, "the entry point 0x%x lies outside the image", h->entry_addr);
	memcpy(dst, image + offset, size);
	memset(dst + size, 0, hi - lo - size);
	*boot = (struct boot_state){ .entry = h->entry_addr, .load_lo = lo, .load_hi = hi };
	return 0;
}

/* The command line begins with the image's name, as GRUB and QEMU pass it. */
static int write_cmdline(struct guest_mem *mem, const struct boot_request *req, char *err, size_t errlen)
{
	const char *append = req->append ? req->append : "";
	char *line;

	if (asprintf(&line, "%s%s%s", req->image, append[0] ? " " : "", append) < 0)
		return boot_fail(err, errlen, -ENOMEM, "the host has no memory for a command line");
	int r = boot_cmdline_write(mem, line, BOOT_CMDLINE_MAX - 1, err, errlen);
	free(line);
	return r;
}

static void write_info(struct guest_mem *mem, const struct boot_file *file, unsigned files)
{
	struct block *b = boot_area(mem, BOOT_START_INFO, sizeof(*b));
	struct boot_map_entry map[BOOT_MAP_ENTRIES];

	boot_memory_map(mem, map);
	for (unsigned i = 0; i < BOOT_MAP_ENTRIES; i++)
		b->map[i] = (struct map_entry){ sizeof(b->map[i]) - sizeof(b->map[i].size), map[i].gpa, map[i].len,
						map[i].type };
	for (unsigned i = 0; i < files; i++)
		b->module[i] = (struct module){
			.start = (uint32_t)file[i].gpa, /* guest memory ends below 4 GiB */
			.end = (uint32_t)(file[i].gpa + file[i].len),
			.string = (uint32_t)file[i].text,
		};
	strcpy(b->name, "Trapdoor");
	b->info = (struct info){
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MAP | INFO_LOADER,
		.mem_lower = (uint32_t)(map[0].len / KiB),
		.mem_upper = (uint32_t)((mem->size - 1 * MiB) / KiB),
		.cmdline = BOOT_CMDLINE,
		.mods_count = files,
		.mods_addr = files ? BOOT_START_INFO + offsetof(struct block, module) : 0,
		.mmap_length = sizeof(b->map),
		.mmap_addr = BOOT_START_INFO + offsetof(struct block, map),
		.boot_loader_name = BOOT_START_INFO + offsetof(struct block, name),
	};
}

int multiboot_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		   struct boot_state *boot, char *err, size_t errlen)
{
	struct boot_file file[BOOT_MODULES];
	struct header h;
	size_t at;

	if (!find_header(image, len, &h, &at))
		return boot_fail(err, errlen, -ENOEXEC, "there is no multiboot header in this file");
	int r = check_wishes(&h, (len < SEARCH ? len : SEARCH) - at, err, errlen);
	if (!r)
		r = h.flags & HAS_ADDRESSES ? load_by_addresses(mem, image, len, &h, at, boot, err, errlen)
		    : elf_probe(image, len)
			    ? elf_load_protected(mem, image, len, boot, err, errlen)
			    : boot_fail(err, errlen, -ENOEXEC,
					"this file has a multiboot header without addresses, and is no ELF file");
	if (!r)
		r = write_cmdline(mem, req, err, errlen);
	/* Right behind the image, as GRUB and QEMU put them: many kernels map only the first few MiB before they look. */
	if (!r)
		r = boot_modules_load(mem, req, boot, true, file, err, errlen);
	if (r < 0)
		return r;
	write_info(mem, file, (unsigned)r);
	boot->kind = "multiboot image";
	boot->mode = BOOT_PROTECTED;
	boot->rax = LOADER_MAGIC;
	boot->rbx = BOOT_START_INFO;
	return 0;
}
