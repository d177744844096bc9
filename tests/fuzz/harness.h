/*
 * What the fuzz targets share. A target is one virtio device with its transport and rings, in this process, without an engine: libFuzzer's
 * bytes are what a driver does to it.
 */
#ifndef FUZZ_HARNESS_H
#define FUZZ_HARNESS_H

#include "vm.h"

/* Each target (fuzz_NAME.c) makes its device in `vm`; if it makes several, the first byte of an input says which of them is driven. */
void fuzz_create(struct vm *vm);
/* What comes from outside: a frame from the network, typed characters. A pass of the event loop follows. Called now and then with bytes of the
 * input, and with none (data NULL) at its end: then nothing may be left over for the next input. */
void fuzz_outside(struct vm *vm, const uint8_t *data, size_t len);

#endif
