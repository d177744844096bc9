// sources: virtio.c ring_order.c mmio.c virtqueue.c packed.c mem.c
/*
 * Both ring formats against a driver that this test plays, written from virtio 1.2 alone: seeded random work over several wraps of the
 * 16-bit indices, notifications both ways against their definition, and everything that a driver may not do.
 */
#include "engine.h"
#include "lab4.h"
#include "trace.h"
#include "vring.h"
#include "written.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* --- what virtio.c needs of a VM --- */

static struct vm vm;
static unsigned edges, timers;

uint64_t clock_ns(void)
{
	return 1;
}
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at)
{
	(void)loop, (void)timer, timers += at != 0;
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
void written_add(struct vm *v, uint64_t gpa, uint64_t len)
{
	assert_non_null(guest_range(&v->mem, gpa, len));
}
int bus_add(struct bus *b, uint64_t base, uint64_t len, const struct device_ops *o, void *d)
{
	return (void)b, (void)base, (void)len, (void)o, (void)d, 0;
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
	(void)v, (void)irq, edges += level;
}
static const struct engine_ops engine = { .name = "test", .irq_line = set_wire };

static void no_kick(struct virtio_dev *d, struct virtqueue *q)
{
	(void)d, (void)q;
}
static const struct virtio_ops ops = { .name = "test", .id = VIRTIO_ID_RNG, .nqueues = 1, .kick = no_kick };
static struct virtio_dev *dev;
static struct virtqueue *queue;

/* --- the driver --- */

#define MEM (2 * MiB)
#define DESC 0x1000u
#define DRIVER 0x3000u
#define DEVICE 0x4000u
#define TABLES 0x10000u /* of indirect descriptors, 4 KiB for each buffer ID */
#define DATA 0x120000u

struct request {
	unsigned nout, nin, slots;
	uint64_t addr[16];
	uint32_t len[16];
	uint16_t descs[16]; /* split */
	bool used;	    /* the ID is in use */
};

static struct driver {
	unsigned size;
	bool packed, events, indirect;
	struct request req[VIRTIO_QUEUE_MAX];
	uint16_t free[VIRTIO_QUEUE_MAX]; /* split: descriptors. Packed: buffer IDs */
	unsigned nfree, slots_free;
	uint16_t avail, used; /* split: indices. Packed: slots */
	bool avail_wrap, used_wrap;
	uint16_t order[4 * VIRTIO_QUEUE_MAX]; /* made available, not yet taken by the device */
	unsigned first, count;
	/* Places that were made available since it was last decided whether to kick, and used since the device was last asked for an
	 * interrupt, as index or as slot | wrap << 15. */
	uint16_t added[4096], pushed[4096];
	unsigned nadded, npushed;
} drv;

static uint32_t seed;
static unsigned rnd(unsigned n)
{
	seed = seed * 1664525u + 1013904223u;
	return (unsigned)((uint64_t)(seed >> 4) * n >> 28);
}

static void *at(uint64_t gpa)
{
	return vm.mem.hva + gpa;
}
static uint16_t *word(uint64_t gpa)
{
	return at(gpa);
}

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
	drv = (struct driver){ .size = size,
			       .packed = packed,
			       .events = events,
			       .indirect = indirect,
			       .nfree = size,
			       .slots_free = size,
			       .avail_wrap = true,
			       .used_wrap = true };
	for (unsigned i = 0; i < size; i++)
		drv.free[i] = (uint16_t)i;
	edges = 0;
}

static void put_split(uint64_t gpa, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	memcpy(at(gpa), &(struct split_desc){ addr, len, flags, next }, 16);
}

static void put_packed(uint64_t gpa, uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
	memcpy(at(gpa), &(struct packed_desc){ addr, len, id, flags }, 16);
}

static uint16_t swap_free(unsigned i)
{
	uint16_t v = drv.free[i];

	drv.free[i] = drv.free[--drv.nfree];
	return v;
}

static uint16_t packed_flags(bool wrap)
{
	return wrap ? 0x80 : 0x8000;
}

