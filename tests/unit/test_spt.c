// sources: spt.c mem.c
/* The bookkeeping of shadow page tables against a model that searches: thousands of random changes, after which every list must lead to
 * just the entries that are set. TRAPDOOR_SEED=N fixes them. */
#include "spt.h"
#include "trapengine.h"
#include "vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define NPAGES 24
#define GFNS 64
#define SLOTS 8 /* that are used, the monitor's among them */

static struct vm vm;
static struct shadow s;
static uint8_t *pool;
static uint64_t state;

static unsigned draw(unsigned n)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (unsigned)(state % n);
}

static unsigned slot_of(unsigned i) { return i < SLOTS - 2 ? i : PT_ENTRIES - SLOTS + i; }

static int set_up(void **opaque)
{
	(void)opaque;
	const char *seed = getenv("TRAPDOOR_SEED");
	state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	printf("test_spt: TRAPDOOR_SEED=%llu\n", (unsigned long long)state);
	state = state * 2 + 1;
	vm.mem.size = GFNS * PAGE;
	pool = calloc(NPAGES + 2, PAGE);
	return !pool || spt_create(&s, &vm, SHADOW_CACHED, pool, NPAGES, true);
}

static int tear_down(void **opaque)
{
	(void)opaque;
	spt_destroy(&s);
	free(pool);
	return 0;
}

