// sources: record.c reconnect.c stream.c stream_base.c mem.c wire.c control_path.c clock.c
/* Who has the VM: two processes that rename one file, and two sides of which one asks. */
#define _GNU_SOURCE
#include "lab5.h"
#include "reconnect.h"
#include "record.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ull

int vm_todo(struct vm *vm, const char *step, const char *hint)
{
	(void)vm;
	fail_msg("step %s: %s", step, hint);
	return -ECANCELED;
}

static struct vm vm;
static struct migration src, dst;

static void side(struct migration *m, uint64_t id)
{
	memset(m, 0, sizeof *m);
	m->vm = &vm;
	m->id = id;
	m->uri = "unix:there.sock";
	m->listening = -1;
	assert_int_equal(stream_init(&m->stream), 0);
	m->stream.wire.patience = 2000 * MS;
}

static int setup(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof vm);
	side(&src, 0x1234);
	side(&dst, 0x1234);
	return 0;
}

static bool there(const char *file)
{
	return !access(file, F_OK);
}

static int teardown(void **state)
{
	(void)state;
	record_close(&src);
	record_close(&dst);
	stream_free(&src.stream);
	stream_free(&dst.stream);
	wire_unlisten(dst.listening);
	unlink("there.sock.record.taken");
	unlink("there.sock.record.committed");
	return 0;
}

static void open_it(void)
{
	char path[500];

	assert_non_null(getcwd(path, sizeof path - 50));
	strcat(path, "/there.sock.record");
	assert_int_equal(record_open(&src, path, strlen(path)), 0);
}

static void write_file(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

/* --- one after the other ---------------------------------------------------------------------------------------------------------- */

static void test_commit(void **state)
{
	(void)state;
	assert_int_equal(record_create(&dst), 0);
	open_it();
	assert_non_null(src.record);
	assert_int_equal(record_commit(&dst), 1);
	assert_int_equal(record_commit(&dst), 1);
	assert_true(there("there.sock.record.committed") && !there("there.sock.record"));
	for (int i = 0; i < 3; i++)
		assert_int_equal(record_take(&src), 0);
	/* The destination may end before the source has asked. */
	record_close(&dst);
	assert_int_equal(record_take(&src), 0);
	record_close(&src);
	assert_false(there("there.sock.record.committed"));
}

static void test_take(void **state)
{
	(void)state;
	assert_int_equal(record_create(&dst), 0);
	open_it();
	assert_int_equal(record_take(&src), 1);
	assert_int_equal(record_commit(&dst), 0);
	assert_int_equal(record_take(&src), 1);
	assert_int_equal(record_commit(&dst), 0);
	record_close(&src);
	assert_int_equal(record_commit(&dst), 0); /* nor when the source has cleared up */
	record_close(&dst);
	assert_false(there("there.sock.record") || there("there.sock.record.taken"));
}

/* The source has what it wants without the record: a destination that is told later must not run. */
static void test_closed(void **state)
{
	(void)state;
	assert_int_equal(record_create(&dst), 0);
	open_it();
	record_close(&src);
	assert_false(there("there.sock.record"));
	assert_int_equal(record_commit(&dst), 0);
}

/* The destination gives up: the source learns it from the record, if it can have committed in the meantime. */
static void test_given_back(void **state)
{
	(void)state;
	assert_int_equal(record_create(&dst), 0);
	open_it();
	dst.awaited = true;
	record_close(&dst);
	assert_int_equal(record_take(&src), 1);
	record_close(&src);
	assert_false(there("there.sock.record.taken"));

	assert_int_equal(record_create(&dst), 0);
	dst.awaited = false;
	record_close(&dst);
	assert_false(there("there.sock.record") || there("there.sock.record.taken"));
}

static void test_none(void **state)
{
	(void)state;
	assert_int_equal(record_commit(&dst), -ENOENT);
	assert_int_equal(record_take(&src), -ENOENT);
	dst.uri = "tcp:127.0.0.1:1234";
	assert_int_equal(record_create(&dst), 0);
	assert_null(dst.record);
	assert_int_equal(record_open(&src, "", 0), 0);
	assert_null(src.record);
	vm.opt.record = "named";
	assert_int_equal(record_create(&dst), 0);
	assert_true(there("named"));
	record_close(&dst);
	assert_false(there("named"));
	vm.opt.record = "no/such/directory/record";
	assert_int_equal(record_create(&dst), -ENOENT);
	assert_non_null(strstr(dst.stream.err, "cannot be made"));
}

/* A source believes only in what it sees, and what is its own. */
static void test_not_ours(void **state)
{
	static const char *const texts[] = { "",
					     "0000000000001234 waiting",
					     "0000000000001235 waiting\n",
					     "0000000000001234 Waiting\n",
					     "0000000000001234 waiting\n\n",
					     "0x00000000001234 waiting\n",
					     " 000000000001234 waiting\n" };

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		write_file("there.sock.record", texts[i]);
		open_it();
		assert_null(src.record);
	}
	unlink("there.sock.record");
	open_it();
	assert_null(src.record);
	/* Things that would make it wait, or lead elsewhere. */
	assert_int_equal(mkfifo("there.sock.record", 0600), 0);
	open_it();
	assert_null(src.record);
	unlink("there.sock.record");
	write_file("elsewhere", "0000000000001234 waiting\n");
	assert_int_equal(symlink("elsewhere", "there.sock.record"), 0);
	open_it();
	assert_null(src.record);
	unlink("there.sock.record");
	unlink("elsewhere");
	assert_int_equal(record_open(&src, "relative", 8), -EPROTO);
	assert_int_equal(record_open(&src, "/with\0nul", 9), -EPROTO);
	char longer[5000];
	memset(longer, '/', sizeof longer);
	assert_int_equal(record_open(&src, longer, sizeof longer), -EPROTO);
}