/* Makes a random request available. false: there is no room. */
static bool add_request(void)
{
	unsigned n = 1 + rnd(6), nout = rnd(n + 1);
	bool indirect = drv.indirect && rnd(3) == 0;
	unsigned slots = indirect ? 1 : n;

	if (slots > drv.slots_free || !drv.nfree || (indirect && !drv.packed && n > drv.size))
		return false;
	uint16_t id = drv.packed ? swap_free(rnd(drv.nfree)) : drv.free[drv.nfree - 1];
	struct request *r = &drv.req[id];

	*r = (struct request){ .nout = nout, .nin = n - nout, .slots = slots, .used = true };
	uint64_t table = TABLES + id * 0x1000ull;
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = i >= nout ? 2 : 0;

		r->addr[i] = DATA + rnd(0x80000);
		r->len[i] = rnd(8) ? 1 + rnd(300) : 0;
		if (indirect && drv.packed)
			put_packed(table + 16 * i, r->addr[i], r->len[i], (uint16_t)rnd(65536),
				   (uint16_t)(flags | (rnd(65536) & ~2u)));
		else if (indirect)
			put_split(table + 16 * i, r->addr[i], r->len[i], (uint16_t)(flags | (i + 1 < n)), (uint16_t)(i + 1));
	}
	drv.slots_free -= slots;
	if (!drv.packed) {
		for (unsigned i = 0; i < slots; i++)
			r->descs[i] = drv.free[--drv.nfree];
		for (unsigned i = 0; i < slots; i++)
			if (indirect)
				put_split(DESC + 16u * r->descs[0], table, 16 * n, 4, 0xeeee);
			else
				put_split(DESC + 16u * r->descs[i], r->addr[i], r->len[i],
					  (uint16_t)((i >= nout ? 2 : 0) | (i + 1 < n)),
					  i + 1 < n ? r->descs[i + 1] : 0xeeee);
		assert_int_equal(r->descs[0], id);
		*word(DRIVER + 4 + 2 * (drv.avail % drv.size)) = id;
		drv.added[drv.nadded++] = drv.avail;
		*word(DRIVER + 2) = ++drv.avail;
	} else {
		uint64_t first = 0;
		uint16_t first_flags = 0;

		for (unsigned i = 0; i < slots; i++) {
			uint16_t flags = (uint16_t)(packed_flags(drv.avail_wrap) |
						    (indirect ? 4 : (i >= nout ? 2 : 0) | (i + 1 < n)));
			uint64_t slot = DESC + 16u * drv.avail;

			put_packed(slot, indirect ? table : r->addr[i], indirect ? 16 * n : r->len[i],
				   i + 1 < slots ? (uint16_t)rnd(65536) : id,
				   i ? flags : (uint16_t)(packed_flags(!drv.avail_wrap)));
			if (!i)
				first = slot, first_flags = flags;
			drv.added[drv.nadded++] = (uint16_t)(drv.avail | drv.avail_wrap << 15);
			if (++drv.avail == drv.size)
				drv.avail = 0, drv.avail_wrap = !drv.avail_wrap;
		}
		*word(first + 14) = first_flags;
	}
	drv.order[(drv.first + drv.count++) % (4 * VIRTIO_QUEUE_MAX)] = id;
	return true;
}

static bool among(uint16_t event, const uint16_t *places, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (places[i] == event)
			return true;
	return false;
}

/* Does this driver have to notify the device of what it added since the last time? By the definitions of 2.7.10 and 2.8.10. */
static bool kick_wanted(void)
{
	bool wanted;
	uint16_t flags = *word(drv.packed ? DEVICE + 2 : DEVICE);

	if (drv.packed)
		wanted = flags == PACKED_EVENT_ENABLE ||
			 (flags == PACKED_EVENT_DESC && among(*word(DEVICE), drv.added, drv.nadded));
	else if (drv.events)
		wanted = among(*word(DEVICE + 4 + 8 * drv.size), drv.added, drv.nadded);
	else
		wanted = !(flags & USED_F_NO_NOTIFY);
	wanted = wanted && drv.nadded;
	drv.nadded = 0;
	return wanted;
}

