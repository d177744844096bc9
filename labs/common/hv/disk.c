#define _GNU_SOURCE /* fallocate, open file description locks */
#include "disk.h"
#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of a file system that cannot zero a range so much is written at a time. */
static const uint8_t zero_bytes[64 * KiB];
#define LOCK_RETRY_NS 20000000u
#define ZEROS (sizeof((struct disk_request *)0)->zeros / sizeof(struct iovec))

/* --- the option and the image ------------------------------------------------------------------------------------------------- */

int disk_parse(const char *arg, struct disk_options *o, char *err, size_t errlen)
{
	char *comma;

	*o = (struct disk_options){ 0 };
	if (strlen(arg) >= sizeof o->path) {
		snprintf(err, errlen, "the name of the disk's file is too long");
		return -EINVAL;
	}
	strcpy(o->path, arg);
	/* From the end, because a file's name may have commas too. */
	while ((comma = strrchr(o->path, ','))) {
		const char *word = comma + 1;

		if (!strcmp(word, "ro")) {
			o->read_only = true;
		} else if (!strcmp(word, "aio=io_uring") || !strcmp(word, "aio=threads")) {
			o->aio = strstr(word, "threads") ? disk_threads.name : disk_uring.name;
		} else if (!strncmp(word, "id=", 3)) {
			if (strlen(word + 3) > DISK_ID_MAX) {
				snprintf(err, errlen, "a disk's id has at most %d characters, not \"%s\"", DISK_ID_MAX,
					 word + 3);
				return -EINVAL;
			}
			strcpy(o->id, word + 3);
		} else if (!strncmp(word, "slow=", 5)) {
			char *end;
			unsigned long ms = strtoul(word + 5, &end, 10);

			if (word[5] < '0' || word[5] > '9' || *end || ms > DISK_SLOW_MAX) {
				snprintf(err, errlen, "slow= of a disk is 0 to %u milliseconds, not \"%s\"", DISK_SLOW_MAX, word + 5);
				return -EINVAL;
			}
			o->slow = (unsigned)ms;
		} else if (!strncmp(word, "aio=", 4)) {
			snprintf(err, errlen, "aio= of a disk is io_uring or threads, not \"%s\"", word + 4);
			return -EINVAL;
		} else {
			break;
		}
		*comma = 0;
	}
	if (o->slow && o->aio == disk_uring.name) {
		snprintf(err, errlen, "slow= of a disk goes with aio=threads: io_uring has nobody who could wait");
		return -EINVAL;
	}
	if (o->slow)
		o->aio = disk_threads.name;
	if (o->path[0])
		return 0;
	snprintf(err, errlen, "--disk takes FILE[,ro][,aio=io_uring|threads][,id=TEXT][,slow=MS], and the file is missing");
	return -EINVAL;
}

/* Size and kind of what was opened. NULL, or why it cannot be a disk. */
static const char *look(struct disk *d)
{
	struct stat st;
	unsigned block = SECTOR;

	if (fstat(d->fd, &st))
		return strerror(errno);
	d->size = (uint64_t)st.st_size;
	d->block_device = S_ISBLK(st.st_mode);
	if (S_ISDIR(st.st_mode))
		return "it is a directory";
	if (!d->block_device && !S_ISREG(st.st_mode))
		return "it is neither a file nor a block device";
	if (d->block_device && (ioctl(d->fd, BLKGETSIZE64, &d->size) || ioctl(d->fd, BLKSSZGET, &block)))
		return strerror(errno);
	d->block = block;
	if (!d->size)
		return "it is empty";
	if (d->size % SECTOR)
		return "its size is no multiple of 512 bytes";
	return NULL;
}