static void test_in_the_way(void **state)
{
	struct migration other;

	(void)state;
	/* A living destination's is left alone; one whose destination died is not in the way, and stays its source's. */
	side(&other, 0x99);
	assert_int_equal(record_create(&dst), 0);
	open_it();
	assert_int_equal(record_create(&other), -EBUSY);
	assert_null(other.record);
	assert_int_equal(record_commit(&dst), 1);
	record_close(&dst);
	record_close(&src);

	pid_t child = fork();
	if (!child)
		_exit(record_create(&dst));
	int status;
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	open_it();
	assert_int_equal(record_create(&other), 0);
	assert_int_equal(record_take(&src), 1);
	assert_int_equal(record_commit(&other), 1);
	assert_int_equal(record_take(&src), 1);
	record_close(&src);
	record_close(&other);

	/* What is no record stays. */
	unlink("there.sock.record.committed");
	write_file("there.sock.record", "a letter");
	assert_int_equal(record_create(&dst), -EBUSY);
	assert_non_null(strstr(dst.stream.err, "no record"));
	assert_int_equal(unlink("there.sock.record"), 0);
	stream_free(&other.stream);
}

/* --- two processes ---------------------------------------------------------------------------------------------------------------- */

#define RACES 5000

struct arena {
	atomic_uint created, opened, ready, done;
	int commit;
	int late; /* by how much the destination begins later: who wins is set back, so that both are as fast as the other */
};

static void wait_for(atomic_uint *a, unsigned value)
{
	while (*a < value)
		sched_yield();
}

static void spin(unsigned n)
{
	for (volatile unsigned i = 0; i < n; i++)
		;
}

