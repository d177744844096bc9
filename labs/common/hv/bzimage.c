/* Linux bzImage by the 64-bit boot protocol (Linux source, Documentation/x86/boot.rst). */
#include "boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#define SECTOR 512
#define HEADER_AT 0x1f1   /* struct setup_header in the file and in the zero page */
#define HEADER_JUMP 0x201 /* operand of the short jump over the header: the header ends at 0x202 + this byte */
#define HEADER_MAGIC_AT 0x202
#define HEADER_MAGIC 0x53726448 /* "HdrS" */
#define PROTOCOL_MIN 0x020c     /* the first with xloadflags */
#define ENTRY_64 0x200          /* offset of startup_64 in the protected-mode part */
#define LOADER_UNDEFINED 0xff   /* type_of_loader for those without a registered number */

int bzimage_probe(const uint8_t *image, size_t len)
{
	uint32_t magic;

	if (len < HEADER_MAGIC_AT + sizeof(magic))
		return 0;
	memcpy(&magic, image + HEADER_MAGIC_AT, sizeof(magic));
	return magic == HEADER_MAGIC;
}

/* The setup header and where the protected-mode part lies in the file. */
struct bzimage {
	struct setup_header hdr;
	const uint8_t *kernel;
	uint64_t kernel_len;
};

static int parse(const uint8_t *image, size_t len, struct bzimage *bz, char *err, size_t errlen)
{
	if (!bzimage_probe(image, len))
		return boot_fail(err, errlen, -ENOEXEC, "this is not a Linux bzImage");
	/*
	 * An older kernel has a shorter header, followed by code: fields behind its end must read as 0. A newer kernel may
	 * have a longer one than this program knows.
	 */
	size_t hdr_len = HEADER_MAGIC_AT + image[HEADER_JUMP] - HEADER_AT;
	if (hdr_len > sizeof(bz->hdr))
		hdr_len = sizeof(bz->hdr);
	if (HEADER_AT + hdr_len > len)
		return boot_fail(err, errlen, -ENOEXEC, "the file is truncated inside the bzImage setup header");
	memset(bz, 0, sizeof(*bz));
	memcpy(&bz->hdr, image + HEADER_AT, hdr_len);

	const struct setup_header *h = &bz->hdr;
	if (h->version < PROTOCOL_MIN)
		return boot_fail(err, errlen, -ENOEXEC, "this kernel is too old: boot protocol %u.%02u, and 2.12 is needed",
				 h->version >> 8, h->version & 0xff);
	if (!(h->xloadflags & XLF_KERNEL_64))
		return boot_fail(err, errlen, -ENOEXEC, "this kernel has no 64-bit entry point (XLF_KERNEL_64 is not set)");
	if (!(h->loadflags & LOADED_HIGH))
		return boot_fail(err, errlen, -ENOEXEC, "this kernel is a zImage for low memory (LOADED_HIGH is not set)");

	size_t setup_len = ((h->setup_sects ? h->setup_sects : 4) + 1u) * SECTOR; /* 0 stands for 4; plus the boot sector */
	if (setup_len > len)
		return boot_fail(err, errlen, -ENOEXEC, "the file is truncated: %zu bytes, and the setup part alone has %zu",
				 len, setup_len);
	bz->kernel = image + setup_len;
	bz->kernel_len = h->syssize * 16ull; /* what follows it in the file, such as a signature, is not loaded */
	if (bz->kernel_len > len - setup_len)
		return boot_fail(err, errlen, -ENOEXEC, "the file is truncated: it has %zu of %llu bytes of the kernel",
				 len - setup_len, (unsigned long long)bz->kernel_len);
	if (bz->kernel_len <= ENTRY_64)
		return boot_fail(err, errlen, -ENOEXEC,
				 "the kernel part of %llu bytes is too short for a 64-bit entry point",
				 (unsigned long long)bz->kernel_len);
	return 0;
}

