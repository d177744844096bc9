#include "boot.h"
#include "paging.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EBDA 0x9fc00ull     /* the last KiB below 640 KiB is the BIOS's on a PC, and guests expect it to be missing */
#define LOW_HOLE 0xa0000ull /* video memory and ROMs; the ACPI tables lie in it */

int boot_fail(char *err, size_t errlen, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, errlen, fmt, ap);
	va_end(ap);
	return error;
}

uint8_t boot_checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += p[i];
	return (uint8_t)-sum;
}

void *boot_area(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	void *p = guest_range(mem, gpa, len);

	if (!p) {
		fprintf(stderr, "hv: bug: boot data at 0x%llx does not fit in guest memory\n", (unsigned long long)gpa);
		abort();
	}
	return memset(p, 0, len);
}

void boot_memory_map(const struct guest_mem *mem, struct boot_map_entry map[BOOT_MAP_ENTRIES])
{
	map[0] = (struct boot_map_entry){ 0, EBDA, BOOT_MAP_RAM };
	map[1] = (struct boot_map_entry){ LOW_HOLE, 1 * MiB - LOW_HOLE, BOOT_MAP_RESERVED };
	map[2] = (struct boot_map_entry){ 1 * MiB, mem->size - 1 * MiB, BOOT_MAP_RAM };
}

/*
 * The tables that 64-bit mode cannot do without; of the GDT protected mode has its share. Entries have the user bit because
 * under the trap engine the guest's kernel runs at CPL 3; to a guest at CPL 0 it makes no difference until it sets SMEP or
 * SMAP, and then it has tables of its own.
 */
void boot_tables_write(struct guest_mem *mem)
{
	/* Descriptors (SDM vol. 3, 3.4.5), accessed bits already set so that no CPU has to write them. */
	uint64_t *gdt = boot_area(mem, BOOT_GDT, 6 * sizeof(*gdt));
	gdt[BOOT_CS32 / 8] = 0x00cf9b000000ffff; /* code, D=1, flat, DPL 0 */
	gdt[BOOT_CS / 8] = 0x00af9b000000ffff; /* code, L=1, D=0, DPL 0 */
	gdt[BOOT_DS / 8] = 0x00cf93000000ffff; /* data, flat, DPL 0 */
	gdt[4] = 0x0000890000000067;           /* available 64-bit TSS at 0 with the smallest limit; takes slots 4 and 5 */

	/* PML4, PDPT and four page directories, one after another: 4 GiB in 2 MiB pages. */
	uint64_t pdpt_gpa = BOOT_PML4 + PAGE, pd_gpa = pdpt_gpa + PAGE;
	uint64_t *pml4 = boot_area(mem, BOOT_PML4, PAGE), *pdpt = boot_area(mem, pdpt_gpa, PAGE);
	uint64_t *pd = boot_area(mem, pd_gpa, 4 * PAGE);
	pml4[0] = pdpt_gpa | PTE_P | PTE_W | PTE_U;
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] = (pd_gpa + i * PAGE) | PTE_P | PTE_W | PTE_U;
	for (unsigned i = 0; i < 4 * 512; i++)
		pd[i] = i * 2 * MiB | PTE_P | PTE_W | PTE_U | PTE_PS;
}

int boot_cmdline_write(struct guest_mem *mem, const char *append, size_t limit, char *err, size_t errlen)
{
	size_t len = append ? strlen(append) : 0;

	if (limit > BOOT_CMDLINE_MAX - 1)
		limit = BOOT_CMDLINE_MAX - 1;
	if (len > limit)
		return boot_fail(err, errlen, -E2BIG, "the command line is %zu bytes long; at most %zu are possible", len,
				 limit);
	char *dst = boot_area(mem, BOOT_CMDLINE, BOOT_CMDLINE_MAX);
	if (len)
		memcpy(dst, append, len);
	return 0;
}
