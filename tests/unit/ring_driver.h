/*
 * A driver for each of the two ring formats, written from virtio 1.2 alone. It makes random requests available, knows
 * which chain the device has to take next and what is in it, takes chains back, and decides about notifications both ways
 * by their definition, not by the formulas that devices use.
 */
#ifndef RING_DRIVER_H
#define RING_DRIVER_H

#include "queue_device.h"

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

static void start_driver(bool packed, unsigned size, bool events, bool indirect)
{
	set_up(packed, size, events, indirect);
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

#endif
