/* Page frames: 4 KiB of memory each, named by gpa, with a count of who uses them. 0 is no frame. */
#ifndef GUEST_FRAMES_H
#define GUEST_FRAMES_H

#include "start_info.h"

#include <stdint.h>

/* The memory behind the image is there to be given out. The image's own frames count as used by the kernel, for ever. */
void frames_init(const struct hvm_start_info *info);
/* A frame with one user, or 0 when there is none left. */
uint64_t frame_alloc(void);
uint64_t frame_alloc_zeroed(void);
/* One user more; one less, and the last one frees it. */
void frame_get(uint64_t gpa);
void frame_put(uint64_t gpa);
unsigned frame_users(uint64_t gpa);
/* How many could be allocated now. */
unsigned frames_free(void);

#endif
