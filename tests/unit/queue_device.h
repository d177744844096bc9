/*
 * A device with one queue, which does nothing by itself, and the memory that its rings lie in. A test calls the rings as a device does,
 * and writes what a driver would write.
 */
#ifndef QUEUE_DEVICE_H
#define QUEUE_DEVICE_H

#include "loop_stubs.h"
#include "virtio_stubs.h"
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MEM (2 * MiB)
#define DESC 0x1000u
#define DRIVER 0x3000u
#define DEVICE 0x4000u
#define TABLES 0x10000u /* of indirect descriptors, 4 KiB for each buffer ID */
#define DATA 0x120000u

static struct virtqueue *queue;

/* Rings with nothing in them, and a driver that is ready. */
static void set_up(bool packed, unsigned size, bool events, bool indirect)
{
	memset(vm.mem.hva, 0, vm.mem.size);
	virtio_mmio_write(dev, 0x70, 4, 0);
	dev->status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
	dev->features = F_VERSION_1 | (packed ? F_RING_PACKED : 0) | (events ? F_RING_EVENT_IDX : 0) |
			(indirect ? F_RING_INDIRECT_DESC : 0);
	queue->size = (uint16_t)size;
	queue->desc = DESC;
	queue->driver = DRIVER;
	queue->device = DEVICE;
	assert_int_equal(virtio_rings(dev)->enable(queue), 0);
	queue->ready = true;
}

static void put_split(uint64_t gpa, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	memcpy(at(gpa), &(struct split_desc){ addr, len, flags, next }, 16);
}

static void put_packed(uint64_t gpa, uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
	memcpy(at(gpa), &(struct packed_desc){ addr, len, id, flags }, 16);
}

static void no_kick(struct virtio_dev *d, struct virtqueue *q)
{
	(void)d, (void)q;
}

static int make(void **state)
{
	static const struct virtio_ops ops = { .name = "test", .id = VIRTIO_ID_RNG, .nqueues = 1, .kick = no_kick };

	(void)state;
	empty_vm();
	if (guest_mem_create(&vm.mem, MEM))
		return -1;
	dev = virtio_create(&vm, &ops, NULL, 0, NULL, 0);
	queue = &dev->queue[0];
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
