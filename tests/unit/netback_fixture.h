/*
 * A device that remembers what it was told, for tests of the networks behind one, and the loop that these run in. Each test has
 * a loop of its own, and all have one path for a socket.
 */
#ifndef NETBACK_FIXTURE_H
#define NETBACK_FIXTURE_H

#include "netback.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE 20000000000ull
#define FRAMES 2000u

static pthread_mutex_t lock;
static struct loop loop;
static char directory[] = "/tmp/netback.XXXXXX", path[64], err[300];

static struct {
	bool full; /* no buffers */
	unsigned frames, links, unblocked;
	size_t len[FRAMES];
	uint8_t first[FRAMES], last[70000];
	bool link;
} seen;

static bool receive(void *opaque, const uint8_t *frame, size_t len)
{
	(void)opaque;
	if (seen.full)
		return false;
	if (seen.frames < FRAMES) {
		seen.len[seen.frames] = len;
		seen.first[seen.frames] = frame[0];
		memcpy(seen.last, frame, len);
	}
	seen.frames++;
	return true;
}
static void unblocked(void *opaque)
{
	(void)opaque;
	seen.unblocked++;
}
static void link_changed(void *opaque, bool up)
{
	(void)opaque;
	seen.links++;
	seen.link = up;
}
static const struct netback_user device = { receive, unblocked, link_changed };

static void wait_for(const char *what, bool (*done)(unsigned), unsigned argument)
{
	for (uint64_t end = clock_ns() + PATIENCE;;) {
		pthread_mutex_lock(&lock);
		bool reached = done(argument);
		pthread_mutex_unlock(&lock);
		if (reached)
			return;
		if (clock_ns() > end)
			fail_msg("waited for %s in vain", what);
		usleep(500);
	}
}
static bool frames_are(unsigned n)
{
	return seen.frames >= n;
}

static struct netback *opened(const char *text)
{
	struct net_options o;
	int error = 0;

	assert_int_equal(net_parse(text, &o, err, sizeof err), 0);
	pthread_mutex_lock(&lock);
	struct netback *nb = netback_open(&loop, &o, &device, NULL, &error, err, sizeof err);
	pthread_mutex_unlock(&lock);
	assert_true(!nb == !!error);
	return nb;
}
static void closed(struct netback *nb)
{
	pthread_mutex_lock(&lock);
	netback_close(nb);
	pthread_mutex_unlock(&lock);
}
static void send_frame(struct netback *nb, uint8_t *frame, size_t len)
{
	struct iovec iov[2] = { { frame, len / 2 }, { frame + len / 2, len - len / 2 } };

	pthread_mutex_lock(&lock);
	nb->ops->send(nb, iov, 2, len);
	if (nb->ops->sent)
		nb->ops->sent(nb);
	pthread_mutex_unlock(&lock);
}

static int setup(void **state)
{
	pthread_mutexattr_t attr;

	(void)state;
	memset(&seen, 0, sizeof seen);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&lock, &attr);
	return loop_init(&loop, &lock) || loop_start(&loop);
}
static int teardown(void **state)
{
	(void)state;
	loop_stop(&loop);
	for (unsigned i = 0; i < LOOP_FDS; i++)
		if (loop.fds[i].fd >= 0)
			return -1; /* somebody forgot it */
	if (loop.sources || loop.timers)
		return -1;
	loop_destroy(&loop);
	return access(path, F_OK) ? 0 : unlink(path);
}

/* For all tests of a program. */
static int make_directory(void **state)
{
	(void)state;
	if (!mkdtemp(directory))
		return -1;
	snprintf(path, sizeof path, "%s/cable", directory);
	return 0;
}
static int remove_directory(void **state)
{
	(void)state;
	return rmdir(directory);
}

#endif
