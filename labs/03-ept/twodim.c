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

unsigned twodim_walk(struct vcpu *v, struct nested *n, uint64_t gva, struct reference *refs)
{
	// TODO 3.22: list what the CPU reads. Hint: guest_walk() of Lab 2 knows where the guest's entries lie,
	// nested_walk() what it takes to get there. Which access to the nested tables is a reading of the guest's? (SDM
	// vol. 3, 28.3.3.2; APM vol. 2, 15.25.5)
	(void)v, (void)gva, (void)refs;
	lab_todo(n->vm, "3.22", "twodim_walk() in twodim.c: each of the guest's entries behind the nested ones that lead to it");
	return 0;
}

unsigned twodim_cost(unsigned guest_level, unsigned nested_level)
{
	// TODO 3.22: count instead of listing. Hint: how many entries of the guest's are read, and how many
	// translations does that take, the data's among them?
	(void)guest_level, (void)nested_level;
	return 0;
}
