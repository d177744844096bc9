/*
 * Lab 4, checkpoints 4.3 to 4.10: the split virtqueue (virtio 1.2, 2.7).
 *
 * Three areas of guest memory. The driver fills descriptors and puts the number of a chain's first one into the available ring; the device
 * puts it into the used ring when it is done. Each side writes only its own ring, so no lock is needed, but an order of the stores is.
 *
 * The memory belongs to a guest that may change it at any time, and may mean harm. What is read is read once.
 */
#include "lab4.h"
#include "vring.h"

/* The two words behind the rings (2.7.6, 2.7.8). */
static uint16_t *used_event(struct virtqueue *q) { return &((struct split_avail *)q->driver_area)->ring[q->size]; }
static uint16_t *avail_event(struct virtqueue *q) { return (uint16_t *)&((struct split_used *)q->device_area)->ring[q->size]; }

static int split_enable(struct virtqueue *q)
{
	// SOLUTION 4.3
	struct guest_mem *mem = &q->dev->vm->mem;

	if (!q->size || q->size & (q->size - 1))
		return virtio_broken(q->dev, "queue %u: %u entries are no power of two", q->index, q->size);
	if (q->desc % 16 || q->driver % 2 || q->device % 4)
		return virtio_broken(q->dev, "queue %u is not aligned", q->index);
	q->desc_ring = guest_range(mem, q->desc, 16ull * q->size);
	q->driver_area = guest_range(mem, q->driver, 6 + 2ull * q->size);
	q->device_area = guest_range(mem, q->device, 6 + 8ull * q->size);
	if (!q->desc_ring || !q->driver_area || !q->device_area)
		return virtio_broken(q->dev, "queue %u does not lie in memory", q->index);
	return 0;
	// STARTER 4.3: is this a queue that can work? Hint: sizes and alignments of the three areas are in 2.7; each has two more
	// bytes for its event index. guest_range() is the only way to the pointers desc_ring, driver_area and device_area.
	//	(void)used_event;
	//	(void)avail_event;
	//	return lab_todo(q->dev->vm, "4.3", "split_enable() in virtqueue.c: size, alignment and addresses of a queue");
	// END
}

/* A buffer becomes the next iovec of a chain; packed rings use this too. 0, or -EPROTO after virtio_broken(). */
int chain_add(struct virtqueue *q, struct vq_chain *c, uint64_t gpa, uint32_t len, bool writable)
{
	// SOLUTION 4.4
	void *p = guest_range(&q->dev->vm->mem, gpa, len);

	if (!p)
		return virtio_broken(q->dev, "queue %u: a buffer of %u bytes at 0x%llx is outside memory", q->index, len,
				     (unsigned long long)gpa);
	if (!writable && c->nin)
		return virtio_broken(q->dev, "queue %u: a readable buffer behind a writable one", q->index);
	if (!len)
		return 0;
	c->iov[c->nout + c->nin] = (struct iovec){ p, len };
	if (writable) {
		c->nin++;
		c->in_len += len;
	} else {
		c->nout++;
		c->out_len += len;
	}
	return 0;
	// STARTER 4.4: the next iovec of the chain. Hint: guest_range(); buffers that the device writes count for nin and in_len;
	// the others, for nout and out_len, come before those. An empty buffer gives no iovec.
	//	(void)c;
	//	(void)gpa;
	//	(void)len;
	//	(void)writable;
	//	return lab_todo(q->dev->vm, "4.4", "chain_add() in virtqueue.c: a buffer becomes an iovec");
	// END
}

/* A descriptor that names a table of descriptors (2.7.5.3), in which the chain goes on. *indirect: it is in one already. 0, or -EPROTO
 * after virtio_broken(). */
