// sources: wire.c control_path.c clock.c
/* Connections between two ends of which the other one may be slow, gone, or never there. */
#define _GNU_SOURCE
#include "wire.h"
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ull

static char err[300];

static void assert_between(uint64_t ns, uint64_t least_ms, uint64_t most_ms)
{
	assert_in_range(ns, least_ms * MS, most_ms * MS);
}

/* Two ends of a connection at uri. */
static void join(struct wire *a, struct wire *b, const char *uri, int *listening)
{
	*a = *b = (struct wire){ .fd = -1, .patience = 2000 * MS };
	err[0] = 0;
	wire_listen(uri, listening, err, sizeof err);
	assert_string_equal(err, "");
	wire_connect(a, uri, 1000 * MS, err, sizeof err);
	assert_string_equal(err, "");
	assert_int_equal(wire_accept(b, *listening), 0);
}

static void leave(struct wire *a, struct wire *b, int listening)
{
	wire_close(a);
	wire_close(b);
	wire_unlisten(listening);
}

static void test_uris(void **state)
{
	static const struct {
		const char *uri, *says;
	} bads[] = { { "", "neither unix: nor tcp:" },
		     { "ssh:there", "neither unix: nor tcp:" },
		     { "unix:", "path of the socket is missing" },
		     { "tcp:host", "port is missing" },
		     { "tcp:", "port is missing" },
		     { "tcp::4444", "host is missing" },
		     { "tcp:[]:4444", "host is missing" },
		     { "tcp:::1:4444", "in brackets" },
		     { "tcp:[::1]", "in brackets" },
		     { "tcp:[::1:44", "in brackets" },
		     { "tcp:h:", "from 1 to 65535" },
		     { "tcp:h:0", "from 1 to 65535" },
		     { "tcp:h:65536", "from 1 to 65535" },
		     { "tcp:h:99999999999999999999", "from 1 to 65535" },
		     { "tcp:h:12x", "from 1 to 65535" },
		     { "tcp:h:+12", "from 1 to 65535" } };
	static const char *const good[] = { "unix:a", "unix:/tmp/a b", "tcp:h:1", "tcp:10.0.0.1:65535",
					    "tcp:[fe80::1%eth0]:0044" };
	char uri[400];
	struct wire w = { .fd = -1 };
	int fd;

	(void)state;
	for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
		assert_int_equal(wire_uri_check(bads[i].uri, err, sizeof err), -EINVAL);
		assert_non_null(strstr(err, bads[i].says));
		assert_int_equal(wire_listen(bads[i].uri, &fd, err, sizeof err), -EINVAL);
		assert_int_equal(fd, -1);
		assert_int_equal(wire_connect(&w, bads[i].uri, 0, err, sizeof err), -EINVAL);
	}
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_int_equal(wire_uri_check(good[i], err, sizeof err), 0);
	snprintf(uri, sizeof uri, "unix:%0108d", 1);
	assert_int_equal(wire_uri_check(uri, err, sizeof err), -EINVAL);
	assert_int_equal(wire_uri_check("unix:"
					"0123456789",
					err, sizeof err),
			 0);
	snprintf(uri, sizeof uri, "tcp:%0300d:1", 1);
	assert_int_equal(wire_uri_check(uri, err, sizeof err), -EINVAL);
	assert_int_equal(wire_connect(&w, "tcp:no.such.host.invalid:1", 0, err, sizeof err), -EADDRNOTAVAIL);
	assert_non_null(strstr(err, "is not known"));
}

static const char *const uris[] = { "unix:wire.sock", "tcp:127.0.0.1:34567", "tcp:[::1]:34567" };

struct half {
	struct wire *w;
	uint8_t *data;
	size_t n;
	int r;
};

static void *read_all(void *opaque)
{
	struct half *h = opaque;

	h->r = wire_read(h->w, h->data, h->n);
	return NULL;
}

