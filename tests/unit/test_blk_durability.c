// sources: blk.c disk.c disk_uring.c disk_threads.c mmio.c virtqueue.c packed.c virtio.c json.c ring_order.c written.c bus.c mem.c loop.c clock.c state_io.c
/* What the block device does to the disk itself: discard, write-zeroes, and when a write is on stable storage. */
#define _GNU_SOURCE
#include "blk_driver.h"

#include <sys/stat.h>

static unsigned with_ranges(uint32_t type, const struct range *range, unsigned n)
{
	memcpy(out_data(), range, n * sizeof *range);
	return request(type, 0, n * sizeof *range, 0, 3, NULL);
}

static void test_discard_and_write_zeroes(void **state)
{
	const struct range two[] = { { 16, 8, 0 }, { 512, 1024, 0 } }, unmap = { 1600, 3, 1 };
	const struct range wrong[] = {
		{ SECTORS, 1, 0 }, { SECTORS - 1, 2, 0 }, { ~0ull, 1, 0 }, { ~0ull, 2, 0 }, { 0, 0, 0 }
	};
	struct range many[17];
	struct stat before, after;
	(void)state;

	make(",aio=threads");
	drive(F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, two, 2), S_OK);
	for (unsigned i = 0; i < 2; i++)
		memset(&model[two[i].sector * SECTOR], 0, two[i].sectors * SECTOR);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, &unmap, 1), S_OK);
	memset(&model[unmap.sector * SECTOR], 0, unmap.sectors * SECTOR);
	image_is_model();
	stat(image, &before);
	assert_int_equal(with_ranges(T_DISCARD, &two[1], 1), S_OK);
	stat(image, &after);
	assert_true(after.st_blocks + 1024 <= before.st_blocks + 8);
	image_is_model(); /* of what is discarded nothing is promised, but here it was zeros before, and is */
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		const struct range good_then_wrong[] = { { 100, 1, 0 }, wrong[i] };

		assert_int_equal(with_ranges(T_DISCARD, &wrong[i], 1), S_IOERR);
		assert_int_equal(with_ranges(T_WRITE_ZEROES, good_then_wrong, 2), S_IOERR);
	}
	/* 5.2.6.2: flags that are not known, and unmap of a discard. */
	assert_int_equal(with_ranges(T_DISCARD, &(struct range){ 0, 1, 1 }, 1), S_UNSUPP);
	assert_int_equal(with_ranges(T_DISCARD, &(struct range){ 0, 1, 2 }, 1), S_UNSUPP);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, &(struct range){ 0, 1, 2 }, 1), S_UNSUPP);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, &(struct range){ 0, 1, 0x80000001 }, 1), S_UNSUPP);
	/* Also when another range is wrong in another way, on whichever side of it. */
	for (unsigned i = 0; i < 2; i++) {
		const struct range both[] = { { i ? 0 : SECTORS, 1, i ? 2 : 0 }, { i ? SECTORS : 0, 1, i ? 0 : 2 } };

		assert_int_equal(with_ranges(T_WRITE_ZEROES, both, 2), S_UNSUPP);
		assert_int_equal(with_ranges(T_DISCARD, both, 2), S_UNSUPP);
	}
	for (unsigned i = 0; i < 17; i++)
		many[i] = (struct range){ 8 * i, 1, 0 };
	assert_int_equal(with_ranges(T_WRITE_ZEROES, many, 17), S_IOERR);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 15, 0, 0, NULL), S_IOERR);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 0, 0, 0, NULL), S_IOERR);
	image_is_model();
	assert_int_equal(with_ranges(T_WRITE_ZEROES, many, 16), S_OK);
	for (unsigned i = 0; i < 16; i++)
		memset(&model[many[i].sector * SECTOR], 0, SECTOR);
	image_is_model();
	unmake();
}

/* A write that comes back, and the sync that must be over before: it is held up. */
static void sync_first(uint32_t type, uint64_t out)
{
	uint16_t idx = used_idx();

	header(OUT, type, 5);
	give(0, OUT, 16 + out, IN, 1, 0);
	io_set(true);
	io.logged = 0;
	memset(io.log, 0, sizeof io.log);
	reg(0x50, 0);
	if (out) { /* the write itself goes through the gate once */
		io_await(1);
		assert_null(strchr(io.log, 'S'));
		io_set(false);
		for (unsigned i = 0; !strchr(io.log, 's') && i < 100000; i++)
			usleep(100);
	} else {
		io_await(1);
		usleep(20000);
		assert_int_equal(used_idx(), idx);
		io_set(false);
	}
	until_used((uint16_t)(idx + 1));
	assert_non_null(strchr(io.log, 's'));
	if (out)
		assert_string_equal(io.log, "wSs");
}

static void test_flush_and_writethrough(void **state)
{
	(void)state;
	make(",aio=threads");
	/* Writeback: a write alone syncs nothing; a flush is complete when the sync is. */
	drive(F_FLUSH);
	assert_int_equal(request(T_OUT, 5, 512, 0, 0, NULL), S_OK);
	assert_string_equal(io.log, "w");
	sync_first(T_FLUSH, 0);
	/* A driver that knows no flush has writethrough. */
	drive(0);
	sync_first(T_OUT, 512);
	/* One that can choose: writeback with flush, writethrough without, and as it says. */
	drive(F_FLUSH | F_CONFIG_WCE);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	io_clear();
	assert_int_equal(request(T_OUT, 5, 512, 0, 0, NULL), S_OK);
	assert_string_equal(io.log, "w");
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 0);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 0);
	sync_first(T_OUT, 512);
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 1);
	io_clear();
	assert_int_equal(request(T_OUT, 5, 512, 0, 0, NULL), S_OK);
	assert_string_equal(io.log, "w");
	drive(F_CONFIG_WCE);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 0);
	sync_first(T_OUT, 512);
	/* The choice does not outlive the driver; nobody else may write there. */
	drive(F_FLUSH);
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 0);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	unmake();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_discard_and_write_zeroes),
		cmocka_unit_test(test_flush_and_writethrough),
	};

	seed_rnd();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
