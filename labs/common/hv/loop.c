#define _GNU_SOURCE /* ppoll */
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int loop_init(struct loop *loop, pthread_mutex_t *lock)
{
	memset(loop, 0, sizeof(*loop));
	loop->lock = lock;
	for (unsigned i = 0; i < LOOP_FDS; i++)
		loop->fds[i].fd = -1;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return loop->wake_fd < 0 ? -errno : 0;
}

static void wake(struct loop *loop)
{
	uint64_t one = 1;
	ssize_t n;
	/* The only other failure is EAGAIN, a counter that is full: then the loop has been woken already. */
	do
		n = write(loop->wake_fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

/* The nearest deadline, or UINT64_MAX. The list is short (one timer a device), so it is not kept in order. */
static uint64_t nearest_deadline(const struct loop *loop)
{
	uint64_t nearest = UINT64_MAX;
	for (const struct loop_timer *t = loop->timers; t; t = t->next) {
		if (t->deadline_ns < nearest)
			nearest = t->deadline_ns;
	}
	return nearest;
}

static void unlink_timer(struct loop *loop, struct loop_timer *timer)
{
	for (struct loop_timer **p = &loop->timers; *p; p = &(*p)->next) {
		if (*p == timer) {
			*p = timer->next;
			break;
		}
	}
	timer->next = NULL;
	timer->linked = false;
}

/*
 * Runs what is due. The search starts over after each callback, because the callback may set or clear any timer. Each
 * timer runs at most once a pass, also when it sets itself to a time that has passed: between two passes the lock is free
 * and descriptors are looked at, so a timer that is always late can slow the others down but not shut them out.
 */
static void run_timers(struct loop *loop)
{
	uint64_t now = clock_ns();
	loop->pass++;
	for (struct loop_timer *t = loop->timers; t;) {
		if (t->deadline_ns > now || t->pass == loop->pass) {
			t = t->next;
			continue;
		}
		t->pass = loop->pass;
		t->deadline_ns = 0;
		unlink_timer(loop, t);
		t->fn(t->opaque);
		t = loop->timers;
	}
}

/* What a descriptor was when the wait began. */
struct asked {
	unsigned slot, serial;
};

static void dispatch(struct loop *loop, const struct pollfd *pfd, const struct asked *asked, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct loop_fd *f = &loop->fds[asked[i].slot];
		/* While the lock was free, or in a callback just now, the slot may have been emptied, paused or given to
		 * another descriptor (even one with the same number, hence the serial): then this news is not for it. */
		short events = (short)(pfd[i].revents & (f->events | POLLERR | POLLHUP | POLLNVAL));
		if (f->fd != pfd[i].fd || f->serial != asked[i].serial || !f->events || !events)
			continue;
		struct loop_fd call = *f;
		/* A closed descriptor is reported at once for ever; the loop would spin. Its owner is told one time. */
		if (events & POLLNVAL)
			f->fd = -1;
		call.fn(call.opaque, events);
	}
}

/* Descriptors of the sources, behind the loop's own. Returns how many. */
static unsigned fill_sources(struct loop *loop, struct pollfd *pfd, uint64_t *deadline)
{
	unsigned used = 0;
	for (struct loop_source *s = loop->sources; s; s = s->next) {
		s->first = used;
		s->count = s->fill(s->opaque, pfd + used, LOOP_SOURCE_FDS - used, deadline);
		s->asked = true;
		used += s->count;
	}
	return used;
}

/* A source that came while the loop was waiting has nothing in the array. */
static void tell_sources(struct loop *loop, const struct pollfd *pfd)
{
	struct loop_source *next;
	for (struct loop_source *s = loop->sources; s; s = next) {
		next = s->next;
		if (s->asked)
			s->polled(s->opaque, pfd + s->first, s->count);
	}
}

void loop_pass(struct loop *loop, bool wait)
{
	/* No more entries than there are descriptors: poll(2) refuses more than RLIMIT_NOFILE, used or not. */
	struct pollfd pfd[1 + LOOP_FDS + LOOP_SOURCE_FDS], *own = pfd + 1;
	struct asked asked[LOOP_FDS];
	unsigned n_own = 0;

	pfd[0] = (struct pollfd){ .fd = loop->wake_fd, .events = POLLIN };
	for (unsigned i = 0; i < LOOP_FDS; i++) {
		const struct loop_fd *f = &loop->fds[i];
		/* poll(2) reports a hang-up even when asked for no events, so a paused descriptor is left out. */
		if (f->fd < 0 || !f->events)
			continue;
		asked[n_own] = (struct asked){ i, f->serial };
		own[n_own++] = (struct pollfd){ .fd = f->fd, .events = f->events };
	}

	/* ppoll, not poll: a millisecond is too coarse for a guest with a 1000 Hz timer. */
	struct timespec timeout = { 0 };
	uint64_t deadline = nearest_deadline(loop);
	unsigned more = fill_sources(loop, own + n_own, &deadline);
	uint64_t now = clock_ns();
	if (wait && deadline != UINT64_MAX && deadline > now) {
		timeout.tv_sec = (time_t)((deadline - now) / 1000000000);
		timeout.tv_nsec = (long)((deadline - now) % 1000000000);
	}
	loop->wait_until_ns = deadline;
	pthread_mutex_unlock(loop->lock);
	int n = ppoll(pfd, 1 + n_own + more, wait && deadline == UINT64_MAX ? NULL : &timeout, NULL);
	pthread_mutex_lock(loop->lock);
	loop->wait_until_ns = 0;
	if (n < 0 && errno != EINTR) {
		perror("hv: the event loop cannot wait");
		abort();
	}

	uint64_t count;
	if (n > 0 && pfd[0].revents && read(loop->wake_fd, &count, sizeof(count)) < 0)
		count = 0; /* EAGAIN: somebody's wake was already taken, which is all the read is for */
	if (n > 0)
		dispatch(loop, own, asked, n_own);
	tell_sources(loop, own + n_own);
	run_timers(loop);
}

static void *loop_main(void *arg)
{
	struct loop *loop = arg;

	pthread_mutex_lock(loop->lock);
	while (!loop->quit)
		loop_pass(loop, true);
	pthread_mutex_unlock(loop->lock);
	return NULL;
}

int loop_start(struct loop *loop)
{
	/* Signals are for the threads that know what to do with them: the vCPU is kicked by one, main ends by another. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	loop->quit = false;
	int err = pthread_create(&loop->thread, NULL, loop_main, loop);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	loop->running = !err;
	return -err;
}

void loop_stop(struct loop *loop)
{
	if (!loop->running)
		return;
	pthread_mutex_lock(loop->lock);
	loop->quit = true;
	pthread_mutex_unlock(loop->lock);
	wake(loop);
	pthread_join(loop->thread, NULL);
	loop->running = false;
}

void loop_destroy(struct loop *loop)
{
	while (loop->timers)
		unlink_timer(loop, loop->timers);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	loop->wake_fd = -1;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns)
{
	timer->deadline_ns = deadline_ns;
	if (!deadline_ns) {
		if (timer->linked)
			unlink_timer(loop, timer);
		return;
	}
	if (!timer->linked) {
		timer->next = loop->timers;
		loop->timers = timer;
		timer->linked = true;
	}
	/* A guest may set its timer thousands of times a second. The loop is woken only when it would oversleep; when it is
	 * awake (wait_until_ns is 0) it looks at the list before it sleeps, and waking too early does no harm. */
	if (deadline_ns < loop->wait_until_ns)
		wake(loop);
}

static struct loop_fd *find_fd(struct loop *loop, int fd)
{
	for (unsigned i = 0; fd >= 0 && i < LOOP_FDS; i++) {
		if (loop->fds[i].fd == fd)
			return &loop->fds[i];
	}
	return NULL;
}

int loop_fd_add(struct loop *loop, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque)
{
	for (unsigned i = 0; i < LOOP_FDS; i++) {
		struct loop_fd *f = &loop->fds[i];
		if (f->fd >= 0)
			continue;
		*f = (struct loop_fd){ .fd = fd, .events = events, .fn = fn, .opaque = opaque, .serial = f->serial + 1 };
		if (loop->wait_until_ns)
			wake(loop);
		return 0;
	}
	return -ENOSPC;
}

void loop_fd_events(struct loop *loop, int fd, short events)
{
	struct loop_fd *f = find_fd(loop, fd);
	if (!f || f->events == events)
		return;
	f->events = events;
	if (loop->wait_until_ns)
		wake(loop);
}

void loop_fd_remove(struct loop *loop, int fd)
{
	struct loop_fd *f = find_fd(loop, fd);
	if (!f)
		return;
	f->fd = -1;
	/* A descriptor that its owner closes next must not be in a poll(2) that is under way for longer than needed. */
	if (loop->wait_until_ns)
		wake(loop);
}

void loop_source_add(struct loop *loop, struct loop_source *source)
{
	source->asked = false;
	source->next = loop->sources;
	loop->sources = source;
	loop_source_changed(loop);
}

void loop_source_remove(struct loop *loop, struct loop_source *source)
{
	for (struct loop_source **p = &loop->sources; *p; p = &(*p)->next) {
		if (*p == source) {
			*p = source->next;
			break;
		}
	}
}

void loop_source_changed(struct loop *loop)
{
	if (loop->wait_until_ns)
		wake(loop);
}
