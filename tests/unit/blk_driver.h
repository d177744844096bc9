/*
 * The block device in a VM that has nothing else, and a driver for it, which plays the guest on a real ring. Programs that test the
 * device include this once, and call seed_rnd() before anything else of it.
 */
#ifndef BLK_DRIVER_H
#define BLK_DRIVER_H

#include "disk.h"
#include "engine.h"
#include "hold_io.h"
#include "lab4.h"
#include "vm_stopped.h"
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define SECTORS 2048u
#define CONFIG_WRITEBACK (0x100 + 32)

/* Guest memory: the rings, then what is read, then what is written. */
#define DESC 0x1000ull
#define AVAIL 0x3000ull
#define USED 0x4000ull
#define OUT 0x100000ull
#define IN 0x200000ull
#define QUEUE 256u

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };
#define F_RO FEATURE(5)
#define F_FLUSH FEATURE(9)
#define F_CONFIG_WCE FEATURE(11)
#define F_DISCARD FEATURE(13)
#define F_WRITE_ZEROES FEATURE(14)

static struct vm vm;
static struct virtio_dev *dev;
static char image[32];
static uint16_t avail_idx;
static uint64_t seed;
static uint8_t model[SECTORS * SECTOR]; /* what the disk should contain */

static void no_irq(struct vm *v, unsigned irq, bool level)
{
	(void)v;
	(void)irq;
	(void)level;
}
static const struct engine_ops engine = { .irq_line = no_irq };

/* A fresh seed, or TRAPDOOR_SEED. */
static void seed_rnd(void)
{
	const char *given = getenv("TRAPDOOR_SEED");

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
}

static uint64_t rnd(uint64_t below)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

static void reg(unsigned offset, uint32_t value)
{
	pthread_mutex_lock(&vm.lock);
	virtio_mmio_write(dev, offset, 4, value);
	pthread_mutex_unlock(&vm.lock);
}
static uint32_t get(unsigned offset)
{
	pthread_mutex_lock(&vm.lock);
	uint32_t value = (uint32_t)virtio_mmio_read(dev, offset, 4);
	pthread_mutex_unlock(&vm.lock);
	return value;
}

/* A driver begins: reset, features, one queue. */
static void drive(uint64_t features)
{
	reg(0x70, 0);
	reg(0x70, 1);
	reg(0x70, 3);
	features |= F_VERSION_1;
	for (unsigned i = 0; i < 2; i++) {
		reg(0x24, i);
		reg(0x20, (uint32_t)(features >> 32 * i));
	}
	reg(0x70, 11);
	assert_int_equal(get(0x70), 11);
	reg(0x30, 0);
	reg(0x38, QUEUE);
	memset(guest_range(&vm.mem, DESC, 0x8000), 0, 0x8000);
	reg(0x80, DESC);
	reg(0x90, AVAIL);
	reg(0xa0, USED);
	reg(0x44, 1);
	reg(0x70, 15);
	assert_int_equal(get(0x70), 15);
	avail_idx = 0;
}

/* A disk with random contents, which are in the model too, and the device of it. `words` go behind the name of the image. */
static void make(const char *words)
{
	char arg[100];
	struct loop_timer none = { 0 };

	strcpy(image, "/tmp/test-blk.XXXXXX");
	int fd = mkstemp(image);
	for (unsigned i = 0; i < sizeof model; i++)
		model[i] = (uint8_t)rnd(256);
	assert_int_equal(write(fd, model, sizeof model), sizeof model);
	close(fd);
	io_clear();
	io_set(false);
	vm = (struct vm){ .engine = &engine, .virtio_rest = none };
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX;
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm.lock, &attr);
	assert_int_equal(guest_mem_create(&vm.mem, 4 * MiB), 0);
	bus_init(&vm.mmio, "address");
	assert_int_equal(loop_init(&vm.loop, &vm.lock), 0);
	snprintf(arg, sizeof arg, "%s,id=serial-0123456789ab%s", image, words);
	assert_int_equal(blk_create(&vm, arg), 0);
	dev = vm.virtio[0];
	assert_int_equal(loop_start(&vm.loop), 0);
}

static void unmake(void)
{
	loop_stop(&vm.loop);
	virtio_destroy(&vm);
	loop_destroy(&vm.loop);
	guest_mem_destroy(&vm.mem);
	unlink(image);
}

static uint16_t used_idx(void)
{
	return ring_load16(&((struct split_used *)guest_range(&vm.mem, USED, 2))->idx);
}

static void until_used(uint16_t idx)
{
	for (unsigned i = 0; used_idx() != idx; i++) {
		assert_true(i < 100000);
		usleep(100);
	}
}

/* A chain over [OUT, OUT + out) and [IN, IN + in), cut at random into up to `cuts` more descriptors each. Its first descriptor is
 * `head`. */
static void give(unsigned head, uint64_t out_at, uint64_t out, uint64_t in_at, uint64_t in, unsigned cuts)
{
	struct split_desc *desc = guest_range(&vm.mem, DESC, 16 * QUEUE);
	struct split_avail *avail = guest_range(&vm.mem, AVAIL, 6 + 2 * QUEUE);
	unsigned n = head;

	for (unsigned part = 0; part < 2; part++) {
		uint64_t at = part ? in_at : out_at, left = part ? in : out;
		for (unsigned k = cuts; left; k -= k > 0) {
			uint64_t len = k ? rnd(k > 3 ? 20 : left) + 1 : left;
			if (len > left)
				len = left;
			desc[n] = (struct split_desc){ at, (uint32_t)len, DESC_F_NEXT | (part ? DESC_F_WRITE : 0),
						       (uint16_t)(n + 1) };
			n++;
			at += len;
			left -= len;
		}
	}
	desc[n - 1].flags &= (uint16_t)~DESC_F_NEXT;
	avail->ring[avail_idx % QUEUE] = (uint16_t)head;
	ring_store16(&avail->idx, ++avail_idx);
}

static void header(uint64_t at, uint32_t type, uint64_t sector)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} h = { type, 0, sector };
	assert_int_equal(guest_write(&vm.mem, at, &h, sizeof h), 0);
}

/* One request from start to end; its status, and in *used the length that came back. */
static unsigned request(uint32_t type, uint64_t sector, uint64_t out, uint64_t in, unsigned cuts, uint32_t *used)
{
	uint8_t *status = guest_range(&vm.mem, IN + in, 1);
	uint16_t idx = used_idx();
	struct split_used *ring = guest_range(&vm.mem, USED, 6 + 8 * QUEUE);

	*status = S_NONE;
	header(OUT, type, sector);
	give((unsigned)rnd(100), OUT, 16 + out, IN, in + 1, cuts);
	reg(0x50, 0);
	until_used((uint16_t)(idx + 1));
	if (used)
		*used = ring->ring[idx % QUEUE].len;
	return *status;
}

__attribute__((unused)) static void *out_data(void)
{
	return guest_range(&vm.mem, OUT + 16, MiB - 16);
}
__attribute__((unused)) static void *in_data(void)
{
	return guest_range(&vm.mem, IN, MiB);
}

__attribute__((unused)) static void image_is_model(void)
{
	static uint8_t now[sizeof model];
	int fd = open(image, O_RDONLY);

	assert_int_equal(read(fd, now, sizeof now), sizeof now);
	close(fd);
	assert_memory_equal(now, model, sizeof model);
}

/* What discard and write-zeroes ask for (5.2.6). */
struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

#endif