static void check_chain(const struct vq_chain *c)
{
	assert_int_not_equal(drv.count, 0);
	uint16_t id = drv.order[drv.first++ % (4 * VIRTIO_QUEUE_MAX)];
	const struct request *r = &drv.req[id];
	unsigned k = 0, nout = 0;
	uint64_t out_len = 0, in_len = 0;

	drv.first %= 4 * VIRTIO_QUEUE_MAX;
	drv.count--;
	assert_int_equal(c->id, id);
	for (unsigned i = 0; i < r->nout + r->nin; i++) {
		*(i < r->nout ? &out_len : &in_len) += r->len[i];
		if (!r->len[i])
			continue;
		nout += i < r->nout;
		assert_ptr_equal(c->iov[k].iov_base, at(r->addr[i]));
		assert_int_equal(c->iov[k].iov_len, r->len[i]);
		k++;
	}
	assert_int_equal(c->nout, nout);
	assert_int_equal(c->nout + c->nin, k);
	assert_int_equal(c->out_len, out_len);
	assert_int_equal(c->in_len, in_len);
	if (drv.packed)
		assert_int_equal(c->slots, r->slots);
}

/* Takes one chain back, which has to be this one. */
static void collect(uint16_t id, uint32_t len)
{
	struct request *r = &drv.req[id];

	if (drv.packed) {
		const struct packed_desc *d = at(DESC + 16u * drv.used);
		bool avail = d->flags & 0x80, used = d->flags & 0x8000;

		assert_true(avail == drv.used_wrap && used == drv.used_wrap);
		assert_int_equal(d->id, id);
		assert_int_equal(!!(d->flags & DESC_F_WRITE), len != 0);
		if (len)
			assert_int_equal(d->len, len);
		for (unsigned i = 0; i < r->slots; i++) {
			drv.pushed[drv.npushed++] = (uint16_t)(drv.used | drv.used_wrap << 15);
			if (++drv.used == drv.size)
				drv.used = 0, drv.used_wrap = !drv.used_wrap;
		}
		drv.free[drv.nfree++] = id;
	} else {
		assert_int_equal(*word(DEVICE + 2), (uint16_t)(drv.used + 1));
		const struct split_used_elem *e = at(DEVICE + 4 + 8u * (drv.used % drv.size));

		assert_int_equal(e->id, id);
		assert_int_equal(e->len, len);
		drv.pushed[drv.npushed++] = drv.used++;
		for (unsigned i = r->slots; i--;)
			drv.free[drv.nfree++] = r->descs[i];
	}
	drv.slots_free += r->slots;
	r->used = false;
}

/* The driver's wish for interrupts, at random; then the device is asked, and has to say what the definition says. */
static void notify(void)
{
	unsigned choice = rnd(3);
	bool expected;

	if (drv.packed) {
		uint16_t slot = (uint16_t)rnd(drv.size), place = (uint16_t)(slot | rnd(2) << 15);

		if (rnd(2) && drv.npushed)
			place = drv.pushed[rnd(drv.npushed)];
		*word(DRIVER) = place;
		*word(DRIVER + 2) = (uint16_t)choice;
		expected = choice == PACKED_EVENT_ENABLE ||
			   (choice == PACKED_EVENT_DESC && (!drv.events || among(place, drv.pushed, drv.npushed)));
	} else {
		uint16_t event = (uint16_t)(drv.used - drv.npushed - 2 + rnd(drv.npushed + 4));

		*word(DRIVER) = choice & 1;
		*word(DRIVER + 4 + 2 * drv.size) = event;
		expected = drv.events ? among(event, drv.pushed, drv.npushed) : !(choice & 1);
	}
	expected = expected && drv.npushed;
	uint64_t before = queue->interrupts;

	virtqueue_notify(queue);
	/* Behind a whole lap of a packed ring a place is no longer one only: then an interrupt too many is allowed. */
	if (!drv.packed || drv.npushed < drv.size || expected)
		assert_int_equal(queue->interrupts - before, expected);
	drv.npushed = 0;
}

