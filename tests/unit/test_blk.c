// sources: blk.c disk.c disk_uring.c disk_threads.c mmio.c virtqueue.c packed.c virtio.c json.c ring_order.c written.c bus.c mem.c loop.c clock.c state_io.c
/* The block device behind its registers and its ring: which requests it takes, and how they are answered. */
#define _GNU_SOURCE
#include "blk_driver.h"

static void framing(const char *words)
{
	make(words);
	drive(F_FLUSH);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t n = rnd(9) + 1, sector = rnd(SECTORS - n + 1);
		unsigned cuts = (unsigned)rnd(12);
		uint32_t used;

		if (rnd(2)) {
			for (unsigned k = 0; k < n * SECTOR; k++)
				model[sector * SECTOR + k] = ((uint8_t *)out_data())[k] = (uint8_t)rnd(256);
			assert_int_equal(request(T_OUT, sector, n * SECTOR, 0, cuts, &used), S_OK);
			assert_int_equal(used, 1);
		} else {
			memset(in_data(), 0x55, n * SECTOR);
			assert_int_equal(request(T_IN, sector, 0, n * SECTOR, cuts, &used), S_OK);
			assert_int_equal(used, n * SECTOR + 1);
			assert_memory_equal(in_data(), &model[sector * SECTOR], n * SECTOR);
		}
	}
	image_is_model();
	unmake();
}

static void test_any_framing(void **state)
{
	(void)state;
	framing(",aio=threads");
	framing("");
}

static void test_bounds(void **state)
{
	static const struct {
		uint64_t sector, len;
	} wrong[] = { { SECTORS, 512 },
		      { SECTORS - 1, 1024 },
		      { ~0ull, 512 },
		      { ~0ull, 1024 },
		      { 1ull << 55, 512 },
		      { (1ull << 63) - 1, 512 },
		      { ~0ull - 6, 4096 },
		      { 0, 511 },
		      { 0, 513 },
		      { 0, 1 },
		      { 0, 0 } };
	uint32_t used;
	(void)state;

	make("");
	drive(F_FLUSH);
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		assert_int_equal(request(T_OUT, wrong[i].sector, wrong[i].len, 0, 2, &used), S_IOERR);
		assert_int_equal(used, 1);
		memset(in_data(), 0x77, 8192);
		assert_int_equal(request(T_IN, wrong[i].sector, 0, wrong[i].len, 2, &used), S_IOERR);
		/* What is counted must have been written, and the data was not. */
		assert_int_equal(used, wrong[i].len ? 0 : 1);
		for (unsigned k = 0; k < wrong[i].len; k++)
			assert_int_equal(((uint8_t *)in_data())[k], 0x77);
	}
	image_is_model();
	assert_int_equal(get(0x70), 15);
	assert_int_equal(request(T_IN, SECTORS - 1, 0, 512, 0, &used), S_OK);
	unmake();
}

static void test_id_and_unknown_types(void **state)
{
	static const char id[20] = "serial-0123456789ab";
	uint32_t used;
	(void)state;

	make("");
	drive(F_FLUSH);
	assert_int_equal(request(T_GET_ID, 0, 0, 20, 3, &used), S_OK);
	assert_int_equal(used, 21);
	assert_memory_equal(in_data(), id, 20);
	assert_int_equal(request(T_GET_ID, 0, 0, 5, 1, &used), S_OK);
	assert_int_equal(used, 6);
	assert_int_equal(request(T_GET_ID, 0, 0, 100, 1, &used), S_OK);
	assert_int_equal(used, 20);
	for (uint32_t type = 0; type < 40; type++)
		if (type != T_IN && type != T_OUT && type != T_FLUSH && type != T_GET_ID)
			assert_int_equal(request(type, 0, 512, 0, 1, &used), S_UNSUPP);
	assert_int_equal(request(0x80000000, 0, 512, 0, 1, &used), S_UNSUPP);
	image_is_model();
	unmake();
}

