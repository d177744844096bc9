/*
 * Lab 4, virtio: what the frame calls and the lab's files provide. Sections are those of virtio 1.2.
 */
#ifndef HV_LAB4_H
#define HV_LAB4_H

#include "virtio.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

/* --- mmio.c: the registers (4.2.2) -------------------------------------------------------------------------------------------- */

/* One access to a device's registers, at offset [0, VIRTIO_MMIO_LEN). Registers (below 0x100) are 4 bytes wide and are not accessed
 * otherwise: such a read gives 0 and such a write does nothing. The configuration space, from 0x100, is accessed in 1, 2, 4 or 8
 * bytes. What does not exist reads as 0. */
uint64_t virtio_mmio_read(struct virtio_dev *d, uint64_t offset, unsigned size);
void virtio_mmio_write(struct virtio_dev *d, uint64_t offset, unsigned size, uint64_t value);

/* --- virtqueue.c: split rings (2.7); packed.c: packed rings (2.8) --------------------------------------------------------------- */

/*
 * enable: the driver set QueueReady. Checks size, alignment and that all three areas lie in guest memory, sets the host
 *   pointers and starts at the beginning of the ring. 0 or -EINVAL after virtio_broken().
 * pop: takes the next available chain, with its indirect table if it has one. 1; 0 when there is none; -EPROTO after virtio_broken().
 *   Bounds, all of which break the device: an available index more than size ahead, a descriptor's number not below size, more descriptors
 *   than size (so also a loop), memory outside the guest, a device-readable descriptor behind a device-writable one, an indirect table
 *   that is empty, no multiple of 16, inside another one (split), together with F_NEXT, not negotiated, or too long: a split ring's has at
 *   most size descriptors, as the whole chain (2.7.5.3.1), a packed ring's at most VQ_IOV_MAX, because there none of them takes a slot.
 *   Descriptors of length 0 take part in the count and give no iovec.
 * push: gives a chain back. The element is in the ring before the index (or the flags) that makes it visible. With q->more the
 *   driver must not see it yet: it becomes visible together with the next one that is pushed without.
 * should_interrupt: what the driver wants for what was pushed since it was last asked (2.7.7, 2.7.10; 2.8.10, 2.8.14).
 * arm, disarm: the driver shall notify, or need not, when it makes buffers available. After arm() the ring has to be looked at once more.
 */
extern const struct ring_ops split_rings, packed_rings;

/* virtqueue.c, for both formats: a buffer becomes the next iovec of a chain. 0, or -EPROTO after virtio_broken(). */
int chain_add(struct virtqueue *q, struct vq_chain *c, uint64_t gpa, uint32_t len, bool writable);

/* --- rng.c (5.4), blk.c (5.2), net.c (5.1): make a device ----------------------------------------------------------------------- */

int rng_create(struct vm *vm, const char *arg);
int blk_create(struct vm *vm, const char *arg); /* arg: of --disk */
int net_create(struct vm *vm, const char *arg);

#endif
