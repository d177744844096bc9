#define _GNU_SOURCE /* renameat2 */
#include "record.h"
#include "lab5.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* "0123456789abcdef waiting\n": what stands in it never changes, its name does. */
#define TEXT_LEN 25
/* For so long behind the end a source may still ask what the record says. */
#define ASKED_SECONDS 60
#define ROOM (sizeof(((struct record *)0)->path))

enum name { WAITING, COMMITTED, TAKEN };
static const char *const suffixes[] = { "", ".committed", ".taken" };

struct record {
	char path[PATH_MAX - 16]; /* absolute */
	int fd;			  /* destination: of the file, locked; source: -1 */
	uint64_t committed_ns;	  /* destination: when record_commit() succeeded, 0: it did not */
};

static const char *name_of(const struct record *r, enum name name, char *buffer)
{
	snprintf(buffer, PATH_MAX, "%s%s", r->path, suffixes[name]);
	return buffer;
}

static void text_of(uint64_t id, char *text)
{
	snprintf(text, TEXT_LEN + 1, "%016" PRIx64 " waiting\n", id);
}

/* Is it a record, and whose? 0 where it is none. The path may have come from the other side: nothing is waited for, no link followed. */
static uint64_t id_at(const char *path)
{
	char text[TEXT_LEN + 2] = "", again[TEXT_LEN + 1];
	struct stat st;
	uint64_t id = 0;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && read(fd, text, sizeof text - 1) == TEXT_LEN) {
		id = strtoull(text, NULL, 16);
		text_of(id, again);
		id = strcmp(text, again) ? 0 : id;
	}
	close(fd);
	return id;
}

static bool is_ours(const struct migration *m, enum name name)
{
	char path[PATH_MAX];

	return id_at(name_of(m->record, name, path)) == m->id;
}

static void remove_ours(const struct migration *m, enum name name)
{
	char path[PATH_MAX];

	if (is_ours(m, name))
		unlink(name_of(m->record, name, path));
}

/*
 * "Waiting" becomes something else: true when it was this call that did it. No fsync() of the directory: a crash that loses the rename ends
 * both processes, too, and where the directory is another host's, NFS' RENAME is answered when it is on that host's disk (RFC 7530,
 * section 16.27). It would lengthen the downtime.
 */
static bool rename_ours(const struct migration *m, enum name name)
{
	char from[PATH_MAX], to[PATH_MAX];

	name_of(m->record, WAITING, from);
	name_of(m->record, name, to);
	if (!is_ours(m, WAITING) || rename(from, to))
		return false;
	if (is_ours(m, name))
		return true;
	/* In between it was decided, removed, and another migration's took its place: that one goes back. */
	renameat2(AT_FDCWD, to, AT_FDCWD, from, RENAME_NOREPLACE);
	return false;
}

/* --- the destination -------------------------------------------------------------------------------------------------------------- */

/* Where it is to be, as an absolute path; "" for nowhere. */
static int find_place(struct migration *m, char *path)
{
	const char *file = m->vm->opt.record, *suffix = "";
	char dir[PATH_MAX] = "";

	path[0] = 0;
	if (!file && !strncmp(m->uri, "unix:", 5)) {
		file = m->uri + 5;
		suffix = ".record";
	}
	if (!file)
		return 0;
	if (file[0] != '/' && !getcwd(dir, sizeof dir))
		return stream_fail(&m->stream, errno, "where the record \"%s\" would be cannot be found out", file);
	if ((size_t)snprintf(path, ROOM, "%s%s%s%s", dir, dir[0] ? "/" : "", file, suffix) >= ROOM)
		return stream_fail(&m->stream, ENAMETOOLONG, "the path of the record is too long");
	return 0;
}

