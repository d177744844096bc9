// sources: virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c
/* Both ring formats and everything that a driver may not do: the device stops, says why, and touches nothing outside guest memory. */
#include "queue_device.h"

static void broken(const char *words)
{
	static struct vq_chain c;

	assert_int_equal(virtqueue_pop(queue, &c), -EPROTO);
	assert_true(dev->status & STATUS_NEEDS_RESET);
	assert_int_equal(dev->interrupt_status, INTERRUPT_CONFIG);
	if (!strstr(dev->reason, words))
		fail_msg("\"%s\" does not say \"%s\"", dev->reason, words);
	assert_int_equal(virtqueue_pop(queue, &c), 0); /* dead until the reset */
}

static void offer_split(uint16_t head)
{
	*word(DRIVER + 4) = head;
	*word(DRIVER + 2) = 1;
}

static void test_split_malformed(void **state)
{
	(void)state;
#define CASE(words, ...)                      \
	do {                                  \
		set_up(false, 4, true, true); \
		__VA_ARGS__;                  \
		broken(words);                \
	} while (0)
	CASE("went 5 ahead", *word(DRIVER + 2) = 5);
	CASE("went 65535 ahead", *word(DRIVER + 2) = 65535);
	CASE("no descriptor 4", offer_split(4));
	CASE("no descriptor 4", put_split(DESC, DATA, 1, 1, 4), offer_split(0));
	CASE("longer than the queue", put_split(DESC, DATA, 1, 1, 0), offer_split(0));
	CASE("longer than the queue", put_split(DESC, DATA, 1, 1, 1), put_split(DESC + 16, DATA, 0, 1, 0), offer_split(0));
	CASE("outside memory", put_split(DESC, MEM - 4, 5, 0, 0), offer_split(0));
	CASE("outside memory", put_split(DESC, 0xffffffffffffff00, 0x200, 2, 0), offer_split(0));
	CASE("behind a writable", put_split(DESC, DATA, 1, 3, 1), put_split(DESC + 16, DATA, 1, 0, 0), offer_split(0));
	CASE("indirect table of 0", put_split(DESC, TABLES, 0, 4, 0), offer_split(0));
	CASE("indirect table of 24", put_split(DESC, TABLES, 24, 4, 0), offer_split(0));
	CASE("indirect table of 80", put_split(DESC, TABLES, 80, 4, 0), offer_split(0));
	CASE("middle of a chain", put_split(DESC, TABLES, 16, 5, 1), offer_split(0));
	CASE("in an indirect table", put_split(DESC, TABLES, 16, 4, 0), put_split(TABLES, TABLES, 16, 4, 0), offer_split(0));
	/* A table that lies on the queue's own descriptors is one nevertheless. */
	CASE("in an indirect table", put_split(DESC, DESC, 16, 4, 0), offer_split(0));
	CASE("table outside memory", put_split(DESC, MEM, 16, 4, 0), offer_split(0));
	CASE("no descriptor 1", put_split(DESC, TABLES, 16, 4, 0), put_split(TABLES, DATA, 1, 1, 1), offer_split(0));
	CASE("not agreed on", dev->features &= ~F_RING_INDIRECT_DESC, put_split(DESC, TABLES, 16, 4, 0), offer_split(0));
#undef CASE
}

#define A 0x80u /* available on the first lap */

static void test_packed_malformed(void **state)
{
	(void)state;
#define CASE(words, ...)                     \
	do {                                 \
		set_up(true, 4, true, true); \
		__VA_ARGS__;                 \
		broken(words);               \
	} while (0)
	CASE("slot 1, which is not available", put_packed(DESC, DATA, 1, 0, A | 1));
	CASE("free of the ring", for (unsigned i = 0; i < 4; i++) put_packed(DESC + 16 * i, DATA, 1, 0, A | 1));
	CASE("outside memory", put_packed(DESC, MEM - 4, 5, 0, A));
	CASE("outside memory", put_packed(DESC, 0xffffffffffffff00, 0x200, 0, A | 2));
	CASE("behind a writable", put_packed(DESC, DATA, 1, 0, A | 3), put_packed(DESC + 16, DATA, 1, 0, A));
	CASE("indirect table of 0", put_packed(DESC, TABLES, 0, 0, A | 4));
	CASE("indirect table of 24", put_packed(DESC, TABLES, 24, 0, A | 4));
	CASE("indirect table of 4112", put_packed(DESC, TABLES, 16 * 257, 0, A | 4));
	CASE("with others", put_packed(DESC, TABLES, 16, 0, A | 5));
	CASE("with others", put_packed(DESC, DATA, 1, 0, A | 1), put_packed(DESC + 16, TABLES, 16, 0, A | 4));
	CASE("table outside memory", put_packed(DESC, MEM, 16, 0, A | 4));
	CASE("not agreed on", dev->features &= ~F_RING_INDIRECT_DESC, put_packed(DESC, TABLES, 16, 0, A | 4));
#undef CASE
}

