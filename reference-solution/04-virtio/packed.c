/*
 * Lab 4, checkpoints 4.17 and 4.18, the extension: the packed virtqueue (virtio 1.2, 2.8).
 *
 * One ring in place of three areas: the driver writes descriptors into it, and the device writes over them what became of them. There
 * are no indices. Whose turn a slot is says the slot itself, by two bits of its flags, AVAIL and USED, and by the lap on which somebody
 * comes by: both sides count laps in one bit, the wrap counter, which begins as 1 and turns over at the end of the ring (2.8.1). The
 * driver makes a slot available by AVAIL = its wrap counter and USED = the opposite; the device gives it back by AVAIL = USED = its own.
 *
 * The memory belongs to a guest that may change it at any time, and may mean harm. What is read is read once.
 */
#include "lab4.h"
#include "vring.h"

/*
 * A slot together with a wrap counter is a place on a way that is two laps long: then everything repeats. How far it is from one place to a
 * later one is then a subtraction.
 */
static unsigned place(const struct virtqueue *q, unsigned slot, bool wrap) { return wrap ? slot : q->size + slot; }
static unsigned distance(const struct virtqueue *q, unsigned from, unsigned to) { return (to + 2u * q->size - from) % (2u * q->size); }

static unsigned used_place(const struct virtqueue *q) { return place(q, q->next_used, q->used_wrap); }

/* Goes n slots on, 1 to size of them. 0, or -ECANCELED while 4.18 is not written. */
static int advance(struct virtqueue *q, uint16_t *slot, bool *wrap, unsigned n)
{
	// SOLUTION 4.18
	*slot = (uint16_t)(*slot + n);
	if (*slot >= q->size) {
		*slot = (uint16_t)(*slot - q->size);
		*wrap = !*wrap;
	}
	return 0;
	// STARTER 4.18: the ring's end, behind which the next lap begins. Hint: a slot too far belongs to the beginning of the next
	// lap, and the wrap counter turns over. A chain may lie across the end. Here is what does for the first lap, without its last slot.
	//	(void)wrap;
	//	if (*slot + n >= q->size)
	//		return lab_todo(q->dev->vm, "4.18", "advance() in packed.c: the end of the ring, and the wrap counter");
	//	*slot = (uint16_t)(*slot + n);
	//	return 0;
	// END
}

static int packed_enable(struct virtqueue *q)
{
	// SOLUTION 4.17
	struct guest_mem *mem = &q->dev->vm->mem;

	if (!q->size || q->size > VIRTIO_QUEUE_MAX)
		return virtio_broken(q->dev, "queue %u: it cannot have %u entries", q->index, q->size);
	if (q->desc % 16 || q->driver % 4 || q->device % 4)
		return virtio_broken(q->dev, "queue %u is not aligned", q->index);
	q->desc_ring = guest_range(mem, q->desc, 16ull * q->size);
	q->driver_area = guest_range(mem, q->driver, sizeof(struct packed_event));
	q->device_area = guest_range(mem, q->device, sizeof(struct packed_event));
	if (!q->desc_ring || !q->driver_area || !q->device_area)
		return virtio_broken(q->dev, "queue %u does not lie in memory", q->index);
	q->avail_wrap = q->used_wrap = true;
	return 0;
	// STARTER 4.17: is this a queue that can work? Hint: the alignments are in 2.8; the driver's and the device's area are one struct
	// packed_event each. Any size will do, it need not be a power of two. Both wrap counters begin as 1.
	//	return lab_todo(q->dev->vm, "4.17", "packed_enable() in packed.c: size, alignment and addresses of a queue");
	// END
}

/* A descriptor that names a table of descriptors (2.8.7). There they stand one behind the other: no flag but F_WRITE counts, and no
 * buffer ID. 0, or -EPROTO after virtio_broken(). */
