/*
 * Virtio devices (OASIS virtio 1.2) behind the MMIO transport: what the transport, the rings and the devices share.
 *
 * Who does what, from the guest inwards:
 *   mmio.c (lab)                 the registers of one device: identification, features, status, queues, configuration
 *   virtio.c                     slots and interrupts, kicks, requests in flight, devices that are broken
 *   virtqueue.c, packed.c (lab)  the two ring formats, behind struct ring_ops
 *   rng.c blk.c net.c (lab), virtio_console.c, virtio_balloon.c   what a device does with the buffers
 *
 * Rules. Nothing that a guest wrote is believed: each field of guest memory is read once, into a local; each index is bounded where it
 * comes in; guest_range() is the only way to a host pointer. A driver that breaks the rings breaks its own device (virtio_broken()),
 * never hv, the VM, or another device. All functions are called with the VM's lock held.
 */
#ifndef HV_VIRTIO_H
#define HV_VIRTIO_H

#include "bus.h"
#include "mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

struct vm;
struct state_io;
struct virtio_dev;
struct virtqueue;

/* Where the devices are: slot i at VIRTIO_MMIO_BASE + i * VIRTIO_MMIO_STRIDE, on ISA interrupt virtio_irq[i]. */
#define VIRTIO_SLOTS 8u
#define VIRTIO_MMIO_BASE 0xd0000000ull
#define VIRTIO_MMIO_STRIDE 0x1000ull
#define VIRTIO_MMIO_LEN 0x200ull
extern const uint8_t virtio_irq[VIRTIO_SLOTS];

#define VIRTIO_QUEUES 4u      /* of one device at most */
#define VIRTIO_QUEUE_MAX 256u /* entries of one queue at most: QueueSizeMax */

/* Device types (virtio 1.2, 5). */
enum { VIRTIO_ID_NET = 1, VIRTIO_ID_BLOCK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4, VIRTIO_ID_BALLOON = 5 };

/* Device status (2.1). */
#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER 2u
#define STATUS_DRIVER_OK 4u
#define STATUS_FEATURES_OK 8u
#define STATUS_NEEDS_RESET 0x40u
#define STATUS_FAILED 0x80u

/* Reserved feature bits (6). The others are the device type's. */
#define FEATURE(bit) (1ull << (bit))
#define F_RING_INDIRECT_DESC FEATURE(28)
#define F_RING_EVENT_IDX FEATURE(29)
#define F_VERSION_1 FEATURE(32)
#define F_RING_PACKED FEATURE(34)

/* InterruptStatus (4.2.2). */
#define INTERRUPT_USED 1u
#define INTERRUPT_CONFIG 2u

/* --- queues ------------------------------------------------------------------------------------------------------------------ */

/*
 * One queue. The first group is what the driver configured; ring_ops.enable has looked at it when `ready` is set, and it does not
 * change from then on. The second is the place where the device is, and belongs to the ring format.
 */
struct virtqueue {
	struct virtio_dev *dev;
	unsigned index;
	bool ready;
	uint16_t size; /* entries, 1 to VIRTIO_QUEUE_MAX; split: a power of two */
	uint64_t desc, driver,
		device; /* gpa. Split: descriptor table, available ring, used ring. Packed: descriptor ring, driver's and
					  device's event suppression structures */
	void *desc_ring, *driver_area, *device_area; /* the same as host pointers, set by ring_ops.enable */

	uint16_t next_avail;	    /* split: how many chains were taken, modulo 65536; packed: the slot to look at next */
	uint16_t next_used;	    /* split: how many were given back, modulo 65536; packed: the slot to write next */
	bool avail_wrap, used_wrap; /* packed: the wrap counters */
	uint16_t signalled;	    /* split: next_used when it was last decided whether to interrupt the driver */
	uint16_t unsignalled;	    /* packed: slots used since then, at most size */

	bool armed;			    /* the driver was asked for a notification of new buffers */
	uint16_t in_flight;		    /* chains taken and not given back */
	bool more;			    /* what is pushed now belongs together with what comes next: it is not to be seen yet */
	uint16_t *withheld;		    /* packed: the flags that make the first of them visible, not written yet, or NULL */
	uint16_t withheld_flags;
	bool in_kick;			    /* the driver's notification is being handled, */
	uint16_t budget;		    /* and so many chains may still be taken */
	uint64_t chains, kicks, interrupts; /* for statistics */
};

