#include "virtio_state.h"
#include "vm.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_AGAIN_NS 100000 /* how long a slow disk is left alone: it is part of the time in which the VM stands still */

static bool runs(const struct virtio_dev *d)
{
	return (d->status & STATUS_DRIVER_OK) && !(d->status & STATUS_NEEDS_RESET);
}

/* --- standing still ----------------------------------------------------------------------------------------------------------------- */

static bool busy(struct vm *vm)
{
	bool any = false;

	for (unsigned s = 0; s < vm->nvirtio; s++) /* all are asked: each may have something to begin with */
		any |= vm->virtio[s]->ops->busy && vm->virtio[s]->ops->busy(vm->virtio[s]);
	return any;
}

int virtio_settle(struct vm *vm)
{
	const struct timespec pause = { .tv_nsec = LOOK_AGAIN_NS };
	uint64_t end = clock_ns() + SETTLE_NS;

	vm->virtio_stands = true;
	while (busy(vm)) {
		int err = vm->stopping ? -ECANCELED : clock_ns() > end ? -ETIMEDOUT : 0;

		if (err) {
			virtio_unsettle(vm);
			return err;
		}
		pthread_mutex_unlock(&vm->lock);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&vm->lock);
	}
	for (unsigned s = 0; s < vm->nvirtio; s++)
		if (vm->virtio[s]->ops->settle)
			vm->virtio[s]->ops->settle(vm->virtio[s]);
	return 0;
}

void virtio_unsettle(struct vm *vm)
{
	if (!vm->virtio_stands)
		return;
	vm->virtio_stands = false;
	for (unsigned s = 0; s < vm->nvirtio; s++) {
		struct virtio_dev *d = vm->virtio[s];

		if (d->ops->resume)
			d->ops->resume(d);
		/* What was put back, what the driver brought meanwhile, and kicks that came to nothing. */
		for (unsigned i = 0; i < d->ops->nqueues; i++)
			if (d->queue[i].ready && runs(d))
				virtqueue_again(&d->queue[i]);
	}
	vm->con.held = false;
	console_kick(&vm->con);
}

/* --- state -------------------------------------------------------------------------------------------------------------------------- */

#define STATUS_ALL \
	(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_NEEDS_RESET | STATUS_FAILED)

/*
 * The ring format looks at size, alignment and addresses as if the driver had just made the queue ready, and sets the host pointers. Where
 * the device is in the ring does not change, and a queue that cannot be is the stream's fault: nobody interrupts a driver for it.
 */
static void attach_queue(struct virtqueue *q, struct state_io *io)
{
	struct virtio_dev *d = q->dev;
	struct virtio_dev was = *d;

	d->status = 0;
	int err = virtio_rings(d)->enable(q);
	state_check(io, !err, "%s", d->reason);
	was.queue[q->index].desc_ring = q->desc_ring;
	was.queue[q->index].driver_area = q->driver_area;
	was.queue[q->index].device_area = q->device_area;
	*d = was;
}

static void queue_state(struct virtqueue *q, struct state_io *io)
{
	struct virtio_dev *d = q->dev;
	bool packed = virtio_has(d, F_RING_PACKED), broken = d->status & STATUS_NEEDS_RESET;
	unsigned i = q->index;

	STATE(io, q->ready);
	STATE(io, q->size);
	STATE(io, q->desc);
	STATE(io, q->driver);
	STATE(io, q->device);
	STATE(io, q->next_avail);
	STATE(io, q->next_used);
	STATE(io, q->avail_wrap);
	STATE(io, q->used_wrap);
	STATE(io, q->signalled);
	STATE(io, q->unsignalled);
	STATE(io, q->armed);
	state_check(io, q->size <= VIRTIO_QUEUE_MAX, "queue %u has %u entries", i, q->size);
	if (!q->ready) {
		state_check(io, !q->next_avail && !q->next_used && !q->avail_wrap && !q->used_wrap && !q->signalled &&
			    !q->unsignalled && !q->armed, "queue %u was used without being ready", i);
		return;
	}
	state_check(io, d->status & STATUS_FEATURES_OK, "queue %u is ready before the features were agreed on", i);
	if (packed)
		state_check(io, q->next_avail < q->size && q->next_used < q->size && !q->signalled && q->unsignalled <= q->size,
			    "queue %u is behind its end", i);
	else
		state_check(io, !q->avail_wrap && !q->used_wrap && !q->unsignalled, "queue %u has a part of the other ring format", i);
	/* What was taken was given back or put back. A device that is broken drops it. */
	state_check(io, broken || (q->next_avail == q->next_used && q->avail_wrap == q->used_wrap), "queue %u has requests in flight", i);
	if (io->loading && !state_failed(io))
		attach_queue(q, io);
}