static int add_table(struct virtqueue *q, struct vq_chain *c, const struct packed_desc *d)
{
	// SOLUTION 4.17
	const struct packed_desc *table = guest_range(&q->dev->vm->mem, d->addr, d->len);
	unsigned entries = d->len / sizeof *table;

	if (!virtio_has(q->dev, F_RING_INDIRECT_DESC))
		return virtio_broken(q->dev, "queue %u: an indirect table, which was not agreed on", q->index);
	if (c->slots > 1 || d->flags & DESC_F_NEXT)
		return virtio_broken(q->dev, "queue %u: an indirect table in a chain with others", q->index);
	if (!d->len || d->len % sizeof *table || entries > VQ_IOV_MAX)
		return virtio_broken(q->dev, "queue %u: an indirect table of %u bytes", q->index, d->len);
	if (!table)
		return virtio_broken(q->dev, "queue %u: an indirect table outside memory", q->index);
	for (unsigned i = 0; i < entries; i++) {
		struct packed_desc entry = ring_packed_desc(&table[i]);

		if (chain_add(q, c, entry.addr, entry.len, entry.flags & DESC_F_WRITE))
			return -EPROTO;
	}
	return 0;
	// STARTER 4.17: all buffers of the table. Hint: only if the driver agreed on it, alone in its chain (c->slots is 1, no F_NEXT),
	// and of a length that is whole descriptors, not more than VQ_IOV_MAX. In the table only addr, len and F_WRITE count.
	//	(void)c;
	//	(void)d;
	//	return lab_todo(q->dev->vm, "4.17", "add_table() in packed.c: indirect descriptors");
	// END
}

// SOLUTION 4.17
static bool is_available(const struct packed_desc *d, bool wrap)
{
	return !!(d->flags & PACKED_F_AVAIL) == wrap && !!(d->flags & PACKED_F_USED) != wrap;
}
// END

static int packed_pop(struct virtqueue *q, struct vq_chain *c)
{
	// SOLUTION 4.17
	const struct packed_desc *ring = q->desc_ring;
	uint16_t slot = q->next_avail;
	bool wrap = q->avail_wrap;
	/* What was taken and not given back lies between the two places. A chain has to fit into the rest: this bounds its length, and
	 * what is in flight. */
	unsigned rest = q->size - distance(q, used_place(q), place(q, slot, wrap));

	c->q = q;
	c->slots = 0;
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	while (c->slots < rest) {
		struct packed_desc d = ring_packed_desc(&ring[slot]);

		/* The driver makes the first slot of a chain available last (2.8.21): if that is, all are. */
		if (!is_available(&d, wrap))
			return c->slots ? virtio_broken(q->dev, "queue %u: a chain goes on in slot %u, which is not available",
							q->index, slot) : 0;
		c->slots++;
		if (d.flags & DESC_F_INDIRECT ? add_table(q, c, &d) : chain_add(q, c, d.addr, d.len, d.flags & DESC_F_WRITE))
			return -EPROTO;
		if (advance(q, &slot, &wrap, 1))
			return -ECANCELED;
		if (!(d.flags & DESC_F_NEXT)) {
			c->id = d.id; /* of a chain, the last one's (2.8.6) */
			q->next_avail = slot;
			q->avail_wrap = wrap;
			return 1;
		}
	}
	return c->slots ? virtio_broken(q->dev, "queue %u: a chain longer than what is free of the ring", q->index) : 0;
	// STARTER 4.17: the next chain of the ring. Hint: it begins at q->next_avail, if the flags of that slot say that it is available:
	// ring_packed_desc(), once, because the driver may write meanwhile. F_NEXT: it goes on in the next slot, advance(), which has to be
	// available too. c->slots counts the slots and c->id is the buffer ID of the last. Nothing may be longer than what is free of
	// the ring: distance() from used_place() says how much is in flight. The place of the device moves on only when the chain is whole.
	//	(void)c;
	//	(void)advance;
	//	(void)add_table;
	//	(void)place;
	//	(void)distance;
	//	(void)used_place;
	//	return lab_todo(q->dev->vm, "4.17", "packed_pop() in packed.c: the next chain of the ring");
	// END
}