#define VQ_IOV_MAX VIRTIO_QUEUE_MAX

/*
 * A chain of descriptors as a device sees it: memory that it may read, then memory that it may write. The iovecs are checked: all of them
 * lie in guest memory. How the driver divided a request over them means nothing (2.7.4.1): use chain_read() and chain_write().
 */
struct vq_chain {
	struct virtqueue *q;
	uint16_t id;		  /* split: the index of the first descriptor; packed: the buffer ID */
	uint16_t slots;		  /* packed: how many slots of the ring it takes */
	unsigned nout, nin;	  /* device-readable iovecs come first, device-writable ones behind them */
	uint64_t out_len, in_len; /* bytes of both kinds */
	struct iovec iov[VQ_IOV_MAX];
};

/* One ring format. Contracts in lab4.h. */
struct ring_ops {
	int (*enable)(struct virtqueue *q);
	int (*pop)(struct virtqueue *q, struct vq_chain *c);
	void (*push)(struct virtqueue *q, const struct vq_chain *c, uint32_t written);
	bool (*should_interrupt)(struct virtqueue *q);
	void (*arm)(struct virtqueue *q);
	void (*disarm)(struct virtqueue *q);
};

/*
 * For devices. Takes the next chain of a queue that is ready: 1; 0 when there is none now (the driver will then notify when it adds one, or
 * the budget of this kick is used up and the kick comes again by itself); -errno when the ring is broken, and the device with it, which
 * needs nothing more to be done.
 */
int virtqueue_pop(struct virtqueue *q, struct vq_chain *c);
/* Gives a chain back, `written` bytes of its device-writable part being written, counted from the start. A chain of a device that has
 * broken or was reset in the meantime is dropped. */
void virtqueue_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written);
/* The same for a chain that the driver must not see before the next one, of which virtqueue_push() takes the last. */
void virtqueue_push_more(struct virtqueue *q, const struct vq_chain *c, uint32_t written);
/* After one or several pushes: interrupts the driver unless it does not want to be. */
void virtqueue_notify(struct virtqueue *q);
/* There is more to do than one kick may: the kick comes again by itself, behind the other events that wait. */
void virtqueue_again(struct virtqueue *q);
/* Puts back the chain that was taken last and not given back yet: it will be taken again. The driver has seen nothing. */
void virtqueue_unpop(struct virtqueue *q, const struct vq_chain *c);

/* Copies len bytes from the device-readable part, beginning `offset` bytes into it, or to the device-writable part. They return how
 * many there were to copy, less than len when the part ends before. */
size_t chain_read(const struct vq_chain *c, uint64_t offset, void *dst, size_t len);
size_t chain_write(const struct vq_chain *c, uint64_t offset, const void *src, size_t len);
/* The iovecs of a piece of one part, [offset, offset + len), in out[], which has room for VQ_IOV_MAX; how many. It ends early where the
 * part does. */
unsigned chain_out_iov(const struct vq_chain *c, uint64_t offset, uint64_t len, struct iovec *out);
unsigned chain_in_iov(const struct vq_chain *c, uint64_t offset, uint64_t len, struct iovec *out);

/* --- devices ----------------------------------------------------------------------------------------------------------------- */

struct virtio_ops {
	const char *name; /* "block" */
	uint32_t id;	  /* VIRTIO_ID_... */
	unsigned nqueues;
	/* The driver has buffers in a queue; only between DRIVER_OK and reset, and not when the device is broken. */
	void (*kick)(struct virtio_dev *d, struct virtqueue *q);
	/* FEATURES_OK was set: the features are final, and from here on the driver may read any field of the configuration. May be NULL. */
	void (*agreed)(struct virtio_dev *d);
	/* DRIVER_OK was set. May be NULL. */
	void (*start)(struct virtio_dev *d);
	/* Returns when no request is in flight: it waits for those that are, and gives them back. NULL: there never are any. */
	void (*drain)(struct virtio_dev *d);
	/* Forgets what it knows of the driver; called behind drain(). May be NULL. */
	void (*reset)(struct virtio_dev *d);
	/* A driver wrote to the configuration space: size is 1, 2 or 4, and it lies inside. NULL: it is read-only. */
	void (*config_write)(struct virtio_dev *d, unsigned offset, unsigned size, uint32_t value);
	void (*destroy)(struct virtio_dev *d); /* frees the device's own state; no request is in flight. May be NULL */
	/* Items for --stats json, each with a comma before it. May be NULL. */
	void (*stats)(struct virtio_dev *d, FILE *out);

