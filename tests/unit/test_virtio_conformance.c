// sources: virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c
/*
 * What virtio 1.2 says that a device must and must not do, as far as it is the same for all: status and features (2.1 to
 * 2.5, 6) and the registers (4.2). The rings are in test_virtio_rings.c. docs/virtio-conformance.md says which test is for
 * which requirement.
 */
#include "register_driver.h"

#include <stdlib.h>

/* --- identification, features, status --- */

static void test_identification(void **state)
{
	(void)state;
	assert_int_equal(get(0), 0x74726976);
	assert_int_equal(get(VERSION), 2);
	set(FEATURES_SEL, 1);
	/* VERSION_1 and RING_PACKED, and nothing else that is reserved: not ACCESS_PLATFORM (33), IN_ORDER (35), ORDER_PLATFORM (36),
	 * SR_IOV (37), NOTIFICATION_DATA (38), NOTIF_CONFIG_DATA (39), RING_RESET (40). */
	assert_int_equal(get(FEATURES), 1u << (32 - 32) | 1u << (34 - 32));
	set(FEATURES_SEL, 0);
	assert_int_equal(get(FEATURES), 1u << 28 | 1u << 29 | 1u << 3 | 1u);
	set(FEATURES_SEL, 2);
	assert_int_equal(get(FEATURES), 0);
	for (unsigned i = 0xb0; i < 0xc0; i += 4) /* no shared memory region 0, nor another */
		assert_int_equal(get(i), 0xffffffff);
}

static void test_features(void **state)
{
	static const uint64_t refused[] = { 0, 1, F_VERSION_1 | FEATURE(1), F_VERSION_1 | FEATURE(35),
					    F_VERSION_1 | FEATURE(63) };
	static const uint64_t accepted[] = { F_VERSION_1, F_VERSION_1 | 1, F_VERSION_1 | F_RING_PACKED | FEATURE(3),
					     F_VERSION_1 | F_RING_EVENT_IDX };

	(void)state;
	for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++) {
		set(STATUS, 0);
		set(STATUS, 3);
		choose(refused[i]);
		set(STATUS, 11);
		assert_int_equal(get(STATUS), 3);
	}
	assert_int_equal(agreed, 0);
	/* What was accepted once is accepted again. */
	for (unsigned i = 0; i < 2 * sizeof accepted / sizeof *accepted; i++) {
		set(STATUS, 0);
		set(STATUS, 3);
		choose(accepted[i / 2]);
		set(STATUS, 11);
		assert_int_equal(get(STATUS), 11);
		assert_int_equal(agreed, i + 1);
	}
	assert_int_equal(started, 0);
}

static void test_configuration_is_readable_at_once(void **state)
{
	(void)state;
	for (unsigned status = 0; status < 16; status = status * 2 + 1) {
		set(STATUS, status);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(virtio_mmio_read(dev, 0x100 + i, 1), i + 1);
		assert_int_equal(virtio_mmio_read(dev, 0x102, 2), 0x0403);
		assert_int_equal(virtio_mmio_read(dev, 0x104, 4), 0x08070605);
	}
}

static void test_generation(void **state)
{
	uint32_t before = get(GENERATION);

	(void)state;
	virtio_config_changed(dev);
	assert_int_not_equal(get(GENERATION), before);
	assert_int_equal(get(INT_STATUS), 0); /* nobody is there to be told */
	start(0);
	before = get(GENERATION);
	virtio_config_changed(dev);
	assert_int_not_equal(get(GENERATION), before);
	assert_int_equal(get(INT_STATUS), INTERRUPT_CONFIG);
	assert_int_equal(edges, 1);
}

static void test_nothing_before_driver_ok(void **state)
{
	static struct vq_chain c;

	(void)state;
	memset(vm.mem.hva, 0, MEMORY);
	configure(0, DEVICE);
	offer_request();
	set(NOTIFY, 0);
	assert_int_equal(kicks, 0);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	virtqueue_notify(queue);
	assert_int_equal(edges, 0);
	assert_int_equal(*word(DEVICE + 2), 0);
	set(STATUS, 15);
	assert_int_equal(started, 1);
	set(NOTIFY, 0);
	assert_int_equal(kicks, 1);
	assert_int_equal(virtqueue_pop(queue, &c), 1);
}

static void test_needs_reset_is_told(void **state)
{
	static struct vq_chain c;

	(void)state;
	start(0);
	offer_request();
	virtio_broken(dev, "a test");
	assert_int_equal(get(STATUS), 15 | STATUS_NEEDS_RESET);
	assert_int_equal(get(INT_STATUS), INTERRUPT_CONFIG);
	assert_int_equal(edges, 1);
	set(NOTIFY, 0);
	assert_int_equal(kicks, 0);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	/* Before DRIVER_OK nobody is told. */
	configure(0, DEVICE);
	edges = 0;
	virtio_broken(dev, "a test");
	assert_int_equal(get(STATUS), 11 | STATUS_NEEDS_RESET);
	assert_int_equal(get(INT_STATUS), 0);
	assert_int_equal(edges, 0);
	set(STATUS, 15);
	assert_int_equal(get(STATUS), 11 | STATUS_NEEDS_RESET);
}

