/*
 * Memory as edits.c uses it: a pool of pages that are tables and data, the addresses that lead to them, and the kernel's own tables,
 * through which it gets at the pool whatever the pool's tables say.
 */
#ifndef GUEST_EDITS_POOL_H
#define GUEST_EDITS_POOL_H

#include <stdbool.h>
#include <stdint.h>

/* Bits of an entry (SDM vol. 3, tables 4-15 to 4-20). */
#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull

#define PAGE 4096ull
#define MIB (1024ull * 1024)
#define TABLES_GPA (4 * MIB) /* tables are the first pages of a 2 MiB page */
#define DATA_GPA (6 * MIB)
#define MEMORY (64 * MIB)
#define OUTSIDE (80 * MIB)   /* where no memory is */

#define TABLES_MAX 12
#define POOL 19
#define SLOTS 3
#define CODE_SLOT 256 /* all pages of the pool have a function there; as an entry it is not present */
#define ADDRESSES 16

static const uint16_t slots[SLOTS] = { 2, 3, 259 };

/* Tables, then the data pages that large pages lead to as well: in the second 2 MiB region, and at the start of memory. */
static uint64_t pool_gpa(unsigned page)
{
	static const uint64_t others[POOL - TABLES_MAX] = {
		DATA_GPA, DATA_GPA + 2 * PAGE, DATA_GPA + 3 * PAGE, DATA_GPA + 4 * PAGE, 0, 2 * PAGE, 3 * PAGE
	};

	return page < TABLES_MAX ? TABLES_GPA + page * PAGE : others[page - TABLES_MAX];
}

/* volatile: the page at address 0 is memory too, and the compiler knows nothing of page tables. */
static volatile uint64_t *at(uint64_t gva)
{
	asm("" : "+r"(gva));
	return (volatile uint64_t *)gva;
}

static uint64_t address(unsigned n)
{
	uint64_t gva = (n & 8 ? 259ull : 2ull) << 39 | (n & 4 ? 3ull : 2ull) << 30 | (n & 2 ? 3ull : 2ull) << 21 |
		       (n & 1 ? 3ull : 2ull) << 12;

	return gva >> 47 ? gva | 0xffffull << 48 : gva;
}

/*
 * Follows an address from CR3, through whatever is present. Stops at the entry in question, or where the way ends. Returns whether it
 * came to that entry; *gpa is where the last entry that was read leads the address.
 */
static bool follow(uint64_t cr3, uint64_t gva, uint64_t entry, uint64_t *gpa)
{
	uint64_t table = cr3, e;

	*gpa = ~0ull;
	for (unsigned shift = 39;; shift -= 9) {
		uint64_t where = table + (gva >> shift & 511) * 8, offset = (1ull << shift) - 1;
		if (where == entry)
			return true;
		if (table >= MEMORY)
			return false;
		e = *at(where);
		if (!(e & P))
			return false;
		table = e & ADDRESS;
		if (shift == 12 || (shift < 39 && e & PS)) {
			*gpa = (table & ~offset) | (gva & offset);
			return false;
		}
	}
}

/* The addresses that become stale when this entry changes. */
static unsigned users_of(uint64_t cr3, uint64_t entry)
{
	unsigned users = 0;
	uint64_t gpa;

	if (!(*at(entry) & P))
		return 0;
	for (unsigned i = 0; i < ADDRESSES; i++)
		users |= (unsigned)follow(cr3, address(i), entry, &gpa) << i;
	return users;
}

/* Other ways to the pool than the identity map in 2 MiB pages, in the kernel's own tables, which never change. */
#define ALIAS_4K (1ull << 30)
#define ALIAS_1G (2ull << 30)
#define USER_CODE (3ull << 30)

static uint64_t kernel_pdpt[512] __attribute__((aligned(4096))), identity[512] __attribute__((aligned(4096)));
static uint64_t alias_pd[512] __attribute__((aligned(4096))), alias_pt[512] __attribute__((aligned(4096)));
static uint64_t user_pd[512] __attribute__((aligned(4096))), user_pt[512] __attribute__((aligned(4096)));

/* Slot 0 of all pages of the pool, so that each can be a root. A is set and stays so. */
static uint64_t root_entry(void)
{
	return (uint64_t)kernel_pdpt | P | W | U | A;
}

static void make_kernel_tables(bool giant)
{
	extern const char user_code[];

	for (unsigned i = 0; i < 32; i++)
		identity[i] = i * 2 * MIB | PS | P | W | A | D;
	for (unsigned i = 0; i < POOL; i++)
		alias_pt[i] = pool_gpa(i) | P | W | A | D;
	alias_pd[0] = (uint64_t)alias_pt | P | W | A;
	user_pt[0] = (uint64_t)user_code | P | U | A;
	user_pd[0] = (uint64_t)user_pt | P | U | A;
	kernel_pdpt[0] = (uint64_t)identity | P | W | A;
	kernel_pdpt[1] = (uint64_t)alias_pd | P | W | A;
	if (giant)
		kernel_pdpt[2] = PS | P | W | A | D;
	kernel_pdpt[3] = (uint64_t)user_pd | P | U | A;
}

#endif
