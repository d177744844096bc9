/*
 * Every kind of device (one that touches all buffers, entropy, block, network) in a VM whose guest memory has nothing mapped around it,
 * and a driver that gives it honest chains, in either format of the rings. What else happens to the memory is up to the test.
 */
#ifndef HONEST_DRIVER_H
#define HONEST_DRIVER_H

#include "disk.h"
#include "net_wire.h"
#include "virtio_stubs.h"
#include "vring.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEM (256 * KiB)
#define SIZE 16u
#define CHAINS 4u
#define CHAIN 4u /* buffers of each */
#define AREA(q) (0x4000u * (q) + 0x1000u)
#define DESC(q) AREA(q)
#define DRIVER(q) (AREA(q) + 0x400u)
#define DEVICE(q) (AREA(q) + 0x800u)
#define TABLE(q, chain) (AREA(q) + 0x1008u + 64 * (chain))			    /* aligned for nothing but a long */
#define DATA(q, chain, i) (0x10000u * ((q) + 1) + 0x1000u * (i) + 0x400u * (chain)) /* headers in a page of their own */
#define SECTORS 64u
#define RUNNING (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK)

static bool packed, indirect;

/* A device that touches every buffer at both ends. */
static void touch_kick(struct virtio_dev *d, struct virtqueue *q)
{
	static struct vq_chain c;

	(void)d;
	while (virtqueue_pop(q, &c) > 0) {
		for (unsigned i = 0; i < c.nout + c.nin; i++) {
			volatile uint8_t *p = c.iov[i].iov_base;

			if (i < c.nout)
				(void)p[0], (void)p[c.iov[i].iov_len - 1];
			else
				p[0] = p[c.iov[i].iov_len - 1] = 0xa5;
		}
		virtqueue_push(q, &c, (uint32_t)c.in_len);
	}
	virtqueue_notify(q);
}
static const struct virtio_ops touch_ops = { .name = "touch", .id = VIRTIO_ID_RNG, .nqueues = 1, .kick = touch_kick };

/* --- what it is given --- */

struct buffer {
	uint32_t len;
	bool writable;
};
enum { TOUCH, RNG, BLOCK, NET, KINDS };
static int kind, disk;

static const struct buffer *shape(unsigned q, unsigned chain)
{
	static const struct buffer touch[] = { { 24, false }, { 0, false }, { 40, true }, { 16, true } };
	static const struct buffer rng[] = { { 40, true }, { 0, true }, { 300, true }, { 16, true } };
	static const struct buffer transfer[] = { { 16, false }, { 512, false }, { 512, true }, { 1, true } };
	static const struct buffer ranges[] = { { 16, false }, { 32, false }, { 0, true }, { 1, true } };
	static const struct buffer rx[] = { { 200, true }, { 200, true }, { 200, true }, { 100, true } };
	static const struct buffer tx[] = { { 12, false }, { 60, false }, { 0, false }, { 100, false } };

	switch (kind) {
	case TOUCH: return touch;
	case RNG: return rng;
	case BLOCK: return chain & 1 ? ranges : transfer;
	default: return q ? tx : rx;
	}
}

/* Writes a descriptor of either format; last: `next`, or the buffer ID. */
static void put(uint64_t gpa, uint64_t addr, uint32_t len, uint16_t flags, uint16_t last)
{
	if (packed)
		*(volatile struct packed_desc *)at(gpa) = (struct packed_desc){ addr, len, last, flags };
	else
		*(volatile struct split_desc *)at(gpa) = (struct split_desc){ addr, len, flags, last };
}

/* The last buffer of each chain ends where memory ends. */
static uint64_t address(unsigned q, unsigned chain, unsigned i)
{
	return i < CHAIN - 1 ? DATA(q, chain, i) : MEM - shape(q, chain)[i].len;
}

