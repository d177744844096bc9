/*
 * Lab 3, checkpoint 3.22: the two-dimensional walk.
 *
 * With nested paging every address that the guest's tables hold is itself one to be translated. So what was four references becomes up
 * to twenty-four: the price of no exits, paid whenever no TLB helps.
 *
 * Reading: AMD APM vol. 2, 15.25.5 (which accesses a walk makes), figure 15-14; Intel SDM vol. 3, 28.3.2, 28.3.3.2; Bhargava and others,
 * "Accelerating Two-Dimensional Page Walks for Virtualized Systems", 2008.
 */
#include "lab3.h"

// SOLUTION 3.22
/* Adds the references that translate gpa. true when the CPU comes out with a translation that allows the access. */
static bool translate(struct nested *n, uint64_t gpa, unsigned guest_level, unsigned access, struct reference *refs,
		      unsigned *count, uint64_t *ma)
{
	struct nested_walk w;

	nested_walk(n, gpa, access, &w);
	for (unsigned level = PT_LEVELS; level >= w.level; level--)
		refs[(*count)++] = (struct reference){ .what = REF_NESTED,
						       .guest_level = guest_level,
						       .level = level,
						       .gpa = gpa,
						       .ma = nested_slot_ma(n, w.slot[level]),
						       .entry = *w.slot[level] };
	*ma = w.ma;
	return w.end == WALK_OK;
}
// END

unsigned twodim_walk(struct vcpu *v, struct nested *n, uint64_t gva, struct reference *refs)
{
	// SOLUTION 3.22
	/* A walk may have to set A in the guest's entries. Where the nested tables keep A and D it counts as a write from the start. */
	unsigned walk_access = n->caps.accessed_dirty ? NESTED_R | NESTED_W : NESTED_R, count = 0;
	struct walk w;
	bool mapped = !guest_walk(v, gva, &w);
	uint64_t ma;

	for (unsigned level = PT_LEVELS; level >= w.level; level--) {
		if (!translate(n, w.at[level].gpa, level, walk_access, refs, &count, &ma))
			return count;
		refs[count++] = (struct reference){
			.what = REF_GUEST, .guest_level = level, .gpa = w.at[level].gpa, .ma = ma, .entry = w.at[level].entry
		};
	}
	if (mapped && translate(n, w.gpa, 0, NESTED_R, refs, &count, &ma))
		refs[count++] = (struct reference){ .what = REF_DATA, .gpa = w.gpa, .ma = ma };
	return count;
	// STARTER 3.22: list what the CPU reads. Hint: guest_walk() of Lab 2 knows where the guest's entries lie, nested_walk() what it
	// takes to get there. Which access to the nested tables is a reading of the guest's? (SDM vol. 3, 28.3.3.2; APM vol. 2, 15.25.5)
	//	(void)v, (void)gva, (void)refs;
	//	lab_todo(n->vm, "3.22", "twodim_walk() in twodim.c: each of the guest's entries behind the nested ones that lead to it");
	//	return 0;
	// END
}

unsigned twodim_cost(unsigned guest_level, unsigned nested_level)
{
	// SOLUTION 3.22
	unsigned guest = PT_LEVELS + 1 - guest_level, nested = PT_LEVELS + 1 - nested_level;

	return guest * (nested + 1) + nested;
	// STARTER 3.22: count instead of listing. Hint: how many entries of the guest's are read, and how many translations does that take,
	// the data's among them?
	//	(void)guest_level, (void)nested_level;
	//	return 0;
	// END
}
