// sources: disk.c disk_uring.c disk_threads.c loop.c clock.c
/* The backend of block devices: what can be a disk, system calls that do half of what was asked or fail, and that nothing is lost. */
#define _GNU_SOURCE
#include "disk.h"
#include "hold_io.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define SIZE (1u << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop loop;
static char image[] = "/tmp/test-disk.XXXXXX";
static unsigned reaped;

static void on_reaped(void *opaque)
{
	(*(unsigned *)opaque)++;
}

static struct disk *open_disk(const char *words, char *err)
{
	struct disk_options o;
	char arg[200];

	snprintf(arg, sizeof arg, "%s%s", image, words);
	assert_int_equal(disk_parse(arg, &o, err, 200), 0);
	return disk_open(&o, &loop, on_reaped, &reaped, err, 200);
}

static int setup(void **state)
{
	(void)state;
	strcpy(image, "/tmp/test-disk.XXXXXX");
	int fd = mkstemp(image);
	uint8_t bytes[4096];

	for (unsigned i = 0; i < SIZE; i += sizeof bytes) {
		for (unsigned k = 0; k < sizeof bytes; k++)
			bytes[k] = (uint8_t)((i + k) * 31 >> 8 ^ k);
		assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
	}
	close(fd);
	io_clear();
	assert_int_equal(loop_init(&loop, &lock), 0);
	assert_int_equal(loop_start(&loop), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	loop_stop(&loop);
	loop_destroy(&loop);
	unlink(image);
	return 0;
}

struct one {
	struct disk_request r;
	struct iovec iov[4];
	int calls, err;
};

static void done(struct disk_request *r, int err)
{
	struct one *o = (struct one *)r;
	o->calls++;
	o->err = err;
}

/* One request from start to end; buf is cut into up to 4 pieces of different lengths. */
static int run_one(struct disk *d, enum disk_op op, uint64_t offset, uint64_t len, uint8_t *buf)
{
	struct one o = { .r = { .op = op, .offset = offset, .len = len, .done = done } };
	uint64_t at = 0;

	for (unsigned i = 0; buf && i < 4 && at < len; i++) {
		uint64_t n = i == 3 ? len - at : (len - at) / 3 + 1;
		o.iov[o.r.niov++] = (struct iovec){ buf + at, n };
		at += n;
	}
	o.r.iov = o.iov;
	pthread_mutex_lock(&lock);
	disk_submit(d, &o.r);
	disk_start(d);
	disk_drain(d);
	pthread_mutex_unlock(&lock);
	assert_int_equal(o.calls, 1);
	return o.err;
}

static void read_file(void *buf, off_t at, size_t len)
{
	int fd = open(image, O_RDONLY);
	assert_int_equal(pread(fd, buf, len, at), len);
	close(fd);
}

static void test_words(void **state)
{
	struct disk_options o;
	char err[200];
	(void)state;

	assert_int_equal(disk_parse("a,b.img,ro,aio=threads,id=xyz", &o, err, sizeof err), 0);
	assert_string_equal(o.path, "a,b.img");
	assert_true(o.read_only);
	assert_string_equal(o.aio, "threads");
	assert_string_equal(o.id, "xyz");
	assert_int_equal(disk_parse("x.img", &o, err, sizeof err), 0);
	assert_false(o.read_only);
	assert_null(o.aio);
	assert_int_equal(disk_parse(",ro", &o, err, sizeof err), -EINVAL);
	assert_int_equal(disk_parse("", &o, err, sizeof err), -EINVAL);
	assert_int_equal(disk_parse("x,aio=magic", &o, err, sizeof err), -EINVAL);
	assert_non_null(strstr(err, "magic"));
	assert_int_equal(disk_parse("x,id=123456789012345678901", &o, err, sizeof err), -EINVAL);
	assert_int_equal(disk_parse("x,id=12345678901234567890", &o, err, sizeof err), 0);
	assert_int_equal(disk_parse("x,slow=1000", &o, err, sizeof err), 0);
	assert_int_equal(o.slow, 1000);
	assert_int_equal(disk_parse("x,slow=1001", &o, err, sizeof err), -EINVAL);
	assert_int_equal(disk_parse("x,slow=-1", &o, err, sizeof err), -EINVAL);
	assert_int_equal(disk_parse("x,slow=", &o, err, sizeof err), -EINVAL);
	assert_int_equal(disk_parse("x,slow=1,aio=io_uring", &o, err, sizeof err), -EINVAL);
}

static void refused(const char *path, const char *why)
{
	struct disk_options o;
	char err[400];

	assert_int_equal(disk_parse(path, &o, err, sizeof err), 0);
	assert_null(disk_open(&o, &loop, on_reaped, &reaped, err, sizeof err));
	if (!strstr(err, why))
		fail_msg("%s: \"%s\" instead of \"%s\"", path, err, why);
}

static void test_what_is_no_disk(void **state)
{
	char fifo[64];
	(void)state;

	refused("/nonexistent/disk", "No such file");
	refused("/tmp", "directory");
	refused("/tmp,ro", "directory");
	refused("/dev/null", "neither");
	snprintf(fifo, sizeof fifo, "%s.fifo", image);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	refused(fifo, "neither");
	unlink(fifo);
	assert_int_equal(truncate(image, 1000), 0);
	refused(image, "512");
	assert_int_equal(truncate(image, 0), 0);
	refused(image, "empty");
}

static void test_lock(void **state)
{
	char err[200];
	struct disk *writer = open_disk("", err), *reader, *other;
	(void)state;

	assert_non_null(writer);
	assert_null(open_disk("", err));
	assert_non_null(strstr(err, "another hv"));
	assert_null(open_disk(",ro", err));
	disk_close(writer);
	reader = open_disk(",ro", err);
	other = open_disk(",ro", err);
	assert_non_null(reader);
	assert_non_null(other);
	assert_null(open_disk("", err));
	disk_close(reader);
	disk_close(other);
}

static void each_way(void (*test)(struct disk *d))
{
	static const char *const ways[] = { ",aio=io_uring", ",aio=threads" };
	char err[200];

	for (unsigned i = 0; i < 2; i++) {
		struct disk *d = open_disk(ways[i], err);
		/* io_uring may be forbidden here, and then hv says so; threads are everywhere. */
		if (!d && i == 0) {
			assert_non_null(strstr(err, "this host has no io_uring"));
			continue;
		}
		assert_non_null(d);
		test(d);
		disk_close(d);
	}
}

static void read_write_zero(struct disk *d)
{
	static uint8_t buf[65536], expected[65536], zeros[65536];

	assert_int_equal(run_one(d, DISK_READ, 4096, sizeof buf, buf), 0);
	read_file(expected, 4096, sizeof expected);
	assert_memory_equal(buf, expected, sizeof buf);
	memset(buf, 0xa5, sizeof buf);
	assert_int_equal(run_one(d, DISK_WRITE, 512, sizeof buf, buf), 0);
	assert_int_equal(run_one(d, DISK_FLUSH, 0, 0, NULL), 0);
	read_file(expected, 512, sizeof expected);
	assert_memory_equal(buf, expected, sizeof buf);
	assert_int_equal(run_one(d, DISK_ZERO, 1024, sizeof buf - 1024, NULL), 0);
	read_file(expected, 1024, sizeof expected - 1024);
	assert_memory_equal(expected, zeros, sizeof expected - 1024);
	read_file(expected, 512, 512);
	assert_memory_equal(expected, buf, 512);
	/* Behind the end there is nothing: an error, and no loop. */
	assert_int_equal(run_one(d, DISK_READ, SIZE - 512, 1024, buf), -EIO);
}

static void test_read_write_zero(void **state)
{
	(void)state;
	each_way(read_write_zero);
}

static void punch(struct disk *d)
{
	struct stat before, after;
	static uint8_t buf[SIZE / 2], zeros[SIZE / 2];

	memset(buf, 1, sizeof buf);
	assert_int_equal(run_one(d, DISK_WRITE, 0, sizeof buf, buf), 0);
	assert_int_equal(run_one(d, DISK_FLUSH, 0, 0, NULL), 0);
	stat(image, &before);
	assert_int_equal(run_one(d, DISK_DISCARD, 0, sizeof buf, NULL), 0);
	stat(image, &after);
	assert_true(after.st_blocks + (long)sizeof buf / 512 <= before.st_blocks + 8);
	assert_int_equal(after.st_size, SIZE);
	read_file(buf, 0, sizeof buf);
	assert_memory_equal(buf, zeros, sizeof buf);
}

static void test_discard_makes_holes(void **state)
{
	(void)state;
	each_way(punch);
}

static void test_half_done_and_failed_calls(void **state)
{
	static uint8_t buf[20000], expected[20000], zeros[3 << 18];
	char err[200];
	struct disk *d = open_disk(",aio=threads", err);
	(void)state;

	io.most = 777;
	assert_int_equal(run_one(d, DISK_READ, 512, sizeof buf, buf), 0);
	assert_true(io.logged >= sizeof buf / 777);
	read_file(expected, 512, sizeof expected);
	assert_memory_equal(buf, expected, sizeof buf);
	for (unsigned i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)(i * 7);
	assert_int_equal(run_one(d, DISK_WRITE, 1024, sizeof buf, buf), 0);
	read_file(expected, 1024, sizeof expected);
	assert_memory_equal(buf, expected, sizeof buf);
	io_clear();
	io.fail_write = ENOSPC;
	assert_int_equal(run_one(d, DISK_WRITE, 0, 512, buf), -ENOSPC);
	io.fail_read = EIO;
	assert_int_equal(run_one(d, DISK_READ, 0, 512, buf), -EIO);
	io.fail_read = EINTR;
	assert_int_equal(run_one(d, DISK_READ, 0, 512, buf), 0);
	/* A file system that cannot zero a range: zeros are written, in pieces. */
	io_clear();
	io.no_zero = true;
	io.most = 100000;
	assert_int_equal(run_one(d, DISK_ZERO, 512, sizeof zeros, NULL), 0);
	static uint8_t now[sizeof zeros];
	read_file(now, 512, sizeof now);
	assert_memory_equal(now, zeros, sizeof now);
	assert_true(io.log[0] == 'z' && strchr(io.log, 'w'));
	disk_close(d);
}

/* Many at once, completed by the loop's thread and not by the one that waits. */
static void many(struct disk *d)
{
	static struct one o[256];
	static uint8_t buf[256][512];
	unsigned complete = 0;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < 256; i++) {
		o[i] = (struct one){ .r = { .op = DISK_READ, .offset = i * 512, .len = 512, .niov = 1, .done = done } };
		o[i].iov[0] = (struct iovec){ buf[i], 512 };
		o[i].r.iov = o[i].iov;
		disk_submit(d, &o[i].r);
	}
	disk_start(d);
	pthread_mutex_unlock(&lock);
	for (unsigned tries = 0; complete < 256 && tries < 20000; tries++) {
		usleep(1000);
		pthread_mutex_lock(&lock);
		complete = 0;
		for (unsigned i = 0; i < 256; i++)
			complete += o[i].calls;
		pthread_mutex_unlock(&lock);
	}
	assert_int_equal(complete, 256);
	static uint8_t expected[256][512];
	read_file(expected, 0, sizeof expected);
	assert_memory_equal(buf, expected, sizeof buf);
}

static void test_completions_come_by_themselves(void **state)
{
	(void)state;
	each_way(many);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test_setup_teardown(test_what_is_no_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_write_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discard_makes_holes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_done_and_failed_calls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_completions_come_by_themselves, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
