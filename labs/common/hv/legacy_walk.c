#include "legacy_walk.h"
#include "lab2.h"

/* Base of a 4 MiB page in its entry; bits 39:32 of the address are in bits 20:13 (SDM vol. 3, table 4-4). */
#define PSE_BASE 0xffc00000ull

/* An entry of a guest's table. Where there is no memory, nobody answers, and the bus reads as ones. */
static uint64_t read_entry(const struct vcpu *v, uint64_t gpa, unsigned size)
{
	uint64_t entry = 0;

	return guest_read(&v->vm->mem, gpa, &entry, size) ? size == 4 ? ~0u : ~0ull : entry;
}

/* The bits that must be 0 in a present entry (SDM vol. 3, tables 4-4 to 4-6 and 4-8 to 4-11). */
static uint64_t reserved_bits(const struct vcpu *v, unsigned level, uint64_t entry, bool pae)
{
	uint64_t beyond = PTE_ADDR & ~((1ull << maxphyaddr(v)) - 1);
	bool large = level == 2 && (entry & PTE_PS);

	if (!pae) /* a 4 MiB page: bits 20:13 hold the address up to bit 39 and no further than the CPU's addresses go */
		return large && (v->cr4 & CR4_PSE) ? 1ull << 21 | ((beyond >> 32 & 0xff) << 13) : 0;
	beyond |= 0x7ffull << 52; /* no bits above the address are free to software here */
	if (level == 3) /* an entry of the first level is no place for rights */
		return beyond | PTE_NX | 0x1e6;
	if (!(v->efer & EFER_NXE))
		beyond |= PTE_NX;
	return large ? beyond | 0x1fe000 : beyond;
}

/* A 4 MiB page is one of level 2, as PAE's 2 MiB page: its size tells them apart. */
static uint64_t page_gpa(const struct walk *w, uint64_t gva, bool pae)
{
	uint64_t leaf = w->at[w->level].entry;

	if (w->level == 1)
		return (leaf & PTE_ADDR) | gva % PAGE;
	if (pae)
		return (leaf & PTE_ADDR & ~(2 * MiB - 1)) | gva % (2 * MiB);
	return (leaf & PSE_BASE) | (leaf >> 13 & 0xff) << 32 | gva % (4 * MiB);
}

int legacy_walk(const struct vcpu *v, uint64_t gva, struct walk *w)
{
	bool pae = v->cr4 & CR4_PAE, large_pages = pae || (v->cr4 & CR4_PSE);
	unsigned size = pae ? 8 : 4, bits = pae ? 9 : 10;
	uint64_t table = (uint32_t)v->cr3 & ~(pae ? 31ull : PAGE - 1);

	*w = (struct walk){ .level = pae ? 3 : 2, .writable = true, .user = true };
	for (;; w->level--) {
		uint64_t index = gva >> (12 + bits * (w->level - 1)) & ((1u << bits) - 1), gpa = table + index * size;
		uint64_t entry = read_entry(v, gpa, size);

		w->at[w->level].gpa = gpa;
		w->at[w->level].entry = entry;
		if (!(entry & PTE_P))
			return -EFAULT;
		if (entry & reserved_bits(v, w->level, entry, pae)) {
			w->error = PF_P | PF_RSVD;
			return -EFAULT;
		}
		if (w->level < 3) {
			w->writable &= !!(entry & PTE_W);
			w->user &= !!(entry & PTE_U);
			w->nx |= pae && (entry & PTE_NX);
		}
		if (w->level == 1 || (w->level == 2 && large_pages && (entry & PTE_PS)))
			break;
		table = entry & PTE_ADDR;
	}
	w->gpa = page_gpa(w, gva, pae);
	w->global = (w->at[w->level].entry & PTE_G) && (v->cr4 & CR4_PGE);
	w->dirty = w->at[w->level].entry & PTE_D;
	return 0;
}

int legacy_translate(const struct vcpu *v, uint64_t gva, unsigned access, struct walk *w)
{
	/* Without PAE there is no NX, so only SMEP makes a difference between fetching and reading (SDM vol. 3, 4.7). */
	bool fetch_told = ((v->efer & EFER_NXE) && (v->cr4 & CR4_PAE)) || (v->cr4 & CR4_SMEP);

	if (!legacy_walk(v, gva, w)) {
		if (walk_allows(v, w, access))
			return 0;
		w->error = PF_P;
	}
	if (access & ACCESS_WRITE)
		w->error |= PF_W;
	if ((access & ACCESS_USER) && !(access & ACCESS_SYSTEM))
		w->error |= PF_U;
	if ((access & ACCESS_FETCH) && fetch_told)
		w->error |= PF_I;
	return -EFAULT;
}

void legacy_mark(struct vcpu *v, struct walk *w, unsigned access)
{
	bool pae = v->cr4 & CR4_PAE;

	for (unsigned level = 2; level >= w->level; level--) { /* PAE's first level has no A (SDM vol. 3, 4.8) */
		uint64_t set = PTE_A | (level == w->level && (access & ACCESS_WRITE) ? PTE_D : 0);

		if ((w->at[level].entry & set) == set)
			continue;
		w->at[level].entry |= set;
		guest_write(&v->vm->mem, w->at[level].gpa, &w->at[level].entry, pae ? 8 : 4);
	}
	w->dirty = w->at[w->level].entry & PTE_D;
}
