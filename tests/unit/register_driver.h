/*
 * A device that only remembers what it was told, and a driver that reaches it through its registers alone, in guest memory
 * of which a test can take pages away.
 */
#ifndef REGISTER_DRIVER_H
#define REGISTER_DRIVER_H

#include "loop_stubs.h"
#include "virtio_stubs.h"
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

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
	empty_vm();
	if (guest_mem_create(&vm.mem, MEMORY))
		return -1;
	dev = virtio_create(&vm, &ops, NULL, FEATURE(0) | FEATURE(3), config, sizeof config);
	queue = &dev->queue[0];
	kicks = resets = agreed = started = 0;
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	virtio_destroy(&vm);
	guest_mem_destroy(&vm.mem);
	return 0;
}

#endif
