#include "frames.h"

#include "pgtable.h"
#include "string.h"
#include "trap.h"

#include <stddef.h>

/* One for each frame of memory, from gpa 0 on; the array lies behind the image. */
struct frame {
	uint32_t users;
	uint32_t next; /* number of the next free frame, 0 at the end */
};

static struct frame *frames;
static uint32_t nframes, first_free, nfree;

extern const char image_end[]; /* paged.ld; a gpa */

/* The end of the range of RAM that holds the image, as far as the direct map reaches. */
static uint64_t ram_end(const struct hvm_start_info *info)
{
	const struct hvm_memmap_entry *map = direct(info->memmap);
	uint64_t image = (uint64_t)image_end;

	for (uint32_t i = 0; i < info->memmap_entries; i++) {
		uint64_t end = map[i].addr + map[i].size;

		if (map[i].type == HVM_MEMMAP_RAM && map[i].addr < image && end >= image)
			return end < DIRECT_MAP_MAX ? end : DIRECT_MAP_MAX;
	}
	panic("the memory map does not know the memory that the kernel is in");
}

static struct frame *frame_at(uint64_t gpa)
{
	uint64_t n = gpa / PAGE_SIZE;

	if (!n || n >= nframes)
		panic("a frame that is not there");
	return &frames[n];
}

void frames_init(const struct hvm_start_info *info)
{
	uint64_t begin = (uint64_t)image_end;

	if (info->magic != HVM_START_MAGIC || !info->version)
		panic("the loader passed no memory map");
	nframes = ram_end(info) / PAGE_SIZE;
	frames = direct(begin);
	begin += (nframes * sizeof(*frames) + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE;
	if (begin / PAGE_SIZE >= nframes)
		panic("there is not enough memory");
	memset(frames, 0, nframes * sizeof(*frames));
	for (uint64_t n = 0; n < begin / PAGE_SIZE; n++)
		frames[n].users = 1;
	for (uint64_t n = nframes; n-- > begin / PAGE_SIZE;) { /* from the top, so that the lowest is given out first */
		frames[n].next = first_free;
		first_free = n;
		nfree++;
	}
}

uint64_t frame_alloc(void)
{
	struct frame *f = &frames[first_free];

	if (!first_free)
		return 0;
	first_free = f->next;
	nfree--;
	f->users = 1;
	return (f - frames) * PAGE_SIZE;
}

uint64_t frame_alloc_zeroed(void)
{
	uint64_t gpa = frame_alloc();

	if (gpa)
		memset(direct(gpa), 0, PAGE_SIZE);
	return gpa;
}

void frame_get(uint64_t gpa)
{
	frame_at(gpa)->users++;
}

void frame_put(uint64_t gpa)
{
	struct frame *f = frame_at(gpa);

	if (!f->users)
		panic("a free frame was freed");
	if (--f->users)
		return;
	f->next = first_free;
	first_free = f - frames;
	nfree++;
}

unsigned frame_users(uint64_t gpa)
{
	return frame_at(gpa)->users;
}

unsigned frames_free(void)
{
	return nfree;
}
