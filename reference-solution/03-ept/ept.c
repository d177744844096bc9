/*
 * Lab 3, checkpoint 3.1: an entry of Intel's extended page tables.
 *
 * It looks like an entry of ordinary page tables and is none: R, W and X are three bits of their own, present is whatever has one of
 * them, and what software must not write is no fault of the guest's but a misconfiguration, hv's own mistake.
 *
 * Reading: Intel SDM vol. 3, 28.3.2 (tables 28-1 to 28-7), 28.3.3.1 (misconfigurations), 28.3.7 (memory types), 24.6.11 (EPTP).
 */
#include "lab3.h"

/* Bits 0 to 2 are R, W, X: the NESTED_ constants themselves. */
#define EPT_TYPE_SHIFT 3      /* bits 5:3 of an entry that maps a page */
#define EPT_LARGE (1ull << 7) /* levels 3 and 2: maps a page */
#define EPT_A (1ull << 8)     /* both only with EPTP bit 6, else they mean nothing */
#define EPT_D (1ull << 9)
#define EPT_ADDR 0x000ffffffffff000ull
#define EPTP_WALK_LENGTH (3ull << 3) /* levels, less one */
#define EPTP_AD (1ull << 6)

uint64_t ept_encode(const struct nested *n, const struct nested_entry *e, unsigned level)
{
	// SOLUTION 3.1
	if (e->kind != NESTED_TABLE && e->kind != NESTED_PAGE)
		return 0;
	uint64_t entry = e->ma | e->rights;

	if (n->caps.accessed_dirty && e->accessed)
		entry |= EPT_A;
	if (e->kind == NESTED_TABLE)
		return entry; /* bits 6:3 are reserved there: no type */
	if (n->caps.accessed_dirty && e->dirty)
		entry |= EPT_D;
	if (level > 1)
		entry |= EPT_LARGE;
	return entry | (uint64_t)e->type << EPT_TYPE_SHIFT;
	// STARTER 3.1: make the 64 bits of an entry: rights, type, A and D, large or not, address. Hint: what leads to a table has no
	// type, and A and D exist only with caps.accessed_dirty.
	//	(void)e, (void)level;
	//	return lab_todo(n->vm, "3.1", "ept_encode() in ept.c: the bits of an entry, SDM vol. 3, tables 28-1 to 28-6"), 0;
	// END
}

// SOLUTION 3.1
/* The bits that must be 0 in a present entry of this level. */
static uint64_t reserved_bits(const struct nested *n, uint64_t entry, unsigned level)
{
	uint64_t reserved = EPT_ADDR & ~((1ull << n->caps.phys_bits) - 1);

	if (level == 4)
		return reserved | 0xf8;
	if (level == 1)
		return reserved;
	if (!(entry & EPT_LARGE))
		return reserved | 0x78;
	if (!(level == 3 ? n->caps.page_1g : n->caps.page_2m))
		reserved |= EPT_LARGE;
	return reserved | ((level_size(level) - 1) & EPT_ADDR);
}

/* (SDM vol. 3, 28.3.3.1) */
static bool misconfigured(const struct nested *n, uint64_t entry, unsigned level)
{
	unsigned type = entry >> EPT_TYPE_SHIFT & 7;
	bool page = level == 1 || (entry & EPT_LARGE);

	if ((entry & NESTED_W) && !(entry & NESTED_R))
		return true;
	if ((entry & NESTED_RWX) == NESTED_X && !n->caps.exec_only)
		return true;
	if (entry & reserved_bits(n, entry, level))
		return true;
	return page && (type == 2 || type == 3 || type == 7);
}
// END

void ept_decode(const struct nested *n, uint64_t entry, unsigned level, struct nested_entry *e)
{
	*e = (struct nested_entry){ .kind = NESTED_ABSENT, .type = TYPE_WB };
	// SOLUTION 3.1
	if (!(entry & NESTED_RWX))
		return;
	e->kind = NESTED_INVALID;
	if (misconfigured(n, entry, level))
		return;
	e->kind = level == 1 || (entry & EPT_LARGE) ? NESTED_PAGE : NESTED_TABLE;
	e->rights = entry & NESTED_RWX;
	e->accessed = n->caps.accessed_dirty && (entry & EPT_A);
	e->ma = entry & EPT_ADDR;
	if (e->kind == NESTED_PAGE) {
		e->type = entry >> EPT_TYPE_SHIFT & 7;
		e->dirty = n->caps.accessed_dirty && (entry & EPT_D);
	}
	// STARTER 3.1: say what an entry means. Hint: first whether it is present at all, then whether anything in it is not allowed
	// (28.3.3.1: rights, reserved bits, memory type), and only then what it says.
	//	(void)entry, (void)level;
	//	lab_todo(n->vm, "3.1", "ept_decode() in ept.c: absent, misconfigured, or what it says; SDM vol. 3, 28.3.3.1");
	// END
}

uint64_t ept_root(const struct nested *n)
{
	// SOLUTION 3.1
	return n->root_ma | TYPE_WB | EPTP_WALK_LENGTH | (n->caps.accessed_dirty ? EPTP_AD : 0);
	// STARTER 3.1: the EPT pointer: where the walk begins, how long it is, how the CPU caches its reads, whether it sets A and D.
	// Hint: SDM vol. 3, 24.6.11, table 24-9.
	//	return lab_todo(n->vm, "3.1", "ept_root() in ept.c: the EPT pointer, SDM vol. 3, 24.6.11"), 0;
	// END
}