/* The way to the monitor is there, from every page that must have it. */
static void check_monitor(const struct spage *p)
{
	uint64_t last = p->table[PT_ENTRIES - 1];

	if (!(p->role & ROLE_MONITOR))
		return;
	assert_true(last & PTE_P);
	if (role_level(p->role) == 2)
		assert_int_equal(last, MONITOR_MA | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
	assert_false(role_level(p->role) == 2 && (last & PTE_U));
}

static void check(void)
{
	unsigned used = 0, leads_to[NPAGES] = { 0 }, maps[GFNS] = { 0 }, parents[NPAGES] = { 0 };

	for (unsigned i = 0; i < NPAGES; i++) {
		const struct spage *p = &s.pages[i];
		unsigned entries = 0;

		if (!p->used)
			continue;
		used++;
		check_monitor(p);
		assert_ptr_equal(spt_find(&s, p->key, p->role), p);
		for (unsigned slot = 0; slot < PT_ENTRIES; slot++) {
			if (!spt_present(&s, p, slot))
				continue;
			entries++;
			if (role_level(p->role) == 1)
				maps[spt_leaf_gpa(p, slot) / PAGE]++;
			else
				leads_to[spt_child(&s, p, slot) - s.pages]++;
		}
		assert_int_equal(entries, p->entries);
	}
	assert_int_equal(used, NPAGES - s.free);
	/* The lists hold as many entries as there are, each of them once and of the right kind. */
	for (unsigned g = 0; g < GFNS; g++) {
		for (uint32_t e = s.leaves[g]; e; e = s.pages[e / PT_ENTRIES - 1].next[e % PT_ENTRIES]) {
			assert_int_equal(spt_leaf_gpa(&s.pages[e / PT_ENTRIES - 1], e % PT_ENTRIES), g * PAGE);
			assert_true(maps[g]-- > 0);
		}
		assert_int_equal(maps[g], 0);
	}
	for (unsigned i = 0; i < NPAGES; i++) {
		for (uint32_t e = s.pages[i].used ? s.pages[i].parents : 0; e; e = s.pages[e / PT_ENTRIES - 1].next[e % PT_ENTRIES])
			parents[i]++;
		assert_int_equal(parents[i], leads_to[i]);
	}
}

static struct spage *any(unsigned level)
{
	for (unsigned tries = 0; tries < 50; tries++) {
		struct spage *p = &s.pages[draw(NPAGES)];
		if (p->used && (!level || role_level(p->role) == level))
			return p;
	}
	return NULL;
}

static void change(void)
{
	struct spage *p = any(0), *child;
	unsigned slot = slot_of(draw(SLOTS));

	switch (draw(8)) {
	case 0:
	case 1: {
		unsigned level = 1 + draw(4);
		uint64_t key = draw(40);
		uint32_t role = level | (draw(2) ? ROLE_USER : 0) | (level > 1 && draw(2) ? ROLE_MONITOR : 0) | (draw(4) ? 0 : ROLE_DIRECT);
		if (spt_find(&s, key, role))
			break;
		bool room = s.free;
		assert_int_equal(spt_alloc(&s, key, role) != NULL, room);
		break;
	}
	case 2:
		if (p && !draw(3))
			spt_free(&s, p);
		break;
	case 3:
		if (p) {
			bool there = spt_present(&s, p, slot);
			assert_int_equal(spt_clear(&s, p, slot), there);
			assert_false(spt_present(&s, p, slot));
		}
		break;
	case 4: {
		unsigned gfn = draw(GFNS), writable = 0;
		for (unsigned i = 0; i < NPAGES; i++)
			for (unsigned n = 0; s.pages[i].used && role_level(s.pages[i].role) == 1 && n < PT_ENTRIES; n++)
				writable += spt_present(&s, &s.pages[i], n) && spt_leaf_gpa(&s.pages[i], n) == gfn * PAGE &&
					    (s.pages[i].table[n] & PTE_W);
		assert_int_equal(spt_write_protect(&s, gfn), writable > 0);
		assert_false(spt_write_protect(&s, gfn));
		break;
	}
	default:
		if (p && role_level(p->role) == 1) {
			uint64_t gpa = draw(GFNS) * PAGE, bits = draw(2) ? PTE_W | PTE_U : PTE_U | PTE_NX;
			spt_set_leaf(&s, p, slot, gpa, bits);
			assert_int_equal(p->table[slot] & (PTE_ADDR | PTE_W | PTE_U | PTE_NX | PTE_P), (GUEST_MA + gpa) | bits | PTE_P);
		} else if (p && (child = any(role_level(p->role) - 1)) && child != p) {
			if (role_level(p->role) == 2 && slot == PT_ENTRIES - 1 && (p->role & ROLE_MONITOR))
				break; /* the monitor's own */
			spt_set_table(&s, p, slot, child);
			assert_ptr_equal(spt_child(&s, p, slot), child);
		}
	}
}

static void test_random_changes(void **opaque)
{
	(void)opaque;
	for (unsigned i = 0; i < 20000; i++) {
		change();
		if (i % 50 == 0)
			check();
	}
	check();
	assert_true(s.count.peak <= NPAGES);
}

/* A freed page leaves nothing behind: whoever led to it leads nowhere, and the next owner finds it empty. */
static void test_freed_page(void **opaque)
{
	(void)opaque;
	struct spage *root, *child;

	for (unsigned i = 0; i < NPAGES; i++)
		if (s.pages[i].used)
			spt_free(&s, &s.pages[i]);
	root = spt_alloc(&s, 1, 2);
	child = spt_alloc(&s, 2, 1);
	s.root = root;
	spt_set_leaf(&s, child, 5, 3 * PAGE, PTE_U);
	spt_set_table(&s, root, 7, child);
	spt_set_table(&s, root, 8, child);
	spt_free(&s, child);
	assert_null(spt_child(&s, root, 7));
	assert_null(spt_child(&s, root, 8));
	assert_int_equal(root->entries, 0);
	assert_null(spt_find(&s, 2, 1));
	child = spt_alloc(&s, 9, 1);
	assert_int_equal(child->entries, 0);
	assert_false(spt_present(&s, child, 5));
	spt_free(&s, root);
	assert_null(s.root);
}

/* The shadows of one guest table: all roles but pieces of large pages. */
static void test_shadows_of_a_table(void **opaque)
{
	(void)opaque;
	unsigned found = 0;

	for (unsigned i = 0; i < NPAGES; i++)
		if (s.pages[i].used)
			spt_free(&s, &s.pages[i]);
	spt_alloc(&s, 77, 1);
	spt_alloc(&s, 77, 1 | ROLE_USER);
	spt_alloc(&s, 77, 2);
	spt_alloc(&s, 77, 1 | ROLE_DIRECT);
	spt_alloc(&s, 78, 1);
	for (struct spage *p = spt_next_of(&s, 77, NULL); p; p = spt_next_of(&s, 77, p)) {
		assert_int_equal(p->key, 77);
		assert_false(p->role & ROLE_DIRECT);
		found++;
	}
	assert_int_equal(found, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_changes),
		cmocka_unit_test(test_freed_page),
		cmocka_unit_test(test_shadows_of_a_table),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
