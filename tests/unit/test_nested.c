// sources: nested_pool.c nested.c ept.c npt.c dirty.c
/* The pool of nested tables, and the reference's tables, dirty log and harvest against a model of pages of 4 KiB, in both formats.
 * TRAPDOOR_SEED=N fixes the random changes. */
#include "lab3.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define NPAGES 40
#define POOL_MA (2 * MiB)
#define GFNS 2048 /* of the model: 8 MiB, so that there are pages of 2 MiB with neighbours */
#define NOTHING (~0ull)

static struct nested n;
static uint8_t *pool;
static uint64_t state;
static unsigned complaints;
static struct model {
	uint64_t ma;
	unsigned rights;
} model[GFNS];

/* What the pool says of a table that is not in use. */
int vm_stop(struct vm *vm, int status, const char *fmt, ...)
{
	(void)vm, (void)status, (void)fmt;
	complaints++;
	return -ECANCELED;
}

static unsigned draw(unsigned limit)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (unsigned)(state % limit);
}

static void begin(const struct nested_format *f)
{
	const struct nested_caps caps = { .phys_bits = 40, .page_2m = true, .page_1g = true, .accessed_dirty = true };

	if (n.free_list)
		nested_destroy(&n);
	memset(pool, 0xff, NPAGES * PAGE); /* whatever was in the memory is not in the tables */
	assert_int_equal(nested_create(&n, NULL, f, &caps, pool, POOL_MA, NPAGES), 0);
	complaints = 0;
	for (unsigned gfn = 0; gfn < GFNS; gfn++)
		model[gfn] = (struct model){ NOTHING, 0 };
}

static int set_up(void **opaque)
{
	(void)opaque;
	const char *seed = getenv("TRAPDOOR_SEED");
	state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	printf("test_nested: TRAPDOOR_SEED=%llu\n", (unsigned long long)state);
	state = state * 2 + 1;
	pool = aligned_alloc(PAGE, NPAGES * PAGE);
	return !pool;
}

static int tear_down(void **opaque)
{
	(void)opaque;
	nested_destroy(&n);
	free(pool);
	return 0;
}

/* --- the pool ------------------------------------------------------------------------------------------------------------ */

static bool zero(uint64_t table)
{
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		if (*nested_slot(&n, table, i))
			return false;
	return true;
}

static void test_pool(void **opaque)
{
	(void)opaque;
	uint64_t table[NPAGES];

	begin(&format_ept);
	assert_int_equal(n.root_ma, POOL_MA);
	assert_true(zero(n.root_ma));
	for (unsigned i = 1; i < NPAGES; i++) {
		assert_int_equal(nested_left(&n), NPAGES - i);
		table[i] = nested_take(&n);
		assert_true(nested_in_pool(&n, table[i]));
		assert_true(zero(table[i]));
		for (unsigned other = 0; other < i; other++)
			assert_int_not_equal(table[i], other ? table[other] : n.root_ma);
		nested_set(&n, nested_slot(&n, table[i], i), i);
	}
	assert_int_equal(nested_take(&n), 0);
	assert_int_equal(n.used, NPAGES);
	assert_int_equal(n.count.peak, NPAGES);

	/* What is retired waits for the flush, and is zeroed when it comes back. */
	nested_retire(&n, table[7]);
	nested_retire(&n, table[9]);
	assert_int_equal(n.used, NPAGES - 2);
	assert_int_equal(nested_take(&n), 0);
	n.flush = true;
	nested_flushed(&n);
	assert_false(n.flush);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t again = nested_take(&n);
		assert_true(again == table[7] || again == table[9]);
		assert_true(zero(again));
	}
	assert_int_equal(nested_take(&n), 0);
	assert_int_equal(n.count.flushes, 1);
	assert_int_equal(complaints, 0);
}