static int open_table(struct virtqueue *q, const struct split_desc *d, const struct split_desc **table, unsigned *entries, bool *indirect)
{
	// SOLUTION 4.8
	if (!virtio_has(q->dev, F_RING_INDIRECT_DESC))
		return virtio_broken(q->dev, "queue %u: an indirect table, which was not agreed on", q->index);
	/* Asked of what was followed, not of where it lies: a table may lie on the queue's own descriptors. */
	if (*indirect)
		return virtio_broken(q->dev, "queue %u: an indirect table in an indirect table", q->index);
	*indirect = true;
	if (d->flags & DESC_F_NEXT)
		return virtio_broken(q->dev, "queue %u: an indirect table in the middle of a chain", q->index);
	if (!d->len || d->len % sizeof **table || d->len / sizeof **table > q->size)
		return virtio_broken(q->dev, "queue %u: an indirect table of %u bytes", q->index, d->len);
	*table = guest_range(&q->dev->vm->mem, d->addr, d->len);
	*entries = d->len / sizeof **table;
	return *table ? 0 : virtio_broken(q->dev, "queue %u: an indirect table outside memory", q->index);
	// STARTER 4.8: the rest of the chain is in a table of its own. Hint: only if the driver agreed on it, not inside another table, not
	// with F_NEXT, and of a length that is whole descriptors, not more than the queue has. F_WRITE says nothing here.
	//	(void)d;
	//	(void)table;
	//	(void)entries;
	//	(void)indirect;
	//	return lab_todo(q->dev->vm, "4.8", "open_table() in virtqueue.c: indirect descriptors");
	// END
}

/* Collects the chain that begins with descriptor c->id. 0, or -EPROTO after virtio_broken(). */
static int collect(struct virtqueue *q, struct vq_chain *c)
{
	const struct split_desc *table = q->desc_ring;
	unsigned entries = q->size, i = c->id;
	bool indirect = false;

	// SOLUTION 4.6
	/* No chain has more descriptors than the queue, so one that goes on longer goes round in circles. The one that names a table counts
	 * for nothing: it is no buffer. */
	for (unsigned n = 0; n < q->size;) {
		if (i >= entries)
			return virtio_broken(q->dev, "queue %u: there is no descriptor %u", q->index, i);
		struct split_desc d = ring_desc(&table[i]);

		if (d.flags & DESC_F_INDIRECT) {
			if (open_table(q, &d, &table, &entries, &indirect))
				return -EPROTO;
			i = 0;
			continue;
		}
		if (chain_add(q, c, d.addr, d.len, d.flags & DESC_F_WRITE))
			return -EPROTO;
		if (!(d.flags & DESC_F_NEXT))
			return 0;
		i = d.next;
		n++;
	}
	return virtio_broken(q->dev, "queue %u: a chain longer than the queue", q->index);
	// STARTER 4.6: all descriptors of the chain. Hint: F_NEXT and `next` lead on, F_INDIRECT through open_table(). A number that is no
	// descriptor's, and a chain with more buffers than the queue has entries, break the device. Here is what does for a chain of one.
	//	struct split_desc d = ring_desc(&table[i % entries]);
	//
	//	(void)open_table;
	//	(void)indirect;
	//	if (d.flags & (DESC_F_NEXT | DESC_F_INDIRECT))
	//		return lab_todo(q->dev->vm, "4.6", "collect() in virtqueue.c: chains");
	//	return chain_add(q, c, d.addr, d.len, d.flags & DESC_F_WRITE);
	// END
}

static int split_pop(struct virtqueue *q, struct vq_chain *c)
{
	struct split_avail *avail = q->driver_area;

	// SOLUTION 4.4
	/* Both count up for ever and wrap at 65536, whatever the size (2.7.6). */
	uint16_t waiting = (uint16_t)(ring_load16(&avail->idx) - q->next_avail);

	if (waiting > q->size)
		return virtio_broken(q->dev, "queue %u: the available index went %u ahead", q->index, waiting);
	if (!waiting)
		return 0;
	c->q = q;
	c->id = ring_load16(&avail->ring[q->next_avail % q->size]);
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	if (c->id >= q->size)
		return virtio_broken(q->dev, "queue %u: there is no descriptor %u", q->index, c->id);
	if (collect(q, c))
		return -EPROTO;
	q->next_avail++;
	return 1;
	// STARTER 4.4: the next chain of the available ring. Hint: avail->idx counts what the driver has put there, q->next_avail
	// what was taken; both wrap at 65536. More than the queue's size between them, or a number that is no descriptor's, breaks
	// the device.
	//	(void)c;
	//	(void)avail;
	//	(void)collect;
	//	return lab_todo(q->dev->vm, "4.4", "split_pop() in virtqueue.c: the next chain of the available ring");
	// END
}

