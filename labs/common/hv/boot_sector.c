/* Boot sectors, as a PC's BIOS starts one: what lies at the beginning of a disk, at a fixed place, in real mode. */
#include "boot.h"

#include <errno.h>
#include <string.h>

#define SECTOR 512
#define SIGNATURE_AT 510
#define BOOT_DISK 0x80 /* how a BIOS names the first hard disk in DL */
#define IRET 0xcf

int boot_sector_probe(const uint8_t *image, size_t len)
{
	return len >= SECTOR && image[SIGNATURE_AT] == 0x55 && image[SIGNATURE_AT + 1] == 0xaa;
}

int boot_sector_load(struct guest_mem *mem, const uint8_t *image, size_t len, const struct boot_request *req,
		     struct boot_state *boot, char *err, size_t errlen)
{
	if (!boot_sector_probe(image, len))
		return boot_fail(err, errlen, -ENOEXEC, "this is not a boot sector");
	if (len > BOOT_SECTOR_MAX)
		return boot_fail(err, errlen, -ENOEXEC,
				 "this boot sector is followed by a disk: the file has %zu bytes, at most %u are loaded, "
				 "and there is no BIOS that reads more",
				 len, BOOT_SECTOR_MAX);
	if (req->initrd || (req->append && req->append[0]))
		return boot_fail(err, errlen, -ENOEXEC, "a boot sector takes neither a command line nor an initrd");

	/* Each vector is an offset and a segment of 16 bits (SDM vol. 3, 20.1.4). */
	uint32_t *ivt = boot_area(mem, 0, BOOT_IVT_LIMIT + 1);
	for (unsigned i = 0; i < 256; i++)
		ivt[i] = (BOOT_IRET & 0xf0000) << 12 | (BOOT_IRET & 0xffff);
	*(uint8_t *)boot_area(mem, BOOT_IRET, 1) = IRET;
	memcpy(boot_area(mem, BOOT_SECTOR, len), image, len);
	*boot = (struct boot_state){
		.kind = "boot sector",
		.mode = BOOT_REAL,
		.entry = BOOT_SECTOR,
		.rdx = BOOT_DISK,
		.load_lo = BOOT_SECTOR,
		.load_hi = BOOT_SECTOR + len,
	};
	return 0;
}