/* Many pieces, more than the socket holds, in order; both ends count. */
static void test_bytes(void **state)
{
	enum { TOTAL = 5000000 };
	uint8_t *out = malloc(TOTAL), *in = malloc(TOTAL);

	(void)state;
	for (size_t i = 0; i < TOTAL; i++)
		out[i] = (uint8_t)(i * 2654435761u >> 13);
	for (size_t u = 0; u < sizeof uris / sizeof *uris; u++) {
		struct wire a, b;
		struct iovec iov[40];
		struct half h = { .w = &b, .data = in, .n = TOTAL };
		pthread_t t;
		size_t at = 0;
		int listening;

		if (strchr(uris[u], '[') && access("/proc/net/if_inet6", F_OK))
			continue;
		join(&a, &b, uris[u], &listening);
		for (unsigned i = 0; i < 40; i++) {
			size_t len = i == 39 ? TOTAL - at : i % 5 == 2 ? 0 : 1 + (i * 40009) % 200000;
			iov[i] = (struct iovec){ out + at, len };
			at += len;
		}
		memset(in, 0, TOTAL);
		assert_int_equal(wire_wait(&b, 0), 0);
		pthread_create(&t, NULL, read_all, &h);
		assert_int_equal(wire_write(&a, iov, 40), 0);
		pthread_join(t, NULL);
		assert_int_equal(h.r, 0);
		assert_memory_equal(in, out, TOTAL);
		assert_true(a.written == TOTAL && b.read == TOTAL);
		/* The end is news, and cuts off what is being read. */
		assert_int_equal(wire_write(&a, &(struct iovec){ out, 3 }, 1), 0);
		wire_close(&a);
		assert_int_equal(wire_wait(&b, 1000 * MS), 1);
		assert_int_equal(wire_read(&b, in, 4), -ENODATA);
		/* Nobody reads: no signal, and a host may need a write to notice. */
		int r = 0;
		for (int i = 0; i < 100 && !r; i++) {
			r = wire_write(&b, &(struct iovec){ out, 1000 }, 1);
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		}
		assert_int_equal(r, -EPIPE);
		leave(&a, &b, listening);
	}
	free(out);
	free(in);
}

/* --- waits ------------------------------------------------------------------------------------------------------------------------ */

static volatile bool cancelled;
static int nobody; /* a socket that listens, and nobody comes */
static uint8_t block[4 << 20];

static bool is_cancelled(void *opaque)
{
	assert_ptr_equal(opaque, block);
	return cancelled;
}

static void *cancel_soon(void *opaque)
{
	nanosleep(&(struct timespec){ .tv_nsec = 100 * MS }, NULL);
	cancelled = true;
	return opaque;
}

static int op_write(struct wire *w)
{
	return wire_write(w, &(struct iovec){ block, sizeof block }, 1);
}

static int op_read(struct wire *w)
{
	return wire_read(w, block, 1);
}

static int op_accept(struct wire *w)
{
	struct wire other = *w;

	return wire_accept(&other, nobody);
}

static int op_connect(struct wire *w)
{
	struct wire other = *w;

	return wire_connect(&other, "unix:nobody.sock", w->patience, err, sizeof err);
}

static int op_wait(struct wire *w)
{
	return wire_wait(w, w->patience ? w->patience : 3600000 * MS);
}

