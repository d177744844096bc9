/* The PVH boot protocol's start structure: what the loader leaves in RBX (Xen, docs/misc/pvh.pandoc; all addresses gpa). */
#ifndef GUEST_START_INFO_H
#define GUEST_START_INFO_H

#include <stdint.h>

#define HVM_START_MAGIC 0x336ec578

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules, cmdline, rsdp;
	uint64_t memmap; /* from version 1 on */
	uint32_t memmap_entries, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};
#define HVM_MEMMAP_RAM 1

static inline const char *start_info_cmdline(const struct hvm_start_info *info)
{
	if (info->magic != HVM_START_MAGIC || !info->cmdline)
		return "";
	return (const char *)(uintptr_t)info->cmdline;
}

#endif
