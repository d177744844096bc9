/*
 * What the fuzz targets share. A target is one virtio device with its transport and rings, in this process, without an engine: libFuzzer's
 * bytes are what a driver does to it.
 */
#ifndef FUZZ_HARNESS_H
#define FUZZ_HARNESS_H

#include "vm.h"

/* Each target (fuzz_NAME.c) makes its device; the harness then drives vm->virtio[0]. */
void fuzz_create(struct vm *vm);
/* Lets what the device waits for happen: a request of the disk, a frame from the network. Called now and then. */
void fuzz_outside(struct vm *vm, const uint8_t *data, size_t len);

#endif
