#include "walk_cases.h"

static uint64_t next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* --- the CPU and the access ----------------------------------------------------------------------------------------------- */

static void draw_cpu(struct walk_case *c, uint64_t *state)
{
	static const uint8_t widths[8] = { 36, 39, 40, 46, 48, 51, 52, 52 };
	uint64_t r = next(state), supervisor = c->kind == WALK_SMAP || c->kind == WALK_MARKS ? CR4_SMEP | CR4_SMAP : 0;

	c->phys_bits = widths[r & 7];
	c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG | (r & 0x8 ? CR0_WP : 0);
	c->cr4 = CR4_PAE | (r & 0x10 ? CR4_PGE : 0) | (((r & 0x20 ? CR4_SMEP : 0) | (r & 0x40 ? CR4_SMAP : 0)) & supervisor);
	c->efer = EFER_LME | EFER_LMA | (r & 0x100 ? EFER_NXE : 0);
	c->rflags = FLAG_FIXED | (r & 0x200 ? FLAG_AC : 0);
	c->cr3 = r >> 10 & 0xfff; /* below the address: PWT, PCD, and bits that mean nothing */

	/* Who: the kernel, which most rules are about, a user, or the CPU itself while one of the two runs. */
	unsigned who = r >> 22 & 7;
	c->access = who < 4 ? 0 : who < 6 ? ACCESS_USER : ACCESS_SYSTEM | (who == 7 ? ACCESS_USER : 0);
	c->cpl = c->access & ACCESS_USER ? 3 : 0;
	/* What. The CPU fetches nothing from its tables. */
	unsigned what = (r >> 30 & 0xff) % (c->access & ACCESS_SYSTEM ? 2 : 3);
	c->access |= what == 1 ? ACCESS_WRITE : what == 2 ? ACCESS_FETCH : 0;
}

/* Does it have pages and entries out of the ordinary? */
static bool has_odd(const struct walk_case *c) { return c->kind == WALK_LARGE || c->kind == WALK_MARKS; }

/* --- the way ---------------------------------------------------------------------------------------------------------------- */

/* Lets a table point to itself, as kernels do to reach their tables: one entry then serves two levels or more. */
static void bend(struct walk_case *c, unsigned level, unsigned times)
{
	for (unsigned l = level - 1; l >= level - times; l--) {
		c->table[l] = c->table[level];
		c->index[l] = c->index[level];
	}
	if (level - times > 1)
		c->table[level - times - 1] = c->table[level];
}

static void draw_way(struct walk_case *c, uint64_t *state)
{
	static const uint16_t edges[4] = { 0, 255, 256, 511 };

	for (unsigned level = PT_LEVELS; level; level--) {
		uint64_t r = next(state);
		c->index[level] = r & 3 ? r >> 4 & 511 : edges[r >> 2 & 3];
		c->table[level] = walk_table(r >> 13 & (WALK_TABLES - 1));
	}
	uint64_t r = next(state);
	unsigned level = r & 7;
	if (level >= 2 && level <= PT_LEVELS)
		bend(c, level, 1 + (unsigned)(r >> 3 & 0xff) % (level - 1));
	c->gva = r >> 11 & (PAGE - 1);
	for (level = PT_LEVELS; level; level--)
		c->gva |= (uint64_t)c->index[level] << (12 + 9 * (level - 1));
	if (c->gva >> 47)
		c->gva |= ~0ull << 48;
	c->cr3 |= has_odd(c) && !(r >> 23 & 31) ? WALK_MEM : c->table[PT_LEVELS];
}

/* --- entries ---------------------------------------------------------------------------------------------------------------- */

/* What an entry may hold whatever it says otherwise: A, D, PWT, PCD, G and what software may use. */
#define LOOSE (PTE_A | PTE_D | PTE_G | 0xe18ull | 0x7ffull << 52)
#define LARGE_PAT (1ull << 12)

/* One of the bits that must be 0, in an entry that is otherwise complete. (SDM vol. 3, tables 4-15 to 4-20) */
static uint64_t draw_reserved(const struct walk_case *c, unsigned level, bool large, uint64_t r)
{
	if (level == PT_LEVELS && (r & 1))
		return PTE_PS;
	if (large && (r & 1)) /* between the PAT bit and the page's address */
		return 1ull << (13 + (r >> 1 & 0xff) % (9 * level - 10));
	return c->phys_bits < 52 ? 1ull << (c->phys_bits + (r >> 1 & 0xff) % (52 - c->phys_bits)) : 0;
}

static uint64_t draw_entry(const struct walk_case *c, unsigned level, uint64_t *state)
{
	bool odd = has_odd(c);
	uint64_t rights = next(state), bits = next(state), reserved = next(state);
	uint64_t address = bits & PTE_ADDR & ((1ull << c->phys_bits) - 1), entry = next(state) & LOOSE;
	bool large = odd && (level == 2 || level == 3) && !(rights >> 15 & 3);
	unsigned oddity = odd ? rights >> 17 & (large ? 3 : 15) : 2; /* 0: a reserved bit, 1: no memory, else neither */

	entry |= (rights & 0x1f ? PTE_P : 0) | (rights & 0xe0 ? PTE_W : 0) | (rights & 0x700 ? PTE_U : 0);
	if (!(rights & 0x7800) && (odd || (c->efer & EFER_NXE)))
		entry |= PTE_NX;
	if (level == 1) /* where larger pages have PS, this one has its PAT bit */
		entry |= address | (bits & PTE_PS);
	else if (large)
		entry |= PTE_PS | (address & (~(level_size(level) - 1) | LARGE_PAT));
	else if (oddity == 1)
		entry |= bits & 1 ? WALK_MEM : address | WALK_MEM;
	else
		entry |= c->table[level - 1];
	return oddity ? entry : entry | draw_reserved(c, level, large, reserved);
}

void walk_case_make(struct walk_case *c, enum walk_kind kind, uint64_t seed, uint32_t number)
{
	uint64_t state = seed << 32 | number;

	*c = (struct walk_case){ .kind = kind, .seed = seed, .number = number };
	draw_cpu(c, &state);
	draw_way(c, &state);
	for (unsigned level = PT_LEVELS; level; level--)
		c->entry[level] = draw_entry(c, level, &state);
}

void walk_case_store(const struct walk_case *c, struct guest_mem *mem)
{
	/* Upwards: where one entry serves two levels, the upper one decides, and it points back to its own table. */
	for (unsigned level = 1; level <= PT_LEVELS; level++)
		guest_write(mem, walk_case_gpa(c, level), &c->entry[level], 8);
}