static void put_buffer(uint64_t gpa, unsigned q, unsigned chain, unsigned i, uint16_t flags, uint16_t last)
{
	const struct buffer *b = &shape(q, chain)[i];

	put(gpa, address(q, chain, i), b->len, flags | (b->writable ? DESC_F_WRITE : 0) | (i + 1 < CHAIN ? DESC_F_NEXT : 0),
	    last);
}

/* Requests as they should be. All of a block request's sectors exist: 0 to 15. */
static void put_requests(unsigned q)
{
	for (unsigned c = 0; c < CHAINS; c++) {
		uint32_t *request = memset(at(DATA(q, c, 0)), 0, 16);
		uint64_t *range = memset(at(DATA(q, c, 1)), 0, 32);

		if (kind != BLOCK)
			continue;
		request[0] = (const uint8_t[]){ 0, 11, 1, 13 }[c];
		request[2] = 3;
		range[0] = 8;
		range[1] = range[3] = 1;
	}
}

/* Everything at its place, nothing available. */
static void put_rings(unsigned q)
{
	struct split_avail *avail = at(DRIVER(q));

	memset(at(AREA(q)), 0, 0x1000);
	put_requests(q);
	for (unsigned c = 0; c < CHAINS; c++)
		for (unsigned i = 0; i < CHAIN; i++) {
			unsigned n = CHAIN * c + i;

			if (indirect)
				put_buffer(TABLE(q, c) + 16 * i, q, c, i, 0, (uint16_t)(i + 1));
			if (!packed && !indirect)
				put_buffer(DESC(q) + 16 * n, q, c, i, 0, (uint16_t)(n + 1));
			if (!packed && indirect)
				put(DESC(q) + 16 * n, TABLE(q, c), 16 * CHAIN, DESC_F_INDIRECT, 0);
			if (!packed)
				avail->ring[n] = (uint16_t)(n % CHAINS * CHAIN);
		}
}

static void reg(unsigned offset, uint32_t value)
{
	virtio_mmio_write(dev, offset, 4, value);
}

static void restart(void)
{
	uint64_t features = dev->offered & ~((packed ? 0 : F_RING_PACKED) | (indirect ? 0 : F_RING_INDIRECT_DESC));

	reg(0x70, 0);
	MUST(dev->status == 0);
	reg(0x70, 3);
	for (unsigned i = 0; i < 2; i++) {
		reg(0x24, i);
		reg(0x20, (uint32_t)(features >> 32 * i));
	}
	reg(0x70, 11);
	for (unsigned q = 0; q < dev->ops->nqueues; q++) {
		put_rings(q);
		reg(0x30, q);
		reg(0x38, SIZE);
		reg(0x80, DESC(q));
		reg(0x90, DRIVER(q));
		reg(0xa0, DEVICE(q));
		reg(0x44, 1);
	}
	reg(0x70, 15);
	MUST(dev->status == RUNNING);
}

/* Makes so many chains available, or as there is room for. Where the device is, it says itself: what is in the ring cannot be believed. */
static void offer(unsigned n, unsigned most)
{
	struct virtqueue *q = &dev->queue[n];

	if (!packed) {
		if (q->in_flight < most)
			ring_store16(&((struct split_avail *)at(DRIVER(n)))->idx,
				     (uint16_t)(q->next_avail + most - q->in_flight));
		return;
	}
	unsigned slot = q->next_avail, used = q->next_used + (q->used_wrap ? 0 : SIZE);
	unsigned room = SIZE - (slot + (q->avail_wrap ? 0 : SIZE) + 2 * SIZE - used) % (2 * SIZE);
	bool wrap = q->avail_wrap;

	for (unsigned c = 0; room >= (indirect ? 1 : CHAIN) && most; c = (c + 1) % CHAINS, most--)
		for (unsigned i = 0; i < (indirect ? 1 : CHAIN); i++, room--) {
			uint16_t flags = wrap ? PACKED_F_AVAIL : PACKED_F_USED;

			if (indirect)
				put(DESC(n) + 16 * slot, TABLE(n, c), 16 * CHAIN, flags | DESC_F_INDIRECT, (uint16_t)c);
			else
				put_buffer(DESC(n) + 16 * slot, n, c, i, flags, (uint16_t)c);
			slot = (slot + 1) % SIZE;
			wrap ^= !slot;
		}
}

