/*
 * The network device between a network that only remembers and a driver, which the test plays on real rings in guest memory. Programs
 * that test the device include this once.
 */
#ifndef NET_DRIVER_H
#define NET_DRIVER_H

#include "engine.h"
#include "lab4.h"
#include "loop_stubs.h"
#include "net_wire.h"
#include "vm_stopped.h"
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct vm vm;
static bool irq_level;

static void irq_line(struct vm *v, unsigned irq, bool level)
{
	(void)v, (void)irq;
	irq_level = level;
}
static const struct engine_ops engine = { .name = "none", .irq_line = irq_line };

enum { RX, TX };
#define SIZE 16u
#define HDR 12u
#define RING(q) (0x10000u + 0x4000u * (q)) /* descriptors; available ring 0x1000 and used ring 0x2000 behind them */
#define BUFFERS 0x40000u
#define F_MTU FEATURE(3)
#define F_MAC FEATURE(5)
#define F_MRG FEATURE(15)
#define F_STATUS FEATURE(16)

static struct virtio_dev *dev;
static uint16_t next_desc[2];

static void reg(uint64_t offset, uint32_t value)
{
	virtio_mmio_write(dev, offset, 4, value);
}
static uint32_t status(void)
{
	return (uint32_t)virtio_mmio_read(dev, 0x70, 4);
}
static void *mem(uint64_t gpa)
{
	return guest_range(&vm.mem, gpa, 1);
}
static struct split_desc *desc(unsigned q)
{
	return mem(RING(q));
}
static struct split_avail *avail(unsigned q)
{
	return mem(RING(q) + 0x1000);
}
static struct split_used *used(unsigned q)
{
	return mem(RING(q) + 0x2000);
}

static void start(uint64_t features)
{
	reg(0x70, 0);
	reg(0x70, 3);
	reg(0x24, 0);
	reg(0x20, (uint32_t)features);
	reg(0x24, 1);
	reg(0x20, (uint32_t)((features | F_VERSION_1) >> 32));
	reg(0x70, 0xb);
	assert_int_equal(status(), 0xb);
	for (unsigned q = 0; q < 2; q++) {
		memset(mem(RING(q)), 0, 0x3000);
		next_desc[q] = 0;
		reg(0x30, q);
		reg(0x38, SIZE);
		reg(0x80, RING(q));
		reg(0x90, RING(q) + 0x1000);
		reg(0xa0, RING(q) + 0x2000);
		reg(0x44, 1);
	}
	reg(0x70, 0xf);
	assert_int_equal(status(), 0xf);
}

static void add_desc(unsigned q, uint32_t gpa, uint32_t len, uint16_t flags)
{
	uint16_t i = next_desc[q]++ % SIZE;

	desc(q)[i] = (struct split_desc){ gpa, len, flags, (uint16_t)((i + 1) % SIZE) };
}
/* The chain that begins with this descriptor is available. */
static void offer(unsigned q, uint16_t head)
{
	avail(q)->ring[avail(q)->idx % SIZE] = head % SIZE;
	avail(q)->idx++;
}
static void kick(unsigned q)
{
	reg(0x50, q);
}

static uint8_t *pattern(size_t len, unsigned seed)
{
	static uint8_t frame[70000];

	for (size_t i = 0; i < len; i++)
		frame[i] = (uint8_t)(i * 7 + (i >> 8) + seed);
	return frame;
}

static int setup(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof vm);
	vm.engine = &engine;
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
	bus_init(&vm.mmio, "address");
	nsent = block_at = 0;
	paused = false;
	if (guest_mem_create(&vm.mem, 4 * MiB) || net_create(&vm, "user,mac=02:01:02:03:04:05,mtu=3000"))
		return -1;
	dev = vm.virtio[0];
	return 0;
}
static int teardown(void **state)
{
	(void)state;
	virtio_destroy(&vm);
	guest_mem_destroy(&vm.mem);
	return wire != NULL;
}

#endif
