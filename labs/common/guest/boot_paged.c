/*
 * The page tables that the paged kernel begins with. This code runs where it lies in memory, while gva is still gpa
 * (paged.ld): it may take the address of anything in the kernel, but touch nothing that is linked elsewhere.
 */
#include "io.h"
#include "pgtable.h"

#include <stdint.h>

#define MSR_EFER 0xc0000080
#define EFER_NXE (1 << 11)
#define CR0_WP (1 << 16)
#define LARGE_PAGE (1ul << 21)

#define TABLE __attribute__((aligned(4096)))
static pte_t root[PT_ENTRIES] TABLE;
static pte_t direct_pdpt[PT_ENTRIES] TABLE, direct_pd[PT_ENTRIES] TABLE;
static pte_t kernel_pdpt[PT_ENTRIES] TABLE, kernel_pd[PT_ENTRIES] TABLE, kernel_pt[PT_ENTRIES] TABLE;

/* paged.ld: where the kernel's parts begin, each on a page of its own. */
extern const char kernel_text[], kernel_rodata[], kernel_data[], kernel_end[];

static void link_table(pte_t *entry, const pte_t *table)
{
	*entry = (uint64_t)table | PTE_P | PTE_W;
}

static void map_kernel(const char *begin, const char *end, pte_t access)
{
	for (uint64_t gva = (uint64_t)begin; gva < (uint64_t)end; gva += PAGE_SIZE)
		kernel_pt[gva / PAGE_SIZE % PT_ENTRIES] = (gva - KERNEL_BASE) | access | PTE_P | PTE_G;
}

/* All memory that there might be. The kernel's text lies in it too, and can be written by that address. */
static void map_direct(void)
{
	for (uint64_t i = 0; i < PT_ENTRIES; i++)
		direct_pd[i] = i * LARGE_PAGE | PTE_P | PTE_W | PTE_LEAF | PTE_G;
}

void boot_paging(void)
{
	/* No entry of level 2 or above has U: all of it is the kernel's. */
	map_direct();
	link_table(&direct_pdpt[0], direct_pd);
	link_table(&root[SLOT_DIRECT], direct_pdpt);
	root[SLOT_DIRECT] |= PTE_NX; /* holds for all below */

	map_kernel(kernel_text, kernel_rodata, 0);
	map_kernel(kernel_rodata, kernel_data, PTE_NX);
	map_kernel(kernel_data, kernel_end, PTE_W | PTE_NX);
	link_table(&kernel_pd[0], kernel_pt);
	link_table(&kernel_pdpt[KERNEL_BASE >> 30 & 511], kernel_pd);
	link_table(&root[SLOT_KERNEL], kernel_pdpt);

	link_table(&root[SLOT_SELF], root);
	root[SLOT_SELF] |= PTE_NX;

	/* Until the jump to the upper half this code must go on to be where it is: the direct map's tables once more, from 0. */
	link_table(&root[0], direct_pdpt);

	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE); /* first: without it NX is a reserved bit */
	write_cr3((uint64_t)root);
	write_cr0(read_cr0() | CR0_WP); /* W binds the kernel too */
}
