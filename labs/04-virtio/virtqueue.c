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
	// TODO 4.3: is this a queue that can work? Hint: sizes and alignments of the three areas are in 2.7; each has
	// two more bytes for its event index. guest_range() is the only way to the pointers desc_ring, driver_area and
	// device_area.
	(void)used_event;
	(void)avail_event;
	return lab_todo(q->dev->vm, "4.3", "split_enable() in virtqueue.c: size, alignment and addresses of a queue");
}

/* A buffer becomes the next iovec of a chain; packed rings use this too. 0, or -EPROTO after virtio_broken(). */
int chain_add(struct virtqueue *q, struct vq_chain *c, uint64_t gpa, uint32_t len, bool writable)
{
	// TODO 4.4: the next iovec of the chain. Hint: guest_range(); buffers that the device writes count for nin and
	// in_len; the others, for nout and out_len, come before those. An empty buffer gives no iovec.
	(void)c;
	(void)gpa;
	(void)len;
	(void)writable;
	return lab_todo(q->dev->vm, "4.4", "chain_add() in virtqueue.c: a buffer becomes an iovec");
}

/* A descriptor that names a table of descriptors (2.7.5.3), in which the chain goes on. *indirect: it is in one already. 0, or -EPROTO
 * after virtio_broken(). */
static int open_table(struct virtqueue *q, const struct split_desc *d, const struct split_desc **table, unsigned *entries, bool *indirect)
{
	// TODO 4.8: the rest of the chain is in a table of its own. Hint: only if the driver agreed on it, not inside
	// another table, not with F_NEXT, and of a length that is whole descriptors, not more than the queue has.
	// F_WRITE says nothing here.
	(void)d;
	(void)table;
	(void)entries;
	(void)indirect;
	return lab_todo(q->dev->vm, "4.8", "open_table() in virtqueue.c: indirect descriptors");
}

/* Collects the chain that begins with descriptor c->id. 0, or -EPROTO after virtio_broken(). */
static int collect(struct virtqueue *q, struct vq_chain *c)
{
	const struct split_desc *table = q->desc_ring;
	unsigned entries = q->size, i = c->id;
	bool indirect = false;

	// TODO 4.6: all descriptors of the chain. Hint: F_NEXT and `next` lead on, F_INDIRECT through open_table(). A
	// number that is no descriptor's, and a chain with more buffers than the queue has entries, break the device.
	// Here is what does for a chain of one.
	struct split_desc d = ring_desc(&table[i % entries]);

	(void)open_table;
	(void)indirect;
	if (d.flags & (DESC_F_NEXT | DESC_F_INDIRECT))
		return lab_todo(q->dev->vm, "4.6", "collect() in virtqueue.c: chains");
	return chain_add(q, c, d.addr, d.len, d.flags & DESC_F_WRITE);
}

static int split_pop(struct virtqueue *q, struct vq_chain *c)
{
	struct split_avail *avail = q->driver_area;

	// TODO 4.4: the next chain of the available ring. Hint: avail->idx counts what the driver has put there,
	// q->next_avail what was taken; both wrap at 65536. More than the queue's size between them, or a number that
	// is no descriptor's, breaks the device.
	(void)c;
	(void)avail;
	(void)collect;
	return lab_todo(q->dev->vm, "4.4", "split_pop() in virtqueue.c: the next chain of the available ring");
}

static void split_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	struct split_used *used = q->device_area;

	// TODO 4.5: the chain goes into the used ring. Hint: element first, then the index, by ring_store16(); not yet
	// if there is q->more.
	(void)used;
	(void)c;
	(void)written;
	lab_todo(q->dev->vm, "4.5", "split_push() in virtqueue.c: the used ring");
}

static bool split_should_interrupt(struct virtqueue *q)
{
	struct split_avail *avail = q->driver_area;

	// TODO 4.7: does the driver want an interrupt? Hint: not if nothing was pushed since you were asked last
	// (q->signalled), and not with AVAIL_F_NO_INTERRUPT. ring_fence() between the used index and its flags. With
	// EVENT_IDX the flag says nothing. Here is what does for a driver that does not mind: always.
	uint16_t before = q->signalled, now = q->next_used;

	if (!virtio_has(q->dev, F_RING_EVENT_IDX))
		return (void)avail, true;
	// TODO 4.9: with EVENT_IDX the driver names one index, and wants an interrupt when the device goes past it.
	(void)before;
	(void)now;
	(void)used_event;
	return lab_todo(q->dev->vm, "4.9", "split_should_interrupt() in virtqueue.c: the event index"), false;
}

static void split_arm(struct virtqueue *q)
{
	struct split_used *used = q->device_area;

	// TODO 4.9: the driver shall notify when there is a new chain. Hint: with EVENT_IDX avail_event is the index
	// that it has to go past, and used->flags are 0; else they alone say it. Until then: it notifies always,
	// because nobody said otherwise.
	(void)used;
	(void)avail_event;
	if (virtio_has(q->dev, F_RING_EVENT_IDX))
		lab_todo(q->dev->vm, "4.9", "split_arm() in virtqueue.c: avail_event");
}

static void split_disarm(struct virtqueue *q)
{
	struct split_used *used = q->device_area;

	// TODO 4.9: the driver need not notify, the device is looking anyway.
	(void)used;
}

const struct ring_ops split_rings = {
	.enable = split_enable,
	.pop = split_pop,
	.push = split_push,
	.should_interrupt = split_should_interrupt,
	.arm = split_arm,
	.disarm = split_disarm,
};