/* Each wins about as often as the other, and one of them each time. */
static void test_races(void **state)
{
	struct arena *a = mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned wins[2] = { 0 };
	pid_t child = fork();

	(void)state;
	if (!child) { /* the destination */
		for (unsigned i = 1; i <= RACES; i++) {
			dst.id = i;
			if (record_create(&dst))
				_exit(1);
			a->created = i;
			wait_for(&a->opened, i);
			a->ready++;
			wait_for(&a->ready, 2 * i);
			spin(i * 7919 % 50000 + (a->late > 0 ? (unsigned)a->late : 0));
			a->commit = record_commit(&dst);
			a->done++;
			wait_for(&a->done, 3 * i);
			record_close(&dst);
		}
		_exit(0);
	}
	for (unsigned i = 1; i <= RACES; i++) {
		src.id = i;
		while (a->created < i) {
			assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
			sched_yield();
		}
		open_it();
		assert_non_null(src.record);
		a->opened = i;
		a->ready++;
		wait_for(&a->ready, 2 * i);
		spin(i * 104729 % 50000 + (a->late < 0 ? (unsigned)-a->late : 0));
		int take = record_take(&src);
		a->done++;
		wait_for(&a->done, 3 * i - 1);
		assert_true(take == 0 || take == 1);
		assert_int_equal(a->commit, !take);
		wins[take]++;
		a->late += take ? -2000 : 2000;
		record_close(&src);
		a->done++;
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	print_message("the destination won %u times, the source %u times\n", wins[0], wins[1]);
	assert_true(wins[0] > RACES / 50 && wins[1] > RACES / 50);
	assert_false(there("there.sock.record") || there("there.sock.record.taken") || there("there.sock.record.committed"));
	munmap(a, sizeof *a);
}

/* A destination that dies at any moment: afterwards the source knows. */
static void test_killed(void **state)
{
	struct arena *a = mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned outcome[2] = { 0 };

	(void)state;
	for (unsigned i = 1; i <= 300; i++) {
		pid_t child = fork();
		if (!child) {
			if (record_create(&dst))
				_exit(1);
			a->created = i;
			wait_for(&a->ready, i);
			spin(200000);
			record_commit(&dst);
			pause();
		}
		while (a->created < i) {
			assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
			sched_yield();
		}
		open_it();
		assert_non_null(src.record);
		a->ready = i;
		spin(i * 7919 % 400000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		int take = record_take(&src);
		assert_true(take == 0 || take == 1);
		assert_int_equal(there("there.sock.record.committed"), !take);
		outcome[take]++;
		record_close(&src);
	}
	print_message("killed before the commit %u times, behind it %u times\n", outcome[1], outcome[0]);
	assert_true(outcome[0] && outcome[1]);
	munmap(a, sizeof *a);
}

/* --- asking ----------------------------------------------------------------------------------------------------------------------- */

static char err[300];

struct ask {
	pthread_t thread;
	int news;
};

static void *ask(void *opaque)
{
	((struct ask *)opaque)->news = migration_ask(&src);
	return NULL;
}

static void listen_at(void)
{
	assert_int_equal(wire_listen(dst.uri, &dst.listening, err, sizeof err), 0);
}

static void test_answer_no(void **state)
{
	struct ask a;
	struct section sec;

	(void)state;
	listen_at();
	src.cancel = true;
	pthread_create(&a.thread, NULL, ask, &a);
	assert_int_equal(migration_await(&dst, false), 0);
	pthread_join(a.thread, NULL);
	assert_int_equal(a.news, NEWS_ANSWER_NO);
	assert_false(src.cancel);
	assert_true(dst.awaited);
	/* Both are connected. */
	assert_int_equal(section_write(&src.stream, MSG_COMMIT, 0, NULL, 0), 0);
	assert_int_equal(section_read(&dst.stream, &sec), 0);
	assert_int_equal(sec.header.type, MSG_COMMIT);
	assert_int_equal(section_write(&dst.stream, MSG_COMMITTED, 0, NULL, 0), 0);
	assert_int_equal(section_read(&src.stream, &sec), 0);
	assert_int_equal(sec.header.type, MSG_COMMITTED);
}

static bool stop;

static bool is_stop(void *opaque)
{
	(void)opaque;
	return stop;
}

static void *await_committed(void *opaque)
{
	migration_await(&dst, true);
	return opaque;
}

/* It answers as often as it is asked, whoever else comes along. */
static void test_answer_yes(void **state)
{
	pthread_t t;
	struct migration other;
	struct wire mute = { .fd = -1 };

	(void)state;
	listen_at();
	stop = false;
	dst.stream.wire.cancelled = is_stop;
	pthread_create(&t, NULL, await_committed, NULL);
	/* Somebody of another migration, who is not answered; somebody who says nothing holds up the others for 2 s at most. */
	side(&other, 0x77);
	other.stream.wire.patience = 300 * MS;
	assert_int_equal(migration_ask(&other), NEWS_SILENCE);
	assert_int_equal(wire_connect(&mute, src.uri, 0, err, sizeof err), 0);
	src.stream.wire.patience = 5000 * MS;
	assert_int_equal(migration_ask(&src), NEWS_ANSWER_YES);
	wire_close(&mute);
	for (int i = 0; i < 3; i++)
		assert_int_equal(migration_ask(&src), NEWS_ANSWER_YES);
	assert_false(dst.awaited);
	stop = true;
	pthread_join(t, NULL);
	stream_free(&other.stream);
}

static void test_silence(void **state)
{
	(void)state;
	src.stream.wire.patience = 300 * MS;
	uint64_t began = clock_ns();
	assert_int_equal(migration_ask(&src), NEWS_SILENCE);
	assert_in_range(clock_ns() - began, 200 * MS, 1000 * MS);
	/* Somebody listens who never answers. */
	listen_at();
	began = clock_ns();
	assert_int_equal(migration_ask(&src), NEWS_SILENCE);
	assert_in_range(clock_ns() - began, 200 * MS, 1000 * MS);
	assert_int_equal(src.stream.wire.patience, 300 * MS);
}

static int enter(void **state)
{
	static char dir[] = "/dev/shm/record-test-XXXXXX";

	*state = dir;
	return mkdtemp(dir) && !chdir(dir) ? 0 : -1;
}

static int leave(void **state)
{
	return chdir("/") || rmdir(*state);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_commit), TEST(test_take),	 TEST(test_closed),	TEST(test_given_back),
		TEST(test_none),   TEST(test_not_ours),	 TEST(test_in_the_way), TEST(test_races),
		TEST(test_killed), TEST(test_answer_no), TEST(test_answer_yes), TEST(test_silence),
	};

	return cmocka_run_group_tests_name("record", tests, enter, leave);
}
