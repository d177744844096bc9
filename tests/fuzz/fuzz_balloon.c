/* The balloon, which takes pages from under its own rings if it is told to. From outside come other targets, and somebody who asks for statistics. */
#include "harness.h"
#include "lab4.h"
#include "virtio_balloon.h"

#include <stdio.h>
#include <stdlib.h>

static FILE *nowhere;

void fuzz_create(struct vm *vm)
{
	if (!(nowhere = fopen("/dev/null", "w")))
		abort();
	virtio_balloon_create(vm, NULL);
}

void fuzz_outside(struct vm *vm, const uint8_t *data, size_t len)
{
	if (len & 1)
		vm->balloon_set(vm, data[0]);
	else
		vm->virtio[0]->ops->stats(vm->virtio[0], nowhere);
}
