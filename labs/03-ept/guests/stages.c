/*
 * For the background chapter and the lecture: a guest that uses memory in stages and says when it has come to one. What hv does with its
 * nested tables then is in a plan (hv run --plan) of which the guest knows nothing. All gpa are fixed, so that a plan can name them.
 */
#include "dbg.h"
#include "hypercall.h"

#include <stdint.h>

#define BUFFER 0x2000000ull /* 32 MiB, far from the image; start.S maps it one to one */
#define CODE 16             /* the page that holds a routine; the others hold data */
#define RET 0xc3

static volatile uint8_t *page(unsigned n)
{
	return (volatile uint8_t *)(BUFFER + n * 0x1000);
}

static void write_pages(const char *pages)
{
	for (; *pages; pages++)
		*page((unsigned)(*pages - '0')) += 1;
}

static unsigned read_pages(const char *pages)
{
	unsigned sum = 0;

	for (; *pages; pages++)
		sum += *page((unsigned)(*pages - '0'));
	return sum;
}

int guest_main(void)
{
	*page(CODE) = RET;
	dputs("stage 1\n");
	stage(1);
	dputs("writes to pages 3, 5 and 8 of its buffer\n");
	write_pages("358");
	stage(2);
	dputs("reads pages 2, 5 and 6\n");
	read_pages("256");
	stage(3);
	dputs("writes to pages 5 and 7\n");
	write_pages("57");
	stage(4);
	dputs("calls its routine, then reads it\n");
	((void (*)(void))page(CODE))();
	report("routine", *page(CODE));
	stage(5);
	return 0;
}
