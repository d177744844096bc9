#ifndef VS_H
#define VS_H
#include "state_io.h"
#include "virtio.h"
void virtio_state(struct virtio_dev *d, struct state_io *io);
int virtio_settle(struct vm *vm);
void virtio_unsettle(struct vm *vm);
void virtio_loaded(struct vm *vm);
#endif
