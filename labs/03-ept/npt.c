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
	// TODO 3.2: make the 64 bits of an entry. Hint: as whom does the CPU walk these tables? And the bit for
	// execution says no where the others say yes.
	(void)e, (void)level;
	return lab_todo(n->vm, "3.2", "npt_encode() in npt.c: the bits of an entry, APM vol. 2, 5.3 and 15.25.5"), 0;
}

void npt_decode(const struct nested *n, uint64_t entry, unsigned level, struct nested_entry *e)
{
	*e = (struct nested_entry){ .kind = NESTED_ABSENT, .type = TYPE_WB };
	// TODO 3.2: say what an entry means. Hint: P decides whether it is there at all; a reserved bit makes it
	// invalid (5.3: they differ from level to level, and large pages have more); then the rights of a user.
	(void)entry, (void)level;
	lab_todo(n->vm, "3.2", "npt_decode() in npt.c: absent, reserved bits, or what it says; APM vol. 2, 5.3");
}

uint64_t npt_root(const struct nested *n)
{
	// TODO 3.2: what the VMCB's nCR3 field holds. Hint: it is read as CR3 is, and PWT and PCD would only make the
	// walk slow.
	return lab_todo(n->vm, "3.2", "npt_root() in npt.c: nCR3, APM vol. 2, 15.25.3"), 0;
}
