#include "flat_memory.h"
#include "gva.h"
#include "paging.h"
#include "vm.h"

/* Entries of the PML4 and of the first PDPT that lead beyond FLAT_LIMIT. */
static bool nothing_above(const struct vcpu *v)
{
	uint64_t pml4[PT_ENTRIES], pdpt[PT_ENTRIES];
	const struct guest_mem *mem = &v->vm->mem;

	if (guest_read(mem, v->cr3 & PTE_ADDR, pml4, sizeof pml4) || !(pml4[0] & PTE_P) ||
	    guest_read(mem, pml4[0] & PTE_ADDR, pdpt, sizeof pdpt))
		return false;
	for (unsigned i = 1; i < PT_ENTRIES; i++)
		if ((pml4[i] & PTE_P) || (i >= FLAT_LIMIT / GiB && (pdpt[i] & PTE_P)))
			return false;
	return true;
}

bool flat_equivalent(const struct vcpu *v)
{
	struct walk w;

	if (!nothing_above(v))
		return false;
	for (uint64_t gva = 0; gva < FLAT_LIMIT;) {
		bool mapped = !guest_walk(v, gva, &w);

		if (mapped ? w.gpa != gva || !w.writable : gva < v->vm->mem.size)
			return false;
		/* To the end of the page, or of what an absent entry covers. */
		gva = (gva | (level_size(w.level) - 1)) + 1;
	}
	return true;
}