static void work(bool packed, unsigned size, bool events, bool indirect, unsigned rounds)
{
	static struct vq_chain flight[VIRTIO_QUEUE_MAX];
	unsigned nflight = 0;
	bool asleep = false; /* the device found nothing, and waits for a notification */
	bool slept = false;  /* it has been, ever: so it had to say again that it need not be notified */

	set_up(packed, size, events, indirect);
	for (unsigned i = 0; i < rounds; i++) {
		unsigned what = rnd(10);

		if (what < 4) {
			for (unsigned n = 1 + rnd(3); n && add_request(); n--)
				;
			/* A driver that decides later than it adds may not lose a device that has gone to sleep in between. */
			if (rnd(4) && drv.nadded && kick_wanted())
				asleep = false;
			else if (asleep && !drv.nadded && drv.count)
				fail_msg("the device sleeps, a request is there, and the driver need not notify");
		} else if (what < 7) {
			int n = asleep ? 0 : virtqueue_pop(queue, &flight[nflight]);

			assert_true(n >= 0);
			if (n)
				check_chain(&flight[nflight++]);
			else if (!asleep)
				assert_int_equal(drv.count, 0);
			if (n && slept && (packed || !events))
				assert_int_equal(*word(packed ? DEVICE + 2 : DEVICE),
						 packed ? PACKED_EVENT_DISABLE : USED_F_NO_NOTIFY);
			asleep = !n;
			slept |= asleep;
		} else if (nflight) {
			unsigned k = rnd(nflight);
			struct vq_chain c = flight[k];
			uint32_t len = c.in_len ? rnd((unsigned)c.in_len + 1) : 0;

			flight[k] = flight[--nflight];
			virtqueue_push(queue, &c, len);
			collect(c.id, len);
			if (rnd(3) == 0 || drv.npushed > 1000)
				notify();
		}
	}
	assert_int_equal(dev->status & STATUS_NEEDS_RESET, 0);
}

static void test_random(void **state)
{
	static const unsigned split_sizes[] = { 1, 2, 4, 32, 256 }, packed_sizes[] = { 1, 2, 3, 5, 17, 64, 255, 256 };

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		seed = 1000 + i;
		for (unsigned s = 0; s < 5; s++)
			work(false, split_sizes[s], i & 1, i & 2, 30000);
		for (unsigned s = 0; s < 8; s++)
			work(true, packed_sizes[s], i & 1, i & 2, 30000);
	}
}

/* Far enough for three wraps of the indices. */
static void test_long(void **state)
{
	(void)state;
	seed = 7;
	work(false, 8, true, true, 1500000);
	assert_true(queue->chains > 3 * 65536);
	work(true, 7, true, true, 1500000);
}

static void test_event_window(void **state)
{
	(void)state;
	set_up(false, 4, true, false);
	for (unsigned start = 65536 - 10; start < 65536 + 10; start++)
		for (unsigned n = 0; n <= 4; n++)
			for (unsigned event = start - 12; event < start + 12; event++) {
				queue->signalled = (uint16_t)start;
				queue->next_used = (uint16_t)(start + n);
				*word(DRIVER + 4 + 2 * 4) = (uint16_t)event;
				assert_int_equal(split_rings.should_interrupt(queue), event >= start && event < start + n);
			}
	for (unsigned size = 1; size <= 6; size++) {
		set_up(true, size, true, false);
		*word(DRIVER + 2) = PACKED_EVENT_DESC;
		for (unsigned start = 0; start < 2 * size; start++)
			for (unsigned n = 0; n < size; n++)
				for (unsigned event = 0; event < 2 * size; event++) {
					unsigned now = (start + n) % (2 * size);

					queue->unsignalled = (uint16_t)n;
					queue->next_used = (uint16_t)(now % size);
					queue->used_wrap = now < size;
					*word(DRIVER) = (uint16_t)(event % size | (event < size) << 15);
					bool in = (event + 2 * size - start) % (2 * size) < n;
					assert_int_equal(packed_rings.should_interrupt(queue), in);
				}
	}
}

/* --- what a driver may not do --- */

static void broken(const char *words)
{
	static struct vq_chain c;

	assert_int_equal(virtqueue_pop(queue, &c), -EPROTO);
	assert_true(dev->status & STATUS_NEEDS_RESET);
	assert_int_equal(dev->interrupt_status, INTERRUPT_CONFIG);
	if (!strstr(dev->reason, words))
		fail_msg("\"%s\" does not say \"%s\"", dev->reason, words);
	assert_int_equal(virtqueue_pop(queue, &c), 0); /* dead until the reset */
}