/* A driver that makes slots available again which the device has not given back: no more than the ring is ever in flight. */
static void test_in_flight(void **state)
{
	static struct vq_chain c;

	(void)state;
	/* AVAIL as on this lap, USED too: given back, not available. */
	set_up(true, 4, false, false);
	put_packed(DESC, DATA, 1, 0, 0x8080);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	set_up(true, 4, false, false);
	for (unsigned i = 0; i < 4; i++)
		put_packed(DESC + 16 * i, DATA, 1, 0, A);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(virtqueue_pop(queue, &c), 1);
	for (unsigned i = 0; i < 4; i++)
		put_packed(DESC + 16 * i, DATA, 1, 0, 0x8000);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	assert_int_equal(queue->in_flight, 4);
	/* Split: the same descriptor again and again. */
	set_up(false, 4, false, false);
	put_split(DESC, DATA, 1, 0, 0);
	for (uint16_t i = 0; i < 4; i++) {
		*word(DRIVER + 4 + 2 * i) = 0;
		*word(DRIVER + 2) = (uint16_t)(i + 1);
		assert_int_equal(virtqueue_pop(queue, &c), 1);
	}
	*word(DRIVER + 2) = 5;
	broken("more chains than descriptors");
}

static void test_enable(void **state)
{
	static const struct {
		bool packed;
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ false, 0, DESC, DRIVER, DEVICE },
		{ false, 3, DESC, DRIVER, DEVICE },
		{ false, 4, DESC + 8, DRIVER, DEVICE },
		{ false, 4, DESC, DRIVER + 1, DEVICE },
		{ false, 4, DESC, DRIVER, DEVICE + 2 },
		{ false, 4, MEM - 48, DRIVER, DEVICE },
		{ false, 4, DESC, MEM - 12, DEVICE },
		{ false, 4, DESC, DRIVER, MEM - 36 },
		{ false, 4, 0xfffffffffffffff0, DRIVER, DEVICE },
		{ true, 0, DESC, DRIVER, DEVICE },
		{ true, 257, DESC, DRIVER, DEVICE },
		{ true, 3, DESC + 8, DRIVER, DEVICE },
		{ true, 3, DESC, DRIVER + 2, DEVICE },
		{ true, 3, DESC, DRIVER, DEVICE + 2 },
		{ true, 3, MEM - 32, DRIVER, DEVICE },
		{ true, 3, DESC, MEM, DEVICE },
		{ true, 3, DESC, DRIVER, MEM },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		set_up(bad[i].packed, 4, true, true);
		queue->size = bad[i].size;
		queue->desc = bad[i].desc;
		queue->driver = bad[i].driver;
		queue->device = bad[i].device;
		if (virtio_rings(dev)->enable(queue) != -EPROTO || !(dev->status & STATUS_NEEDS_RESET))
			fail_msg("queue %u was accepted", i);
	}
	/* The last byte of memory is memory. */
	set_up(false, 4, true, true);
	queue->desc = MEM - 64;
	assert_int_equal(split_rings.enable(queue), 0);
	queue->desc = DESC;
	queue->driver = MEM - 14;
	assert_int_equal(split_rings.enable(queue), 0);
	set_up(true, 3, true, true);
	queue->desc = MEM - 48;
	assert_int_equal(packed_rings.enable(queue), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_malformed),
		cmocka_unit_test(test_packed_malformed),
		cmocka_unit_test(test_in_flight),
		cmocka_unit_test(test_enable),
	};

	return cmocka_run_group_tests(tests, make, unmake);
}
