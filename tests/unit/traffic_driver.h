/*
 * A VM with one virtio device of each kind, and a driver that keeps all of them busy with chains of either ring format: what comes back is
 * looked at. The VM can be replaced by another one with a copy of its memory (is_now()); programs that do so include this once.
 */
#ifndef TRAFFIC_DRIVER_H
#define TRAFFIC_DRIVER_H

#include "disk.h"
#include "engine.h"
#include "lab4.h"
#include "netback.h"
#include "virtio_balloon.h"
#include "virtio_console.h"
#include "virtio_state.h"
#include "vm_stopped.h"
#include "vring.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MEM (4 * MiB)
#define PAGES (MEM / PAGE)
#define SIZE 16u
#define SLOTS 4u /* chains of a queue that are under way at most, of up to SIZE / SLOTS descriptors */
#define REGION 8u /* sectors that belong to a slot of the disk's queue */
#define BALLOON_GPA (2 * MiB)
#define BALLOON_PAGES 256u
#define PFNS 5000u /* more than one kick handles */
enum { RNG, DISK, NET, CONSOLE, BALLOON, DEVICES };
enum { NET_RX, NET_TX };
#define NET_HEADER 12u

static struct vm *vm;
static struct virtio_dev *dev[DEVICES];
static bool packed, level[16];
static uint64_t seed;
static char image[32];
static uint8_t shadow[MEM], model[SLOTS * REGION * SECTOR]; /* memory as it was when the log was read; the disk as it should be */
static uint64_t logged[PAGES / 64];
static int output[2], input[2]; /* pipes of the console */

static uint32_t any(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

/* --- the VM -------------------------------------------------------------------------------------------------------------------- */

static void irq_line(struct vm *v, unsigned irq, bool high)
{
	if (v == vm)
		level[irq] = high;
}
static const struct engine_ops engine = { .name = "test", .irq_line = irq_line };

static void log_write(void *opaque, uint64_t gpa, uint64_t len)
{
	if (opaque != vm)
		return;
	for (uint64_t page = gpa / PAGE; len && page <= (gpa + len - 1) / PAGE; page++)
		logged[page / 64] |= 1ull << page % 64;
}

/* The driver's stores. The dirty log of its CPU is no business of this test. */
static void put(uint64_t gpa, const void *src, size_t len)
{
	memcpy(vm->mem.hva + gpa, src, len);
	memcpy(shadow + gpa, src, len);
}
static void put16(uint64_t gpa, uint16_t value) { put(gpa, &value, sizeof value); }
static uint16_t get16(uint64_t gpa) { return ring_load16((uint16_t *)(vm->mem.hva + gpa)); }

/* --- the network: a wire that numbers its frames ----------------------------------------------------------------------------------- */

static struct netback *wire; /* of the VM that counts */
static uint32_t frames_in, frames_out, frames_seen; /* sent to the guest; sent by it; that it has received */
static bool wire_paused;

static int wire_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	(void)o, (void)err, (void)size;
	nb->link = true;
	return 0;
}
static void wire_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	uint8_t frame[2000];
	uint32_t number;

	netback_gather(iov, n, frame);
	memcpy(&number, frame + ETH_HEADER, sizeof number);
	if (nb == wire) /* else it is a VM whose state is damaged */
		assert_int_equal(number, frames_out++);
	(void)len;
	if (!any(8))
		netback_set_blocked(nb, true);
}
static void wire_pause(struct netback *nb, bool p)
{
	if (nb == wire)
		wire_paused = p;
}
static void wire_close(struct netback *nb) { (void)nb; }
const struct netback_ops net_user_ops = { .open = wire_open, .send = wire_send, .pause = wire_pause, .close = wire_close };
const struct netback_ops net_tap_ops = { .open = wire_open, .send = wire_send, .pause = wire_pause, .close = wire_close };
const struct netback_ops net_socket_ops = { .open = wire_open, .send = wire_send, .pause = wire_pause, .close = wire_close };

static void wire_frame(void)
{
	uint8_t frame[800];
	size_t len = 60 + any(700);

	if (wire_paused && frames_in - frames_seen > 200)
		return;
	memset(frame, (int)frames_in, len);
	memcpy(frame + ETH_HEADER, &frames_in, sizeof frames_in);
	frames_in++;
	netback_deliver(wire, frame, len);
}

/* --- making the VM, on a host where another one may be ------------------------------------------------------------ */

/* The network device's first field behind its virtio_dev is its netback, as the stub of net.c's state: it is found by its user. */
static struct netback *netback_of(struct virtio_dev *d)
{
	struct {
		struct virtio_dev *dev;
		struct netback *back;
	} *net = d->state;

	assert_ptr_equal(net->dev, d);
	return net->back;
}

