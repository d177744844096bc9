/*
 * Disk requests through io_uring (io_uring(7)): two rings that are shared with the kernel, as a virtqueue is with a device. One system call
 * begins with any number of requests; one that finds its data in the page cache is complete when that call returns.
 */
#include "disk.h"
#include "virtio.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct uring {
	struct io_uring ring;
	int event; /* completions that nobody was looking for */
};

static void on_event(void *opaque, short revents)
{
	struct disk *d = opaque;
	struct uring *u = d->state;
	uint64_t count;

	(void)revents;
	if (read(u->event, &count, sizeof count) == sizeof count)
		disk_reap(d);
}

static int uring_create(struct disk *d)
{
	struct uring *u = calloc(1, sizeof *u);
	int err;

	if (!u)
		return -ENOMEM;
	/* A device has no more requests in flight than its queue has entries. */
	if ((err = io_uring_queue_init(VIRTIO_QUEUE_MAX, &u->ring, 0))) {
		free(u);
		return err;
	}
	d->state = u;
	u->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->event < 0)
		err = -errno;
	else if (!(err = io_uring_register_eventfd(&u->ring, u->event)))
		err = loop_fd_add(d->loop, u->event, POLLIN, on_event, d);
	if (!err)
		return 0;
	if (u->event >= 0)
		close(u->event);
	io_uring_queue_exit(&u->ring);
	free(u);
	return err;
}

static void uring_add(struct disk *d, struct disk_request *r)
{
	struct uring *u = d->state;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring); /* there is one for each request that can be in flight */

	if (!sqe)
		abort();
	switch (r->call) {
	case CALL_READ: io_uring_prep_readv(sqe, d->fd, r->piece, r->npieces, r->at); break;
	case CALL_WRITE: io_uring_prep_writev(sqe, d->fd, r->piece, r->npieces, r->at); break;
	case CALL_SYNC: io_uring_prep_fsync(sqe, d->fd, IORING_FSYNC_DATASYNC); break;
	case CALL_ALLOCATE: io_uring_prep_fallocate(sqe, d->fd, r->mode, (off_t)r->at, (off_t)r->left); break;
	}
	io_uring_sqe_set_data(sqe, r);
}

static void uring_go(struct disk *d)
{
	struct uring *u = d->state;

	/* What completes in the call is taken right behind it, so the loop need not be woken for it. */
	io_uring_cq_eventfd_toggle(&u->ring, false);
	while (io_uring_sq_ready(&u->ring)) {
		int n = io_uring_submit(&u->ring);
		if (n < 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY)
			abort();
	}
}

static struct disk_request *uring_reap(struct disk *d, bool wait)
{
	struct uring *u = d->state;
	struct disk_request *list = NULL, **end = &list;
	struct io_uring_cqe *cqe;

	if (wait)
		while (io_uring_wait_cqe(&u->ring, &cqe) == -EINTR)
			;
	for (bool last = false;; last = true) {
		while (!io_uring_peek_cqe(&u->ring, &cqe)) {
			struct disk_request *r = io_uring_cqe_get_data(cqe);

			r->result = cqe->res;
			*end = r;
			end = &r->next;
			io_uring_cqe_seen(&u->ring, cqe);
		}
		/* One that completed since the last look, before the event was switched on, would not be noticed. */
		if (list || last)
			break;
		io_uring_cq_eventfd_toggle(&u->ring, true);
	}
	*end = NULL;
	return list;
}

static void uring_destroy(struct disk *d)
{
	struct uring *u = d->state;

	loop_fd_remove(d->loop, u->event);
	io_uring_queue_exit(&u->ring);
	close(u->event);
	free(u);
}

const struct disk_aio disk_uring = { "io_uring", uring_create, uring_add, uring_go, uring_reap, uring_destroy };
