/*
 * The paged kernel's address space, the same in every process but for the user part.
 *
 *	0000000000400000  the user programs' code, then their zeroed data (paged.ld)
 *	0000000010000000  heap, grows upwards
 *	00007ffffffef000  user stack, 64 KiB, taken as it grows; the page below stays unmapped: the guard
 *	00007ffffffff000  end of user memory: the last page below the hole stays unmapped too, see syscall_entry
 *	ffff800000000000  the direct map: all of memory, gpa + DIRECT_MAP
 *	ffffff0000000000  the self-map: the current page tables, seen as data (pgtable.h)
 *	ffffffff80100000  the kernel's image, gpa + KERNEL_BASE
 *	ffffffffffe00000  never used: a hypervisor needs some addresses of every address space for itself
 */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define USER_HEAP 0x10000000
#define USER_END 0x00007ffffffff000
#define USER_STACK_PAGES 16
#define DIRECT_MAP 0xffff800000000000
#define KERNEL_BASE 0xffffffff80000000 /* also in paged.ld */

/* Slots of the root. User memory has the lower half of them. */
#define SLOT_KERNEL_HALF 256
#define SLOT_DIRECT 256
#define SLOT_SELF 510
#define SLOT_KERNEL 511

#define DIRECT_MAP_MAX (1ul << 30) /* one page directory of 2 MiB pages */

#endif
