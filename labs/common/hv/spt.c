#include "spt.h"
#include "trapengine.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * An entry is named by one number, page * 512 + slot, and is in one list: of its guest page if it is a leaf, of its child if it leads to
 * one. 0 ends a list, so names begin at 512: page 0 does not exist. Lists are doubly linked, or taking an entry out would mean
 * searching.
 */
#define NONE 0u
#define HASH_SIZE 1024u

/* Every entry that leads on allows everything: the leaf decides. A set A bit saves the CPU a write. */
#define TABLE_BITS (PTE_P | PTE_W | PTE_U | PTE_A)

static unsigned number(const struct shadow *s, const struct spage *p) { return (unsigned)(p - s->pages) + 1; }
static uint32_t name(const struct shadow *s, const struct spage *p, unsigned slot) { return number(s, p) * PT_ENTRIES + slot; }
static struct spage *page_of(const struct shadow *s, uint32_t entry) { return &s->pages[entry / PT_ENTRIES - 1]; }
static unsigned bucket(uint64_t key) { return (unsigned)((key ^ key >> 10 ^ key >> 20) % HASH_SIZE); }

static void link_entry(struct shadow *s, uint32_t *head, struct spage *p, unsigned slot)
{
	p->next[slot] = *head;
	p->prev[slot] = NONE;
	if (*head != NONE)
		page_of(s, *head)->prev[*head % PT_ENTRIES] = name(s, p, slot);
	*head = name(s, p, slot);
}

static void unlink_entry(struct shadow *s, uint32_t *head, struct spage *p, unsigned slot)
{
	uint32_t next = p->next[slot], prev = p->prev[slot];

	if (next != NONE)
		page_of(s, next)->prev[next % PT_ENTRIES] = prev;
	if (prev != NONE)
		page_of(s, prev)->next[prev % PT_ENTRIES] = next;
	else
		*head = next;
}

/* What an entry holds that nobody has set: nothing, or the way to the monitor. */
static uint64_t empty_entry(const struct shadow *s, const struct spage *p, unsigned slot)
{
	if (slot != PT_ENTRIES - 1 || !(p->role & ROLE_MONITOR) || !s->deprivileged)
		return 0;
	switch (role_level(p->role)) {
	case 4: return s->pdpt_ma | TABLE_BITS;
	case 3: return s->pd_ma | TABLE_BITS;
	case 2: return MONITOR_MA | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS; /* one page of 2 MiB, out of CPL 3's reach */
	default: return 0;
	}
}

int spt_create(struct shadow *s, struct vm *vm, enum shadow_mode mode, uint8_t *pool, unsigned npages, bool deprivileged)
{
	*s = (struct shadow){
		.vm = vm, .mode = mode, .npages = npages, .free = npages, .ngfns = vm->mem.size / PAGE, .deprivileged = deprivileged
	};
	s->pages = calloc(npages, sizeof *s->pages);
	s->hash = calloc(HASH_SIZE, sizeof *s->hash);
	s->leaves = calloc(s->ngfns, sizeof *s->leaves);
	s->links = calloc((size_t)npages * PT_ENTRIES * 2, sizeof *s->links);
	if (!s->pages || !s->hash || !s->leaves || !s->links) {
		spt_destroy(s);
		return -ENOMEM;
	}
	/* The first two pages lead to the monitor where the guest has nothing near it. */
	s->pdpt_ma = POOL_MA;
	s->pd_ma = POOL_MA + PAGE;
	struct spage pdpt = { .role = ROLE_MONITOR | 3 }, pd = { .role = ROLE_MONITOR | 2 };
	memset(pool, 0, 2 * PAGE);
	((uint64_t *)pool)[PT_ENTRIES - 1] = empty_entry(s, &pdpt, PT_ENTRIES - 1);
	((uint64_t *)(pool + PAGE))[PT_ENTRIES - 1] = empty_entry(s, &pd, PT_ENTRIES - 1);
	for (unsigned i = 0; i < npages; i++) {
		struct spage *p = &s->pages[i];
		p->table = (uint64_t *)(pool + (2 + i) * PAGE);
		p->ma = POOL_MA + (2 + i) * PAGE;
		p->next = s->links + (size_t)i * PT_ENTRIES * 2;
		p->prev = p->next + PT_ENTRIES;
	}
	return 0;
}

void spt_destroy(struct shadow *s)
{
	free(s->pages);
	free(s->hash);
	free(s->leaves);
	free(s->links);
	*s = (struct shadow){ 0 };
}

struct spage *spt_find(struct shadow *s, uint64_t key, uint32_t role)
{
	for (uint32_t i = s->hash[bucket(key)]; i; i = s->pages[i - 1].hash_next)
		if (s->pages[i - 1].key == key && s->pages[i - 1].role == role)
			return &s->pages[i - 1];
	return NULL;
}

