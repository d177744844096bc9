/*
 * Lab 4, checkpoints 4.1 to 4.3, 4.7 and 4.11: the registers of a virtio-mmio device (virtio 1.2, 4.2.2).
 *
 * The driver reads what the device is, agrees with it on features, says where its queues lie, and starts it. From then on the registers are
 * hardly touched: QueueNotify when there are new buffers, InterruptStatus and InterruptACK when some came back.
 */
#include "lab4.h"

enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_SIZE_MAX = 0x034,
	REG_QUEUE_SIZE = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_DRIVER_LOW = 0x090,
	REG_QUEUE_DRIVER_HIGH = 0x094,
	REG_QUEUE_DEVICE_LOW = 0x0a0,
	REG_QUEUE_DEVICE_HIGH = 0x0a4,
	REG_SHM_LEN_LOW = 0x0b0,
	REG_SHM_LEN_HIGH = 0x0b4,
	REG_SHM_BASE_LOW = 0x0b8,
	REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc,
	REG_CONFIG = 0x100
};

#define MAGIC 0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR 0x50415254u /* "TRAP" */

/* The queue that QueueSel names, NULL when the device has no such queue. The driver may write any number there. */
static struct virtqueue *selected(struct virtio_dev *d)
{
	return d->queue_sel < d->ops->nqueues ? &d->queue[d->queue_sel] : NULL;
}

static uint32_t queue_register(struct virtio_dev *d, uint64_t offset)
{
	const struct virtqueue *q = selected(d);

	// SOLUTION 4.3
	if (offset == REG_QUEUE_SIZE_MAX)
		return q ? VIRTIO_QUEUE_MAX : 0;
	return q && q->ready;
	// STARTER 4.3: QueueSizeMax and QueueReady of the queue that is selected. Hint: a queue that does not exist has size 0.
	//	(void)q;
	//	(void)offset;
	//	return (uint32_t)lab_todo(d->vm, "4.3", "queue_register() in mmio.c: QueueSizeMax and QueueReady");
	// END
}

/* Reads from the configuration space of the device; behind its end there is nothing. */
static uint64_t config_read(struct virtio_dev *d, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	// SOLUTION 4.11
	if (offset >= d->config_len)
		return 0;
	if (size > d->config_len - offset)
		size = d->config_len - (unsigned)offset;
	memcpy(&value, (const uint8_t *)d->config + offset, size);
	// STARTER 4.11: size bytes at this offset of d->config, which has d->config_len bytes.
	//	(void)offset;
	//	(void)size;
	//	lab_todo(d->vm, "4.11", "config_read() in mmio.c: the device's configuration space");
	// END
	return value;
}

uint64_t virtio_mmio_read(struct virtio_dev *d, uint64_t offset, unsigned size)
{
	if (offset >= REG_CONFIG)
		return config_read(d, offset - REG_CONFIG, size);
	if (size != 4)
		return 0;
	switch (offset) {
	// SOLUTION 4.1
	case REG_MAGIC: return MAGIC;
	case REG_VERSION: return VERSION;
	case REG_DEVICE_ID: return d->ops->id;
	case REG_VENDOR_ID: return VENDOR;
	case REG_DEVICE_FEATURES: return d->features_sel < 2 ? (uint32_t)(d->offered >> 32 * d->features_sel) : 0;
	// STARTER 4.1: who the device is, and the half of its features that DeviceFeaturesSel chooses. Hint: MAGIC, VERSION and VENDOR
	// are above, d->ops->id, d->offered and d->features_sel are the device's. There are more halves than two, and they are empty.
	//case REG_MAGIC:
	//case REG_VERSION:
	//case REG_DEVICE_ID:
	//case REG_VENDOR_ID:
	//case REG_DEVICE_FEATURES: lab_todo(d->vm, "4.1", "virtio_mmio_read() in mmio.c: identification and features"); return 0;
	// END
	case REG_QUEUE_SIZE_MAX:
	case REG_QUEUE_READY: return queue_register(d, offset);
	// SOLUTION 4.7
	case REG_INTERRUPT_STATUS: return d->interrupt_status;
	// STARTER 4.7: which kinds of interrupt the device has raised.
	//case REG_INTERRUPT_STATUS: lab_todo(d->vm, "4.7", "virtio_mmio_read() in mmio.c: InterruptStatus"); return 0;
	// END
	// SOLUTION 4.2
	case REG_STATUS: return d->status;
	// STARTER 4.2: the device status.
	//case REG_STATUS: lab_todo(d->vm, "4.2", "virtio_mmio_read() in mmio.c: Status"); return 0;
	// END
	/* No device here has shared memory; a region that does not exist is -1 bytes long (4.2.2). */
	case REG_SHM_LEN_LOW:
	case REG_SHM_LEN_HIGH:
	case REG_SHM_BASE_LOW:
	case REG_SHM_BASE_HIGH: return 0xffffffff;
	// SOLUTION 4.11
	case REG_CONFIG_GENERATION: return d->config_generation;
	// STARTER 4.11: the number that tells a driver whether what it read in several pieces belongs together.
	//case REG_CONFIG_GENERATION: lab_todo(d->vm, "4.11", "virtio_mmio_read() in mmio.c: ConfigGeneration"); return 0;
	// END
	default: return 0; /* does not exist, or is only written */
	}
}

