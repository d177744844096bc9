/*
 * Virtio devices that are saved, or move to another hv.
 *
 * A device that stands still has nothing in flight. What another thread or the host's kernel was doing for it is finished and
 * given back; the chains that it holds without working on them (network buffers, output that nobody reads, the balloon's
 * statistics) are put back into the ring, which the driver cannot see, and will be taken again. So the state of a queue is
 * where it lies and how far it is, and where the device was inside of a chain is a number of bytes. Nothing is lost and nothing
 * is done twice.
 *
 *	source                                     destination
 *	vm_pause()                                 made with hv run --incoming or hv restore: its devices stand from the beginning
 *	virtio_settle()
 *	virtio_state(), saving            ------>  virtio_state(), loading; virtio_loaded()
 *	virtio_unsettle() if the VM stays          virtio_unsettle() when the VM runs here: only now disks, networks and
 *	                                           the console are touched
 *
 * All functions are called with the VM's lock held once.
 */
#ifndef HV_VIRTIO_STATE_H
#define HV_VIRTIO_STATE_H

#include "state_io.h"
#include "virtio.h"

/*
 * With the vCPUs standing: returns when no device writes to guest memory any more, and none takes anything from its queues until
 * virtio_unsettle(). 0; -ETIMEDOUT when requests are still under way after SETTLE_NS (a slow disk), -ECANCELED when the VM
 * ends, and then the devices go on. The lock is free while it waits.
 */
#define SETTLE_NS 10000000000ull
int virtio_settle(struct vm *vm);
/* The VM goes on here. Nothing when it did not stand. */
void virtio_unsettle(struct vm *vm);
/* The state of one device, when it stands. Loading: into one that no driver has touched. Guest memory is neither read nor written. */
void virtio_state(struct virtio_dev *d, struct state_io *io);
/* Behind the state of everything else: interrupts that the driver has not acknowledged are there, however they get to it here. */
void virtio_loaded(struct vm *vm);

#endif
