#include "virtio.h"
#include "engine.h"
#include "json.h"
#include "lab4.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Lines of the 8259 pair that no other device has, so that a guest without an IOAPIC driver gets them too. */
const uint8_t virtio_irq[VIRTIO_SLOTS] = { 5, 6, 7, 10, 11, 12, 14, 15 };

#define QUEUE_NOTIFY 0x50 /* 4.2.2 */

static uint64_t slot_read(void *dev, uint64_t offset, unsigned size)
{
	return virtio_mmio_read(dev, offset, size);
}
static void slot_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	virtio_mmio_write(dev, offset, size, value);
}
static const struct device_ops slot_ops = { "virtio", slot_read, slot_write };

static void set_line(void *opaque, unsigned irq, bool level)
{
	struct vm *vm = opaque;
	vm->engine->irq_line(vm, irq, level);
}

/* --- kicks --------------------------------------------------------------------------------------------------------------------- */

static bool runs(const struct virtio_dev *d)
{
	return (d->status & STATUS_DRIVER_OK) && !(d->status & STATUS_NEEDS_RESET);
}

static void kick_now(struct virtio_dev *d, struct virtqueue *q)
{
	if (d->vm->virtio_stands) /* when it does no more, all queues are kicked */
		return;
	q->in_kick = true;
	q->budget = q->size;
	d->ops->kick(d, q);
	q->in_kick = false;
}

void virtio_kick(struct virtio_dev *d, uint32_t queue)
{
	if (queue >= d->ops->nqueues || !d->queue[queue].ready || !runs(d))
		return;
	d->queue[queue].kicks++;
	kick_now(d, &d->queue[queue]);
}

/* A driver that adds buffers as fast as the device takes them would keep it busy for ever, and with it everybody who waits for the lock. So
 * a kick takes as many chains as the queue has entries at most, and the rest has to queue up behind the other events. */
static void kick_rest(void *opaque)
{
	struct vm *vm = opaque;

	for (unsigned s = 0; s < vm->nvirtio; s++) {
		struct virtio_dev *d = vm->virtio[s];
		uint32_t again = d->kick_again;

		d->kick_again = 0;
		for (unsigned i = 0; i < d->ops->nqueues; i++)
			if (again >> i & 1 && d->queue[i].ready && runs(d))
				kick_now(d, &d->queue[i]);
	}
}

void virtqueue_again(struct virtqueue *q)
{
	struct vm *vm = q->dev->vm;

	q->dev->kick_again |= 1u << q->index;
	loop_timer_set(&vm->loop, &vm->virtio_rest, clock_ns());
}

/* --- making and connecting --------------------------------------------------------------------------------------------------------- */

struct virtio_dev *virtio_create(struct vm *vm, const struct virtio_ops *ops, void *state, uint64_t offered,
				 const void *config, unsigned config_len)
{
	unsigned slot = vm->nvirtio;
	struct virtio_dev *d = slot < VIRTIO_SLOTS ? calloc(1, sizeof *d) : NULL;

	if (!d) {
		vm_stop(vm, HV_USAGE, slot < VIRTIO_SLOTS ? "no memory for a device" : "there is room for 8 virtio devices");
		return NULL;
	}
	*d = (struct virtio_dev){ .vm = vm,
				  .ops = ops,
				  .state = state,
				  .slot = slot,
				  .config = config,
				  .config_len = config_len,
				  .offered = offered | F_VERSION_1 | vm->opt.device[slot].rings,
				  .irq_fd = -1,
				  .irq = { set_line, vm, virtio_irq[slot] } };
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++) {
		d->queue[i] = (struct virtqueue){ .dev = d, .index = i };
		d->io_fd[i] = -1;
	}
	vm->virtio[vm->nvirtio++] = d;
	vm->virtio_rest.fn = kick_rest;
	vm->virtio_rest.opaque = vm;
	if (bus_add(&vm->mmio, VIRTIO_MMIO_BASE + slot * VIRTIO_MMIO_STRIDE, VIRTIO_MMIO_LEN, &slot_ops, d)) {
		vm_stop(vm, HV_STOPPED, "two devices claim the same address: a bug in hv");
		return NULL;
	}
	return d;
}

