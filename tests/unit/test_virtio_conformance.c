// sources: virtio.c ring_order.c mmio.c virtqueue.c packed.c mem.c written.c bus.c clock.c
/*
 * What virtio 1.2 says that a device must and must not do, as far as it is the same for all: registers, status, rings. A device that only
 * remembers, driven through its registers, in guest memory of which some pages may not be touched. docs/virtio-conformance.md says which
 * test is for which requirement.
 */
#include "engine.h"
#include "lab4.h"
#include "vring.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

/* --- what virtio.c needs of a VM --- */

static struct vm vm;
static bool wire;
static unsigned edges;

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at)
{
	(void)loop, (void)timer, (void)at;
}
int loop_fd_add(struct loop *l, int fd, short e, void (*fn)(void *, short), void *o)
{
	return (void)l, (void)fd, (void)e, (void)fn, (void)o, 0;
}
void loop_fd_remove(struct loop *loop, int fd)
{
	(void)loop, (void)fd;
}
void json_string(FILE *out, const char *s)
{
	(void)out, (void)s;
}
int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	(void)v, (void)status;
	fail_msg("the VM was stopped: %s", fmt);
	return -ECANCELED;
}
int vm_todo(struct vm *v, const char *step, const char *hint)
{
	(void)v;
	fail_msg("step %s: %s", step, hint);
	return -ECANCELED;
}
static void set_wire(struct vm *v, unsigned irq, bool level)
{
	(void)v, (void)irq;
	edges += level && !wire;
	wire = level;
}
static const struct engine_ops engine = { .name = "test", .irq_line = set_wire };

/* --- a device that remembers --- */

static unsigned kicks, resets, agreed, started;
static void on_kick(struct virtio_dev *d, struct virtqueue *q)
{
	(void)d, (void)q, kicks++;
}
static void on_agreed(struct virtio_dev *d)
{
	assert_true(d->status & STATUS_FEATURES_OK);
	agreed++;
}
static void on_start(struct virtio_dev *d)
{
	assert_true(d->status & STATUS_DRIVER_OK);
	started++;
}
static void on_reset(struct virtio_dev *d)
{
	assert_int_equal(d->status, 0);
	resets++;
}
static const struct virtio_ops ops = {
	.name = "test",
	.id = VIRTIO_ID_RNG,
	.nqueues = 2,
	.kick = on_kick,
	.agreed = on_agreed,
	.start = on_start,
	.reset = on_reset,
};
static uint8_t config[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
static struct virtio_dev *dev;
static struct virtqueue *queue;

/* --- its driver --- */

enum {
	VERSION = 0x04,
	FEATURES = 0x10,
	FEATURES_SEL = 0x14,
	QUEUE_SEL = 0x30,
	QUEUE_READY = 0x44,
	NOTIFY = 0x50,
	INT_STATUS = 0x60,
	INT_ACK = 0x64,
	STATUS = 0x70,
	GENERATION = 0xfc
};
#define SIZE 8u
#define DESC 0x1000u /* a page each */
#define DRIVER 0x2000u
#define DEVICE 0x3000u
#define TABLE 0x5000u
#define OUT 0x6000u
#define IN 0x7000u
#define MEMORY (2 * MiB)

static uint32_t get(unsigned offset)
{
	return (uint32_t)virtio_mmio_read(dev, offset, 4);
}
static void set(unsigned offset, uint32_t value)
{
	virtio_mmio_write(dev, offset, 4, value);
}
static void *at(uint64_t gpa)
{
	return vm.mem.hva + gpa;
}
static uint16_t *word(uint64_t gpa)
{
	return at(gpa);
}

static void choose(uint64_t features)
{
	for (unsigned i = 0; i < 2; i++) {
		set(0x24, i);
		set(0x20, (uint32_t)(features >> 32 * i));
	}
}

/* As far as FEATURES_OK, with queue 0 ready. */
static void configure(uint64_t features, uint64_t device_area)
{
	set(STATUS, 0);
	set(STATUS, 3);
	choose(features | F_VERSION_1);
	set(STATUS, 11);
	assert_int_equal(get(STATUS), 11);
	set(QUEUE_SEL, 0);
	set(0x38, SIZE);
	set(0x80, DESC);
	set(0x90, DRIVER);
	set(0xa0, (uint32_t)device_area);
	set(QUEUE_READY, 1);
	assert_int_equal(get(QUEUE_READY), 1);
}

static void start(uint64_t features)
{
	memset(vm.mem.hva, 0, MEMORY);
	configure(features, DEVICE);
	set(STATUS, 15);
	assert_int_equal(get(STATUS), 15);
	edges = kicks = 0;
}

static void split(uint64_t place, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
	memcpy(at(place), &(struct split_desc){ gpa, len, flags, next }, 16);
}
static void offer(uint16_t head)
{
	struct split_avail *avail = at(DRIVER);

	avail->ring[avail->idx % SIZE] = head;
	avail->idx++;
}
/* A readable byte and 64 writable ones in descriptors 0 and 1. */
static void offer_request(void)
{
	split(DESC, OUT, 1, DESC_F_NEXT, 1);
	split(DESC + 16, IN, 64, DESC_F_WRITE, 0);
	offer(0);
}

static void protect(uint64_t gpa, int prot)
{
	assert_int_equal(mprotect(at(gpa), PAGE, prot), 0);
}

static int make(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof vm);
	vm.engine = &engine;
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
	bus_init(&vm.mmio, "address");
	if (guest_mem_create(&vm.mem, MEMORY))
		return -1;
	dev = virtio_create(&vm, &ops, NULL, FEATURE(0) | FEATURE(3), config, sizeof config);
	queue = &dev->queue[0];
	wire = false;
	edges = kicks = resets = agreed = started = 0;
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	virtio_destroy(&vm);
	guest_mem_destroy(&vm.mem);
	return 0;
}

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
	assert_false(wire);
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
	assert_true(wire);
	assert_int_equal(edges, 1);
	set(INT_STATUS, 0); /* read-only */
	assert_int_equal(get(INT_STATUS), INTERRUPT_USED);
	set(INT_ACK, INTERRUPT_USED);
	assert_int_equal(get(INT_STATUS), 0);
	assert_false(wire);
	set(INT_ACK, 0xffffffff);
	assert_int_equal(get(INT_STATUS), 0);
	assert_false(wire);
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
	assert_true(wire);
	assert_int_equal(edges, 2);
	set(INT_ACK, INTERRUPT_CONFIG);
	assert_false(wire);
	virtio_interrupt(dev, INTERRUPT_USED);
	assert_int_equal(edges, 3);
}

/* --- queues --- */

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
		TEST(test_identification),
		TEST(test_features),
		TEST(test_configuration_is_readable_at_once),
		TEST(test_generation),
		TEST(test_nothing_before_driver_ok),
		TEST(test_needs_reset_is_told),
		TEST(test_reset),
		TEST(test_interrupt_status),
		TEST(test_event_before_the_ack_makes_an_edge),
		TEST(test_spurious_notifications),
		TEST(test_queue_that_is_not_ready_is_not_touched),
		TEST(test_only_what_is_the_devices_is_written),
		TEST(test_indirect),
		TEST(test_flags_of_the_used_ring),
		TEST(test_element_before_index),
		TEST(test_packed_used_is_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
