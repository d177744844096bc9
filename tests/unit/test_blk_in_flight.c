// sources: blk.c disk.c disk_uring.c disk_threads.c mmio.c virtqueue.c packed.c virtio.c json.c ring_order.c written.c bus.c mem.c loop.c clock.c state_io.c
/* Requests of the block device that the host has not answered yet: a reset waits for them, and there is a limit to their number. */
#define _GNU_SOURCE
#include "blk_driver.h"

static void *open_gate(void *late)
{
	usleep(50000);
	*(uint16_t *)late = used_idx();
	io_set(false);
	return NULL;
}

/* Both ways to take the queue away wait for what is in flight; afterwards nothing writes to the guest's memory any more. */
static void test_reset_with_requests_in_flight(void **state)
{
	static const struct {
		unsigned reg, value;
	} how[] = { { 0x70, 0 }, { 0x44, 0 } };
	uint8_t *in = NULL;
	(void)state;

	for (unsigned h = 0; h < 2; h++) {
		uint16_t late = 99;
		pthread_t thread;

		make(",aio=threads");
		drive(F_FLUSH);
		in = guest_range(&vm.mem, IN, MiB);
		memset(in, 0, MiB);
		for (unsigned i = 0; i < 20; i++) {
			header(OUT + i * 16, T_IN, i);
			give(i * 8, OUT + i * 16, 16, IN + i * 4096, 513, 1);
		}
		io_set(true);
		reg(0x50, 0);
		io_await(4); /* as many as there are threads */
		pthread_create(&thread, NULL, open_gate, &late);
		reg(how[h].reg, how[h].value);
		assert_false(io.closed); /* it waited */
		pthread_join(thread, NULL);
		assert_int_equal(late, 0);
		/* Whoever owns the memory now may use it. */
		memset(in, 0x33, MiB);
		usleep(20000);
		for (unsigned i = 0; i < MiB; i++)
			assert_int_equal(in[i], 0x33);
		drive(F_FLUSH);
		assert_int_equal(request(T_IN, 9, 0, 512, 1, NULL), S_OK);
		assert_memory_equal(in, &model[9 * SECTOR], SECTOR);
		unmake();
	}
}

/* The same descriptors again and again while they are in flight: what the device remembers stays within the size of the queue. */
static void test_requests_in_flight_are_bounded(void **state)
{
	struct split_avail *avail;
	(void)state;

	make(",aio=threads");
	drive(F_FLUSH);
	avail = guest_range(&vm.mem, AVAIL, 6 + 2 * QUEUE);
	header(OUT, T_IN, 1);
	io_set(true);
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned k = 0; k < 200; k++)
			give(0, OUT, 16, IN, 513, 0);
		reg(0x50, 0);
		assert_true(dev->queue[0].in_flight <= QUEUE);
		if (get(0x70) != 15)
			break;
	}
	/* 800 given, 256 taken: the rest is still in the ring, and 544 are more than it can hold. */
	assert_true(ring_load16(&avail->idx) >= 400);
	io_set(false);
	reg(0x70, 0);
	drive(F_FLUSH);
	io_set(true);
	for (unsigned k = 0; k < 256; k++)
		give(0, OUT, 16, IN, 513, 0);
	reg(0x50, 0);
	for (unsigned k = 0; k < 200; k++)
		give(0, OUT, 16, IN, 513, 0);
	reg(0x50, 0);
	assert_int_equal(dev->queue[0].in_flight, QUEUE);
	io_set(false);
	until_used(456); /* what waited is taken when there is room, without another kick */
	assert_int_equal(get(0x70), 15);
	unmake();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reset_with_requests_in_flight),
		cmocka_unit_test(test_requests_in_flight_are_bounded),
	};

	seed_rnd();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