// SOLUTION 4.2
/* Everything is as after power-on (2.1, 4.2.3.1). Requests in flight end first, so that none writes to memory which is not the device's any
 * more. */
static void reset(struct virtio_dev *d)
{
	d->status = 0;
	virtio_quiesce(d);
	d->features_sel = d->driver_features_sel = d->queue_sel = 0;
	d->features = 0;
	d->interrupt_status = 0;
	virtio_interrupt_update(d);
}

static bool features_acceptable(const struct virtio_dev *d)
{
	return !(d->features & ~d->offered) && virtio_has(d, F_VERSION_1);
}
// END

/* A step of the initialization (3.1.1), or a reset. */
static void write_status(struct virtio_dev *d, uint32_t value)
{
	// SOLUTION 4.2
	uint32_t added = value & ~d->status & ~STATUS_NEEDS_RESET; /* that one is the device's to set */

	if (!value) {
		reset(d);
		return;
	}
	/* What is set stays set until a reset (2.1.1). */
	d->status |= added & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
	/* The driver reads back whether FEATURES_OK is still there. */
	if (added & STATUS_FEATURES_OK && features_acceptable(d)) {
		d->status |= STATUS_FEATURES_OK;
		virtio_agreed(d);
	}
	if (added & STATUS_DRIVER_OK && d->status & STATUS_FEATURES_OK && !(d->status & STATUS_NEEDS_RESET)) {
		d->status |= STATUS_DRIVER_OK;
		virtio_start(d);
	}
	// STARTER 4.2: reset by 0, and the steps of the initialization. Hint: a bit that is set stays set; FEATURES_OK only if the device
	// offered all that the driver accepted, VERSION_1 among it, and then virtio_agreed(); DRIVER_OK only behind FEATURES_OK, and then
	// virtio_start(). A reset takes back everything that the driver wrote (virtio_quiesce() does the queues and the device), and the
	// interrupt.
	//	(void)value;
	//	lab_todo(d->vm, "4.2", "write_status() in mmio.c: the device status and reset");
	// END
}