static uint64_t chains(void)
{
	return dev->queue[0].chains + dev->queue[1].chains;
}

static bool idle(void)
{
	return !dev->queue[0].in_flight && !dev->queue[1].in_flight;
}

static void kick_all(void)
{
	static const uint8_t frame[600];

	for (unsigned q = 0; q < dev->ops->nqueues; q++) {
		offer(q, CHAINS);
		reg(0x50, q);
	}
	if (kind == NET)
		netback_deliver(wire, frame, sizeof frame);
	MUST((dev->status & ~STATUS_NEEDS_RESET) == RUNNING);
}

/* --- the VM --- */

static void make(void)
{
	static const uint64_t guard = 4 * GiB + 64 * KiB; /* as far as a length can lead */
	char path[32];
	pthread_mutexattr_t attr;
	uint8_t *reserved = mmap(NULL, 2 * guard + MEM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	MUST(reserved != MAP_FAILED && !mprotect(reserved + guard, MEM, PROT_READ | PROT_WRITE));
	empty_vm();
	vm.mem = (struct guest_mem){ .hva = reserved + guard, .size = MEM };
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm.lock, &attr);
	disk = memfd_create("disk", 0);
	MUST(disk >= 0 && !ftruncate(disk, SECTORS * SECTOR) && !loop_init(&vm.loop, &vm.lock));
	snprintf(path, sizeof path, "/proc/self/fd/%d", disk);
	switch (kind) {
	case TOUCH: MUST(virtio_create(&vm, &touch_ops, NULL, 0, NULL, 0)); break;
	case RNG: MUST(!rng_create(&vm, NULL)); break;
	case BLOCK: MUST(!blk_create(&vm, path)); break;
	default: MUST(!net_create(&vm, "user")); break;
	}
	dev = vm.virtio[0];
	MUST(!loop_start(&vm.loop));
}

static void unmake(void)
{
	loop_stop(&vm.loop);
	virtio_destroy(&vm);
	loop_destroy(&vm.loop);
	close(disk);
	munmap(vm.mem.hva - 4 * GiB - 64 * KiB, 8 * GiB + 128 * KiB + MEM);
}

/* What the device does when nobody is in its way. */
static void works(void)
{
	uint8_t expected[512], *data = at(DATA(0, 0, 2));
	unsigned before_sent = nsent;

	memset(expected, 0x5a, sizeof expected);
	pthread_mutex_lock(&vm.lock);
	restart(); /* it waits for requests from before, of which any may change the sector */
	MUST(pwrite(disk, expected, sizeof expected, 3 * SECTOR) == sizeof expected);
	memset(data, 0, 512);
	*(uint8_t *)at(MEM - 1) = 0xee;
	uint64_t before = chains(), mistakes = dev->broken;
	kick_all();
	for (unsigned i = 0; kind == BLOCK && !idle(); i++) {
		MUST(i < 50000);
		pthread_mutex_unlock(&vm.lock);
		usleep(100);
		pthread_mutex_lock(&vm.lock);
	}
	MUST(chains() >= before + CHAINS && dev->broken == mistakes && dev->status == RUNNING);
	switch (kind) {
	case TOUCH: MUST(data[0] == 0xa5 && data[39] == 0xa5); break;
	case RNG: MUST(memcmp(data, (uint8_t[300]){ 0 }, 300)); break;
	case BLOCK:
		/* The write to the same sector is under way at the same time, and no order holds between their bytes. */
		for (unsigned i = 0; i < 512; i++)
			MUST(data[i] == expected[i] || data[i] == ((const uint8_t *)at(DATA(0, 2, 1)))[i]);
		break;
	default: MUST(nsent >= before_sent + CHAINS && sent_len[(nsent - 1) % 4] == 160); break;
	}
	pthread_mutex_unlock(&vm.lock);
}

#endif
