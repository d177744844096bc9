/*
 * Disks: one on io_uring, one on threads, one that is read-only. The image is small and in memory, so that a range of it is likely to be hit, and
 * hitting it is cheap; it is a file for all that, and tmpfs cannot zero a range, so that zeros are written, too.
 */
#define _GNU_SOURCE /* memfd_create */
#include "harness.h"
#include "lab4.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define IMAGE (64 * KiB + 512) /* not a whole number of pages */

void fuzz_create(struct vm *vm)
{
	static const char *const words[] = { "", ",aio=threads", ",ro" };

	for (unsigned i = 0; i < 3; i++) {
		char arg[64];
		int fd = memfd_create("image", MFD_CLOEXEC);

		if (fd < 0 || ftruncate(fd, IMAGE))
			abort();
		snprintf(arg, sizeof arg, "/proc/self/fd/%d%s", fd, words[i]);
		blk_create(vm, arg);
		close(fd);
	}
}

/* Requests complete in the loop, or in a reset. */
void fuzz_outside(struct vm *vm, const uint8_t *data, size_t len)
{
	(void)vm;
	(void)data;
	(void)len;
}