struct spage *spt_next_of(struct shadow *s, uint64_t gfn, const struct spage *p)
{
	uint32_t i = p ? p->hash_next : s->hash[bucket(gfn)];

	for (; i; i = s->pages[i - 1].hash_next)
		if (s->pages[i - 1].key == gfn && !(s->pages[i - 1].role & ROLE_DIRECT))
			return &s->pages[i - 1];
	return NULL;
}

struct spage *spt_alloc(struct shadow *s, uint64_t key, uint32_t role)
{
	struct spage *p = s->pages;

	if (!s->free)
		return NULL;
	while (p->used)
		p++;
	p->key = key;
	p->role = role;
	p->used = true;
	p->unsync = p->global = false;
	p->large = p->writes = 0;
	p->entries = 0;
	if (p->ma == s->cr3 && role_level(role) != PT_LEVELS)
		s->cr3 = 0;
	p->stamp = s->clock;
	p->parents = NONE;
	p->hash_next = s->hash[bucket(key)];
	s->hash[bucket(key)] = number(s, p);
	memset(p->table, 0, PAGE);
	p->table[PT_ENTRIES - 1] = empty_entry(s, p, PT_ENTRIES - 1);
	s->free--;
	s->count.made++;
	if (s->npages - s->free > s->count.peak)
		s->count.peak = s->npages - s->free;
	return p;
}

void spt_free(struct shadow *s, struct spage *p)
{
	uint32_t *i = &s->hash[bucket(p->key)];

	for (unsigned slot = 0; slot < PT_ENTRIES && p->entries; slot++)
		spt_clear(s, p, slot);
	while (p->parents != NONE)
		spt_clear(s, page_of(s, p->parents), p->parents % PT_ENTRIES);
	while (*i != number(s, p))
		i = &s->pages[*i - 1].hash_next;
	*i = p->hash_next;
	if (p->unsync)
		s->nunsync--;
	if (s->root == p)
		s->root = NULL;
	p->used = false;
	s->free++;
}

bool spt_present(const struct shadow *s, const struct spage *p, unsigned slot)
{
	return p->table[slot] != empty_entry(s, p, slot);
}

struct spage *spt_child(const struct shadow *s, const struct spage *p, unsigned slot)
{
	return spt_present(s, p, slot) ? &s->pages[((p->table[slot] & PTE_ADDR) - POOL_MA) / PAGE - 2] : NULL;
}

uint64_t *spt_leaf(const struct shadow *s, const struct spage *root, uint64_t gva)
{
	const struct spage *p = root;

	while (p && role_level(p->role) > 1)
		p = spt_child(s, p, level_index(gva, role_level(p->role)));
	return p && spt_present(s, p, level_index(gva, 1)) ? &p->table[level_index(gva, 1)] : NULL;
}

uint64_t spt_leaf_gpa(const struct spage *p, unsigned slot) { return (p->table[slot] & PTE_ADDR) - GUEST_MA; }

bool spt_clear(struct shadow *s, struct spage *p, unsigned slot)
{
	if (!spt_present(s, p, slot))
		return false;
	if (role_level(p->role) == 1)
		unlink_entry(s, &s->leaves[spt_leaf_gpa(p, slot) / PAGE], p, slot);
	else
		unlink_entry(s, &spt_child(s, p, slot)->parents, p, slot);
	p->table[slot] = empty_entry(s, p, slot);
	p->entries--;
	return true;
}

void spt_set_leaf(struct shadow *s, struct spage *p, unsigned slot, uint64_t gpa, uint64_t bits)
{
	spt_clear(s, p, slot);
	if (!s->deprivileged && (s->system || !(p->role & ROLE_USER)))
		bits &= ~PTE_U;
	p->table[slot] = (GUEST_MA + gpa) | bits | PTE_P | PTE_A | PTE_D;
	p->entries++;
	link_entry(s, &s->leaves[gpa / PAGE], p, slot);
}

void spt_set_table(struct shadow *s, struct spage *p, unsigned slot, struct spage *child)
{
	spt_clear(s, p, slot);
	p->table[slot] = child->ma | TABLE_BITS;
	p->entries++;
	link_entry(s, &child->parents, p, slot);
}

bool spt_write_protect(struct shadow *s, uint64_t gfn)
{
	bool any = false;

	for (uint32_t i = gfn < s->ngfns ? s->leaves[gfn] : NONE; i != NONE;) {
		struct spage *p = page_of(s, i);
		unsigned slot = i % PT_ENTRIES;
		any |= p->table[slot] & PTE_W;
		p->table[slot] &= ~PTE_W;
		i = p->next[slot];
	}
	return any;
}
