// sources: net.c netback.c net_options.c virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c written.c state_io.c
/* The network device: frames for the driver, in the buffers that it gave. */
#include "net_driver.h"

static void rx_buffer(uint32_t gpa, uint32_t len)
{
	uint16_t head = next_desc[RX];

	add_desc(RX, gpa, len, DESC_F_WRITE);
	offer(RX, head);
}

static void receive_one_buffer(void **state)
{
	static const uint8_t header[HDR] = { [10] = 1 };

	(void)state;
	for (unsigned mrg = 0; mrg < 2; mrg++) {
		start(mrg ? F_MRG : 0);
		memset(mem(BUFFERS), 0xee, 4096);
		rx_buffer(BUFFERS, 2048);
		kick(RX);
		assert_true(netback_deliver(wire, pattern(600, 3), 600));
		assert_int_equal(used(RX)->idx, 1);
		assert_int_equal(used(RX)->ring[0].len, HDR + 600);
		assert_memory_equal(mem(BUFFERS), header, HDR);
		assert_memory_equal(mem(BUFFERS + HDR), pattern(600, 3), 600);
		assert_int_equal(*(uint8_t *)mem(BUFFERS + HDR + 600), 0xee);
		assert_true(irq_level);
	}
}

/* A frame over several buffers: all but the last are full, and the header tells how many. */
static void receive_merged(void **state)
{
	static const uint32_t sizes[] = { 20, 12, 500, 13, 1, 2000 };

	(void)state;
	start(F_MRG);
	for (unsigned i = 0; i < 6; i++)
		rx_buffer(BUFFERS + 0x1000 * i, sizes[i] < HDR ? HDR : sizes[i]);
	kick(RX);
	memset(mem(BUFFERS), 0xee, 0x6000);
	assert_true(netback_deliver(wire, pattern(600, 4), 600));
	assert_int_equal(used(RX)->idx, 6);
	assert_int_equal(((uint16_t *)mem(BUFFERS))[5], 6);

	const uint8_t *frame = pattern(600, 4);
	uint32_t expected[] = { 20, 12, 500, 13, 12, 612 - 557 }, at = 0;

	for (unsigned i = 0; i < 6; i++) {
		uint32_t skip = i ? 0 : HDR, len = used(RX)->ring[i].len;

		assert_int_equal(used(RX)->ring[i].id, i);
		assert_int_equal(len, expected[i]);
		assert_memory_equal(mem(BUFFERS + 0x1000 * i + skip), frame + at, len - skip);
		at += len - skip;
		assert_int_equal(*(uint8_t *)mem(BUFFERS + 0x1000 * i + len), 0xee);
	}
	assert_int_equal(at, 600);
}

/* Half of a frame is never to be seen (5.1.6.4.1), in either format. */
static void chains_that_belong_together(void **state)
{
	static struct vq_chain c[2];
	struct virtqueue *q = &dev->queue[RX];
	struct packed_desc *packed = mem(RING(RX));

	(void)state;
	start(F_MRG);
	rx_buffer(BUFFERS, 100);
	rx_buffer(BUFFERS, 100);
	assert_int_equal(virtqueue_pop(q, &c[0]) + virtqueue_pop(q, &c[1]), 2);
	virtqueue_push_more(q, &c[0], 100);
	assert_int_equal(used(RX)->idx, 0);
	virtqueue_push(q, &c[1], 50);
	assert_int_equal(used(RX)->idx, 2);

	start(F_MRG | F_RING_PACKED);
	for (uint16_t i = 0; i < 2; i++)
		packed[i] = (struct packed_desc){ BUFFERS, 100, i, PACKED_F_AVAIL | DESC_F_WRITE };
	assert_int_equal(virtqueue_pop(q, &c[0]) + virtqueue_pop(q, &c[1]), 2);
	virtqueue_push_more(q, &c[0], 100);
	assert_int_equal(packed[0].flags & PACKED_F_USED, 0);
	virtqueue_push(q, &c[1], 50);
	for (uint16_t i = 0; i < 2; i++)
		assert_int_equal(packed[i].flags & (PACKED_F_AVAIL | PACKED_F_USED), PACKED_F_AVAIL | PACKED_F_USED);
	assert_int_equal(packed[0].len, 100);
	assert_int_equal(packed[1].len, 50);
}

/* 5.1.4.1: the MTU is 3000. A VLAN tag does not count for it. */
static void receive_too_long_for_the_mtu(void **state)
{
	uint8_t *frame = pattern(3018, 5);

	(void)state;
	start(F_MTU);
	for (unsigned i = 0; i < 3; i++)
		rx_buffer(BUFFERS + 0x1000 * i, 0x1000);
	kick(RX);
	assert_true(netback_deliver(wire, frame, 3000 + 14));
	assert_int_equal(used(RX)->idx, 1);
	assert_true(netback_deliver(wire, frame, 3000 + 15));
	assert_int_equal(used(RX)->idx, 1);
	frame[12] = 0x81;
	frame[13] = 0;
	assert_true(netback_deliver(wire, frame, 3000 + 18));
	assert_int_equal(used(RX)->idx, 2);
	assert_true(netback_deliver(wire, frame, 3000 + 19));
	assert_int_equal(used(RX)->idx, 2);
	assert_int_equal(wire->dropped, 2);
	/* It stays what it was. */
	netback_set_link(wire, false);
	reg(0x70, 0);
	assert_int_equal(virtio_mmio_read(dev, 0x10a, 2), 3000);
}

