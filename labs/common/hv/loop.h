/*
 * The event loop: one thread that waits for file descriptors and timers on behalf of all devices, while the vCPU thread
 * is inside KVM_RUN. Callbacks run with the VM's lock held, the same lock that the vCPU thread holds when it calls a
 * device, so a device never runs on two threads at once.
 */
#ifndef HV_LOOP_H
#define HV_LOOP_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define LOOP_FDS 64
#define LOOP_SOURCE_FDS 256

/* Monotonic time in nanoseconds (clock.c; unit tests bring their own clock). */
uint64_t clock_ns(void);

struct loop_timer {
	uint64_t deadline_ns; /* of clock_ns(); 0 = not armed */
	void (*fn)(void *opaque);
	void *opaque;
	struct loop_timer *next;
	bool linked;
	uint64_t pass; /* of the loop, in which it ran last */
};

struct loop_fd {
	int fd; /* -1 = free slot */
	short events;
	void (*fn)(void *opaque, short revents);
	void *opaque;
	unsigned serial; /* tells the descriptors apart that used this slot */
};

/*
 * A library that keeps descriptors and timers of its own, which change with each round (libslirp). Before each wait fill()
 * names the descriptors, at most `room` of them, and may bring the deadline forward; it returns how many. Behind the wait
 * polled() gets the same array back with what happened. While the loop waits the lock is free: descriptors may have been closed
 * meanwhile, and their news mean nothing.
 */
struct loop_source {
	unsigned (*fill)(void *opaque, struct pollfd *pfd, unsigned room, uint64_t *deadline_ns);
	void (*polled)(void *opaque, const struct pollfd *pfd, unsigned n);
	void *opaque;
	struct loop_source *next;
	unsigned first, count; /* its part of the array in this round */
	bool asked;	       /* added before this round's wait */
};

struct loop {
	pthread_mutex_t *lock;
	pthread_t thread;
	bool running;
	int wake_fd; /* eventfd: a timer or descriptor changed, or the loop must end */
	bool quit;
	uint64_t wait_until_ns; /* what the thread sleeps for at most (UINT64_MAX: no timer); 0 = awake or not started */
	uint64_t pass;		/* rounds of timers so far */
	struct loop_fd fds[LOOP_FDS];
	struct loop_timer *timers;
	struct loop_source *sources;
};

/* Prepares the loop. 0 or -errno. Callbacks will run with lock held. */
int loop_init(struct loop *loop, pthread_mutex_t *lock);
int loop_start(struct loop *loop); /* starts the thread; 0 or -errno */
void loop_stop(struct loop *loop); /* ends and joins the thread; not to be called with the lock held */
void loop_destroy(struct loop *loop);

/* The following are called with the lock held (or before loop_start). */

/* Arms (or re-arms) a timer for an absolute time of clock_ns(); 0 disarms. fn runs once per arming. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns);
/* Watches a descriptor for poll(2) events. 0 or -ENOSPC. */
int loop_fd_add(struct loop *loop, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque);
/* Changes the events that are waited for; events 0 pauses without forgetting the descriptor. A descriptor that turns out to
 * be closed is reported once, with POLLNVAL, and forgotten. */
void loop_fd_events(struct loop *loop, int fd, short events);
void loop_fd_remove(struct loop *loop, int fd);

/* What the thread does again and again: waits for news (or only looks whether there is any), then calls back, once each. The lock is free
 * while it waits. For programs that have no such thread. */
void loop_pass(struct loop *loop, bool wait);

/* Adds a source, or takes it away for good. */
void loop_source_add(struct loop *loop, struct loop_source *source);
void loop_source_remove(struct loop *loop, struct loop_source *source);
/* What a source would say has changed: it is asked again soon. Costs nothing on the loop's own thread. */
void loop_source_changed(struct loop *loop);

#endif