static void offer_split(uint16_t head)
{
	*word(DRIVER + 4) = head;
	*word(DRIVER + 2) = 1;
}

static void test_split_malformed(void **state)
{
	(void)state;
#define CASE(words, ...)                      \
	do {                                  \
		set_up(false, 4, true, true); \
		__VA_ARGS__;                  \
		broken(words);                \
	} while (0)
	CASE("went 5 ahead", *word(DRIVER + 2) = 5);
	CASE("went 65535 ahead", *word(DRIVER + 2) = 65535);
	CASE("no descriptor 4", offer_split(4));
	CASE("no descriptor 4", put_split(DESC, DATA, 1, 1, 4), offer_split(0));
	CASE("longer than the queue", put_split(DESC, DATA, 1, 1, 0), offer_split(0));
	CASE("longer than the queue", put_split(DESC, DATA, 1, 1, 1), put_split(DESC + 16, DATA, 0, 1, 0), offer_split(0));
	CASE("outside memory", put_split(DESC, MEM - 4, 5, 0, 0), offer_split(0));
	CASE("outside memory", put_split(DESC, 0xffffffffffffff00, 0x200, 2, 0), offer_split(0));
	CASE("behind a writable", put_split(DESC, DATA, 1, 3, 1), put_split(DESC + 16, DATA, 1, 0, 0), offer_split(0));
	CASE("indirect table of 0", put_split(DESC, TABLES, 0, 4, 0), offer_split(0));
	CASE("indirect table of 24", put_split(DESC, TABLES, 24, 4, 0), offer_split(0));
	CASE("indirect table of 80", put_split(DESC, TABLES, 80, 4, 0), offer_split(0));
	CASE("middle of a chain", put_split(DESC, TABLES, 16, 5, 1), offer_split(0));
	CASE("in an indirect table", put_split(DESC, TABLES, 16, 4, 0), put_split(TABLES, TABLES, 16, 4, 0), offer_split(0));
	/* A table that lies on the queue's own descriptors is one nevertheless. */
	CASE("in an indirect table", put_split(DESC, DESC, 16, 4, 0), offer_split(0));
	CASE("table outside memory", put_split(DESC, MEM, 16, 4, 0), offer_split(0));
	CASE("no descriptor 1", put_split(DESC, TABLES, 16, 4, 0), put_split(TABLES, DATA, 1, 1, 1), offer_split(0));
	CASE("not agreed on", dev->features &= ~F_RING_INDIRECT_DESC, put_split(DESC, TABLES, 16, 4, 0), offer_split(0));
#undef CASE
}

#define A 0x80u /* available on the first lap */

static void test_packed_malformed(void **state)
{
	(void)state;
#define CASE(words, ...)                     \
	do {                                 \
		set_up(true, 4, true, true); \
		__VA_ARGS__;                 \
		broken(words);               \
	} while (0)
	CASE("slot 1, which is not available", put_packed(DESC, DATA, 1, 0, A | 1));
	CASE("free of the ring", for (unsigned i = 0; i < 4; i++) put_packed(DESC + 16 * i, DATA, 1, 0, A | 1));
	CASE("outside memory", put_packed(DESC, MEM - 4, 5, 0, A));
	CASE("outside memory", put_packed(DESC, 0xffffffffffffff00, 0x200, 0, A | 2));
	CASE("behind a writable", put_packed(DESC, DATA, 1, 0, A | 3), put_packed(DESC + 16, DATA, 1, 0, A));
	CASE("indirect table of 0", put_packed(DESC, TABLES, 0, 0, A | 4));
	CASE("indirect table of 24", put_packed(DESC, TABLES, 24, 0, A | 4));
	CASE("indirect table of 4112", put_packed(DESC, TABLES, 16 * 257, 0, A | 4));
	CASE("with others", put_packed(DESC, TABLES, 16, 0, A | 5));
	CASE("with others", put_packed(DESC, DATA, 1, 0, A | 1), put_packed(DESC + 16, TABLES, 16, 0, A | 4));
	CASE("table outside memory", put_packed(DESC, MEM, 16, 0, A | 4));
	CASE("not agreed on", dev->features &= ~F_RING_INDIRECT_DESC, put_packed(DESC, TABLES, 16, 0, A | 4));
#undef CASE
}