/* What is there to be read, when, and what it is (5.2.4, 5.2.5.2). */
static void test_configuration(void **state)
{
	(void)state;
	for (unsigned ro = 0; ro < 2; ro++) {
		make(ro ? ",ro" : "");
		/* SEG_MAX (2) and BLK_SIZE (6), flush always, and nothing else; no LIFETIME (15), no SECURE_ERASE (16). */
		assert_int_equal(dev->offered & 0xffffff, FEATURE(2) | FEATURE(6) | F_FLUSH |
								  (ro ? F_RO : F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES));
		assert_int_equal(virtio_mmio_read(dev, 0x100, 8), SECTORS);
		assert_int_equal(virtio_mmio_read(dev, CONFIG_WRITEBACK + 1, 1), 0); /* unused0 */
		for (unsigned i = 57; i < 60; i++)
			assert_int_equal(virtio_mmio_read(dev, 0x100 + i, 1), 0); /* unused1 */
		unmake();
	}
	/* A driver that can choose the cache but not flush reads writethrough as soon as it may read it. */
	make("");
	reg(0x70, 3);
	reg(0x24, 0);
	reg(0x20, F_CONFIG_WCE);
	reg(0x24, 1);
	reg(0x20, 1);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	reg(0x70, 11);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 0);
	/* And if it wants otherwise, that stays. */
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 1);
	reg(0x70, 15);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	unmake();
}

static void test_read_only(void **state)
{
	struct range range = { 0, 8, 0 };
	uint32_t used;
	(void)state;

	make(",ro");
	assert_true(dev->offered & F_RO);
	assert_false(dev->offered & (F_DISCARD | F_WRITE_ZEROES));
	drive(F_RO | F_FLUSH);
	memset(out_data(), 0, 4096);
	assert_int_equal(request(T_OUT, 3, 512, 0, 1, &used), S_IOERR);
	memcpy(out_data(), &range, sizeof range);
	assert_int_equal(request(T_DISCARD, 0, sizeof range, 0, 0, &used), S_UNSUPP);
	assert_int_equal(request(T_WRITE_ZEROES, 0, sizeof range, 0, 0, &used), S_UNSUPP);
	assert_int_equal(request(T_FLUSH, 0, 0, 0, 0, &used), S_OK);
	assert_int_equal(request(T_IN, 3, 0, 512, 1, &used), S_OK);
	assert_memory_equal(in_data(), &model[3 * SECTOR], SECTOR);
	drive(F_FLUSH); /* it is what was offered that counts, not what was accepted */
	assert_int_equal(request(T_OUT, 3, 512, 0, 1, &used), S_IOERR);
	image_is_model();
	unmake();
}

static void test_host_errors(void **state)
{
	uint32_t used;
	(void)state;

	make(",aio=threads");
	drive(F_FLUSH);
	io.fail_write = ENOSPC;
	assert_int_equal(request(T_OUT, 0, 512, 0, 0, &used), S_IOERR);
	io.fail_read = EIO;
	assert_int_equal(request(T_IN, 0, 0, 512, 0, &used), S_IOERR);
	io.most = 100;
	assert_int_equal(request(T_IN, 7, 0, 4096, 5, &used), S_OK);
	assert_int_equal(used, 4097);
	assert_memory_equal(in_data(), &model[7 * SECTOR], 4096);
	assert_int_equal(get(0x70), 15);
	unmake();
}

static void test_malformed_requests(void **state)
{
	(void)state;
	make("");
	for (unsigned i = 0; i < 3; i++) {
		drive(F_FLUSH);
		header(OUT, T_FLUSH, 0);
		if (i == 0)
			give(0, OUT, 15, IN, 1, 1); /* a header that is too short */
		else if (i == 1)
			give(0, OUT, 16, IN, 0, 1); /* no status */
		else
			give(0, OUT, 0, IN, 17, 1); /* no header */
		reg(0x50, 0);
		assert_int_equal(get(0x70), 15 | STATUS_NEEDS_RESET);
		assert_int_equal(used_idx(), 0);
	}
	drive(F_FLUSH);
	assert_int_equal(request(T_FLUSH, 0, 0, 0, 0, NULL), S_OK);
	unmake();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_framing),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_id_and_unknown_types),
		cmocka_unit_test(test_configuration),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_host_errors),
		cmocka_unit_test(test_malformed_requests),
	};

	seed_rnd();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