static void test_reset(void **state)
{
	static struct vq_chain c;
	uint8_t *before = malloc(MEMORY);

	(void)state;
	start(F_RING_INDIRECT_DESC);
	offer_request();
	assert_int_equal(virtqueue_pop(queue, &c), 1);
	virtio_interrupt(dev, INTERRUPT_USED | INTERRUPT_CONFIG);
	memcpy(before, vm.mem.hva, MEMORY);
	edges = 0;
	set(STATUS, 0);
	assert_int_equal(get(STATUS), 0);
	assert_int_equal(resets, 2); /* the first one was configure()'s */
	assert_int_equal(get(INT_STATUS), 0);
	assert_false(irq_level);
	for (unsigned q = 0; q < 2; q++) {
		set(QUEUE_SEL, q);
		assert_int_equal(get(QUEUE_READY), 0);
	}
	assert_int_equal(dev->features, 0);
	/* What comes too late for the driver goes nowhere. */
	virtqueue_push(queue, &c, 64);
	virtqueue_notify(queue);
	virtio_config_changed(dev);
	set(NOTIFY, 0);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	assert_int_equal(edges, 0);
	assert_int_equal(kicks, 0);
	assert_int_equal(get(INT_STATUS), 0);
	assert_memory_equal(before, vm.mem.hva, MEMORY);
	free(before);
}

/* --- interrupts --- */

static void test_interrupt_status(void **state)
{
	(void)state;
	start(0);
	assert_int_equal(get(INT_STATUS), 0);
	virtio_interrupt(dev, INTERRUPT_USED);
	assert_int_equal(get(INT_STATUS), INTERRUPT_USED);
	set(INT_ACK, INTERRUPT_CONFIG);
	assert_int_equal(get(INT_STATUS), INTERRUPT_USED);
	assert_true(irq_level);
	assert_int_equal(edges, 1);
	set(INT_STATUS, 0); /* read-only */
	assert_int_equal(get(INT_STATUS), INTERRUPT_USED);
	set(INT_ACK, INTERRUPT_USED);
	assert_int_equal(get(INT_STATUS), 0);
	assert_false(irq_level);
	set(INT_ACK, 0xffffffff);
	assert_int_equal(get(INT_STATUS), 0);
	assert_false(irq_level);
	assert_int_equal(edges, 1);
}

/* The driver has read InterruptStatus; another event comes before its ACK. The line was high, and the interrupt controller looks for
 * edges. */
static void test_event_before_the_ack_makes_an_edge(void **state)
{
	(void)state;
	start(0);
	virtio_interrupt(dev, INTERRUPT_USED);
	assert_int_equal(edges, 1);
	virtio_interrupt(dev, INTERRUPT_CONFIG);
	set(INT_ACK, INTERRUPT_USED);
	assert_int_equal(get(INT_STATUS), INTERRUPT_CONFIG);
	assert_true(irq_level);
	assert_int_equal(edges, 2);
	set(INT_ACK, INTERRUPT_CONFIG);
	assert_false(irq_level);
	virtio_interrupt(dev, INTERRUPT_USED);
	assert_int_equal(edges, 3);
}

/* --- queues --- */

/* Neither before QueueReady nor behind it are the rings looked at. */
static void test_queue_that_is_not_ready_is_not_touched(void **state)
{
	static struct vq_chain c;

	(void)state;
	for (unsigned packed = 0; packed < 2; packed++) {
		start(packed ? F_RING_PACKED : 0);
		if (packed)
			memcpy(at(DESC), &(struct packed_desc){ IN, 64, 0, DESC_F_WRITE | PACKED_F_AVAIL }, 16);
		else
			offer_request();
		assert_int_equal(virtqueue_pop(queue, &c), 1);
		protect(DESC, PROT_NONE);
		protect(DRIVER, PROT_NONE);
		protect(DEVICE, PROT_NONE);
		set(QUEUE_READY, 0);
		assert_int_equal(get(QUEUE_READY), 0);
		set(NOTIFY, 0);
		virtqueue_push(queue, &c, 64);
		virtqueue_notify(queue);
		assert_int_equal(virtqueue_pop(queue, &c), 0);
		assert_int_equal(kicks, 0);
		assert_int_equal(edges, 0);
		set(STATUS, 0);
		set(STATUS, 11);
		protect(DESC, PROT_READ | PROT_WRITE);
		protect(DRIVER, PROT_READ | PROT_WRITE);
		protect(DEVICE, PROT_READ | PROT_WRITE);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)
	const struct CMUnitTest tests[] = {
		TEST(test_identification),
		TEST(test_features),
		TEST(test_configuration_is_readable_at_once),
		TEST(test_generation),
		TEST(test_nothing_before_driver_ok),
		TEST(test_needs_reset_is_told),
		TEST(test_reset),
		TEST(test_interrupt_status),
		TEST(test_event_before_the_ack_makes_an_edge),
		TEST(test_queue_that_is_not_ready_is_not_touched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