	/* To be saved, and to move (virtio_state.h). NULL: nothing is to be done. */
	/* Is something of what it has begun still going on in another thread, or in the host's kernel? Asked again and again. */
	bool (*busy)(struct virtio_dev *d);
	/* It is not busy: puts back all chains that it has taken (virtqueue_unpop(), the last one first), and remembers how far
	 * it had come. */
	void (*settle)(struct virtio_dev *d);
	/* The VM runs here from now on, again or for the first time. Kicks for all its queues follow. */
	void (*resume)(struct virtio_dev *d);
	/* Saves or loads what is the device's own; the queues and registers are loaded before. Touches no guest memory. */
	void (*state)(struct virtio_dev *d, struct state_io *io);
	uint64_t adopts; /* features that need nothing of the host: loaded, they are offered as they were there */
};

struct virtio_dev {
	struct vm *vm;
	const struct virtio_ops *ops;
	void *state; /* the device's own */
	unsigned slot;
	uint64_t offered;   /* features, the transport's and the rings' among them */
	const void *config; /* its configuration space, as the driver reads it */
	unsigned config_len;

	/* The registers. */
	uint32_t status;
	uint32_t features_sel, driver_features_sel, queue_sel;
	uint64_t features; /* what the driver accepted */
	uint32_t interrupt_status;
	uint32_t config_generation;
	struct virtqueue queue[VIRTIO_QUEUES];

	/* The rest is virtio.c's. */
	struct irq_line irq;
	uint32_t pending;	  /* InterruptStatus as it was when the line was last set */
	int irq_fd;		  /* eventfd that raises the interrupt, or -1: irq is used */
	int io_fd[VIRTIO_QUEUES]; /* eventfds that QueueNotify signals, or -1 */
	uint32_t kick_again;	  /* bit per queue: its budget was used up */
	char reason[160];	  /* why it needs a reset, or "" */
	uint64_t resets, broken, interrupts;
};

/* Has the driver accepted that feature? */
static inline bool virtio_has(const struct virtio_dev *d, uint64_t feature)
{
	return d->features & feature;
}

/*
 * Makes a device in the next free slot: `offered` are its type's own features, the common ones are added. config must live as long as the
 * device. NULL when there is no slot or no memory, after vm_stop().
 */
struct virtio_dev *virtio_create(struct vm *vm, const struct virtio_ops *ops, void *state, uint64_t offered,
				 const void *config, unsigned config_len);
/* After the engine was created: eventfds in place of exits, where it has them. 0 or -errno. */
int virtio_connect(struct vm *vm);
void virtio_destroy(struct vm *vm);
/* ,"virtio":[...] for --stats json. */
void virtio_json(struct vm *vm, FILE *out);

/* The driver broke a rule, in words (printf style): the device sets NEEDS_RESET, tells the driver if that is listening, and does nothing
 * until it is reset (2.1.2). Returns -EPROTO. */
int virtio_broken(struct virtio_dev *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Sets bits of InterruptStatus and raises the interrupt. */
void virtio_interrupt(struct virtio_dev *d, uint32_t bits);
/* A device's configuration changed: a new generation, and the driver is told if it runs. */
void virtio_config_changed(struct virtio_dev *d);

/* --- for the transport, mmio.c ------------------------------------------------------------------------------------------------ */

/* The rings that the driver chose. */
const struct ring_ops *virtio_rings(const struct virtio_dev *d);
/* The driver set FEATURES_OK, and it was accepted. */
void virtio_agreed(struct virtio_dev *d);
/* The driver set DRIVER_OK. */
void virtio_start(struct virtio_dev *d);
/* The driver took a queue away from the device: no request of it is in flight any more. */
void virtio_queue_stop(struct virtqueue *q);
/* All of a reset that is not a register of mmio.c: requests in flight, queues, the device's own state. */
void virtio_quiesce(struct virtio_dev *d);
/* The driver wrote a queue's number to QueueNotify. Ignored when the device does not run, or has no such queue, or that is not ready. */
void virtio_kick(struct virtio_dev *d, uint32_t queue);
/* InterruptStatus may have fewer bits than before: then this lowers the interrupt line, and raises it again for those that are left. */
void virtio_interrupt_update(struct virtio_dev *d);

#endif