static void packed_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	// SOLUTION 4.17
	struct packed_desc *d = (struct packed_desc *)q->desc_ring + q->next_used;
	uint16_t flags = (uint16_t)((q->used_wrap ? PACKED_F_AVAIL | PACKED_F_USED : 0) | (written ? DESC_F_WRITE : 0));

	d->id = c->id;
	d->len = written;
	/* The driver looks at the rest when it sees the flags. Of chains that belong together the first one's come last. */
	if (q->more && !q->withheld) {
		q->withheld = &d->flags;
		q->withheld_flags = flags;
	} else {
		ring_store16(&d->flags, flags);
	}
	if (!q->more && q->withheld) {
		ring_store16(q->withheld, q->withheld_flags);
		q->withheld = NULL;
	}
	if (advance(q, &q->next_used, &q->used_wrap, c->slots))
		return;
	q->unsignalled = q->unsignalled + c->slots < q->size ? (uint16_t)(q->unsignalled + c->slots) : q->size;
	// STARTER 4.17: one descriptor for the whole chain, at q->next_used. Hint: buffer ID and length first, then the flags, by
	// ring_store16(): AVAIL and USED as the device's wrap counter, F_WRITE if something was written. The next one goes c->slots
	// further. q->unsignalled counts these slots, up to the size of the ring. With q->more the driver is not to see this chain
	// before the next one: its flags wait in q->withheld_flags, and q->withheld says where they belong.
	//	(void)c;
	//	(void)written;
	//	lab_todo(q->dev->vm, "4.17", "packed_push() in packed.c: giving a chain back");
	// END
}

static bool packed_should_interrupt(struct virtqueue *q)
{
	const struct packed_event *event = q->driver_area;
	unsigned pushed = q->unsignalled;

	q->unsignalled = 0;
	if (!pushed)
		return false;
	// SOLUTION 4.18
	/* What was used has to be there before the driver's wish is read: else both could wait for each other. */
	ring_fence();
	uint16_t flags = ring_load16(&event->flags);

	if (flags == PACKED_EVENT_DISABLE)
		return false;
	if (flags != PACKED_EVENT_DESC || !virtio_has(q->dev, F_RING_EVENT_IDX))
		return true;
	/* Only when the place that the driver named is among what was pushed. After a whole lap it is, and for one that is no place the
	 * rule is: better too often than never. */
	uint16_t off_wrap = ring_load16(&event->off_wrap);
	unsigned slot = off_wrap & 0x7fff;

	if (slot >= q->size || pushed == q->size)
		return true;
	unsigned past = distance(q, place(q, slot, off_wrap >> 15), used_place(q));
	return past && past <= pushed;
	// STARTER 4.18: does the driver want an interrupt? Hint: its area says ENABLE, DISABLE, or DESC and a place (2.8.14); DESC
	// counts only with EVENT_IDX. It wants one when that place is among the last `pushed` slots before used_place(); after a whole
	// lap, always. ring_fence() before you read.
	//	(void)event;
	//	return true;
	// END
}

static void packed_arm(struct virtqueue *q)
{
	struct packed_event *event = q->device_area;

	// SOLUTION 4.18
	if (virtio_has(q->dev, F_RING_EVENT_IDX)) {
		event->off_wrap = (uint16_t)(q->next_avail | q->avail_wrap << 15);
		ring_store16(&event->flags, PACKED_EVENT_DESC);
	} else {
		ring_store16(&event->flags, PACKED_EVENT_ENABLE);
	}
	ring_fence(); /* then the ring is looked at once more */
	// STARTER 4.18: the driver shall notify when there is a new chain. Hint: with EVENT_IDX, DESC and the place where the device is
	// waiting, the place before the flags; else ENABLE. Until then: it notifies always, because nobody said otherwise.
	//	(void)event;
	// END
}

static void packed_disarm(struct virtqueue *q)
{
	struct packed_event *event = q->device_area;

	// SOLUTION 4.18
	ring_store16(&event->flags, PACKED_EVENT_DISABLE);
	// STARTER 4.18: the driver need not notify, the device is looking anyway.
	//	(void)event;
	// END
}

const struct ring_ops packed_rings = {
	.enable = packed_enable,
	.pop = packed_pop,
	.push = packed_push,
	.should_interrupt = packed_should_interrupt,
	.arm = packed_arm,
	.disarm = packed_disarm,
};
