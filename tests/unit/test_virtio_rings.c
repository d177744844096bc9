// sources: virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c
/*
 * What virtio 1.2 says that a device must and must not do with its rings (2.7 and 2.8), as far as it shows in which memory
 * is touched, in what order, and what stands there afterwards. docs/virtio-conformance.md says which test is for which
 * requirement. Notifications and the order of chains are in test_virtqueue.c.
 */
#include "register_driver.h"

#include <signal.h>

static void test_spurious_notifications(void **state)
{
	static struct vq_chain c;

	(void)state;
	start(0);
	for (unsigned i = 0; i < 100; i++) {
		set(NOTIFY, 0);
		assert_int_equal(virtqueue_pop(queue, &c), 0);
		virtqueue_notify(queue);
	}
	set(NOTIFY, 1); /* is not ready */
	set(NOTIFY, 2); /* does not exist */
	set(NOTIFY, 0xffffffff);
	assert_int_equal(kicks, 100);
	assert_int_equal(edges, 0);
	assert_int_equal(get(STATUS), 15);
	offer_request();
	assert_int_equal(virtqueue_pop(queue, &c), 1);
}

/* The device writes to the used ring (the descriptor ring) and to writable buffers; of what it only reads, every page is read-only here. */
static void test_only_what_is_the_devices_is_written(void **state)
{
	static struct vq_chain c;
	uint8_t byte;

	(void)state;
	for (unsigned events = 0; events < 2; events++)
		for (unsigned indirect = 0; indirect < 2; indirect++) {
			start((events ? F_RING_EVENT_IDX : 0) | F_RING_INDIRECT_DESC);
			*(uint8_t *)at(OUT) = 0x5a;
			split(indirect ? TABLE : DESC, OUT, 1, DESC_F_NEXT, 1);
			split((indirect ? TABLE : DESC) + 16, IN, 64, DESC_F_WRITE, 0);
			if (indirect)
				split(DESC, TABLE, 32, DESC_F_INDIRECT, 0);
			offer(0);
			protect(DESC, PROT_READ);
			protect(DRIVER, PROT_READ);
			protect(TABLE, PROT_READ);
			protect(OUT, PROT_READ);
			assert_int_equal(virtqueue_pop(queue, &c), 1);
			assert_int_equal(chain_read(&c, 0, &byte, 1), 1);
			assert_int_equal(byte, 0x5a);
			assert_int_equal(chain_write(&c, 0, "0123456789", 10), 10);
			virtqueue_push(queue, &c, 10);
			virtqueue_notify(queue);
			assert_int_equal(virtqueue_pop(queue, &c), 0);
			assert_memory_equal(at(IN), "0123456789", 10);
			assert_int_equal(*word(DEVICE + 2), 1);
			assert_int_equal(edges, 1);
			protect(DESC, PROT_READ | PROT_WRITE);
			protect(DRIVER, PROT_READ | PROT_WRITE);
			protect(TABLE, PROT_READ | PROT_WRITE);
			protect(OUT, PROT_READ | PROT_WRITE);
		}

	for (unsigned indirect = 0; indirect < 2; indirect++) {
		uint64_t place = indirect ? TABLE : DESC;

		start(F_RING_PACKED | F_RING_INDIRECT_DESC);
		memcpy(at(place), &(struct packed_desc){ OUT, 1, 0, DESC_F_NEXT | PACKED_F_AVAIL }, 16);
		memcpy(at(place + 16), &(struct packed_desc){ IN, 64, 0, DESC_F_WRITE | PACKED_F_AVAIL }, 16);
		if (indirect)
			memcpy(at(DESC), &(struct packed_desc){ TABLE, 32, 0, DESC_F_INDIRECT | PACKED_F_AVAIL }, 16);
		protect(DRIVER, PROT_READ);
		protect(TABLE, PROT_READ);
		protect(OUT, PROT_READ);
		assert_int_equal(virtqueue_pop(queue, &c), 1);
		assert_int_equal(chain_write(&c, 0, "0123456789", 10), 10);
		virtqueue_push(queue, &c, 10);
		virtqueue_notify(queue);
		assert_int_equal(virtqueue_pop(queue, &c), 0);
		assert_int_equal(edges, 1);
		protect(DRIVER, PROT_READ | PROT_WRITE);
		protect(TABLE, PROT_READ | PROT_WRITE);
		protect(OUT, PROT_READ | PROT_WRITE);
	}
}