/* Each wait ends with patience, and within 50 ms of cancellation (the rest is for a loaded host). */
static void test_waits(void **state)
{
	static const struct {
		int (*op)(struct wire *w);
		int at_the_end;
	} ops[] = { { op_write, -ETIMEDOUT },
		    { op_read, -ETIMEDOUT },
		    { op_accept, -EAGAIN },
		    { op_connect, -ENOENT },
		    { op_wait, 0 } };
	struct wire a, b;
	int listening;

	(void)state;
	join(&a, &b, "unix:wire.sock", &listening);
	assert_int_equal(wire_listen("unix:other.sock", &nobody, err, sizeof err), 0);
	a.cancelled = is_cancelled;
	a.opaque = block;
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		pthread_t t;
		cancelled = false;
		a.patience = 200 * MS;
		uint64_t began = clock_ns();
		assert_int_equal(ops[i].op(&a), ops[i].at_the_end);
		assert_between(clock_ns() - began, ops[i].op == op_connect ? 170 : 200, 700);

		a.patience = 0; /* for ever, if nobody cancels it */
		began = clock_ns();
		pthread_create(&t, NULL, cancel_soon, NULL);
		assert_int_equal(ops[i].op(&a), -ECANCELED);
		assert_between(clock_ns() - began, 100, 600);
		pthread_join(t, NULL);
	}
	/* The rate's own wait, on a socket that would take it all. */
	wire_close(&a);
	wire_close(&b);
	assert_int_equal(wire_connect(&a, "unix:wire.sock", 1000 * MS, err, sizeof err), 0);
	cancelled = false;
	uint64_t before = a.written;
	a.rate = 1;
	pthread_t t;
	uint64_t began = clock_ns();
	pthread_create(&t, NULL, cancel_soon, NULL);
	assert_int_equal(wire_write(&a, &(struct iovec){ block, 1000 }, 1), -ECANCELED);
	assert_between(clock_ns() - began, 100, 600);
	pthread_join(t, NULL);
	assert_int_equal(a.written - before, 1);
	wire_unlisten(nobody);
	leave(&a, &b, listening);
}

static void *listen_soon(void *opaque)
{
	nanosleep(&(struct timespec){ .tv_nsec = 100 * MS }, NULL);
	wire_listen("unix:late.sock", opaque, err, sizeof err);
	return NULL;
}

/* Whoever connects may come before the one who listens. */
static void test_late(void **state)
{
	struct wire w = { .fd = -1 };
	char why[200] = "";
	int listening;
	pthread_t t;

	(void)state;
	pthread_create(&t, NULL, listen_soon, &listening);
	assert_int_equal(wire_connect(&w, "unix:late.sock", 5000 * MS, why, sizeof why), 0);
	pthread_join(t, NULL);
	wire_close(&w);
	wire_unlisten(listening);
	assert_int_equal(wire_connect(&w, "unix:late.sock", 60 * MS, why, sizeof why), -ENOENT);
	assert_non_null(strstr(why, "cannot connect to unix:late.sock: No such file"));
}

/* --- the rate --------------------------------------------------------------------------------------------------------------------- */

static int loaded; /* an int, atomic: UBSan's look at a bool is taken out of a loop, volatile or not */

static void *burn(void *opaque)
{
	while (__atomic_load_n(&loaded, __ATOMIC_RELAXED))
		;
	return opaque;
}

static void *swallow(void *opaque)
{
	struct wire *w = opaque;

	while (!wire_read(w, block + sizeof block / 2, 4096))
		;
	return NULL;
}