static bool same_file(int fd, const char *path)
{
	struct stat a, b;

	return !fstat(fd, &a) && !lstat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/*
 * What lies at the place of a new record: 0 when it has been put out of the way, -EAGAIN when it went by itself, -EBUSY. A record that
 * nobody holds is one of a destination that died before the commit, so its VM is the source's. That source may still want to know.
 */
static int make_way(const struct record *r)
{
	char path[PATH_MAX], taken[PATH_MAX];
	int err = -EBUSY, fd = open(name_of(r, WAITING, path), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? -EAGAIN : -errno;
	if (id_at(path) && !flock(fd, LOCK_EX | LOCK_NB))
		err = !same_file(fd, path) ? -EAGAIN : rename(path, name_of(r, TAKEN, taken)) ? -errno : 0;
	close(fd);
	return err;
}

/* Decided records that nobody has asked for in a while: both sides are gone. */
static void remove_old(const struct record *r)
{
	char path[PATH_MAX];
	struct stat st;

	for (enum name name = COMMITTED; name <= TAKEN; name++)
		if (id_at(name_of(r, name, path)) && !lstat(path, &st) && st.st_ctime + ASKED_SECONDS < time(NULL))
			unlink(path);
}

/* -EAGAIN: what was in the way is not any more. */
static int make_file(struct record *r, uint64_t id)
{
	char path[PATH_MAX], text[TEXT_LEN + 1];
	int err = 0;

	r->fd = open(name_of(r, WAITING, path), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (r->fd < 0 && errno == EEXIST)
		return (err = make_way(r)) ? err : -EAGAIN;
	if (r->fd < 0)
		return -errno;
	/* While it is empty nobody takes it for a record. Where the directory is another host's, fsync() makes it visible to the source. */
	text_of(id, text);
	if (flock(r->fd, LOCK_EX | LOCK_NB) || write(r->fd, text, TEXT_LEN) < 0 || fsync(r->fd)) {
		err = -errno;
		unlink(path);
		close(r->fd);
	}
	return err;
}

int record_create(struct migration *m)
{
	struct record *r = calloc(1, sizeof *r);
	int err = r ? find_place(m, r->path) : stream_fail(&m->stream, ENOMEM, "there is not enough memory");

	if (err || !r->path[0]) {
		free(r);
		return err;
	}
	r->fd = -1;
	remove_old(r);
	err = -EAGAIN;
	for (unsigned i = 0; i < 100 && err == -EAGAIN; i++)
		err = make_file(r, m->id);
	if (!err) {
		m->record = r;
		return 0;
	}
	if (err == -EBUSY || err == -EAGAIN)
		stream_fail(&m->stream, EBUSY, "there is something at %.180s that is no record, or another hv's", r->path);
	else
		stream_fail(&m->stream, -err, "the record %.160s cannot be made: %s", r->path, strerror(-err));
	free(r);
	return err;
}

int record_accept(struct migration *m)
{
	struct iovec path = { m->record ? m->record->path : NULL, m->record ? strlen(m->record->path) : 0 };

	return section_write(&m->stream, MSG_ACCEPT, 0, &path, 1);
}

int record_commit(struct migration *m)
{
	struct record *r = m->record;

	if (!r)
		return -ENOENT;
	/* A server of files may lose its answer to a rename that it has carried out: what the name says counts. */
	if (!r->committed_ns && (rename_ours(m, COMMITTED) || is_ours(m, COMMITTED)))
		r->committed_ns = clock_ns();
	return r->committed_ns ? 1 : 0;
}

/* --- the source ------------------------------------------------------------------------------------------------------------------- */

int record_open(struct migration *m, const void *p, size_t n)
{
	struct record *r = NULL;

	if (!n)
		return 0;
	if (n >= ROOM || *(const char *)p != '/' || memchr(p, 0, n))
		return stream_fail(&m->stream, EPROTO, "the destination names a record that is no path");
	r = calloc(1, sizeof *r);
	if (!r)
		return stream_fail(&m->stream, ENOMEM, "there is not enough memory");
	memcpy(r->path, p, n);
	r->fd = -1;
	m->record = r;
	char dir[PATH_MAX];
	snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(r->path, '/') - r->path) + 1, r->path);
	/* What cannot be renamed from here decides nothing. */
	if (!is_ours(m, WAITING) || access(dir, W_OK)) {
		m->record = NULL;
		free(r);
	}
	return 0;
}

int record_take(struct migration *m)
{
	if (!m->record)
		return -ENOENT;
	/* "Taken" also when the destination gave it back, or died and another one came. */
	if (rename_ours(m, TAKEN) || is_ours(m, TAKEN))
		return 1;
	return is_ours(m, COMMITTED) ? 0 : -ENOENT;
}

/* --- both ------------------------------------------------------------------------------------------------------------------------- */

void record_close(struct migration *m)
{
	struct record *r = m->record;

	if (!r)
		return;
	if (r->fd < 0) {
		/* The source knows what it wanted to know. "Waiting" goes, too: without it the destination cannot commit. */
		for (enum name name = WAITING; name <= TAKEN; name++)
			remove_ours(m, name);
	} else {
		/* The source may not know yet that this side has it, or that it never will: that one, if it has heard MSG_READY. */
		if (!r->committed_ns && m->awaited)
			rename_ours(m, TAKEN);
		else if (!r->committed_ns)
			remove_ours(m, WAITING);
		else if (clock_ns() - r->committed_ns > ASKED_SECONDS * 1000000000ull)
			remove_ours(m, COMMITTED);
		close(r->fd);
	}
	free(r);
	m->record = NULL;
}