static void test_indirect(void **state)
{
	static struct vq_chain c;

	(void)state;
	/* F_WRITE at the descriptor that names the table says nothing about what is in it. */
	for (unsigned packed = 0; packed < 2; packed++) {
		start(F_RING_INDIRECT_DESC | (packed ? F_RING_PACKED : 0));
		if (packed) {
			memcpy(at(TABLE), &(struct packed_desc){ OUT, 3, 0, 0 }, 16);
			memcpy(at(TABLE + 16), &(struct packed_desc){ IN, 5, 0, DESC_F_WRITE }, 16);
			memcpy(at(DESC),
			       &(struct packed_desc){ TABLE, 32, 7, DESC_F_INDIRECT | DESC_F_WRITE | PACKED_F_AVAIL }, 16);
		} else {
			split(TABLE, OUT, 3, DESC_F_NEXT, 1);
			split(TABLE + 16, IN, 5, DESC_F_WRITE, 0);
			split(DESC, TABLE, 32, DESC_F_INDIRECT | DESC_F_WRITE, 0);
			offer(0);
		}
		assert_int_equal(virtqueue_pop(queue, &c), 1);
		assert_int_equal(c.out_len, 3);
		assert_int_equal(c.in_len, 5);
	}
	/* The table need not be aligned. */
	for (unsigned packed = 0; packed < 2; packed++) {
		start(F_RING_INDIRECT_DESC | (packed ? F_RING_PACKED : 0));
		if (packed) {
			memcpy(at(TABLE + 5), &(struct packed_desc){ IN, 5, 0, DESC_F_WRITE }, 16);
			memcpy(at(DESC), &(struct packed_desc){ TABLE + 5, 16, 7, DESC_F_INDIRECT | PACKED_F_AVAIL }, 16);
		} else {
			split(TABLE + 5, IN, 5, DESC_F_WRITE, 0);
			split(DESC, TABLE + 5, 16, DESC_F_INDIRECT, 0);
			offer(0);
		}
		assert_int_equal(virtqueue_pop(queue, &c), 1);
		assert_int_equal(c.in_len, 5);
	}
	/* Other descriptors in front of the table (split only). */
	start(F_RING_INDIRECT_DESC);
	split(DESC, OUT, 1, DESC_F_NEXT, 4);
	split(DESC + 64, OUT + 1, 2, DESC_F_NEXT, 2);
	split(DESC + 32, TABLE, 32, DESC_F_INDIRECT, 0);
	split(TABLE, OUT + 3, 4, DESC_F_NEXT, 1);
	split(TABLE + 16, IN, 8, DESC_F_WRITE, 0);
	offer(0);
	assert_int_equal(virtqueue_pop(queue, &c), 1);
	assert_int_equal(c.out_len, 7);
	assert_int_equal(c.in_len, 8);
	assert_int_equal(c.nout, 3);
}

static void test_flags_of_the_used_ring(void **state)
{
	static struct vq_chain c;

	(void)state;
	start(0);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	assert_int_equal(*word(DEVICE), 0); /* notify me */
	offer_request();
	assert_int_equal(virtqueue_pop(queue, &c), 1);
	assert_int_equal(*word(DEVICE), USED_F_NO_NOTIFY);
	/* With EVENT_IDX it is 0, whatever a driver left there, and avail_event says it. */
	start(F_RING_EVENT_IDX);
	*word(DEVICE) = 0xffff;
	offer_request();
	assert_int_equal(virtqueue_pop(queue, &c), 1);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	assert_int_equal(*word(DEVICE), 0);
	assert_int_equal(*word(DEVICE + 4 + 8 * SIZE), 1);
}

/* The index of the used ring on a page that cannot be written, its elements on the next one: the store to the index is caught. */
static struct split_used_elem seen;
static volatile sig_atomic_t caught;
static void on_fault(int sig)
{
	(void)sig;
	seen = *(struct split_used_elem *)at(DEVICE + PAGE);
	caught++;
	mprotect(at(DEVICE), PAGE, PROT_READ | PROT_WRITE);
}

static void test_element_before_index(void **state)
{
	static struct vq_chain c;
	struct sigaction action = { .sa_handler = on_fault }, old;

	(void)state;
	memset(vm.mem.hva, 0, MEMORY);
	configure(0, DEVICE + PAGE - 4);
	set(STATUS, 15);
	split(DESC + 16 * 5, IN, 64, DESC_F_WRITE, 0);
	offer(5);
	assert_int_equal(virtqueue_pop(queue, &c), 1);
	assert_int_equal(sigaction(SIGSEGV, &action, &old), 0);
	protect(DEVICE, PROT_READ);
	virtqueue_push(queue, &c, 33);
	sigaction(SIGSEGV, &old, NULL);
	assert_int_equal(caught, 1);
	assert_int_equal(seen.id, 5);
	assert_int_equal(seen.len, 33);
	assert_int_equal(*word(DEVICE + PAGE - 2), 1);
}

/* A descriptor of a packed ring that was given back is the driver's. */
static void test_packed_used_is_used(void **state)
{
	static struct vq_chain c;

	(void)state;
	start(F_RING_PACKED);
	memcpy(at(DESC), &(struct packed_desc){ IN, 64, 3, DESC_F_WRITE | PACKED_F_AVAIL }, 16);
	assert_int_equal(virtqueue_pop(queue, &c), 1);
	virtqueue_push(queue, &c, 9);
	protect(DESC, PROT_READ);
	virtqueue_notify(queue);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(virtqueue_pop(queue, &c), 0);
	assert_int_equal(((struct packed_desc *)at(DESC))->flags, DESC_F_WRITE | PACKED_F_AVAIL | PACKED_F_USED);
	assert_int_equal(((struct packed_desc *)at(DESC))->len, 9);
	protect(DESC, PROT_READ | PROT_WRITE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)
	const struct CMUnitTest tests[] = {
		TEST(test_spurious_notifications),
		TEST(test_only_what_is_the_devices_is_written),
		TEST(test_indirect),
		TEST(test_flags_of_the_used_ring),
		TEST(test_element_before_index),
		TEST(test_packed_used_is_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