static void write_features(struct virtio_dev *d, uint32_t value)
{
	// SOLUTION 4.2
	unsigned shift = 32 * d->driver_features_sel;

	/* Agreed on is agreed on: a device that runs does not change its mind. */
	if (d->driver_features_sel > 1 || d->status & STATUS_FEATURES_OK)
		return;
	d->features = (d->features & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
	// STARTER 4.2: the half of the driver's features that DriverFeaturesSel chooses. Hint: d->features keeps what was written, wrong or
	// not, until FEATURES_OK; from then on it does not change.
	//	(void)value;
	//	lab_todo(d->vm, "4.2", "write_features() in mmio.c: what the driver accepts");
	// END
}

// SOLUTION 4.3
static void set_half(uint64_t *addr, bool high, uint32_t value)
{
	*addr = high ? (*addr & 0xffffffff) | (uint64_t)value << 32 : (*addr & ~0xffffffffull) | value;
}

static void write_ready(struct virtio_dev *d, struct virtqueue *q, uint32_t value)
{
	if (!value) {
		virtio_queue_stop(q);
	} else if (value != 1 || !(d->status & STATUS_FEATURES_OK)) {
		virtio_broken(d, "queue %u was made ready before the features were agreed on", q->index);
	} else if (!q->ready && !virtio_rings(d)->enable(q)) {
		q->ready = true;
	}
}
// END

static void write_queue(struct virtio_dev *d, uint64_t offset, uint32_t value)
{
	struct virtqueue *q = selected(d);

	// SOLUTION 4.3
	if (!q)
		return;
	/* A queue that is in use does not move, and none is added to a device that runs. It may be stopped (4.2.2.2). */
	if ((q->ready || d->status & STATUS_DRIVER_OK) && (offset != REG_QUEUE_READY || value))
		return;
	switch (offset) {
	case REG_QUEUE_SIZE:
		if (!value || value > VIRTIO_QUEUE_MAX)
			virtio_broken(d, "queue %u cannot have %u entries, only 1 to %u", q->index, value, VIRTIO_QUEUE_MAX);
		else
			q->size = (uint16_t)value;
		break;
	case REG_QUEUE_READY: write_ready(d, q, value); break;
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH: set_half(&q->desc, offset == REG_QUEUE_DESC_HIGH, value); break;
	case REG_QUEUE_DRIVER_LOW:
	case REG_QUEUE_DRIVER_HIGH: set_half(&q->driver, offset == REG_QUEUE_DRIVER_HIGH, value); break;
	case REG_QUEUE_DEVICE_LOW:
	case REG_QUEUE_DEVICE_HIGH: set_half(&q->device, offset == REG_QUEUE_DEVICE_HIGH, value); break;
	}
	// STARTER 4.3: size, addresses and readiness of the selected queue. Hint: a size that cannot be breaks the device; ready()
	// of the ring format, virtio_rings(d)->enable(q), looks at the rest. Nothing changes any more once the queue is ready or
	// the device runs, but a queue may be stopped: virtio_queue_stop().
	//	(void)q;
	//	(void)offset;
	//	(void)value;
	//	lab_todo(d->vm, "4.3", "write_queue() in mmio.c: the queue registers");
	// END
}

void virtio_mmio_write(struct virtio_dev *d, uint64_t offset, unsigned size, uint64_t value)
{
	uint32_t v = (uint32_t)value;

	if (offset >= REG_CONFIG) {
		offset -= REG_CONFIG;
		if (d->ops->config_write && size <= 4 && offset < d->config_len && size <= d->config_len - offset)
			d->ops->config_write(d, (unsigned)offset, size, v);
		return;
	}
	if (size != 4)
		return;
	switch (offset) {
	case REG_DEVICE_FEATURES_SEL: d->features_sel = v; break;
	case REG_DRIVER_FEATURES: write_features(d, v); break;
	case REG_DRIVER_FEATURES_SEL: d->driver_features_sel = v; break;
	case REG_QUEUE_SEL: d->queue_sel = v; break;
	case REG_QUEUE_SIZE:
	case REG_QUEUE_READY:
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH:
	case REG_QUEUE_DRIVER_LOW:
	case REG_QUEUE_DRIVER_HIGH:
	case REG_QUEUE_DEVICE_LOW:
	case REG_QUEUE_DEVICE_HIGH: write_queue(d, offset, v); break;
	case REG_QUEUE_NOTIFY: virtio_kick(d, v); break;
	// SOLUTION 4.7
	case REG_INTERRUPT_ACK:
		d->interrupt_status &= ~v;
		virtio_interrupt_update(d);
		break;
	// STARTER 4.7: the driver has seen these kinds of interrupt. Hint: virtio_interrupt_update() takes care of the line,
	// which is high as long as InterruptStatus is not 0.
	//case REG_INTERRUPT_ACK: lab_todo(d->vm, "4.7", "virtio_mmio_write() in mmio.c: InterruptACK"); break;
	// END
	case REG_STATUS: write_status(d, v); break;
	default: break; /* does not exist, or is only read */
	}
}
