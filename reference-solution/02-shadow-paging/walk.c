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

// SOLUTION 2.3
/* The bits that must be 0 in a present entry of this level. (SDM vol. 3, tables 4-15 to 4-20, and 4.1.4) */
static uint64_t reserved_bits(const struct vcpu *v, unsigned level, uint64_t entry)
{
	uint64_t reserved = PTE_ADDR & ~((1ull << maxphyaddr(v)) - 1);

	if (!(v->efer & EFER_NXE))
		reserved |= PTE_NX;
	if (level == 4)
		reserved |= PTE_PS;
	else if (level > 1 && (entry & PTE_PS)) /* below the address of a large page lies the PAT bit, and nothing else */
		reserved |= (level_size(level) - 1) & PTE_ADDR & ~(1ull << 12);
	return reserved;
}
// END

int guest_walk(const struct vcpu *v, uint64_t gva, struct walk *w)
{
	*w = (struct walk){ .writable = true, .user = true };
	// SOLUTION 2.1
	uint64_t table = v->cr3 & PTE_ADDR;

	for (w->level = PT_LEVELS;; w->level--) {
		uint64_t gpa = table + level_index(gva, w->level) * 8, entry = read_entry(v, gpa);

		w->at[w->level].gpa = gpa;
		w->at[w->level].entry = entry;
		if (!(entry & PTE_P))
			return -EFAULT;
		// STARTER 2.1: read the entry of each level, beginning at v->cr3, and stop at one that is not present. Hint:
		// read_entry(), level_index(); w->at[level] keeps where each entry lies and what it held.
		//	(void)read_entry, (void)gva;
		//	return lab_todo(v->vm, "2.1", "guest_walk() in walk.c: follow the entries from v->cr3, level 4 first");
		// END
		// SOLUTION 2.3
		if (entry & reserved_bits(v, w->level, entry)) {
			w->error = PF_P | PF_RSVD;
			return -EFAULT;
		}
		// STARTER 2.3: in that loop: a present entry with a reserved bit ends the walk with an error of its own.
		// Hint: the bits depend on the level, on PS, on EFER.NXE and on maxphyaddr(); a function for them, and the
		// tables 4-15 to 4-20.
		// END
		// SOLUTION 2.2
		w->writable &= !!(entry & PTE_W);
		w->user &= !!(entry & PTE_U);
		w->nx |= !!(entry & PTE_NX);
		// STARTER 2.2: in that loop: collect the rights. Hint: one level without W or U takes it away for all below
		// it; one NX is enough.
		// END
		// SOLUTION 2.1
		table = entry & PTE_ADDR;
		if (w->level == 1)
			break;
		// END
		// SOLUTION 2.3
		if (entry & PTE_PS)
			break;
		// STARTER 2.3: in that loop: an entry with PS maps the page itself. Hint: then more of gva is offset: level_size().
		// END
		// SOLUTION 2.1
	}
	uint64_t offset = level_size(w->level) - 1, leaf = w->at[w->level].entry;
	w->gpa = (leaf & PTE_ADDR & ~offset) | (gva & offset);
	w->global = (leaf & PTE_G) && (v->cr4 & CR4_PGE);
	w->dirty = leaf & PTE_D;
	return 0;
	// END
}

bool walk_allows(const struct vcpu *v, const struct walk *w, unsigned access)
{
	// SOLUTION 2.2
	bool user = (access & ACCESS_USER) && !(access & ACCESS_SYSTEM);

	if (user && !w->user)
		return false;
	if ((access & ACCESS_FETCH) && w->nx)
		return false;
	if ((access & ACCESS_WRITE) && !w->writable && (user || (v->cr0 & CR0_WP)))
		return false;
	// STARTER 2.2: compare the rights that the walk collected with what the access wants. Hint: CR0.WP decides whether
	// the kernel may write to what is read-only.
	//	(void)w, (void)access;
	//	lab_todo(v->vm, "2.2", "walk_allows() in walk.c: user or kernel, write, fetch; and the rights collected in guest_walk()");
	//	return false;
	// END
	// SOLUTION 2.4
	if (!user && w->user) {
		if ((access & ACCESS_FETCH) && (v->cr4 & CR4_SMEP))
			return false;
		/* The kernel says with AC that it means to touch a user's page; the CPU itself never does. */
		if (!(access & ACCESS_FETCH) && (v->cr4 & CR4_SMAP) && (!(v->rflags & FLAG_AC) || (access & ACCESS_SYSTEM)))
			return false;
	}
	// STARTER 2.4: SMEP and SMAP keep the kernel away from user pages. Hint: RFLAGS.AC lifts one of the two, but not for
	// the CPU's own accesses to its tables.
	//	if (v->cr4 & (CR4_SMEP | CR4_SMAP)) {
	//		lab_todo(v->vm, "2.4", "walk_allows() in walk.c: SMEP and SMAP");
	//		return false;
	//	}
	// END
	return true;
}

int guest_translate(const struct vcpu *v, uint64_t gva, unsigned access, struct walk *w)
{
	// SOLUTION 2.2
	bool fetch_told = (v->efer & EFER_NXE) || (v->cr4 & CR4_SMEP);

	if (!guest_walk(v, gva, w)) {
		if (walk_allows(v, w, access))
			return 0;
		w->error = PF_P; /* there is a translation, and it forbids this */
	}
	if (v->vm->stopping)
		return -ECANCELED;
	if (access & ACCESS_WRITE)
		w->error |= PF_W;
	if ((access & ACCESS_USER) && !(access & ACCESS_SYSTEM))
		w->error |= PF_U;
	if ((access & ACCESS_FETCH) && fetch_told) /* a CPU that has no use for the difference does not tell it */
		w->error |= PF_I;
	return -EFAULT;
	// STARTER 2.2: walk, ask walk_allows(), and make the error code when one of them says no. Hint: P says that there was a
	// translation; I is told only where NXE or SMEP make a difference between reading and fetching.
	//	(void)access;
	//	if (guest_walk(v, gva, w))
	//		return v->vm->stopping ? -ECANCELED : -EFAULT;
	//	return lab_todo(v->vm, "2.2", "guest_translate() in walk.c: rights, and the page fault's error code");
	// END
}

void walk_mark(struct vcpu *v, struct walk *w, unsigned access)
{
	// SOLUTION 2.5
	for (unsigned level = PT_LEVELS; level >= w->level; level--) {
		uint64_t set = PTE_A | (level == w->level && (access & ACCESS_WRITE) ? PTE_D : 0);

		if ((w->at[level].entry & set) == set)
			continue;
		w->at[level].entry |= set;
		/* By gpa: a CPU does not ask whether the table is mapped anywhere, or may be written there. */
		guest_write(&v->vm->mem, w->at[level].gpa, &w->at[level].entry, 8);
	}
	w->dirty = w->at[w->level].entry & PTE_D;
	// STARTER 2.5: a CPU leaves the bits A and D behind. Hint: A in every entry that was used, D only where a write
	// ended. Until this is written nothing is marked, and nothing can become writable through the shadow.
	//	(void)v, (void)w, (void)access;
	//	lab_todo(v->vm, "2.5", "walk_mark() in walk.c: set A on the way, D in the last entry of a write");
	// END
}