static void test_retire_of_strangers(void **opaque)
{
	(void)opaque;
	begin(&format_npt);
	uint64_t table = nested_take(&n);
	nested_retire(&n, table);
	nested_retire(&n, table);
	assert_int_equal(complaints, 1);
	nested_retire(&n, POOL_MA + NPAGES * PAGE);
	nested_retire(&n, POOL_MA - PAGE);
	nested_retire(&n, POOL_MA + 8);
	assert_int_equal(complaints, 4);
	assert_int_equal(n.retired_count, 1);
	assert_int_equal(n.used, 1);
	assert_false(nested_in_pool(&n, POOL_MA + NPAGES * PAGE));
	assert_false(nested_in_pool(&n, POOL_MA - PAGE));
	assert_false(nested_in_pool(&n, POOL_MA + 8));
}

static void test_changes(void **opaque)
{
	(void)opaque;
	begin(&format_ept);
	uint64_t table = nested_take(&n), *slot = nested_slot(&n, table, 3);

	assert_int_equal(nested_slot_ma(&n, slot), table + 24);
	nested_set(&n, slot, 5); /* it said nothing before */
	nested_set(&n, slot, 5);
	assert_int_equal(n.nchanges, 0);
	nested_set(&n, slot, 0);
	assert_int_equal(n.nchanges, 1);
	assert_ptr_equal(n.change[0], slot);
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		nested_set(&n, nested_slot(&n, table, i), 7);
	nested_retire(&n, table); /* each of its entries changes */
	assert_int_equal(n.nchanges, NESTED_CHANGES + 1);
	nested_flushed(&n);
	assert_int_equal(n.nchanges, 0);
}

static void test_rights(void **opaque)
{
	(void)opaque;
	static const bool ept[8] = { [1] = true, [3] = true, [5] = true, [7] = true };

	for (unsigned rights = 0; rights < 8; rights++) {
		begin(&format_ept);
		assert_int_equal(nested_can(&n, rights), ept[rights]);
		n.caps.exec_only = true;
		assert_int_equal(nested_can(&n, rights), ept[rights] || rights == NESTED_X);
		begin(&format_npt);
		n.caps.exec_only = true;
		assert_int_equal(nested_can(&n, rights), ept[rights]);
	}
	assert_false(nested_can(&n, 8 | NESTED_R));
}

/* --- the reference's tables ------------------------------------------------------------------------------------------------ */

static const struct nested_format *const formats[] = { &format_ept, &format_npt };

static void check(void)
{
	for (unsigned gfn = 0; gfn < GFNS; gfn++) {
		struct nested_walk w;
		nested_walk(&n, gfn * PAGE + 0x123, 0, &w);
		assert_int_equal(w.end, model[gfn].ma == NOTHING ? WALK_ABSENT : WALK_OK);
		if (w.end == WALK_OK) {
			assert_int_equal(w.ma, model[gfn].ma + 0x123);
			assert_int_equal(w.rights, model[gfn].rights);
		}
	}
	assert_int_equal(n.used + n.nfree + n.retired_count, NPAGES);
	assert_int_equal(complaints, 0);
}

static void change(void)
{
	static const unsigned all_rights[] = { NESTED_R, NESTED_R | NESTED_W, NESTED_R | NESTED_X, NESTED_RWX };
	unsigned rights = all_rights[draw(4)], kind = draw(8), count = draw(3) ? 1 + draw(40) : 512 * (1 + draw(2)), first,
		 before;

	if (count >= 512)
		first = 512 * draw(2);
	else
		first = draw(GFNS - count);
	uint64_t ma = GiB + 512 * PAGE * draw(1000) + (draw(3) ? first % 512 * PAGE : draw(512) * PAGE);

	before = n.used;
	if (kind < 3) {
		assert_int_equal(nested_map(&n, first * PAGE, ma, count * PAGE, rights, TYPE_WB, 3), 0);
		for (unsigned i = 0; i < count; i++)
			model[first + i] = (struct model){ ma + i * PAGE, rights };
	} else if (kind < 5) {
		assert_int_equal(nested_unmap(&n, first * PAGE, count * PAGE), 0);
		for (unsigned i = 0; i < count; i++)
			model[first + i] = (struct model){ NOTHING, 0 };
	} else if (kind < 7) {
		assert_int_equal(nested_protect(&n, first * PAGE, count * PAGE, rights), 0);
		for (unsigned i = 0; i < count; i++)
			model[first + i].rights = rights;
	} else {
		int joined = nested_join(&n, first * PAGE, 2);
		assert_true(!joined || joined == -EBUSY || joined == -ENOENT);
		assert_int_equal(n.used, before - !joined);
	}
	if (n.retired_count)
		assert_true(n.flush);
	if (!draw(4))
		nested_flushed(&n);
	/* Of 8 MiB, with a way to it: never more than a table for each 2 MiB. */
	assert_true(n.used <= 3 + GFNS / 512);
}