static struct vm *make(bool moving)
{
	static const char *const names[DEVICES] = { NULL, NULL, "user", NULL, NULL };
	static int (*const create[DEVICES])(struct vm *v, const char *arg) = { rng_create, blk_create, net_create, virtio_console_create,
									       virtio_balloon_create };
	struct vm *v = calloc(1, sizeof *v);
	pthread_mutexattr_t attr;
	char disk[64];

	v->engine = &engine;
	v->opt.incoming = moving ? "unix:there" : NULL;
	v->con.held = v->virtio_stands = moving;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&v->lock, &attr);
	pthread_mutex_lock(&v->lock);
	assert_int_equal(guest_mem_create(&v->mem, MEM), 0);
	v->mem.written = log_write;
	v->mem.opaque = v;
	bus_init(&v->mmio, "address");
	assert_int_equal(loop_init(&v->loop, &v->lock), 0);
	assert_int_equal(console_start(&v->con, &v->loop, input[0], output[1]), 0);
	snprintf(disk, sizeof disk, "%s,aio=threads,slow=1", image);
	for (unsigned i = 0; i < DEVICES; i++) {
		v->opt.device[i].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
		if (create[i](v, i == DISK ? disk : names[i]))
			fail_msg("%s", v->reason);
	}
	assert_int_equal(loop_start(&v->loop), 0);
	return v;
}