static const char *lock_image(struct disk *d)
{
	/* Of the open file and not of the process: closing another descriptor of the same file does not lose it. */
	struct flock lock = { .l_type = d->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (!fcntl(d->fd, F_OFD_SETLK, &lock))
		return NULL;
	if (errno == EAGAIN || errno == EACCES)
		return "another hv uses it";
	return strerror(errno);
}

/* The process that the VM came from ends when it hears that the VM runs here. Until then it does nothing, and nobody else can
 * have the lock. */
static void lock_again(void *opaque)
{
	struct disk *d = opaque;

	if (lock_image(d))
		loop_timer_set(d->loop, &d->retry, clock_ns() + LOCK_RETRY_NS);
}

static int choose_aio(struct disk *d, const struct disk_options *o)
{
	static const struct disk_aio *const ways[] = { &disk_uring, &disk_threads };
	int err = -EINVAL;

	for (unsigned i = 0; err && i < 2; i++) {
		if (o->aio && strcmp(o->aio, ways[i]->name))
			continue;
		d->aio = ways[i];
		err = d->aio->create(d);
	}
	return err;
}

struct disk *disk_open(const struct disk_options *o, struct loop *loop, void (*reaped)(void *opaque), void *opaque,
		       char *err, size_t errlen)
{
	struct disk *d = calloc(1, sizeof *d);
	const char *why = NULL;
	int failed = 0;

	if (!d) {
		snprintf(err, errlen, "no memory for a disk");
		return NULL;
	}
	d->read_only = o->read_only;
	d->moving = o->moving;
	d->retry = (struct loop_timer){ .fn = lock_again, .opaque = d };
	d->slow = o->slow;
	d->loop = loop;
	d->reaped = reaped;
	d->opaque = opaque;
	/* O_NONBLOCK: of a named pipe it is said what it is, instead of waiting for somebody at its other end. */
	d->fd = open(o->path, (o->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (d->fd < 0)
		why = errno == EISDIR ? "it is a directory" : strerror(errno);
	if (!why)
		why = look(d);
	/* io_uring would not wait for a request of such a file either. */
	if (!why && fcntl(d->fd, F_SETFL, 0))
		why = strerror(errno);
	if (!why && !d->moving)
		why = lock_image(d);
	if (!why && (failed = choose_aio(d, o)))
		why = strerror(-failed);
	if (!why)
		return d;
	if (failed)
		snprintf(err, errlen, "this host has no %s for the disk: %s", d->aio->name, why);
	else
		snprintf(err, errlen, "cannot use the disk \"%s\": %s", o->path, why);
	if (d->fd >= 0)
		close(d->fd);
	free(d);
	return NULL;
}

void disk_close(struct disk *d)
{
	loop_timer_set(d->loop, &d->retry, 0);
	d->aio->destroy(d);
	close(d->fd);
	free(d);
}

/* --- requests: one or several system calls ---------------------------------------------------------------------------------------- */

void disk_call(int fd, struct disk_request *r)
{
	ssize_t n = -1;

	do {
		switch (r->call) {
		case CALL_READ: n = preadv(fd, r->piece, (int)r->npieces, (off_t)r->at); break;
		case CALL_WRITE: n = pwritev(fd, r->piece, (int)r->npieces, (off_t)r->at); break;
		case CALL_SYNC: n = fdatasync(fd); break;
		case CALL_ALLOCATE: n = fallocate(fd, r->mode, (off_t)r->at, (off_t)r->left); break;
		}
	} while (n < 0 && errno == EINTR);
	r->result = n < 0 ? -errno : n;
}

/* Zeros by writing them: the next piece. */
static void write_zeros(struct disk_request *r)
{
	uint64_t left = r->left;

	r->call = CALL_WRITE;
	r->piece = r->zeros;
	for (r->npieces = 0; r->npieces < ZEROS && left; r->npieces++) {
		size_t n = left < sizeof zero_bytes ? left : sizeof zero_bytes;

		r->zeros[r->npieces] = (struct iovec){ (void *)zero_bytes, n };
		left -= n;
	}
}

void disk_submit(struct disk *d, struct disk_request *r)
{
	r->at = r->offset;
	r->left = r->len;
	r->piece = r->iov;
	r->npieces = r->niov;
	d->unflushed |= r->op != DISK_READ && r->op != DISK_FLUSH;
	switch (r->op) {
	case DISK_READ:
		r->call = CALL_READ;
		d->reads++;
		break;
	case DISK_WRITE:
		r->call = CALL_WRITE;
		d->writes++;
		break;
	case DISK_FLUSH:
		r->call = CALL_SYNC;
		d->flushes++;
		break;
	/* On a block device these modes zero its blocks too, by unmapping them if possible. BLKDISCARD would leave what is read behind it
	 * to the device. */
	case DISK_DISCARD:
	case DISK_ZERO:
		r->call = CALL_ALLOCATE;
		r->mode = FALLOC_FL_KEEP_SIZE;
		r->mode |= r->op == DISK_DISCARD || r->unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
		d->discards++;
		break;
	}
	d->in_flight++;
	d->added++;
	d->aio->add(d, r);
}

/* The call transferred so many bytes of its pieces; fewer than it could have is no error (a signal, a limit of the kernel). */
static void advance(struct disk_request *r, uint64_t n)
{
	r->at += n;
	r->left -= n;
	while (n && n >= r->piece->iov_len) {
		n -= r->piece->iov_len;
		r->piece++;
		r->npieces--;
	}
	if (n) {
		r->piece->iov_base = (uint8_t *)r->piece->iov_base + n;
		r->piece->iov_len -= n;
	}
}

/* After a call. 1: another one is to be made; else the request's result, 0 or -errno. */
static int go_on(struct disk_request *r)
{
	long n = r->result;

	if (n == -EINTR || n == -EAGAIN)
		return 1;
	switch (r->call) {
	case CALL_SYNC: return (int)n;
	case CALL_ALLOCATE:
		/* EINVAL: a block device whose blocks are larger than the range's alignment. */
		if (n != -EOPNOTSUPP && n != -EINVAL && n != -ENOSYS)
			return (int)n;
		if (r->op == DISK_DISCARD)
			return 0;
		write_zeros(r);
		return 1;
	default:
		if (n <= 0)
			return n ? (int)n : -EIO; /* nothing is there: the file became shorter */
		advance(r, (uint64_t)n);
		if (!r->left)
			return 0;
		if (!r->npieces)
			write_zeros(r);
		return 1;
	}
}

/* Completes a list of calls that have returned. */
static void complete(struct disk *d, struct disk_request *list)
{
	while (list) {
		struct disk_request *r = list;

		list = r->next;
		int err = go_on(r);
		if (err > 0) {
			d->added++;
			d->aio->add(d, r);
			continue;
		}
		d->in_flight--;
		d->errors += err < 0;
		r->done(r, err);
	}
}

static void begin(struct disk *d)
{
	if (d->added)
		d->aio->go(d);
	d->added = 0;
}

void disk_reap(struct disk *d)
{
	struct disk_request *list;
	bool any = false;

	while ((list = d->aio->reap(d, false))) {
		complete(d, list);
		begin(d);
		any = true;
	}
	if (any)
		d->reaped(d->opaque);
}

void disk_start(struct disk *d)
{
	begin(d);
	disk_reap(d);
}

void disk_drain(struct disk *d)
{
	begin(d);
	while (d->in_flight) {
		complete(d, d->aio->reap(d, true));
		begin(d);
	}
}

/* --- to another process ------------------------------------------------------------------------------------------------------------ */

/* Should it fail, the guest's flushes have failed before, or will: there is nobody else to tell. */
static void flushed(struct disk_request *r, int err)
{
	(void)r;
	(void)err;
}

bool disk_settled(struct disk *d)
{
	disk_reap(d); /* the loop may be busy with something else */
	if (!d->in_flight && d->unflushed) {
		d->unflushed = false;
		d->last = (struct disk_request){ .op = DISK_FLUSH, .done = flushed };
		disk_submit(d, &d->last);
		disk_start(d);
	}
	return !d->in_flight;
}

void disk_resume(struct disk *d)
{
	char path[32];

	if (!d->moving)
		return;
	d->moving = false;
	/* A network file system looks at the server again when a file is opened. The descriptor keeps its number. */
	snprintf(path, sizeof path, "/proc/self/fd/%d", d->fd);
	int fd = open(path, (d->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (fd >= 0) {
		dup3(fd, d->fd, O_CLOEXEC);
		close(fd);
	}
	lock_again(d);
}
