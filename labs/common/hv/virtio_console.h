/*
 * The console device (virtio 1.2, 5.3).
 */
#ifndef HV_VIRTIO_CONSOLE_H
#define HV_VIRTIO_CONSOLE_H

#include "virtio.h"

/* --console: arg is not used. 0, or -errno after vm_stop() or without it. */
int virtio_console_create(struct vm *vm, const char *arg);

#endif