static void unmake(struct vm *v)
{
	pthread_mutex_unlock(&v->lock);
	loop_stop(&v->loop);
	pthread_mutex_lock(&v->lock);
	console_stop(&v->con);
	virtio_destroy(v);
	written_free(v);
	guest_mem_destroy(&v->mem);
	loop_destroy(&v->loop);
	pthread_mutex_unlock(&v->lock);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

static void is_now(struct vm *v)
{
	vm = v;
	for (unsigned i = 0; i < DEVICES; i++)
		dev[i] = v->virtio[i];
	wire = netback_of(dev[NET]);
	wire_paused = wire->head;
}

/* --- the driver --------------------------------------------------------------------------------------------------- */

struct queue {
	unsigned d, index;
	uint64_t ring, driver, device, data; /* gpa */
	uint16_t avail, used; /* split: indices; packed: slots */
	bool avail_wrap, used_wrap;
	struct slot {
		bool busy;
		unsigned descs;
		uint32_t number, type; /* of the request */
		uint32_t out, in;      /* bytes */
	} slot[SLOTS];
	uint64_t given, back;
};
static struct queue queues[] = { { .d = RNG }, { .d = DISK }, { .d = NET, .index = NET_RX }, { .d = NET, .index = NET_TX },
				 { .d = CONSOLE, .index = 0 }, { .d = CONSOLE, .index = 1 }, { .d = BALLOON, .index = 0 },
				 { .d = BALLOON, .index = 1 }, { .d = BALLOON, .index = 2 } };
#define QUEUES (sizeof queues / sizeof *queues)

static uint32_t tx_number, out_bytes, out_seen, in_bytes, in_seen;
static bool stats_asked;

static void reg(unsigned d, unsigned offset, uint32_t value) { virtio_mmio_write(dev[d], offset, 4, value); }

static void start(unsigned d)
{
	uint64_t features = dev[d]->offered & ~(packed ? 0 : F_RING_PACKED) & ~(any(2) ? F_RING_EVENT_IDX : 0);

	reg(d, 0x70, 0);
	reg(d, 0x70, 3);
	for (unsigned i = 0; i < 2; i++) {
		reg(d, 0x24, i);
		reg(d, 0x20, (uint32_t)(features >> 32 * i));
	}
	reg(d, 0x70, 11);
	for (unsigned i = 0; i < QUEUES; i++) {
		struct queue *q = &queues[i];

		if (q->d != d)
			continue;
		*q = (struct queue){ .d = d, .index = q->index, .ring = 0x10000 * (i + 1), .avail_wrap = true, .used_wrap = true };
		q->driver = q->ring + 0x1000;
		q->device = q->ring + 0x2000 + 4 * any(8);
		q->data = q->ring + 0x4000; /* 0x3000 for each slot; the balloon's is elsewhere */
		reg(d, 0x30, q->index);
		reg(d, 0x38, SIZE);
		reg(d, 0x80, (uint32_t)q->ring);
		reg(d, 0x90, (uint32_t)q->driver);
		reg(d, 0xa0, (uint32_t)q->device);
		reg(d, 0x44, 1);
	}
	reg(d, 0x70, 15);
	assert_int_equal(virtio_mmio_read(dev[d], 0x70, 4), 15);
}

/* Makes a chain of `out` bytes at data_of(), then `in` bytes, available. Cut where that is possible. */
static uint64_t data_of(const struct queue *q, unsigned s)
{
	return q->d == BALLOON ? 0x100000 + 0x18000 * q->index + 0x6000 * s : q->data + 0x3000 * s;
}

static void give(struct queue *q, unsigned s, uint32_t out, uint32_t in)
{
	struct slot *slot = &q->slot[s];
	uint64_t at = data_of(q, s);
	uint32_t cut = out > 1 && any(2) ? 1 + any(out - 1) : 0, len[3] = { cut, out - cut, in };
	unsigned n = 0, first = q->avail;
	uint16_t first_flags = 0;

	slot->busy = true;
	slot->out = out;
	slot->in = in;
	for (unsigned i = 0; i < 3; at += len[i++]) {
		if (!len[i])
			continue;
		bool more = (i == 0) || (i == 1 && in);
		uint16_t flags = (uint16_t)((more ? DESC_F_NEXT : 0) | (i == 2 ? DESC_F_WRITE : 0));

		if (!packed) {
			unsigned k = s * (SIZE / SLOTS) + n;
			struct split_desc desc = { at, len[i], flags, (uint16_t)(k + 1) };

			put(q->ring + 16 * k, &desc, sizeof desc);
		} else {
			flags |= q->avail_wrap ? PACKED_F_AVAIL : PACKED_F_USED;
			struct packed_desc desc = { at, len[i], (uint16_t)s, n ? flags : 0 };

			if (!n) { /* the first one's flags come last */
				first_flags = flags;
				desc.flags = (uint16_t)get16(q->ring + 16 * q->avail + 14);
			}
			put(q->ring + 16 * q->avail, &desc, sizeof desc);
			if (++q->avail == SIZE) {
				q->avail = 0;
				q->avail_wrap = !q->avail_wrap;
			}
		}
		n++;
	}
	slot->descs = n;
	if (packed) {
		put16(q->ring + 16 * first + 14, first_flags);
	} else {
		put16(q->driver + 4 + 2 * (q->avail % SIZE), (uint16_t)(s * (SIZE / SLOTS)));
		put16(q->driver + 2, ++q->avail);
	}
	q->given++;
}

/* The next chain that came back: its slot, or -1. */
static int take(struct queue *q, uint32_t *len)
{
	int s;

	if (!packed) {
		struct split_used_elem e;

		if (get16(q->device + 2) == q->used)
			return -1;
		memcpy(&e, vm->mem.hva + q->device + 4 + 8 * (q->used++ % SIZE), sizeof e);
		s = (int)(e.id / (SIZE / SLOTS));
		*len = e.len;
	} else {
		struct packed_desc d = ring_packed_desc(vm->mem.hva + q->ring + 16 * q->used);

		if (!!(d.flags & PACKED_F_AVAIL) != q->used_wrap || !!(d.flags & PACKED_F_USED) != q->used_wrap)
			return -1;
		s = d.id;
		*len = d.len;
		assert_true(s < (int)SLOTS);
		q->used = (uint16_t)(q->used + q->slot[s].descs);
		if (q->used >= SIZE) {
			q->used = (uint16_t)(q->used - SIZE);
			q->used_wrap = !q->used_wrap;
		}
	}
	assert_true(s >= 0 && s < (int)SLOTS && q->slot[s].busy); /* else it came back twice */
	q->slot[s].busy = false;
	q->back++;
	return s;
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static void request(struct queue *q, unsigned s)
{
	uint64_t at = data_of(q, s);
	struct slot *slot = &q->slot[s];

	switch (q->d) {
	case RNG: give(q, s, 0, 64); break;
	case DISK: {
		uint32_t header[4] = { slot->type = any(3) < 2 ? any(2) : 4, 0, s * REGION, 0 };

		put(at, header, sizeof header);
		for (unsigned i = 0; slot->type == 1 && i < REGION * SECTOR; i++) {
			uint8_t byte = (uint8_t)any(256);

			model[s * REGION * SECTOR + i] = byte;
			put(at + 16 + i, &byte, 1);
		}
		give(q, s, slot->type == 1 ? 16 + REGION * SECTOR : 16, slot->type == 0 ? REGION * SECTOR + 1 : 1);
		break;
	}
	case NET:
		if (q->index == NET_TX) {
			uint8_t frame[NET_HEADER + 100] = { 0 };

			memcpy(frame + NET_HEADER + ETH_HEADER, &tx_number, sizeof tx_number);
			tx_number++;
			put(at, frame, sizeof frame);
			give(q, s, sizeof frame, 0);
		} else {
			give(q, s, 0, any(2) ? 300 : 1000);
		}
		break;
	case CONSOLE:
		if (q->index == 1) {
			uint32_t n = 1 + any(3000);

			for (uint32_t i = 0; i < n; i++) {
				uint8_t byte = (uint8_t)(out_bytes * 7 % 251);

				out_bytes++;
				put(at + i, &byte, 1);
			}
			give(q, s, n, 0);
		} else {
			give(q, s, 0, 32);
		}
		break;
	default:
		if (q->index == 2) {
			if (q->slot[0].busy || s)
				return;
			give(q, s, 20, 0);
			break;
		}
		uint32_t n = any(4) ? 1 + any(20) : PFNS;

		slot->number = (uint32_t)(BALLOON_GPA / PAGE + any(BALLOON_PAGES));
		for (uint32_t i = 0; i < n; i++)
			put(at + 4 * i, &slot->number, 4);
		put(slot->number * PAGE, "full", 4);
		give(q, s, 4 * n, 0);
	}
}

static void received(struct queue *q, int s, uint32_t len)
{
	static uint8_t frame[4000];
	uint32_t number;
	uint16_t buffers;

	memcpy(frame, vm->mem.hva + data_of(q, (unsigned)s), len);
	memcpy(&buffers, frame + 10, sizeof buffers);
	for (unsigned i = 1; i < buffers; i++) {
		uint32_t more;

		s = take(q, &more);
		assert_true(s >= 0);
		memcpy(frame + len, vm->mem.hva + data_of(q, (unsigned)s), more);
		len += more;
	}
	memcpy(&number, frame + NET_HEADER + ETH_HEADER, sizeof number);
	assert_int_equal(number, frames_seen++);
	assert_int_equal(frame[len - 1], (uint8_t)number);
}

static void answer(struct queue *q, int s, uint32_t len)
{
	struct slot *slot = &q->slot[s];
	uint8_t *data = vm->mem.hva + data_of(q, (unsigned)s);

	switch (q->d) {
	case RNG: assert_int_equal(len, 64); break;
	case DISK:
		assert_int_equal(data[slot->out + slot->in - 1], 0);
		if (!slot->type)
			assert_memory_equal(data + 16, model + (unsigned)s * REGION * SECTOR, REGION * SECTOR);
		break;
	case NET:
		if (q->index == NET_RX)
			received(q, s, len);
		break;
	case CONSOLE:
		for (uint32_t i = 0; i < len && !q->index; i++, in_seen++)
			assert_int_equal(data[i], (uint8_t)(in_seen * 5 % 249));
		break;
	default:
		if (q->index == 2)
			assert_true(stats_asked);
		stats_asked &= q->index != 2;
	}
}

static void collect(struct queue *q)
{
	uint32_t len;

	for (int s; (s = take(q, &len)) >= 0;)
		answer(q, s, len);
}

static bool read_output(unsigned most)
{
	uint8_t bytes[4096];
	ssize_t n = read(output[0], bytes, most < sizeof bytes ? most : sizeof bytes);

	for (ssize_t i = 0; i < n; i++, out_seen++)
		assert_int_equal(bytes[i], out_seen * 7 % 251);
	return n > 0;
}

/* All that the console of v has been given. */
static void read_all_output(struct vm *v)
{
	while (read_output(4096) || v->con.nout || v->con.sending) {
		pthread_mutex_unlock(&v->lock);
		usleep(100);
		pthread_mutex_lock(&v->lock);
	}
}

static void type(void)
{
	uint8_t bytes[40];
	size_t n = any(sizeof bytes);

	if (in_bytes - in_seen > 2000)
		return;
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)((in_bytes + i) * 5 % 249);
	in_bytes += (uint32_t)n;
	assert_int_equal(write(input[1], bytes, n), n);
}

static void step(void)
{
	struct queue *q = &queues[any(QUEUES)];
	unsigned s = any(SLOTS);

	switch (any(10)) {
	case 0: case 1: case 2:
		if (!q->slot[s].busy)
			request(q, s);
		break;
	case 3: case 4: reg(q->d, 0x50, q->index); break;
	case 5: collect(q); break;
	case 6: wire_frame(); break;
	case 7: any(3) ? netback_set_blocked(wire, false) : type(); break;
	case 8: read_output(any(2000)); break;
	default:
		if (q->d == BALLOON && queues[8].slot[0].busy && !stats_asked) {
			stats_asked = true;
			virtio_mmio_write(dev[BALLOON], 0x104, 4, any(100));
		}
		reg(q->d, 0x64, (uint32_t)virtio_mmio_read(dev[q->d], 0x60, 4)); /* acknowledged */
		pthread_mutex_unlock(&vm->lock); /* others have a turn */
		usleep(any(300));
		pthread_mutex_lock(&vm->lock);
	}
}

#endif