/* A driver that makes slots available again which the device has not given back: no more than the ring is ever in flight. */
static void test_in_flight(void **state)
{
	static struct vq_chain c;

	(void)state;
	/* AVAIL as on this lap, USED too: given back, not available. */
	set_up(true, 4, false, false);
	put_packed(DESC, DATA, 1, 0, 0x8080);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	set_up(true, 4, false, false);
	for (unsigned i = 0; i < 4; i++)
		put_packed(DESC + 16 * i, DATA, 1, 0, A);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(virtqueue_pop(queue, &c), 1);
	for (unsigned i = 0; i < 4; i++)
		put_packed(DESC + 16 * i, DATA, 1, 0, 0x8000);
	assert_int_equal(virtqueue_pop(queue, &c), 0);
	assert_int_equal(queue->in_flight, 4);
	/* Split: the same descriptor again and again. */
	set_up(false, 4, false, false);
	put_split(DESC, DATA, 1, 0, 0);
	for (uint16_t i = 0; i < 4; i++) {
		*word(DRIVER + 4 + 2 * i) = 0;
		*word(DRIVER + 2) = (uint16_t)(i + 1);
		assert_int_equal(virtqueue_pop(queue, &c), 1);
	}
	*word(DRIVER + 2) = 5;
	broken("more chains than descriptors");
}

static void test_enable(void **state)
{
	static const struct {
		bool packed;
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ false, 0, DESC, DRIVER, DEVICE },
		{ false, 3, DESC, DRIVER, DEVICE },
		{ false, 4, DESC + 8, DRIVER, DEVICE },
		{ false, 4, DESC, DRIVER + 1, DEVICE },
		{ false, 4, DESC, DRIVER, DEVICE + 2 },
		{ false, 4, MEM - 48, DRIVER, DEVICE },
		{ false, 4, DESC, MEM - 12, DEVICE },
		{ false, 4, DESC, DRIVER, MEM - 36 },
		{ false, 4, 0xfffffffffffffff0, DRIVER, DEVICE },
		{ true, 0, DESC, DRIVER, DEVICE },
		{ true, 257, DESC, DRIVER, DEVICE },
		{ true, 3, DESC + 8, DRIVER, DEVICE },
		{ true, 3, DESC, DRIVER + 2, DEVICE },
		{ true, 3, DESC, DRIVER, DEVICE + 2 },
		{ true, 3, MEM - 32, DRIVER, DEVICE },
		{ true, 3, DESC, MEM, DEVICE },
		{ true, 3, DESC, DRIVER, MEM },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		set_up(bad[i].packed, 4, true, true);
		queue->size = bad[i].size;
		queue->desc = bad[i].desc;
		queue->driver = bad[i].driver;
		queue->device = bad[i].device;
		if (virtio_rings(dev)->enable(queue) != -EPROTO || !(dev->status & STATUS_NEEDS_RESET))
			fail_msg("queue %u was accepted", i);
	}
	/* The last byte of memory is memory. */
	set_up(false, 4, true, true);
	queue->desc = MEM - 64;
	assert_int_equal(split_rings.enable(queue), 0);
	queue->desc = DESC;
	queue->driver = MEM - 14;
	assert_int_equal(split_rings.enable(queue), 0);
	set_up(true, 3, true, true);
	queue->desc = MEM - 48;
	assert_int_equal(packed_rings.enable(queue), 0);
}

static int make(void **state)
{
	(void)state;
	vm.engine = &engine;
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),		 cmocka_unit_test(test_long),
		cmocka_unit_test(test_event_window),	 cmocka_unit_test(test_split_malformed),
		cmocka_unit_test(test_packed_malformed), cmocka_unit_test(test_in_flight),
		cmocka_unit_test(test_enable),
	};

	return cmocka_run_group_tests(tests, make, unmake);
}
