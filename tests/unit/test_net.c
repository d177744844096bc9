// sources: net.c netback.c net_options.c virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c written.c state_io.c
/* The network device: its configuration, and the frames that a driver sends. */
#include "net_driver.h"

static void tx_frame(uint32_t gpa, uint32_t len)
{
	uint16_t head = next_desc[TX];

	add_desc(TX, gpa, len, 0);
	offer(TX, head);
	kick(TX);
}

static void configuration(void **state)
{
	static const uint8_t mac[6] = { 2, 1, 2, 3, 4, 5 };
	uint32_t generation = (uint32_t)virtio_mmio_read(dev, 0xfc, 4);

	(void)state;
	assert_int_equal(virtio_mmio_read(dev, 8, 4), 1);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(virtio_mmio_read(dev, 0x100 + i, 1), mac[i]);
	assert_int_equal(virtio_mmio_read(dev, 0x106, 2), 1);
	assert_int_equal(virtio_mmio_read(dev, 0x10a, 2), 3000);
	/* Nothing else: no checksums, no segmentation, no control queue, one pair of queues. */
	assert_int_equal(dev->offered, F_MTU | F_MAC | F_MRG | F_STATUS | F_VERSION_1 | vm.opt.device[0].rings);
	virtio_mmio_write(dev, 0x100, 4, 0); /* read-only */
	assert_int_equal(virtio_mmio_read(dev, 0x100, 1), 2);

	start(F_STATUS);
	netback_set_link(wire, false);
	assert_int_equal(virtio_mmio_read(dev, 0x106, 2), 0);
	assert_int_equal(virtio_mmio_read(dev, 0xfc, 4), generation + 1);
	assert_int_equal(virtio_mmio_read(dev, 0x60, 4), INTERRUPT_CONFIG);
	assert_true(irq_level);
	netback_set_link(wire, false); /* no news */
	assert_int_equal(virtio_mmio_read(dev, 0xfc, 4), generation + 1);
}

static void transmit_whole(void **state)
{
	(void)state;
	start(F_MRG);
	memset(mem(BUFFERS), 0, HDR);
	memcpy(mem(BUFFERS + HDR), pattern(1514, 1), 1514);
	tx_frame(BUFFERS, HDR + 1514);
	assert_int_equal(nsent, 1);
	assert_int_equal(sent_len[0], 1514);
	assert_memory_equal(sent[0], pattern(1514, 1), 1514);
	assert_int_equal(used(TX)->idx, 1);
	assert_int_equal(used(TX)->ring[0].len, 0);
	assert_true(irq_level);
}

/* How a driver divides header and frame means nothing: every cut of a frame of 60 bytes in three. */
static void transmit_in_pieces(void **state)
{
	(void)state;
	start(0);
	memset(mem(BUFFERS), 0, HDR);
	memcpy(mem(BUFFERS + HDR), pattern(60, 2), 60);
	for (unsigned a = 0; a <= HDR + 60; a += 5)
		for (unsigned b = a; b <= HDR + 60; b += 3) {
			uint16_t head = next_desc[TX];

			add_desc(TX, BUFFERS, a, DESC_F_NEXT);
			add_desc(TX, BUFFERS + a, b - a, DESC_F_NEXT);
			add_desc(TX, BUFFERS + b, HDR + 60 - b, 0);
			offer(TX, head);
			kick(TX);
			assert_int_equal(sent_len[(nsent - 1) % 4], 60);
			assert_memory_equal(sent[(nsent - 1) % 4], pattern(60, 2), 60);
		}
	assert_int_equal(nsent, used(TX)->idx);
	assert_int_equal(status(), 0xf);
}

static void transmit_what_was_not_agreed_on(void **state)
{
	static const struct {
		uint8_t flags, gso;
		uint32_t len;
		bool goes;
	} cases[] = {
		{ 0, 0, 60, true },   { 1, 0, 60, false },  { 0xfe, 0, 60, true }, { 0, 1, 60, false },	 { 0, 0x80, 60, false },
		{ 0, 0, 13, false },  { 0, 0, 14, true },   { 0, 0, 3018, true },  { 0, 0, 3019, false }, { 0, 0, 65550, false },
		{ 0, 0, 0, false },
	};

	(void)state;
	start(F_MTU);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		unsigned before = nsent;

		memset(mem(BUFFERS), 0, HDR);
		*(uint8_t *)mem(BUFFERS) = cases[i].flags;
		*(uint8_t *)mem(BUFFERS + 1) = cases[i].gso;
		tx_frame(BUFFERS, HDR + cases[i].len);
		assert_int_equal(nsent - before, cases[i].goes);
		assert_int_equal(used(TX)->idx, i + 1);
		assert_int_equal(status(), 0xf);
	}
}

static void transmit_against_the_rules(void **state)
{
	(void)state;
	for (uint32_t len = 1; len < HDR; len += 5) {
		start(0);
		tx_frame(BUFFERS, len);
		assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	}
	start(0);
	add_desc(TX, BUFFERS, 100, DESC_F_NEXT);
	add_desc(TX, BUFFERS + 100, 1, DESC_F_WRITE);
	offer(TX, 0);
	kick(TX);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	assert_int_equal(used(TX)->idx, 0);
	assert_int_equal(nsent, 0);
	start(0); /* and a reset heals it */
	tx_frame(BUFFERS, 100);
	assert_int_equal(nsent, 1);
}

static void network_that_takes_nothing(void **state)
{
	(void)state;
	start(0);
	memset(mem(BUFFERS), 0, 100);
	block_at = 1;
	for (unsigned i = 0; i < 5; i++)
		tx_frame(BUFFERS, 100 + i);
	assert_int_equal(nsent, 1);
	assert_int_equal(used(TX)->idx, 1);
	netback_set_blocked(wire, false);
	assert_int_equal(nsent, 5);
	assert_int_equal(used(TX)->idx, 5);
	assert_int_equal(sent_len[0], 104 - HDR);
}

static void wrong_use(void **state)
{
	(void)state;
	assert_int_equal(net_create(&vm, "cable"), -ECANCELED);
	assert_int_equal(vm.status, HV_USAGE);
	vm.stopping = 0;
	assert_int_equal(net_create(&vm, "tap=x"), -ECANCELED);
	assert_int_equal(vm.status, HV_HOST);
	assert_string_equal(vm.reason, "no tap here");
	virtio_json(&vm, stderr); /* the half-made device is shown, too */
	assert_int_equal(vm.nvirtio, 2); /* and taken down with the others */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(configuration),
		TEST(transmit_whole),
		TEST(transmit_in_pieces),
		TEST(transmit_what_was_not_agreed_on),
		TEST(transmit_against_the_rules),
		TEST(network_that_takes_nothing),
		TEST(wrong_use),
	};
	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
