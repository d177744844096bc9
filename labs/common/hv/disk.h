/*
 * The backend of block devices: a raw image file or a block device of the host, read and written asynchronously. What the image contains is
 * never looked at: its format is raw, whatever its first bytes say, because they are the guest's.
 *
 * Requests go through io_uring, or through a few threads where the host has none or forbids it; the way they go is behind struct disk_aio.
 * All functions are called with the VM's lock held, and so are the callbacks, on whichever thread found a request complete.
 */
#ifndef HV_DISK_H
#define HV_DISK_H

#include "loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SECTOR 512u

/* What --disk says: FILE[,ro][,aio=io_uring|threads][,id=TEXT][,slow=MS]. */
#define DISK_ID_MAX 20
#define DISK_SLOW_MAX 1000u
struct disk_options {
	char path[4096];
	bool read_only;
	const char *aio; /* name of the way, or NULL: the best there is */
	unsigned slow;	 /* milliseconds that each system call waits before it is made: what a disk with a moving arm was like */
	char id[DISK_ID_MAX + 1];
	bool moving; /* another process has the image until disk_resume() */
};

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,   /* whatever was complete before is on stable storage behind it */
	DISK_DISCARD, /* a hint: reads as zeros afterwards, or as before where the file system cannot make holes */
	DISK_ZERO,    /* reads as zeros afterwards */
};

struct disk;

/* The first group is the caller's, and it keeps everything alive until done() is called, once for each disk_submit(). */
struct disk_request {
	enum disk_op op;
	bool unmap;	      /* DISK_ZERO: may leave a hole */
	uint64_t offset, len; /* bytes, inside the image; DISK_FLUSH: not looked at */
	struct iovec *iov;    /* DISK_READ and DISK_WRITE: len bytes altogether. It is changed */
	unsigned niov;
	void (*done)(struct disk_request *r, int err); /* 0 or -errno; it may submit this request or others */

	/* The rest is disk.c's: the system call that is under way, and its result. */
	uint64_t at, left; /* what of it is still to do */
	struct iovec zeros[16];
	enum disk_call { CALL_READ, CALL_WRITE, CALL_SYNC, CALL_ALLOCATE } call;
	int mode;	     /* CALL_ALLOCATE: of fallocate(2) */
	struct iovec *piece; /* CALL_READ and CALL_WRITE */
	unsigned npieces;
	long result; /* bytes, or -errno */
	struct disk_request *next;
};

/* A way to carry out system calls asynchronously. */
struct disk_aio {
	const char *name;
	int (*create)(struct disk *d);			     /* 0 or -errno: this host cannot */
	void (*add)(struct disk *d, struct disk_request *r); /* r->call is to be made */
	void (*go)(struct disk *d);			     /* now begin with all that were added */
	/* The calls that have returned, as a list; wait: there is at least one. */
	struct disk_request *(*reap)(struct disk *d, bool wait);
	void (*destroy)(struct disk *d);
};
extern const struct disk_aio disk_uring, disk_threads;

struct disk {
	int fd;
	uint64_t size;	/* bytes */
	uint32_t block; /* bytes: what the host's device transfers at once; an image file: SECTOR */
	bool read_only, block_device;
	bool moving;	/* it is not locked yet */
	bool unflushed; /* something was written since disk_settled() made everything durable last */
	struct disk_request last;
	struct loop_timer retry; /* of the lock */
	unsigned slow; /* of the options */
	struct loop *loop;
	void (*reaped)(void *opaque); /* behind the done() of one or several requests */
	void *opaque;
	const struct disk_aio *aio;
	void *state; /* of the aio */
	unsigned in_flight, added;
	uint64_t reads, writes, flushes, discards, errors; /* for statistics */
};

/* Takes the option's words apart. 0, or -EINVAL with a sentence in err. */
int disk_parse(const char *arg, struct disk_options *o, char *err, size_t errlen);
/* Opens the image and locks it against other processes: one that writes alone, those that read together. NULL with a sentence in err. */
struct disk *disk_open(const struct disk_options *o, struct loop *loop, void (*reaped)(void *opaque), void *opaque,
		       char *err, size_t errlen);
/* No request may be in flight. */
void disk_close(struct disk *d);

/* Requests may be submitted one after another, VIRTIO_QUEUE_MAX in flight at most; disk_start() then begins with all of them, and completes
 * those that need no waiting. */
void disk_submit(struct disk *d, struct disk_request *r);
void disk_start(struct disk *d);
/* Returns when all requests are complete, also those that done() submitted. */
void disk_drain(struct disk *d);
/* Is no request in flight, and everything that was written there for another host to see? If not, it sees to it; ask again soon. */
bool disk_settled(struct disk *d);
/* The image is this process's from now on: nothing of it is remembered from before, and the lock is taken as soon as the other
 * one is gone. */
void disk_resume(struct disk *d);

/* For the two ways: makes r->call now, and sets r->result. Any thread, without the lock. */
void disk_call(int fd, struct disk_request *r);
/* Completes what has returned. To be called when there may be something. */
void disk_reap(struct disk *d);

#endif