/* The rate, in writes of several sizes, on a host whose CPUs are busy: within 2 %. And no burst after a pause. */
static void test_rate(void **state)
{
	static const size_t sizes[] = { 4096 + 24, 300000, 2 << 20 };
	const uint64_t rate = 128 << 20;
	pthread_t load[2], reader;
	struct wire a, b;
	int listening;

	(void)state;
	join(&a, &b, "unix:wire.sock", &listening);
	pthread_create(&reader, NULL, swallow, &b);
	__atomic_store_n(&loaded, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_create(&load[i], NULL, burn, NULL);
	a.rate = rate;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		double got = 0;
		/* Other programs of this host may take the CPU for long; none of them lets it be more. */
		for (int attempt = 0; attempt < 8 && got < 0.98; attempt++) {
			uint64_t before = a.written, began = clock_ns(), ns;
			while ((ns = clock_ns() - began) < 1000 * MS)
				assert_int_equal(wire_write(&a, &(struct iovec){ block, sizes[i] }, 1), 0);
			got = (double)(a.written - before) * 1e9 / (double)ns / (double)rate;
			print_message("writes of %zu bytes: %.4f of the rate\n", sizes[i], got);
		}
		assert_true(got > 0.98 && got < 1.02);
	}
	__atomic_store_n(&loaded, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(load[i], NULL);
	nanosleep(&(struct timespec){ .tv_nsec = 500 * MS }, NULL);
	const struct iovec part = { block, (size_t)(rate / 40) };
	uint64_t began = clock_ns();
	assert_int_equal(wire_write(&a, (struct iovec[]){ part, part, part, part }, 4), 0);
	assert_between(clock_ns() - began, 94, 300);
	wire_close(&a);
	pthread_join(reader, NULL);
	leave(&a, &b, listening);
}

/* --- places and files ------------------------------------------------------------------------------------------------------------- */

static void test_sockets_in_the_way(void **state)
{
	struct wire a, b;
	struct stat st;
	int first, second;

	(void)state;
	mode_t mask = umask(0);
	assert_int_equal(wire_listen("unix:wire.sock", &first, err, sizeof err), 0);
	umask(mask);
	assert_int_equal(stat("wire.sock", &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600); /* whatever the mask says */
	/* One that lives is left alone, and does not even hear of it. */
	assert_int_equal(wire_listen("unix:wire.sock", &second, err, sizeof err), -EADDRINUSE);
	assert_non_null(strstr(err, "somebody listens at wire.sock already"));
	a = b = (struct wire){ .fd = -1, .patience = 60 * MS };
	assert_int_equal(wire_accept(&b, first), -EAGAIN);
	/* One that its owner has left behind is replaced. */
	close(first);
	assert_int_equal(access("wire.sock", F_OK), 0);
	assert_int_equal(wire_listen("unix:wire.sock", &second, err, sizeof err), 0);
	assert_int_equal(wire_connect(&a, "unix:wire.sock", 1, err, sizeof err), 0);
	wire_close(&a);
	wire_unlisten(second);
	assert_int_equal(access("wire.sock", F_OK), -1);
	/* What is no socket stays. */
	close(creat("wire.sock", 0600));
	assert_int_equal(wire_listen("unix:wire.sock", &second, err, sizeof err), -EEXIST);
	assert_int_equal(unlink("wire.sock"), 0);
	assert_int_equal(wire_listen("unix:no/such/directory", &second, err, sizeof err), -ENOENT);

	assert_int_equal(wire_listen("tcp:127.0.0.1:34568", &first, err, sizeof err), 0);
	assert_int_equal(wire_listen("tcp:127.0.0.1:34568", &second, err, sizeof err), -EADDRINUSE);
	assert_int_equal(second, -1);
	wire_unlisten(first);
}

static void test_files(void **state)
{
	struct wire w = { .fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600), .patience = 1 };
	char text[8] = "";

	(void)state;
	assert_int_equal(wire_write(&w, (struct iovec[]){ { "abc", 3 }, { "", 0 }, { "defg", 4 } }, 3), 0);
	assert_int_equal(lseek(w.fd, 0, SEEK_SET), 0);
	assert_int_equal(wire_read(&w, text, 7), 0);
	assert_string_equal(text, "abcdefg");
	assert_int_equal(wire_read(&w, text, 1), -ENODATA);
	wire_close(&w);
	assert_int_equal(w.fd, -1);
	w.fd = open("/dev/full", O_WRONLY);
	assert_int_equal(wire_write(&w, &(struct iovec){ "abc", 3 }, 1), -ENOSPC);
	wire_close(&w);
}

static int enter(void **state)
{
	static char dir[] = "/tmp/wire-test-XXXXXX";

	*state = dir;
	return mkdtemp(dir) && !chdir(dir) ? 0 : -1;
}

static int remove_all(void **state)
{
	unlink("file");
	return chdir("/") || rmdir(*state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_uris),  cmocka_unit_test(test_bytes), cmocka_unit_test(test_waits),
		cmocka_unit_test(test_late),  cmocka_unit_test(test_rate),  cmocka_unit_test(test_sockets_in_the_way),
		cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests_name("wire", tests, enter, remove_all);
}
