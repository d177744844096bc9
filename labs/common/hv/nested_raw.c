#include "nested_raw.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_ept(const struct nested_raw *r)
{
	return r->n->format == &format_ept;
}

/* (SDM vol. 3, 28.3.2; APM vol. 2, 5.4.1) */
static bool present(const struct nested_raw *r, uint64_t entry)
{
	return entry & (is_ept(r) ? NESTED_RWX : PTE_P);
}

static size_t pool_size(const struct nested_raw *r)
{
	return r->n->npages * PAGE;
}

int raw_create(struct nested_raw *r, struct nested *n)
{
	*r = (struct nested_raw){ .n = n };
	r->seen = malloc(pool_size(r));
	if (!r->seen)
		return -ENOMEM;
	raw_flushed(r);
	return 0;
}

void raw_destroy(struct nested_raw *r)
{
	free(r->seen);
	*r = (struct nested_raw){ 0 };
}

uint64_t *raw_slot(const struct nested_raw *r, uint64_t gpa, unsigned level)
{
	uint64_t table = r->n->root_ma;

	for (unsigned l = PT_LEVELS; l > level; l--) {
		uint64_t entry = *nested_slot(r->n, table, level_index(gpa, l));
		table = entry & PTE_ADDR;
		if (!present(r, entry) || (l < PT_LEVELS && (entry & PTE_PS)) || !nested_in_pool(r->n, table))
			return NULL;
	}
	return nested_slot(r->n, table, level_index(gpa, level));
}

void raw_store(struct nested_raw *r, uint64_t *slot, uint64_t entry)
{
	*slot = entry;
	r->seen[slot - (uint64_t *)r->n->pool] = entry;
}

unsigned raw_touch(struct nested_raw *r, uint64_t gpa, bool write)
{
	uint64_t a = is_ept(r) ? 1ull << 8 : PTE_A, d = is_ept(r) ? 1ull << 9 : PTE_D;

	for (unsigned level = PT_LEVELS; level; level--) {
		uint64_t *slot = raw_slot(r, gpa, level);
		if (!slot || !present(r, *slot))
			return 0;
		bool page = level == 1 || (*slot & PTE_PS);
		if (r->n->caps.accessed_dirty)
			raw_store(r, slot, *slot | a | (page && write ? d : 0));
		if (page)
			return level;
	}
	return 0;
}

static void print_run(uint64_t table, const uint64_t *entry, unsigned first, unsigned count)
{
	printf("  0x%llx %u 0x%llx", (unsigned long long)table, first, (unsigned long long)entry[first]);
	if (count > 1)
		printf(" %u 0x%llx", count, (unsigned long long)(entry[first + 1] - entry[first]));
	putchar('\n');
}

void raw_print(const struct nested_raw *r)
{
	for (unsigned page = 0; page < r->n->npages; page++) {
		uint64_t table = r->n->pool_ma + page * PAGE;
		const uint64_t *entry = nested_slot(r->n, table, 0);

		for (unsigned i = 0, count; i < PT_ENTRIES; i += count) {
			count = 1;
			if (!entry[i])
				continue;
			while (i + count < PT_ENTRIES && entry[i + count] &&
			       entry[i + count] - entry[i + count - 1] == entry[i + 1] - entry[i])
				count++;
			if (count == 2) /* any two have a difference: that is no row */
				count = 1;
			print_run(table, entry, i, count);
		}
	}
}

static bool noted(const struct nested *n, const uint64_t *slot)
{
	if (n->nchanges > NESTED_CHANGES)
		return true;
	for (unsigned i = 0; i < n->nchanges; i++)
		if (n->change[i] == slot)
			return true;
	return false;
}

void raw_print_unnoted(const struct nested_raw *r)
{
	const uint64_t *now = (const uint64_t *)r->n->pool;

	for (size_t i = 0; i < pool_size(r) / sizeof *now; i++)
		if (r->seen[i] && r->seen[i] != now[i] && !noted(r->n, now + i))
			printf("  unnoted 0x%llx\n", (unsigned long long)nested_slot_ma(r->n, now + i));
}

void raw_flushed(struct nested_raw *r)
{
	memcpy(r->seen, r->n->pool, pool_size(r));
}