static void test_random_changes(void **opaque)
{
	(void)opaque;
	for (unsigned f = 0; f < 2; f++) {
		begin(formats[f]);
		for (unsigned i = 0; i < 1500; i++) {
			change();
			if (n.nfree < 8)
				nested_flushed(&n);
			if (i % 10 == 0)
				check();
		}
		check();
		assert_int_equal(nested_unmap(&n, 0, 1ull << 48), 0);
		assert_int_equal(n.used, 1);
	}
}

/* --- dirty.c --------------------------------------------------------------------------------------------------------------- */

static unsigned seen_count, seen_level, seen_bits;
static uint64_t seen_gpa;

static void seen(void *opaque, uint64_t gpa, unsigned level, unsigned bits)
{
	assert_ptr_equal(opaque, &n);
	seen_count++;
	seen_gpa = gpa;
	seen_level = level;
	seen_bits = bits;
}

/* A CPU uses the page. */
static void use(uint64_t gpa, bool write)
{
	struct nested_walk w;

	nested_walk(&n, gpa, 0, &w);
	assert_int_equal(w.end, WALK_OK);
	w.at[w.level].accessed = true;
	w.at[w.level].dirty |= write;
	*w.slot[w.level] = n.format->encode(&n, &w.at[w.level], w.level);
}

static void test_harvest(void **opaque)
{
	(void)opaque;
	for (unsigned f = 0; f < 2; f++) {
		begin(formats[f]);
		nested_map(&n, 0, GiB, 4 * MiB, NESTED_RWX, TYPE_WB, 1);
		nested_map(&n, 4 * MiB, 2 * GiB, 4 * MiB, NESTED_RWX, TYPE_WB, 2);
		nested_flushed(&n);
		seen_count = 0;
		/* Tables' entries have A from the start, and it is no page's. */
		assert_int_equal(nested_harvest(&n, 0, 8 * MiB, HARVEST_ACCESSED | HARVEST_DIRTY, seen, &n), 0);
		assert_false(n.flush);
		use(0x5000, false);
		use(6 * MiB + 0x7000, true);
		assert_int_equal(nested_harvest(&n, 0x5000, PAGE, HARVEST_ACCESSED | HARVEST_DIRTY, seen, &n), 1);
		assert_true(n.flush);
		assert_int_equal(seen_gpa, 0x5000);
		assert_int_equal(seen_level, 1);
		assert_int_equal(seen_bits, HARVEST_ACCESSED);
		assert_int_equal(nested_harvest(&n, 0, 8 * MiB, HARVEST_DIRTY, seen, &n), 1);
		assert_int_equal(seen_gpa, 6 * MiB);
		assert_int_equal(seen_level, 2);
		assert_int_equal(seen_bits, HARVEST_DIRTY);
		assert_int_equal(nested_harvest(&n, 0, 8 * MiB, HARVEST_ACCESSED | HARVEST_DIRTY, seen, &n), 1);
		assert_int_equal(seen_bits, HARVEST_ACCESSED); /* D was told before */
		assert_int_equal(nested_harvest(&n, 0, 8 * MiB, HARVEST_ACCESSED | HARVEST_DIRTY, seen, &n), 0);
		assert_int_equal(seen_count, 3);
	}
}

static bool writable(uint64_t gpa)
{
	struct nested_walk w;

	nested_walk(&n, gpa, NESTED_W, &w);
	return w.end == WALK_OK;
}

/* A watched page of 4 KiB, log or no log. */
static bool may_write(void *opaque, uint64_t gpa)
{
	assert_ptr_equal(opaque, &n);
	return gpa != 0x3000;
}

