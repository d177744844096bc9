/*
 * A test host that goes on from a snapshot (grader/lib/snapshot.py) finds its job in a piece of memory that its kernel left alone:
 * a header and an archive, in the format of an initramfs ("newc", Linux's initramfs-buffer-format.rst). While the snapshot is made
 * that memory holds zeros.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PARAMETER "mailbox" /* of the kernel, which hands what it does not know to process 1 as its environment */
#define MEMORY "/dev/mem"
#define MAGIC "TDRMAIL1"
#define LOOK_US 2000
#define MAILBOX_SIZE (256ul << 20)

struct header {
	char magic[8];
	uint64_t length;      /* of the archive, which follows */
	uint64_t realtime_ns; /* since 1970 */
	uint8_t random[32];
};

/* A header of the archive: numbers of eight hexadecimal digits. */
enum { INODE, MODE, UID, GID, LINKS, MTIME, SIZE, MAJOR, MINOR, RMAJOR, RMINOR, NAME_SIZE, CHECK, NUMBERS };
#define NEWC "070701"
#define HEAD (sizeof NEWC - 1 + 8 * NUMBERS)
#define LAST "TRAILER!!!"

static size_t padded(size_t n)
{
	return (n + 3) & ~3ul;
}

static void write_file(const char *path, mode_t mode, const char *data, size_t size)
{
	int fd;

	unlink(path); /* what is there may be a link to something that is still needed */
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		fatal("the job's file %s cannot be made: %s", path, strerror(errno));
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n <= 0)
			fatal("the job's file %s cannot be written: %s", path, n < 0 ? strerror(errno) : "no space");
		data += n;
		size -= n;
	}
	fchmod(fd, mode);
	close(fd);
}

/* What the kernel does with an initramfs, for the two kinds of entries that a job has. */
static void unpack(const char *archive, size_t length)
{
	size_t at = 0;

	while (at + HEAD <= length) {
		unsigned long number[NUMBERS];
		const char *name = archive + at + HEAD;
		char path[512], digits[9] = "";

		if (memcmp(archive + at, NEWC, sizeof NEWC - 1))
			fatal("the job's archive is damaged at byte %zu", at);
		for (int i = 0; i < NUMBERS; i++) {
			memcpy(digits, archive + at + sizeof NEWC - 1 + 8 * i, 8);
			number[i] = strtoul(digits, NULL, 16);
		}
		at += padded(HEAD + number[NAME_SIZE]);
		if (number[NAME_SIZE] > sizeof path - 1 || at > length || number[SIZE] > length - at)
			fatal("the job's archive is damaged");
		if (!strcmp(name, LAST))
			return;
		snprintf(path, sizeof path, "/%s", name);
		if (S_ISDIR(number[MODE])) {
			if (mkdir(path, number[MODE] & 07777) == 0 || errno == EEXIST)
				chmod(path, number[MODE] & 07777);
		} else if (S_ISREG(number[MODE])) {
			write_file(path, number[MODE] & 07777, archive + at, number[SIZE]);
		} else {
			fatal("the job's archive has something else than files in it: %s", path);
		}
		at += padded(number[SIZE]);
	}
	fatal("the job's archive has no end");
}

/* Every test host that goes on from here has the same clock and the same state of its random numbers until then. */
static void renew(const struct header *h)
{
	struct timespec t = { h->realtime_ns / 1000000000, h->realtime_ns % 1000000000 };
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	clock_settime(CLOCK_REALTIME, &t);
	if (fd < 0 || write(fd, h->random, sizeof h->random) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		fprintf(stderr, "runner: random numbers: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
}

bool mailbox_expected(void)
{
	return getenv(PARAMETER) != NULL;
}

void mailbox_take(void)
{
	const char *where = getenv(PARAMETER);
	int fd = open(MEMORY, O_RDONLY | O_CLOEXEC);
	const volatile struct header *waiting;
	const struct header *h;
	void *map;

	map = fd < 0 ? MAP_FAILED : mmap(NULL, MAILBOX_SIZE, PROT_READ, MAP_SHARED, fd, strtoull(where, NULL, 0));
	if (map == MAP_FAILED)
		fatal("the mailbox cannot be read: %s", strerror(errno));
	close(fd);
	waiting = h = map;
	channel_send('S', NULL, 0, NULL, 0); /* from here on the machine may be saved */
	while (waiting->magic[0] != MAGIC[0])
		usleep(LOOK_US);
	if (memcmp(h->magic, MAGIC, sizeof h->magic) || h->length > MAILBOX_SIZE - sizeof *h)
		fatal("the mailbox holds no job");
	renew(h);
	unpack((const char *)(h + 1), h->length);
	munmap(map, MAILBOX_SIZE);
}
