/*
 * The system calls of the thread pool (disk_threads.c), seen, held up and spoilt. A program that includes this has its own
 * pwritev() and so on, and the frame's files are linked to those.
 */
#ifndef HOLD_IO_H
#define HOLD_IO_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool closed;	  /* calls wait at the gate */
	unsigned waiting; /* there, now */
	unsigned most;	  /* bytes that a read or write transfers, 0: as many as there are */
	int fail_write;	  /* errno of the next write, once */
	int fail_read;	  /* errno of the next read */
	bool no_zero;	  /* fallocate does not know how to zero a range */
	char log[4096];	  /* w: a write returned, s: fdatasync returned, S: it began, r, z (zero), d (punch) */
	unsigned logged;
} io = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void io_note(char what)
{
	pthread_mutex_lock(&io.lock);
	if (io.logged < sizeof io.log - 1)
		io.log[io.logged++] = what;
	pthread_mutex_unlock(&io.lock);
}

static void io_gate(void)
{
	pthread_mutex_lock(&io.lock);
	io.waiting++;
	pthread_cond_broadcast(&io.changed);
	while (io.closed)
		pthread_cond_wait(&io.changed, &io.lock);
	io.waiting--;
	pthread_mutex_unlock(&io.lock);
}

__attribute__((unused)) static void io_set(bool closed)
{
	pthread_mutex_lock(&io.lock);
	io.closed = closed;
	pthread_cond_broadcast(&io.changed);
	pthread_mutex_unlock(&io.lock);
}

/* Until so many calls wait at the gate. */
__attribute__((unused)) static void io_await(unsigned waiting)
{
	pthread_mutex_lock(&io.lock);
	while (io.waiting < waiting)
		pthread_cond_wait(&io.changed, &io.lock);
	pthread_mutex_unlock(&io.lock);
}

static void io_clear(void)
{
	pthread_mutex_lock(&io.lock);
	io.most = 0;
	io.fail_read = io.fail_write = 0;
	io.no_zero = false;
	io.logged = 0;
	memset(io.log, 0, sizeof io.log);
	pthread_mutex_unlock(&io.lock);
}

static ssize_t io_transfer(long call, int fd, const struct iovec *iov, int n, off_t at, int *fail, char what)
{
	struct iovec first = iov[0];

	io_gate();
	if (*fail) {
		errno = *fail;
		*fail = 0;
		return -1;
	}
	if (io.most) {
		first.iov_len = first.iov_len < io.most ? first.iov_len : io.most;
		iov = &first;
		n = 1;
	}
	ssize_t done = syscall(call, fd, iov, n, at, 0);
	io_note(what);
	return done;
}

ssize_t preadv(int fd, const struct iovec *iov, int n, off_t at)
{
	return io_transfer(SYS_preadv, fd, iov, n, at, &io.fail_read, 'r');
}
ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	return io_transfer(SYS_pwritev, fd, iov, n, at, &io.fail_write, 'w');
}

int fdatasync(int fd)
{
	io_note('S');
	io_gate();
	int err = (int)syscall(SYS_fdatasync, fd);
	io_note('s');
	return err;
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
	bool zero = mode & FALLOC_FL_ZERO_RANGE;

	io_gate();
	io_note(zero ? 'z' : 'd');
	if (zero && io.no_zero) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

#endif