static void reason_state(struct virtio_dev *d, struct state_io *io)
{
	uint8_t len = (uint8_t)strlen(d->reason);

	STATE(io, len);
	if (!state_check(io, len < sizeof d->reason, "its reason is too long"))
		len = 0;
	state_bytes(io, d->reason, len);
	d->reason[len] = 0;
	for (unsigned i = 0; i < len; i++)
		state_check(io, d->reason[i] >= ' ' && d->reason[i] < 0x7f, "its reason is no text");
	state_check(io, !len == !(d->status & STATUS_NEEDS_RESET), "it is broken and does not say why, or the other way round");
}

void virtio_state(struct virtio_dev *d, struct state_io *io)
{
	uint32_t id = d->ops->id, config_len = d->config_len, nqueues = d->ops->nqueues;
	uint64_t offered = d->offered;

	STATE(io, id);
	STATE(io, nqueues);
	STATE(io, config_len);
	STATE(io, offered);
	state_check(io, id == d->ops->id, "it is another kind of device (%u), and here it is number %u", id, d->ops->id);
	state_check(io, !((offered ^ d->offered) & ~d->ops->adopts), "it offered the features 0x%llx, and here it offers 0x%llx",
		    (unsigned long long)offered, (unsigned long long)d->offered);
	state_check(io, nqueues == d->ops->nqueues && config_len == d->config_len, "it has more or less to configure");
	if (state_failed(io))
		return;
	d->offered = offered;
	STATE(io, d->status);
	STATE(io, d->features_sel);
	STATE(io, d->driver_features_sel);
	STATE(io, d->queue_sel);
	STATE(io, d->features);
	STATE(io, d->interrupt_status);
	STATE(io, d->config_generation);
	state_check(io, !(d->status & ~STATUS_ALL) && !(d->interrupt_status & ~(INTERRUPT_USED | INTERRUPT_CONFIG)),
		    "bits are set that do not exist");
	state_check(io, !(d->status & STATUS_DRIVER_OK) || d->status & STATUS_FEATURES_OK, "it runs without features");
	state_check(io, !(d->status & STATUS_FEATURES_OK) || (!(d->features & ~d->offered) && virtio_has(d, F_VERSION_1)),
		    "features were agreed on that it did not offer");
	reason_state(d, io);
	for (unsigned i = 0; i < d->ops->nqueues; i++)
		queue_state(&d->queue[i], io);
	if (d->ops->state)
		d->ops->state(d, io);
	if (io->loading && !state_failed(io) && d->status & STATUS_DRIVER_OK)
		virtio_start(d);
}

void virtio_loaded(struct vm *vm)
{
	uint64_t one = 1;

	for (unsigned s = 0; s < vm->nvirtio; s++) {
		struct virtio_dev *d = vm->virtio[s];

		/* The levels of lines came with the interrupt controllers, so this makes no second edge. But how interrupts
		 * travel may be another one here than there. Pulses leave nothing that could have come along: one more is the
		 * rule, and one too many does no harm. */
		d->pending = d->interrupt_status;
		irq_set(&d->irq, d->irq_fd < 0 && d->interrupt_status);
		if (d->irq_fd >= 0 && d->interrupt_status && write(d->irq_fd, &one, sizeof one) != sizeof one)
			virtio_broken(d, "its interrupt's eventfd takes nothing");
	}
}
