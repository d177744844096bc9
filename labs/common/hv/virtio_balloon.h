/*
 * The memory balloon (virtio 1.2, 5.5).
 */
#ifndef HV_VIRTIO_BALLOON_H
#define HV_VIRTIO_BALLOON_H

#include "virtio.h"

/* --balloon: arg is not used. Sets vm->balloon_set. 0, or -errno after vm_stop() or without it. */
int virtio_balloon_create(struct vm *vm, const char *arg);

#endif
