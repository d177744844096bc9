#include "lab3.h"

#include <stdlib.h>

const struct nested_format format_ept = { .name = "ept", .encode = ept_encode, .decode = ept_decode, .root = ept_root };
const struct nested_format format_npt = { .name = "npt", .encode = npt_encode, .decode = npt_decode, .root = npt_root };

enum page_state { PAGE_FREE, PAGE_USED, PAGE_RETIRED };

static uint64_t page_ma(const struct nested *n, unsigned page)
{
	return n->pool_ma + page * PAGE;
}

bool nested_in_pool(const struct nested *n, uint64_t ma)
{
	return ma % PAGE == 0 && ma >= n->pool_ma && ma - n->pool_ma < n->npages * PAGE;
}

int nested_create(struct nested *n, struct vm *vm, const struct nested_format *f, const struct nested_caps *caps,
		  uint8_t *pool, uint64_t pool_ma, unsigned npages)
{
	*n = (struct nested){ .vm = vm, .format = f, .caps = *caps, .pool = pool, .pool_ma = pool_ma, .npages = npages };
	n->free_list = calloc(npages, sizeof *n->free_list);
	n->retired = calloc(npages, sizeof *n->retired);
	n->state = calloc(npages, sizeof *n->state);
	if (!n->free_list || !n->retired || !n->state) {
		nested_destroy(n);
		return -ENOMEM;
	}
	memset(pool, 0, npages * PAGE);
	while (n->nfree < npages) { /* the first page is the first to go */
		n->free_list[n->nfree] = (uint16_t)(npages - 1 - n->nfree);
		n->nfree++;
	}
	n->root_ma = nested_take(n);
	return 0;
}

void nested_destroy(struct nested *n)
{
	free(n->free_list);
	free(n->retired);
	free(n->state);
	*n = (struct nested){ 0 };
}

bool nested_can(const struct nested *n, unsigned rights)
{
	if (rights & ~NESTED_RWX)
		return false;
	return rights & NESTED_R || (rights == NESTED_X && n->format == &format_ept && n->caps.exec_only);
}

uint64_t *nested_slot(struct nested *n, uint64_t table_ma, unsigned slot)
{
	return (uint64_t *)(n->pool + (table_ma - n->pool_ma)) + slot;
}

void nested_set(struct nested *n, uint64_t *slot, uint64_t entry)
{
	if (*slot && *slot != entry) {
		if (n->nchanges < NESTED_CHANGES)
			n->change[n->nchanges] = slot;
		if (n->nchanges <= NESTED_CHANGES)
			n->nchanges++;
	}
	*slot = entry;
}

uint64_t nested_take(struct nested *n)
{
	if (!n->nfree)
		return 0;
	/* Last freed, first taken: who still uses a table that is gone learns of it soon. */
	unsigned page = n->free_list[--n->nfree];
	n->state[page] = PAGE_USED;
	if (++n->used > n->count.peak)
		n->count.peak = n->used;
	return page_ma(n, page);
}

void nested_retire(struct nested *n, uint64_t table_ma)
{
	unsigned page = (unsigned)((table_ma - n->pool_ma) / PAGE);

	if (!nested_in_pool(n, table_ma) || n->state[page] != PAGE_USED) {
		vm_stop(n->vm, HV_STOPPED, "nested_retire() was given %#llx, which is no table in use",
			(unsigned long long)table_ma);
		return;
	}
	/*
	 * Cleared now, with each change noted, and not when it is taken again: a machine that shadows the tables (KVM does) keeps what it
	 * made of this one, and finds it again when the page is a table once more.
	 */
	for (unsigned slot = 0; slot < PT_ENTRIES; slot++)
		nested_set(n, nested_slot(n, table_ma, slot), 0);
	n->state[page] = PAGE_RETIRED;
	n->retired[n->retired_count++] = (uint16_t)page;
	n->used--;
}

void nested_flushed(struct nested *n)
{
	while (n->retired_count) {
		unsigned page = n->retired[--n->retired_count];
		n->state[page] = PAGE_FREE;
		n->free_list[n->nfree++] = (uint16_t)page;
	}
	n->nchanges = 0;
	n->flush = false;
	n->count.flushes++;
}
