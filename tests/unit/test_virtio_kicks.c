// sources: rng.c blk.c disk.c disk_uring.c disk_threads.c net.c netback.c net_options.c virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c bus.c loop.c clock.c mem.c state_io.c
/* A driver that notifies without end: of a queue with nothing in it, and of a broken one. */
#define _GNU_SOURCE
#include "honest_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_a_million_kicks(void **state)
{
	(void)state;
	kind = RNG;
	packed = indirect = false;
	make();
	pthread_mutex_lock(&vm.lock);
	restart();
	for (unsigned i = 0; i < 500000; i++)
		reg(0x50, 0);
	assert_int_equal(dev->queue[0].kicks, 500000);
	assert_int_equal(dev->status, RUNNING);
	ring_store16(&((struct split_avail *)at(DRIVER(0)))->idx, SIZE + 1);
	for (unsigned i = 0; i < 500000; i++)
		reg(0x50, 0);
	assert_int_equal(dev->queue[0].kicks, 500001);
	assert_int_equal(dev->status, RUNNING | STATUS_NEEDS_RESET);
	assert_int_equal(dev->interrupts, 1);
	pthread_mutex_unlock(&vm.lock);
	works();
	unmake();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_a_million_kicks) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
