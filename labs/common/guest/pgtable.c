#include "pgtable.h"

#include "frames.h"
#include "io.h"

#include <stddef.h>

/* Where the tables of each level begin in the self-map: through the slot once for level 1, twice for level 2 ... */
#define SELF_1 (0xffffull << 48 | (uint64_t)SLOT_SELF << 39)
#define SELF_2 (SELF_1 | (uint64_t)SLOT_SELF << 30)
#define SELF_3 (SELF_2 | (uint64_t)SLOT_SELF << 21)
#define SELF_4 (SELF_3 | (uint64_t)SLOT_SELF << 12)
_Static_assert(SELF_4 == PT_ROOT_SELF, "the header says it");

static unsigned shift(unsigned level)
{
	return 12 + 9 * (level - 1);
}

pte_t *pt_entry(unsigned level, uint64_t gva)
{
	static const uint64_t tables[] = { 0, SELF_1, SELF_2, SELF_3, SELF_4 };
	uint64_t translated = gva & 0xffffffffffff; /* the upper 16 bits only repeat bit 47 */

	return (pte_t *)tables[level] + (translated >> shift(level));
}

pte_t *pt_find(uint64_t gva)
{
	for (unsigned level = PT_ROOT; level > 1; level--)
		if (!(*pt_entry(level, gva) & PTE_P))
			return NULL;
	return pt_entry(1, gva);
}

pte_t *pt_make(uint64_t gva)
{
	for (unsigned level = PT_ROOT; level > 1; level--) {
		pte_t *e = pt_entry(level, gva);

		if (!*e) {
			uint64_t table = frame_alloc_zeroed();

			if (!table)
				return NULL;
			pt_set(e, table | PTE_TABLE); /* nothing to flush: the TLB holds no entry that is not present */
		}
	}
	return pt_entry(1, gva);
}

void pt_flush_page(uint64_t gva)
{
	asm volatile("invlpg %0" : : "m"(*(const char *)gva) : "memory");
}

void pt_flush_all(void)
{
	write_cr3(read_cr3());
}

uint64_t pt_new_root(void)
{
	uint64_t gpa = frame_alloc_zeroed();
	pte_t *root = direct(gpa);

	if (!gpa)
		return 0;
	for (unsigned i = SLOT_KERNEL_HALF; i < PT_ENTRIES; i++)
		pt_set(&root[i], pt_entry(PT_ROOT, 0)[i]);
	pt_set(&root[SLOT_SELF], gpa | PTE_P | PTE_W | PTE_NX); /* not U: nothing below it is for user mode */
	return gpa;
}

/* How many entries of a table at that level are about user memory. */
static unsigned user_entries(unsigned level)
{
	return level == PT_ROOT ? SLOT_KERNEL_HALF : PT_ENTRIES;
}

/* from is the current table for gva, in the self-map; to is new and in no address space yet, so it is in the direct map. */
static bool copy_table(pte_t *to, unsigned level, uint64_t gva, pte_t (*copy)(pte_t *from))
{
	pte_t *from = pt_entry(level, gva);

	for (uint64_t i = 0; i < user_entries(level); i++) {
		uint64_t table;

		if (!from[i])
			continue;
		if (level == 1) {
			pt_set(&to[i], copy(&from[i]));
			continue;
		}
		table = frame_alloc_zeroed();
		if (!table)
			return false;
		pt_set(&to[i], table | PTE_TABLE);
		if (!copy_table(direct(table), level - 1, gva + (i << shift(level)), copy))
			return false;
	}
	return true;
}

bool pt_copy(uint64_t root, pte_t (*copy)(pte_t *from))
{
	return copy_table(direct(root), PT_ROOT, 0, copy);
}

static void free_table(uint64_t gpa, unsigned level)
{
	const pte_t *table = direct(gpa);

	for (unsigned i = 0; i < user_entries(level); i++) {
		if (!(table[i] & PTE_P))
			continue;
		if (level == 1)
			frame_put(table[i] & PTE_ADDR);
		else
			free_table(table[i] & PTE_ADDR, level - 1);
	}
	frame_put(gpa);
}

void pt_free(uint64_t root)
{
	free_table(root, PT_ROOT);
}