/*
 * Where the kernel goes. The compressed kernel moves itself up to pref_address before it unpacks, even when it was loaded
 * lower (boot.rst, init_size), so from there on init_size bytes must exist; a lower place would only hide the shortage until
 * the guest dies of it. Fills in boot.
 */
static int place(const struct guest_mem *mem, const struct bzimage *bz, struct boot_state *boot, char *err, size_t errlen)
{
	const struct setup_header *h = &bz->hdr;
	uint64_t align = h->kernel_alignment, gpa = h->pref_address;
	uint64_t need = h->init_size > bz->kernel_len ? h->init_size : bz->kernel_len;

	if (h->relocatable_kernel) {
		if (!align || align & (align - 1))
			return boot_fail(err, errlen, -ENOEXEC,
					 "the kernel asks for an alignment of 0x%llx, no power of two",
					 (unsigned long long)align);
		if (gpa < BOOT_IMAGE_MIN)
			gpa = BOOT_IMAGE_MIN;
		if (gpa <= mem->size) /* else it does not fit anyway, and rounding up might wrap */
			gpa = (gpa + align - 1) & ~(align - 1);
	} else if (gpa < BOOT_IMAGE_MIN) {
		return boot_fail(err, errlen, -ENOEXEC,
				 "the kernel must be loaded at 0x%llx, below 1 MiB, where the boot data is",
				 (unsigned long long)gpa);
	}
	if (!guest_range(mem, gpa, need))
		return boot_fail(
			err, errlen, -ENOMEM,
			"the kernel does not fit: it needs %llu MiB of memory from 0x%llx on; the guest has %llu MiB",
			(unsigned long long)((need + MiB - 1) / MiB), (unsigned long long)gpa,
			(unsigned long long)(mem->size / MiB));
	*boot = (struct boot_state){
		.kind = "Linux bzImage",
		.mode = BOOT_LONG,
		.entry = gpa + ENTRY_64,
		.rsi = BOOT_ZERO_PAGE,
		.load_lo = gpa,
		.load_hi = gpa + need,
	};
	return 0;
}

static void zero_page_write(struct guest_mem *mem, const struct bzimage *bz, const struct boot_file *initrd)
{
	struct boot_params *zp = boot_area(mem, BOOT_ZERO_PAGE, sizeof(*zp));
	struct boot_map_entry map[BOOT_MAP_ENTRIES];

	/* Only the setup header is taken over from the file; all else in the zero page must begin as 0 (boot.rst). */
	zp->hdr = bz->hdr;
	zp->hdr.type_of_loader = LOADER_UNDEFINED;
	zp->hdr.loadflags = LOADED_HIGH;
	zp->hdr.vid_mode = 0xffff; /* "normal" */
	zp->hdr.setup_data = 0;
	zp->hdr.cmd_line_ptr = BOOT_CMDLINE;
	zp->hdr.ramdisk_image = (uint32_t)initrd->gpa; /* guest memory ends below 4 GiB: no upper halves */
	zp->hdr.ramdisk_size = (uint32_t)initrd->len;
	zp->acpi_rsdp_addr = BOOT_ACPI;
	boot_memory_map(mem, map);
	for (unsigned i = 0; i < BOOT_MAP_ENTRIES; i++)
		zp->e820_table[i] = (struct boot_e820_entry){ map[i].gpa, map[i].len, map[i].type };
	zp->e820_entries = BOOT_MAP_ENTRIES;
}

int bzimage_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		 struct boot_state *boot, char *err, size_t errlen)
{
	struct bzimage bz;
	struct boot_file initrd;
	int r = parse(image, len, &bz, err, errlen);

	if (!r)
		r = place(mem, &bz, boot, err, errlen);
	if (!r)
		r = boot_cmdline_write(mem, req->append, bz.hdr.cmdline_size, err, errlen);
	if (!r)
		r = boot_initrd_load(mem, req, boot, bz.hdr.initrd_addr_max, &initrd, err, errlen);
	if (!r)
		r = guest_write(mem, boot->load_lo, bz.kernel, bz.kernel_len);
	if (!r)
		zero_page_write(mem, &bz, &initrd);
	return r;
}
