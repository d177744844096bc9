/*
 * Disk requests through a few threads that make the system calls and wait in them: for hosts without io_uring.
 */
#include "disk.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define THREADS 4

struct pool {
	int fd;
	unsigned slow;
	pthread_t thread[THREADS];
	unsigned nthreads;
	pthread_mutex_t lock; /* of all below; taken behind the VM's, never before it */
	pthread_cond_t work, finished;
	struct disk_request *todo, **todo_end, *done, **done_end;
	bool quit;
	int event; /* something is in `done` */
};

static void put(struct disk_request ***end, struct disk_request *r)
{
	r->next = NULL;
	**end = r;
	*end = &r->next;
}

static void *worker(void *arg)
{
	struct pool *p = arg;
	uint64_t one = 1;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (!p->todo && !p->quit)
			pthread_cond_wait(&p->work, &p->lock);
		if (p->quit)
			break;
		struct disk_request *r = p->todo;

		p->todo = r->next;
		if (!p->todo)
			p->todo_end = &p->todo;
		pthread_mutex_unlock(&p->lock);
		if (p->slow)
			usleep(1000 * p->slow);
		disk_call(p->fd, r);
		pthread_mutex_lock(&p->lock);
		put(&p->done_end, r);
		pthread_cond_signal(&p->finished);
		/* It fails only when the counter is full: then the loop has been told. */
		if (write(p->event, &one, sizeof one) < 0)
			continue;
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void on_event(void *opaque, short revents)
{
	struct disk *d = opaque;
	struct pool *p = d->state;
	uint64_t count;

	(void)revents;
	if (read(p->event, &count, sizeof count) == sizeof count)
		disk_reap(d);
}

static void pool_end(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->quit = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	while (p->nthreads)
		pthread_join(p->thread[--p->nthreads], NULL);
	if (p->event >= 0)
		close(p->event);
	pthread_cond_destroy(&p->finished);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static int threads_create(struct disk *d)
{
	struct pool *p = calloc(1, sizeof *p);
	sigset_t all, old;
	int err = 0;

	if (!p)
		return -ENOMEM;
	p->fd = d->fd;
	p->slow = d->slow;
	p->todo_end = &p->todo;
	p->done_end = &p->done;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->finished, NULL);
	p->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->event < 0)
		err = -errno;
	/* Signals are for the threads that know what to do with them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (!err && p->nthreads < THREADS) {
		err = -pthread_create(&p->thread[p->nthreads], NULL, worker, p);
		p->nthreads += !err;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		err = loop_fd_add(d->loop, p->event, POLLIN, on_event, d);
	if (err)
		pool_end(p);
	else
		d->state = p;
	return err;
}

static void threads_add(struct disk *d, struct disk_request *r)
{
	struct pool *p = d->state;

	pthread_mutex_lock(&p->lock);
	put(&p->todo_end, r);
	pthread_mutex_unlock(&p->lock);
}

static void threads_go(struct disk *d)
{
	struct pool *p = d->state;

	pthread_mutex_lock(&p->lock);
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
}

static struct disk_request *threads_reap(struct disk *d, bool wait)
{
	struct pool *p = d->state;

	pthread_mutex_lock(&p->lock);
	while (wait && !p->done)
		pthread_cond_wait(&p->finished, &p->lock);
	struct disk_request *list = p->done;

	p->done = NULL;
	p->done_end = &p->done;
	pthread_mutex_unlock(&p->lock);
	return list;
}

static void threads_destroy(struct disk *d)
{
	struct pool *p = d->state;

	loop_fd_remove(d->loop, p->event);
	pool_end(p);
}

const struct disk_aio disk_threads = { "threads", threads_create, threads_add, threads_go, threads_reap, threads_destroy };