static void on_io_fd(void *opaque, short revents)
{
	struct virtqueue *q = opaque;
	uint64_t count;

	(void)revents;
	if (read(q->dev->io_fd[q->index], &count, sizeof count) == sizeof count)
		virtio_kick(q->dev, q->index);
}

int virtio_connect(struct vm *vm)
{
	const struct engine_ops *engine = vm->engine;

	for (unsigned s = 0; s < vm->nvirtio; s++) {
		struct virtio_dev *d = vm->virtio[s];
		uint64_t notify = VIRTIO_MMIO_BASE + s * VIRTIO_MMIO_STRIDE + QUEUE_NOTIFY;

		/* Without these eventfds everything works too, one exit or system call later. */
		if (engine->irq_fd && vm->opt.event_fds)
			d->irq_fd = engine->irq_fd(vm, virtio_irq[s]);
		for (unsigned i = 0; engine->io_fd && vm->opt.event_fds && i < d->ops->nqueues; i++) {
			d->io_fd[i] = engine->io_fd(vm, notify, 4, i);
			if (d->io_fd[i] >= 0 && loop_fd_add(&vm->loop, d->io_fd[i], POLLIN, on_io_fd, &d->queue[i]))
				return -ENOSPC;
		}
	}
	return 0;
}

void virtio_destroy(struct vm *vm)
{
	for (unsigned s = 0; s < vm->nvirtio; s++) {
		struct virtio_dev *d = vm->virtio[s];

		if (d->ops->drain)
			d->ops->drain(d);
		if (d->ops->destroy)
			d->ops->destroy(d);
		if (d->irq_fd >= 0)
			close(d->irq_fd);
		for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
			if (d->io_fd[i] >= 0) {
				loop_fd_remove(&vm->loop, d->io_fd[i]);
				close(d->io_fd[i]);
			}
		free(d);
	}
	vm->nvirtio = 0;
}

void virtio_json(struct vm *vm, FILE *out)
{
	fputs(",\"virtio\":[", out);
	for (unsigned s = 0; s < vm->nvirtio; s++) {
		struct virtio_dev *d = vm->virtio[s];

		fprintf(out,
			"%s{\"device\":\"%s\",\"status\":%u,\"features\":\"0x%llx\",\"resets\":%llu,\"broken\":%llu,"
			"\"interrupts\":%llu",
			s ? "," : "", d->ops->name, d->status, (unsigned long long)d->features,
			(unsigned long long)d->resets, (unsigned long long)d->broken, (unsigned long long)d->interrupts);
		fputs(",\"reason\":", out);
		json_string(out, d->reason);
		fputs(",\"queues\":[", out);
		for (unsigned i = 0; i < d->ops->nqueues; i++)
			fprintf(out, "%s{\"chains\":%llu,\"kicks\":%llu,\"interrupts\":%llu}", i ? "," : "",
				(unsigned long long)d->queue[i].chains, (unsigned long long)d->queue[i].kicks,
				(unsigned long long)d->queue[i].interrupts);
		fputc(']', out);
		if (d->ops->stats)
			d->ops->stats(d, out);
		fputc('}', out);
	}
	fputc(']', out);
	if (vm->opt.watch_used)
		fprintf(out, ",\"used_ring\":{\"watched\":%llu,\"index_first\":%llu}", (unsigned long long)vm->ring_order.watched,
			(unsigned long long)vm->ring_order.index_first);
}

/* --- interrupts and status ------------------------------------------------------------------------------------------------------ */

