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
	// TODO 4.18: the ring's end, behind which the next lap begins. Hint: a slot too far belongs to the beginning of
	// the next lap, and the wrap counter turns over. A chain may lie across the end. Here is what does for the
	// first lap, without its last slot.
	(void)wrap;
	if (*slot + n >= q->size)
		return lab_todo(q->dev->vm, "4.18", "advance() in packed.c: the end of the ring, and the wrap counter");
	*slot = (uint16_t)(*slot + n);
	return 0;
}

static int packed_enable(struct virtqueue *q)
{
	// TODO 4.17: is this a queue that can work? Hint: the alignments are in 2.8; the driver's and the device's area
	// are one struct packed_event each. Any size will do, it need not be a power of two. Both wrap counters begin
	// as 1.
	return lab_todo(q->dev->vm, "4.17", "packed_enable() in packed.c: size, alignment and addresses of a queue");
}

/* A descriptor that names a table of descriptors (2.8.7). There they stand one behind the other: no flag but F_WRITE counts, and no
 * buffer ID. 0, or -EPROTO after virtio_broken(). */
static int add_table(struct virtqueue *q, struct vq_chain *c, const struct packed_desc *d)
{
	// TODO 4.17: all buffers of the table. Hint: only if the driver agreed on it, alone in its chain (c->slots is
	// 1, no F_NEXT), and of a length that is whole descriptors, not more than VQ_IOV_MAX. In the table only addr,
	// len and F_WRITE count.
	(void)c;
	(void)d;
	return lab_todo(q->dev->vm, "4.17", "add_table() in packed.c: indirect descriptors");
}

static int packed_pop(struct virtqueue *q, struct vq_chain *c)
{
	// TODO 4.17: the next chain of the ring. Hint: it begins at q->next_avail, if the flags of that slot say that
	// it is available: ring_packed_desc(), once, because the driver may write meanwhile. F_NEXT: it goes on in the
	// next slot, advance(), which has to be available too. c->slots counts the slots and c->id is the buffer ID of
	// the last. Nothing may be longer than what is free of the ring: distance() from used_place() says how much is
	// in flight. The place of the device moves on only when the chain is whole.
	(void)c;
	(void)advance;
	(void)add_table;
	(void)place;
	(void)distance;
	(void)used_place;
	return lab_todo(q->dev->vm, "4.17", "packed_pop() in packed.c: the next chain of the ring");
}

static void packed_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	// TODO 4.17: one descriptor for the whole chain, at q->next_used. Hint: buffer ID and length first, then the
	// flags, by ring_store16(): AVAIL and USED as the device's wrap counter, F_WRITE if something was written. The
	// next one goes c->slots further. q->unsignalled counts these slots, up to the size of the ring. With q->more
	// the driver is not to see this chain before the next one: its flags wait in q->withheld_flags, and q->withheld
	// says where they belong.
	(void)c;
	(void)written;
	lab_todo(q->dev->vm, "4.17", "packed_push() in packed.c: giving a chain back");
}

static bool packed_should_interrupt(struct virtqueue *q)
{
	const struct packed_event *event = q->driver_area;
	unsigned pushed = q->unsignalled;

	q->unsignalled = 0;
	if (!pushed)
		return false;
	// TODO 4.18: does the driver want an interrupt? Hint: its area says ENABLE, DISABLE, or DESC and a place
	// (2.8.14); DESC counts only with EVENT_IDX. It wants one when that place is among the last `pushed` slots
	// before used_place(); after a whole lap, always. ring_fence() before you read.
	(void)event;
	return true;
}

static void packed_arm(struct virtqueue *q)
{
	struct packed_event *event = q->device_area;

	// TODO 4.18: the driver shall notify when there is a new chain. Hint: with EVENT_IDX, DESC and the place where
	// the device is waiting, the place before the flags; else ENABLE. Until then: it notifies always, because
	// nobody said otherwise.
	(void)event;
}

static void packed_disarm(struct virtqueue *q)
{
	struct packed_event *event = q->device_area;

	// TODO 4.18: the driver need not notify, the device is looking anyway.
	(void)event;
}

const struct ring_ops packed_rings = {
	.enable = packed_enable,
	.pop = packed_pop,
	.push = packed_push,
	.should_interrupt = packed_should_interrupt,
	.arm = packed_arm,
	.disarm = packed_disarm,
};