static void receive_without_buffers(void **state)
{
	(void)state;
	start(F_MRG);
	assert_false(netback_deliver(wire, pattern(100, 1), 100));
	assert_true(paused);
	assert_false(netback_deliver(wire, pattern(200, 2), 200));
	rx_buffer(BUFFERS, 60); /* not enough for the first, and not given back */
	kick(RX);
	assert_int_equal(used(RX)->idx, 0);
	rx_buffer(BUFFERS + 0x1000, 60);
	kick(RX);
	assert_int_equal(used(RX)->idx, 2);
	assert_memory_equal(mem(BUFFERS + HDR), pattern(100, 1), 60 - HDR);
	assert_true(paused);
	rx_buffer(BUFFERS + 0x2000, 1000);
	kick(RX);
	assert_int_equal(used(RX)->idx, 3);
	assert_int_equal(used(RX)->ring[2].len, HDR + 200);
	assert_false(paused);
}

static void receive_too_small(void **state)
{
	(void)state;
	start(0); /* one buffer a frame */
	rx_buffer(BUFFERS, 100);
	kick(RX);
	assert_true(netback_deliver(wire, pattern(100 - HDR + 1, 1), 100 - HDR + 1)); /* dropped */
	assert_int_equal(used(RX)->idx, 0);
	assert_true(netback_deliver(wire, pattern(100 - HDR, 2), 100 - HDR));
	assert_int_equal(used(RX)->idx, 1);
	assert_int_equal(used(RX)->ring[0].len, 100);

	start(F_MRG); /* all that there are, and it is still too long */
	for (unsigned i = 0; i < SIZE; i++)
		rx_buffer(BUFFERS + 0x100 * i, 50);
	kick(RX);
	assert_true(netback_deliver(wire, pattern(SIZE * 50, 1), SIZE * 50));
	assert_int_equal(used(RX)->idx, 0);
	assert_true(netback_deliver(wire, pattern(60, 2), 60));
	assert_int_equal(used(RX)->idx, 2);
	assert_true(netback_deliver(wire, pattern(14 * 50 - HDR, 3), 14 * 50 - HDR));
	assert_int_equal(used(RX)->idx, SIZE);
	assert_memory_equal(mem(BUFFERS + 0x200 + HDR), pattern(14 * 50 - HDR, 3), 50 - HDR);
}

static void receive_against_the_rules(void **state)
{
	(void)state;
	start(F_MRG);
	rx_buffer(BUFFERS, HDR - 1);
	netback_deliver(wire, pattern(60, 1), 60);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	assert_false(paused); /* a broken device holds nobody up */
	start(F_MRG);
	add_desc(RX, BUFFERS, 100, 0);
	offer(RX, 0);
	netback_deliver(wire, pattern(60, 1), 60);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	start(F_MRG);
	avail(RX)->idx = SIZE + 1;
	netback_deliver(wire, pattern(60, 1), 60);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
}

static void nobody_listens(void **state)
{
	(void)state;
	reg(0x70, 0);
	for (unsigned i = 0; i < 1000; i++)
		assert_true(netback_deliver(wire, pattern(60, 1), 60));
	start(0);
	assert_int_equal(used(RX)->idx, 0);
	rx_buffer(BUFFERS, 100);
	kick(RX);
	assert_int_equal(used(RX)->idx, 0); /* what came before is gone */
}

/* After a reset nothing that was taken before is written to, and what waited is gone. */
static void reset_with_buffers_taken(void **state)
{
	(void)state;
	start(F_MRG);
	rx_buffer(BUFFERS, 50);
	kick(RX);
	assert_false(netback_deliver(wire, pattern(600, 1), 600));
	memset(mem(BUFFERS), 0xee, 100);
	reg(0x70, 0);
	assert_false(paused);
	start(F_MRG);
	rx_buffer(BUFFERS + 0x1000, 2000);
	kick(RX);
	assert_int_equal(used(RX)->idx, 0);
	assert_true(netback_deliver(wire, pattern(60, 2), 60));
	assert_int_equal(used(RX)->idx, 1);
	assert_memory_equal(mem(BUFFERS + 0x1000 + HDR), pattern(60, 2), 60);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(((uint8_t *)mem(BUFFERS))[i], 0xee);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(receive_one_buffer),
		TEST(receive_merged),
		TEST(chains_that_belong_together),
		TEST(receive_too_long_for_the_mtu),
		TEST(receive_without_buffers),
		TEST(receive_too_small),
		TEST(receive_against_the_rules),
		TEST(nobody_listens),
		TEST(reset_with_buffers_taken),
	};
	return cmocka_run_group_tests_name("net receive", tests, NULL, NULL);
}
