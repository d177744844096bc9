/*
 * Lab 2, checkpoints 2.1 to 2.5: the guest's page tables, walked as the CPU walks them.
 *
 * The machine's CPU never sees these tables. So hv must know everything that a CPU knows about them: where a translation leads, whether
 * an access is allowed, what the page fault says if it is not, and which bits the access leaves behind.
 *
 * Reading: Intel SDM vol. 3, 4.5 (4-level paging), 4.6 (access rights), 4.7 (page faults), 4.8 (accessed and dirty flags).
 */
#include "lab2.h"

/* An entry of the guest's tables. Where there is no memory, nobody answers, and the bus reads as ones. */
static uint64_t read_entry(const struct vcpu *v, uint64_t gpa)
{
	uint64_t entry = ~0ull;

	guest_read(&v->vm->mem, gpa, &entry, sizeof entry);
	return entry;
}

int guest_walk(const struct vcpu *v, uint64_t gva, struct walk *w)
{
	*w = (struct walk){ .writable = true, .user = true };
	// TODO 2.1: read the entry of each level, beginning at v->cr3, and stop at one that is not present. Hint:
	// read_entry(), level_index(); w->at[level] keeps where each entry lies and what it held.
	(void)read_entry, (void)gva;
	return lab_todo(v->vm, "2.1", "guest_walk() in walk.c: follow the entries from v->cr3, level 4 first");
		// TODO 2.3: in that loop: a present entry with a reserved bit ends the walk with an error of its own.
		// Hint: the bits depend on the level, on PS, on EFER.NXE and on maxphyaddr(); a function for them, and
		// the tables 4-15 to 4-20.
		// TODO 2.2: in that loop: collect the rights. Hint: one level without W or U takes it away for all
		// below it; one NX is enough.
		// TODO 2.3: in that loop: an entry with PS maps the page itself. Hint: then more of gva is offset:
		// level_size().
}

bool walk_allows(const struct vcpu *v, const struct walk *w, unsigned access)
{
	// TODO 2.2: compare the rights that the walk collected with what the access wants. Hint: CR0.WP decides whether
	// the kernel may write to what is read-only.
	(void)w, (void)access;
	lab_todo(v->vm, "2.2", "walk_allows() in walk.c: user or kernel, write, fetch; and the rights collected in guest_walk()");
	return false;
	// TODO 2.4: SMEP and SMAP keep the kernel away from user pages. Hint: RFLAGS.AC lifts one of the two, but not
	// for the CPU's own accesses to its tables.
	if (v->cr4 & (CR4_SMEP | CR4_SMAP)) {
		lab_todo(v->vm, "2.4", "walk_allows() in walk.c: SMEP and SMAP");
		return false;
	}
	return true;
}

int guest_translate(const struct vcpu *v, uint64_t gva, unsigned access, struct walk *w)
{
	// TODO 2.2: walk, ask walk_allows(), and make the error code when one of them says no. Hint: P says that there
	// was a translation; I is told only where NXE or SMEP make a difference between reading and fetching.
	(void)access;
	if (guest_walk(v, gva, w))
		return v->vm->stopping ? -ECANCELED : -EFAULT;
	return lab_todo(v->vm, "2.2", "guest_translate() in walk.c: rights, and the page fault's error code");
}

void walk_mark(struct vcpu *v, struct walk *w, unsigned access)
{
	// TODO 2.5: a CPU leaves the bits A and D behind. Hint: A in every entry that was used, D only where a write
	// ended. Until this is written nothing is marked, and nothing can become writable through the shadow.
	(void)v, (void)w, (void)access;
	lab_todo(v->vm, "2.5", "walk_mark() in walk.c: set A on the way, D in the last entry of a write");
}
