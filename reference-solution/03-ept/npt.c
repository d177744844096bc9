/*
 * Lab 3, checkpoint 3.2: an entry of AMD's nested page tables.
 *
 * These are ordinary page tables, and the CPU walks them as it walks a program's: every access of a guest, its kernel's too, is a
 * user's here. There is no way to say execute-only, and A and D are always kept.
 *
 * Reading: AMD APM vol. 2, 15.25 (nested paging; 15.25.5 says "user"), 5.3 (figures 5-20 to 5-26: the entries), 5.4 (the bits).
 */
#include "lab3.h"

uint64_t npt_encode(const struct nested *n, const struct nested_entry *e, unsigned level)
{
	// SOLUTION 3.2
	(void)n;
	if (e->kind != NESTED_TABLE && e->kind != NESTED_PAGE)
		return 0;
	uint64_t entry = e->ma | PTE_P | PTE_U;

	if (e->rights & NESTED_W)
		entry |= PTE_W;
	if (!(e->rights & NESTED_X))
		entry |= PTE_NX; /* hv's EFER.NXE is on; nested paging goes by the host's */
	if (e->accessed)
		entry |= PTE_A;
	if (e->kind == NESTED_PAGE && e->dirty)
		entry |= PTE_D;
	if (e->kind == NESTED_PAGE && level > 1)
		entry |= PTE_PS;
	return entry;
	// STARTER 3.2: make the 64 bits of an entry. Hint: as whom does the CPU walk these tables? And the bit for execution says no
	// where the others say yes.
	//	(void)e, (void)level;
	//	return lab_todo(n->vm, "3.2", "npt_encode() in npt.c: the bits of an entry, APM vol. 2, 5.3 and 15.25.5"), 0;
	// END
}

// SOLUTION 3.2
/* The bits that must be 0 in a present entry of this level. (APM vol. 2, figures 5-20 to 5-26) */
static uint64_t reserved_bits(const struct nested *n, uint64_t entry, unsigned level)
{
	uint64_t reserved = PTE_ADDR & ~((1ull << n->caps.phys_bits) - 1);

	if (level == 4)
		return reserved | PTE_PS | PTE_G;
	if (level == 1)
		return reserved; /* bit 7 is the PAT bit */
	if (!(entry & PTE_PS))
		return level == 3 ? reserved | PTE_G : reserved;
	if (!(level == 3 ? n->caps.page_1g : n->caps.page_2m))
		reserved |= PTE_PS;
	/* Between address and flags, bit 12 of a large page is the PAT bit. */
	return reserved | ((level_size(level) - 1) & PTE_ADDR & ~PAGE);
}
// END

void npt_decode(const struct nested *n, uint64_t entry, unsigned level, struct nested_entry *e)
{
	*e = (struct nested_entry){ .kind = NESTED_ABSENT, .type = TYPE_WB };
	// SOLUTION 3.2
	if (!(entry & PTE_P))
		return;
	e->kind = NESTED_INVALID;
	if (entry & reserved_bits(n, entry, level))
		return;
	e->kind = level == 1 || (entry & PTE_PS) ? NESTED_PAGE : NESTED_TABLE;
	if (entry & PTE_U) /* else nobody may do anything: all are users here */
		e->rights = NESTED_R | (entry & PTE_W ? NESTED_W : 0) | (entry & PTE_NX ? 0 : NESTED_X);
	e->accessed = entry & PTE_A;
	e->dirty = e->kind == NESTED_PAGE && (entry & PTE_D);
	e->ma = entry & PTE_ADDR;
	if (e->kind == NESTED_PAGE)
		e->ma &= ~(level_size(level) - 1); /* no PAT bit */
	// STARTER 3.2: say what an entry means. Hint: P decides whether it is there at all; a reserved bit makes it invalid (5.3: they
	// differ from level to level, and large pages have more); then the rights of a user.
	//	(void)entry, (void)level;
	//	lab_todo(n->vm, "3.2", "npt_decode() in npt.c: absent, reserved bits, or what it says; APM vol. 2, 5.3");
	// END
}

uint64_t npt_root(const struct nested *n)
{
	// SOLUTION 3.2
	return n->root_ma;
	// STARTER 3.2: what the VMCB's nCR3 field holds. Hint: it is read as CR3 is, and PWT and PCD would only make the walk slow.
	//	return lab_todo(n->vm, "3.2", "npt_root() in npt.c: nCR3, APM vol. 2, 15.25.3"), 0;
	// END
}
