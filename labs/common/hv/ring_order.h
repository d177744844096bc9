/*
 * Is the element in the used ring before the index tells of it (virtio 1.2, 2.7.8.2)? A driver on another CPU can see the
 * difference, but only if it looks at the right nanosecond. Here it is made visible always: while the device gives a chain back,
 * the page of the element takes no stores; the first one traps (SIGSEGV), and the handler looks at the index. That needs a ring
 * whose element lies on another page than the index, as one has that begins 4 bytes before the end of a page. Split rings; hv run
 * --watch-used.
 */
#ifndef HV_RING_ORDER_H
#define HV_RING_ORDER_H

#include "virtio.h"

struct ring_order {
	uint64_t watched;     /* elements whose store was seen */
	uint64_t index_first; /* of these: the index had changed before */
};

/* Around ring_ops.push, with the lock held. */
void ring_order_begin(struct virtqueue *q);
void ring_order_end(struct ring_order *order);

#endif