static void test_dirty_log(void **opaque)
{
	(void)opaque;
	uint64_t bitmap[GFNS / 64], out[GFNS / 64];
	struct dirty_log log = { .pages = GFNS - 3, .bitmap = bitmap, .may_write = may_write, .opaque = &n };
	unsigned dirty = 0;

	for (unsigned f = 0; f < 2; f++) {
		begin(formats[f]);
		/* Small pages, one of them watched; a large page that ends within the log, one that reaches beyond its end. */
		nested_map(&n, 0, GiB, 2 * MiB, NESTED_RWX, TYPE_WB, 1);
		nested_map(&n, 4 * MiB, 2 * GiB, 4 * MiB, NESTED_RWX, TYPE_WB, 2);
		nested_protect(&n, 0x3000, PAGE, NESTED_R | NESTED_X);
		nested_flushed(&n);
		memset(bitmap, 0xff, sizeof bitmap);
		assert_int_equal(dirty_start(&n, &log), 0);
		assert_true(log.on && n.flush);
		for (unsigned gfn = 0; gfn < GFNS; gfn++)
			assert_int_equal(writable(gfn * PAGE), gfn >= GFNS - 3);
		struct nested_walk w;
		nested_walk(&n, 4 * MiB, 0, &w);
		assert_int_equal(w.level, 2); /* nobody has written to it yet */
		assert_int_equal(w.rights, NESTED_R | NESTED_X);

		assert_int_equal(dirty_fault(&n, &log, 0x5123), 0);
		assert_int_equal(dirty_fault(&n, &log, 5 * MiB + 0x456), 0);
		assert_true(writable(0x5000) && writable(5 * MiB));
		assert_false(writable(0x6000) || writable(5 * MiB + PAGE) || writable(4 * MiB));
		nested_flushed(&n);
		assert_int_equal(dirty_fetch(&n, &log, out), 0);
		assert_true(n.flush);
		dirty = 0;
		for (unsigned gfn = 0; gfn < GFNS; gfn++)
			dirty += out[gfn / 64] >> gfn % 64 & 1;
		assert_int_equal(dirty, 2);
		assert_true(out[0] >> 5 & 1 && out[5 * MiB / PAGE / 64] & 1);
		assert_false(writable(0x5000) || writable(5 * MiB));
		assert_int_equal(dirty_fetch(&n, &log, out), 0);
		for (unsigned i = 0; i < GFNS / 64; i++)
			assert_int_equal(out[i], 0);

		assert_int_equal(dirty_stop(&n, &log), 0);
		assert_false(log.on);
		for (unsigned gfn = 0; gfn < GFNS; gfn++)
			assert_int_equal(writable(gfn * PAGE), gfn != 3 && (gfn < 512 || gfn >= 1024));
	}
}

/* What was joined while all was read-only may be of two minds when the log ends. */
static void test_log_over_joined_pages(void **opaque)
{
	(void)opaque;
	uint64_t bitmap[8];
	struct dirty_log log = { .pages = 512, .bitmap = bitmap, .may_write = may_write, .opaque = &n };

	begin(&format_ept);
	nested_map(&n, 0, GiB, 2 * MiB, NESTED_RWX, TYPE_WB, 1);
	nested_protect(&n, 0x3000, PAGE, NESTED_R | NESTED_X);
	assert_int_equal(dirty_start(&n, &log), 0);
	assert_int_equal(nested_join(&n, 0, 2), 0);
	assert_int_equal(dirty_stop(&n, &log), 0);
	for (unsigned gfn = 0; gfn < 512; gfn++)
		assert_int_equal(writable(gfn * PAGE), gfn != 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pool),	       cmocka_unit_test(test_retire_of_strangers),
		cmocka_unit_test(test_changes),	       cmocka_unit_test(test_rights),
		cmocka_unit_test(test_random_changes), cmocka_unit_test(test_harvest),
		cmocka_unit_test(test_dirty_log),      cmocka_unit_test(test_log_over_joined_pages),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
