/* The start-of-day structure of the PVH boot protocol (Xen's public header arch-x86/hvm/start_info.h, version 1). */
#include "boot.h"

#include <string.h>

#define START_MAGIC 0x336ec578u /* "xEn3" with bit 7 of the E set */

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* All three parts in one piece of guest memory. */
struct start_block {
	struct hvm_start_info info;
	struct hvm_modlist_entry module[BOOT_MODULES];
	struct hvm_memmap_entry map[BOOT_MAP_ENTRIES];
};
_Static_assert(sizeof(struct hvm_start_info) == 56, "layout of hvm_start_info");
_Static_assert(sizeof(struct hvm_memmap_entry) == 24, "layout of hvm_memmap_entry");
_Static_assert(BOOT_START_INFO + sizeof(struct start_block) <= BOOT_ZERO_PAGE, "start info fits in its page");

int start_info_write(struct guest_mem *mem, const struct boot_request *req, struct boot_state *boot, char *err,
		     size_t errlen)
{
	struct boot_file file[BOOT_MODULES];
	int r = boot_cmdline_write(mem, req->append, BOOT_CMDLINE_MAX - 1, err, errlen);
	if (!r)
		r = boot_modules_load(mem, req, boot, false, file, err, errlen);
	if (r < 0)
		return r;

	struct start_block *block = boot_area(mem, BOOT_START_INFO, sizeof(*block));
	struct boot_map_entry map[BOOT_MAP_ENTRIES];
	boot_memory_map(mem, map);
	for (unsigned i = 0; i < BOOT_MAP_ENTRIES; i++)
		block->map[i] = (struct hvm_memmap_entry){ map[i].gpa, map[i].len, map[i].type, 0 };
	for (int i = 0; i < r; i++)
		block->module[i] = (struct hvm_modlist_entry){ file[i].gpa, file[i].len, file[i].text, 0 };
	block->info = (struct hvm_start_info){
		.magic = START_MAGIC,
		.version = 1,
		.nr_modules = (uint32_t)r,
		.modlist_paddr = r ? BOOT_START_INFO + offsetof(struct start_block, module) : 0,
		.cmdline_paddr = BOOT_CMDLINE,
		.rsdp_paddr = BOOT_ACPI,
		.memmap_paddr = BOOT_START_INFO + offsetof(struct start_block, map),
		.memmap_entries = BOOT_MAP_ENTRIES,
	};
	boot->rbx = BOOT_START_INFO;
	return 0;
}