static void split_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	struct split_used *used = q->device_area;

	// SOLUTION 4.5
	used->ring[q->next_used % q->size] = (struct split_used_elem){ .id = c->id, .len = written };
	q->next_used++;
	/* The driver looks at the element when it sees the index (2.7.8.2). */
	if (!q->more)
		ring_store16(&used->idx, q->next_used);
	// STARTER 4.5: the chain goes into the used ring. Hint: element first, then the index, by ring_store16(); not yet if there
	// is q->more.
	//	(void)used;
	//	(void)c;
	//	(void)written;
	//	lab_todo(q->dev->vm, "4.5", "split_push() in virtqueue.c: the used ring");
	// END
}

static bool split_should_interrupt(struct virtqueue *q)
{
	struct split_avail *avail = q->driver_area;

	// SOLUTION 4.7
	uint16_t before = q->signalled, now = q->next_used;

	q->signalled = now;
	if (now == before)
		return false;
	/* What was used has to be there before the driver's wish is read: else both could wait for each other. */
	ring_fence();
	if (!virtio_has(q->dev, F_RING_EVENT_IDX))
		return !(ring_load16(&avail->flags) & AVAIL_F_NO_INTERRUPT);
	// STARTER 4.7: does the driver want an interrupt? Hint: not if nothing was pushed since you were asked last (q->signalled),
	// and not with AVAIL_F_NO_INTERRUPT. ring_fence() between the used index and its flags. With EVENT_IDX the flag says
	// nothing. Here is what does for a driver that does not mind: always.
	//	uint16_t before = q->signalled, now = q->next_used;
	//
	//	if (!virtio_has(q->dev, F_RING_EVENT_IDX))
	//		return (void)avail, true;
	// END
	// SOLUTION 4.9
	/* Only when used_event is among what was pushed: before < event + 1 <= now, modulo 65536 (2.7.10). */
	return (uint16_t)(now - ring_load16(used_event(q)) - 1) < (uint16_t)(now - before);
	// STARTER 4.9: with EVENT_IDX the driver names one index, and wants an interrupt when the device goes past it.
	//	(void)before;
	//	(void)now;
	//	(void)used_event;
	//	return lab_todo(q->dev->vm, "4.9", "split_should_interrupt() in virtqueue.c: the event index"), false;
	// END
}

static void split_arm(struct virtqueue *q)
{
	struct split_used *used = q->device_area;

	// SOLUTION 4.9
	if (virtio_has(q->dev, F_RING_EVENT_IDX))
		ring_store16(avail_event(q), q->next_avail);
	ring_store16(&used->flags, 0); /* with EVENT_IDX too (2.7.10): a driver may have left something there */
	ring_fence(); /* then the ring is looked at once more */
	// STARTER 4.9: the driver shall notify when there is a new chain. Hint: with EVENT_IDX avail_event is the index that it has
	// to go past, and used->flags are 0; else they alone say it. Until then: it notifies always, because nobody said otherwise.
	//	(void)used;
	//	(void)avail_event;
	//	if (virtio_has(q->dev, F_RING_EVENT_IDX))
	//		lab_todo(q->dev->vm, "4.9", "split_arm() in virtqueue.c: avail_event");
	// END
}

static void split_disarm(struct virtqueue *q)
{
	struct split_used *used = q->device_area;

	// SOLUTION 4.9
	/* With EVENT_IDX nothing is to be done: the index that was named lies behind. */
	if (!virtio_has(q->dev, F_RING_EVENT_IDX))
		ring_store16(&used->flags, USED_F_NO_NOTIFY);
	// STARTER 4.9: the driver need not notify, the device is looking anyway.
	//	(void)used;
	// END
}

const struct ring_ops split_rings = {
	.enable = split_enable,
	.pop = split_pop,
	.push = split_push,
	.should_interrupt = split_should_interrupt,
	.arm = split_arm,
	.disarm = split_disarm,
};