void virtio_interrupt_update(struct virtio_dev *d)
{
	if (d->irq_fd >= 0)
		return; /* each event was a pulse of its own */
	/* The line is edge-triggered. A bit that was set between the driver's look at InterruptStatus and its ACK made no edge,
	 * because the line was high; without one now the driver would never look again. */
	if (d->pending & ~d->interrupt_status)
		irq_set(&d->irq, false);
	irq_set(&d->irq, d->interrupt_status != 0);
	d->pending = d->interrupt_status;
}

void virtio_interrupt(struct virtio_dev *d, uint32_t bits)
{
	uint64_t one = 1;

	d->interrupt_status |= bits;
	d->pending = d->interrupt_status;
	d->interrupts++;
	if (d->irq_fd < 0)
		irq_set(&d->irq, true);
	else if (write(d->irq_fd, &one, sizeof one) != sizeof one)
		virtio_broken(d, "its interrupt's eventfd takes nothing");
}

void virtio_config_changed(struct virtio_dev *d)
{
	d->config_generation++;
	if (d->status & STATUS_DRIVER_OK)
		virtio_interrupt(d, INTERRUPT_CONFIG);
}

int virtio_broken(struct virtio_dev *d, const char *fmt, ...)
{
	va_list ap;

	if (d->status & STATUS_NEEDS_RESET)
		return -EPROTO;
	va_start(ap, fmt);
	vsnprintf(d->reason, sizeof d->reason, fmt, ap);
	va_end(ap);
	d->broken++;
	d->status |= STATUS_NEEDS_RESET;
	if (d->status & STATUS_DRIVER_OK)
		virtio_interrupt(d, INTERRUPT_CONFIG);
	return -EPROTO;
}

const struct ring_ops *virtio_rings(const struct virtio_dev *d)
{
	return virtio_has(d, F_RING_PACKED) ? &packed_rings : &split_rings;
}

void virtio_agreed(struct virtio_dev *d)
{
	if (d->ops->agreed)
		d->ops->agreed(d);
}

void virtio_start(struct virtio_dev *d)
{
	if (d->ops->start)
		d->ops->start(d);
}

static void queue_forget(struct virtqueue *q)
{
	*q = (struct virtqueue){
		.dev = q->dev, .index = q->index, .chains = q->chains, .kicks = q->kicks, .interrupts = q->interrupts
	};
}

void virtio_queue_stop(struct virtqueue *q)
{
	struct virtio_dev *d = q->dev;

	if (q->ready && d->ops->drain)
		d->ops->drain(d);
	d->kick_again &= ~(1u << q->index);
	queue_forget(q);
}

void virtio_quiesce(struct virtio_dev *d)
{
	if (d->ops->drain)
		d->ops->drain(d);
	if (d->ops->reset)
		d->ops->reset(d);
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		queue_forget(&d->queue[i]);
	d->kick_again = 0;
	d->reason[0] = 0;
	d->resets++;
}

/* The part of the rings that the device writes, now that it has. */
static void ring_written(const struct virtqueue *q)
{
	struct vm *vm = q->dev->vm;

	if (virtio_has(q->dev, F_RING_PACKED)) {
		written_add(vm, q->desc, 16ull * q->size);
		written_add(vm, q->device, 4); /* its event suppression structure */
	} else {
		written_add(vm, q->device, 6 + 8ull * q->size);
	}
}

/* --- queues --------------------------------------------------------------------------------------------------------------------- */

int virtqueue_pop(struct virtqueue *q, struct vq_chain *c)
{
	const struct ring_ops *rings = virtio_rings(q->dev);

	if (!q->ready || !runs(q->dev) || q->dev->vm->virtio_stands)
		return 0;
	for (;;) {
		if (q->in_kick && !q->budget) {
			virtqueue_again(q);
			return 0;
		}
		int n = rings->pop(q, c);
		if (n > 0 && q->in_flight == q->size) /* each takes a descriptor, and there are no more */
			return virtio_broken(q->dev, "queue %u: more chains than descriptors are in flight", q->index);
		if (n > 0) {
			q->budget -= q->in_kick;
			q->chains++;
			q->in_flight++;
			if (q->armed) {
				rings->disarm(q);
				ring_written(q);
			}
			q->armed = false;
		}
		if (n || q->armed)
			return n;
		/* What came between the last look and this request will not be notified: one more look. */
		rings->arm(q);
		ring_written(q);
		q->armed = true;
	}
}

