/*
 * The console between two pipes. The one for its output is small, and its reader comes by now and then only, so that the device has to wait for
 * it; the other brings what is typed.
 */
#define _GNU_SOURCE /* pipe2, F_SETPIPE_SZ */
#include "harness.h"
#include "virtio_console.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int typed, shown;

void fuzz_create(struct vm *vm)
{
	static const int no_waiting =
		1; /* what cannot be written out now is dropped where the device cannot come back: nobody reads meanwhile */
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC | O_NONBLOCK) || pipe2(out, O_CLOEXEC | O_NONBLOCK) || fcntl(out[1], F_SETPIPE_SZ, 4096) < 0)
		abort();
	typed = in[1];
	shown = out[0];
	vm->con.cancel = &no_waiting;
	if (console_start(&vm->con, &vm->loop, in[0], out[1]))
		abort();
	virtio_console_create(vm, NULL);
}

/* An odd number of bytes is typed. Else somebody reads. */
void fuzz_outside(struct vm *vm, const uint8_t *data, size_t len)
{
	static uint8_t away[4096];

	if (len & 1) {
		if (write(typed, data, len) < 0)
			return; /* full: the device has not read for long */
	} else {
		while (read(shown, away, sizeof away) > 0)
			;
	}
	if (!data)
		vm->con.npending = 0;
}
