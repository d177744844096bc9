/* An event loop in which nothing ever happens, for tests that play the events themselves. */
#ifndef LOOP_STUBS_H
#define LOOP_STUBS_H

#include "loop.h"

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns)
{
	(void)loop, (void)timer, (void)deadline_ns;
}

int loop_fd_add(struct loop *loop, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque)
{
	(void)loop, (void)fd, (void)events, (void)fn, (void)opaque;
	return 0;
}

void loop_fd_remove(struct loop *loop, int fd)
{
	(void)loop, (void)fd;
}

#endif