void virtqueue_unpop(struct virtqueue *q, const struct vq_chain *c)
{
	if (!q->ready || !runs(q->dev))
		return;
	if (!virtio_has(q->dev, F_RING_PACKED)) {
		q->next_avail--;
	} else {
		if (q->next_avail < c->slots) { /* back over the end of the ring, into the lap before */
			q->next_avail += q->size;
			q->avail_wrap = !q->avail_wrap;
		}
		q->next_avail -= c->slots;
	}
	q->in_flight--;
	q->chains--;
}

void virtqueue_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	/* What the device wrote, also for a driver that has gone in the meantime. A little more does no harm; `written` would be
	 * too little, because the status byte of a read that failed lies behind data that was not written. */
	for (unsigned i = 0; i < c->nin; i++) {
		const struct iovec *v = &c->iov[c->nout + i];

		written_add(q->dev->vm, (uint64_t)((uint8_t *)v->iov_base - q->dev->vm->mem.hva), v->iov_len);
	}
	if (!q->ready || !runs(q->dev))
		return;
	if (!q->in_flight) {
		fprintf(stderr, "hv: the %s device gave a buffer back twice\n", q->dev->ops->name);
		abort();
	}
	q->in_flight--;
	if (q->dev->vm->opt.watch_used)
		ring_order_begin(q);
	virtio_rings(q->dev)->push(q, c, written);
	if (q->dev->vm->opt.watch_used)
		ring_order_end(&q->dev->vm->ring_order);
	ring_written(q);
}

void virtqueue_push_more(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	q->more = true;
	virtqueue_push(q, c, written);
	q->more = false;
}

void virtqueue_notify(struct virtqueue *q)
{
	if (!q->ready || !runs(q->dev) || !virtio_rings(q->dev)->should_interrupt(q))
		return;
	q->interrupts++;
	virtio_interrupt(q->dev, INTERRUPT_USED);
}

/* --- chains --------------------------------------------------------------------------------------------------------------------- */

static unsigned cut(const struct iovec *iov, unsigned n, uint64_t offset, uint64_t len, struct iovec *out)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n && len; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		uint64_t here = iov[i].iov_len - offset;

		if (here > len)
			here = len;
		out[count++] = (struct iovec){ (uint8_t *)iov[i].iov_base + offset, here };
		offset = 0;
		len -= here;
	}
	return count;
}

unsigned chain_out_iov(const struct vq_chain *c, uint64_t offset, uint64_t len, struct iovec *out)
{
	return cut(c->iov, c->nout, offset, len, out);
}

unsigned chain_in_iov(const struct vq_chain *c, uint64_t offset, uint64_t len, struct iovec *out)
{
	return cut(c->iov + c->nout, c->nin, offset, len, out);
}

size_t chain_read(const struct vq_chain *c, uint64_t offset, void *dst, size_t len)
{
	struct iovec iov[VQ_IOV_MAX];
	unsigned n = chain_out_iov(c, offset, len, iov);
	size_t done = 0;

	for (unsigned i = 0; i < n; i++) {
		memcpy((uint8_t *)dst + done, iov[i].iov_base, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	return done;
}

size_t chain_write(const struct vq_chain *c, uint64_t offset, const void *src, size_t len)
{
	struct iovec iov[VQ_IOV_MAX];
	unsigned n = chain_in_iov(c, offset, len, iov);
	size_t done = 0;

	for (unsigned i = 0; i < n; i++) {
		memcpy(iov[i].iov_base, (const uint8_t *)src + done, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	return done;
}
