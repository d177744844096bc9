// sources: control.c control_answer.c control_path.c json.c loop.c clock.c crtc.c i8042.c mem.c bus.c state_io.c
/* The control socket: commands and answers, clients that misbehave, and who gets the place. */
#define _GNU_SOURCE
#include "control.h"
#include "control_path.h"
#include "engine.h"
#include "job.h"
#include "vm.h"
#include "vm_pause.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* --- what the rest of hv does --- */

static unsigned balloon_mib, stats_lines, pauses, resumes;
static int pause_error;

int vm_stop(struct vm *vm, int status, const char *fmt, ...)
{
	va_list ap;
	if (!vm->stopping) {
		vm->stopping = 1;
		vm->status = status;
		va_start(ap, fmt);
		vsnprintf(vm->reason, sizeof vm->reason, fmt, ap);
		va_end(ap);
	}
	return -ECANCELED;
}

/* Much more than a socket takes at once, when a test wants it. */
void trace_json(struct vm *vm, FILE *out)
{
	(void)vm;
	fputs("{\"lines\":\"", out);
	for (unsigned i = 0; i < stats_lines; i++)
		fputs("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde ", out);
	fputs("\"}\n", out);
}

int vm_pause(struct vm *vm)
{
	(void)vm;
	pauses += !pause_error;
	return pause_error;
}

void vm_resume(struct vm *vm)
{
	(void)vm;
	resumes++;
}

/* Jobs: there are none. */
#define NO_JOB(name)                                             \
	void name(struct vm *v, const char *argument, FILE *out) \
	{                                                        \
		(void)v, (void)argument, (void)out;              \
	}
NO_JOB(job_save)
NO_JOB(job_migrate)
NO_JOB(job_status)
NO_JOB(job_step)
NO_JOB(job_cancel)
NO_JOB(job_again)
bool job_release(struct vm *v) { return (void)v, false; }

static void set_balloon(struct vm *vm, uint64_t mib) { (void)vm; balloon_mib = (unsigned)mib; }

/* --- a VM without a guest --- */

static const struct engine_ops engine = { .name = "none" };
static char directory[] = "/tmp/control-test-XXXXXX", path[64];
static struct vm vm, other;

static void vm_begin(struct vm *v, const char *control, const char *name)
{
	pthread_mutexattr_t attr;

	*v = (struct vm){ .engine = &engine, .opt = { .image = "Gäste/\"1\"", .cpus = 3, .control = control, .name = name } };
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&v->lock, &attr);
	pthread_cond_init(&v->wake, NULL);
	assert_int_equal(guest_mem_create(&v->mem, 64 * MiB), 0);
	crtc_init(&v->crtc);
	assert_int_equal(loop_init(&v->loop, &v->lock), 0);
}

static void vm_end(struct vm *v)
{
	loop_stop(&v->loop);
	control_stop(v);
	loop_destroy(&v->loop);
	guest_mem_destroy(&v->mem);
}

static int setup(void **state)
{
	(void)state;
	balloon_mib = stats_lines = pauses = resumes = 0;
	pause_error = 0;
	vm_begin(&vm, path, NULL);
	assert_int_equal(control_start(&vm), 0);
	assert_int_equal(loop_start(&vm.loop), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vm_end(&vm);
	return access(path, F_OK) ? 0 : -1; /* the socket is gone */
}

/* --- clients --- */

static int connect_here(void)
{
	struct sockaddr_un addr;
	char err[100];
	assert_int_equal(control_address(path, &addr, err, sizeof err), 0);
	int fd = control_connect(&addr, 5);
	assert_true(fd >= 0);
	return fd;
}

static void say(int fd, const char *text) { assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text)); }

/* One line, without its end; "" when the other side has hung up. */
static const char *hear(int fd)
{
	static char line[8192];
	size_t n = 0;
	while (n < sizeof line - 1 && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
	return line;
}

static const char *ask(int fd, const char *command)
{
	say(fd, command);
	return hear(fd);
}

static void commands(void **state)
{
	int fd = connect_here();
	(void)state;

	cJSON *status = cJSON_Parse(ask(fd, "status\n"));
	assert_string_equal(cJSON_GetObjectItem(status, "state")->valuestring, "running");
	assert_int_equal(cJSON_GetObjectItem(status, "pid")->valueint, getpid());
	assert_int_equal(cJSON_GetObjectItem(status, "memory_kib")->valueint, 65536);
	assert_int_equal(cJSON_GetObjectItem(status, "cpus")->valueint, 3);
	assert_string_equal(cJSON_GetObjectItem(status, "image")->valuestring, "Gäste/\"1\"");
	cJSON_Delete(status);
	assert_string_equal(ask(fd, "balloon 3\n"), "{\"error\":\"this VM has no balloon; start it with --balloon\"}");
	vm.balloon_set = set_balloon;
	assert_string_equal(ask(fd, "balloon 3\n"), "{\"balloon_mib\":3}");
	assert_int_equal(balloon_mib, 3);
	static const char *const wrong[] = { "balloon 65\n", "balloon -1\n", "balloon 3x\n", "balloon 18446744073709551617\n",
					     "balloon  3\n" };
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_string_equal(ask(fd, wrong[i]), "{\"error\":\"balloon takes a number of MiB, not more than the VM has\"}");
	assert_int_equal(balloon_mib, 3);
	assert_string_equal(ask(fd, "nonsense\n"), "{\"error\":\"there is no command \\\"nonsense\\\"\"}");
	assert_string_equal(ask(fd, "\n"), "{\"error\":\"there is no command \\\"\\\"\"}");
	assert_string_equal(ask(fd, "status now\n"), "{\"error\":\"status takes no value\"}");
	assert_string_equal(ask(fd, "balloon\n"), "{\"error\":\"balloon needs a value, MIB\"}");
	assert_false(vm.stopping);
	assert_string_equal(ask(fd, "quit\n"), "{\"state\":\"ending\"}");
	assert_true(vm.stopping);
	assert_int_equal(vm.status, HV_OK);
	close(fd);
}

/* vm_pause() nests, and the commands do not. */
static void pause_and_resume(void **state)
{
	int fd = connect_here();
	(void)state;

	assert_string_equal(ask(fd, "pause\n"), "{\"state\":\"paused\"}");
	assert_string_equal(ask(fd, "pause\n"), "{\"state\":\"paused\"}");
	assert_non_null(strstr(ask(fd, "status\n"), "\"state\":\"paused\""));
	assert_string_equal(ask(fd, "resume\n"), "{\"state\":\"running\"}");
	assert_int_equal(pauses, 1);
	assert_int_equal(resumes, 1);
	pause_error = -ETIMEDOUT;
	assert_string_equal(ask(fd, "pause\n"), "{\"error\":\"the VM goes on: a processor does not come back from its last exit\"}");
	assert_non_null(strstr(ask(fd, "status\n"), "\"state\":\"running\""));
	assert_string_equal(ask(fd, "resume\n"), "{\"state\":\"running\"}");
	assert_int_equal(resumes, 1);
	close(fd);
}

static void screen_answer(void **state)
{
	int fd = connect_here();
	(void)state;

	memcpy(guest_range(&vm.mem, SCREEN_GPA, 8), "a\7\"\7\\\7\xdb\7", 8);
	cJSON *answer = cJSON_Parse(ask(fd, "screen\n")), *lines = cJSON_GetObjectItem(answer, "lines");
	const char *expected = "a\"\\█ ";
	assert_int_equal(cJSON_GetArraySize(lines), SCREEN_ROWS);
	assert_memory_equal(cJSON_GetArrayItem(lines, 0)->valuestring, expected, strlen(expected));
	cJSON_Delete(answer);
	close(fd);
}

/* Several lines in one piece, one line in several pieces. */
static void pieces(void **state)
{
	int fd = connect_here();
	(void)state;

	say(fd, "pause\nresume\nsta");
	assert_string_equal(hear(fd), "{\"state\":\"paused\"}");
	assert_string_equal(hear(fd), "{\"state\":\"running\"}");
	say(fd, "tus");
	assert_non_null(strstr(ask(fd, "\n"), "\"pid\""));
	close(fd);
}

static void long_line(void **state)
{
	char text[CONTROL_LINE];
	int fd = connect_here(), good = connect_here();
	(void)state;

	memset(text, 'x', sizeof text);
	assert_int_equal(send(fd, text, sizeof text, MSG_NOSIGNAL), sizeof text);
	assert_string_equal(hear(fd), "{\"error\":\"the line is too long\"}");
	assert_string_equal(hear(fd), "");
	assert_non_null(strstr(ask(good, "status\n"), "running"));
	/* The longest one that is allowed. */
	text[CONTROL_LINE - 1] = '\n';
	assert_int_equal(send(good, text, sizeof text, MSG_NOSIGNAL), sizeof text);
	assert_non_null(strstr(hear(good), "there is no command"));
	close(fd);
	close(good);
}

/* Answers that are not taken: nobody else waits, and what is kept is one answer and no more. */
static void client_that_never_reads(void **state)
{
	int silent = connect_here(), good = connect_here();
	(void)state;

	stats_lines = 1 << 15; /* 2 MiB */
	for (unsigned i = 0; i < 100; i++)
		if (send(silent, "stats\nstats\n", 12, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
	for (unsigned i = 0; i < 20; i++)
		assert_non_null(strstr(ask(good, "status\n"), "running"));
	/* When it reads at last, it gets whole answers, all of them. */
	static char buf[1 << 16];
	size_t lines = 0;
	ssize_t n;
	while (lines < 4 && (n = recv(silent, buf, sizeof buf, 0)) > 0)
		for (ssize_t i = 0; i < n; i++)
			lines += buf[i] == '\n';
	assert_int_equal(lines, 4);
	close(silent); /* in the middle of an answer */
	assert_non_null(strstr(ask(good, "status\n"), "running"));
	close(good);
}

/* One more than there is room for: the one that has been quiet for longest goes. */
static void too_many_clients(void **state)
{
	int fd[CONTROL_CLIENTS + 1];
	(void)state;

	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		fd[i] = connect_here();
		assert_non_null(strstr(ask(fd[i], "status\n"), "running"));
	}
	assert_non_null(strstr(ask(fd[0], "status\n"), "running")); /* now the second one is */
	fd[CONTROL_CLIENTS] = connect_here();
	assert_non_null(strstr(ask(fd[CONTROL_CLIENTS], "status\n"), "running"));
	assert_string_equal(hear(fd[1]), "");
	for (unsigned i = 0; i <= CONTROL_CLIENTS; i++) {
		if (i != 1)
			assert_non_null(strstr(ask(fd[i], "status\n"), "running"));
		close(fd[i]);
	}
}

static void taken_and_stale(void **state)
{
	struct stat st;
	(void)state;

	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	vm_begin(&other, path, NULL);
	assert_true(control_start(&other) < 0);
	assert_int_equal(other.status, HV_HOST);
	assert_non_null(strstr(other.reason, "a VM is already controlled through"));
	vm_end(&other);
	assert_int_equal(access(path, F_OK), 0); /* it was not its own */

	/* A socket that a dead VM has left behind is replaced. */
	char stale[80];
	struct sockaddr_un addr;
	snprintf(stale, sizeof stale, "%s/stale", directory);
	assert_int_equal(control_address(stale, &addr, other.reason, sizeof other.reason), 0);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	close(fd);
	vm_begin(&other, stale, NULL);
	assert_int_equal(control_start(&other), 0);
	vm_end(&other);
	assert_int_not_equal(access(stale, F_OK), 0);

	/* What is no socket stays. */
	FILE *f = fopen(stale, "w");
	assert_non_null(f);
	fclose(f);
	vm_begin(&other, stale, NULL);
	assert_true(control_start(&other) < 0);
	assert_int_equal(other.status, HV_USAGE);
	vm_end(&other);
	assert_int_equal(unlink(stale), 0);

	char name[300];
	memset(name, 'n', sizeof name - 1);
	name[sizeof name - 1] = 0;
	vm_begin(&other, name, NULL);
	assert_true(control_start(&other) < 0);
	assert_int_equal(other.status, HV_USAGE);
	vm_end(&other);
}

/* Of several that start at the same time exactly one gets the place; here a stale socket makes it tempting. */
static void race(void **state)
{
	enum { STARTERS = 8 };
	char place[80];
	pid_t child[STARTERS];
	int go[2], done[2], winners = 0;
	(void)state;

	snprintf(place, sizeof place, "%s/race", directory);
	struct sockaddr_un addr;
	assert_int_equal(control_address(place, &addr, other.reason, sizeof other.reason), 0);
	int stale = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(stale, (struct sockaddr *)&addr, sizeof addr), 0);
	close(stale);
	assert_int_equal(pipe(go) | pipe(done), 0);
	for (unsigned i = 0; i < STARTERS; i++) {
		child[i] = fork();
		if (child[i])
			continue;
		char c;
		close(go[1]);
		close(done[1]);
		vm_begin(&other, place, NULL);
		if (read(go[0], &c, 1) < 0)
			_exit(9);
		int r = control_start(&other);
		c = 0;
		/* The winner listens until all have tried. */
		if (!r && loop_start(&other.loop))
			_exit(9);
		if (!r && read(done[0], &c, 1) < 0)
			_exit(9);
		vm_end(&other);
		_exit(r ? 1 : 0);
	}
	close(go[1]);
	for (unsigned left = STARTERS; left; left--) {
		int status;
		if (left == 1)
			close(done[1]);
		assert_true(wait(&status) > 0);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
		winners += !WEXITSTATUS(status);
	}
	assert_int_equal(winners, 1);
	close(go[0]);
	close(done[0]);
}

static void names(void **state)
{
	static const char *const good[] = { "a", "vm-1", "A.b_c", "0123456789012345678901234567890123456789" };
	static const char *const wrong[] = { "", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "\xc3\xa4",
					     "01234567890123456789012345678901234567890" };
	char dir[200], err[400];
	struct stat st;
	(void)state;

	for (unsigned i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(control_name_valid(good[i]));
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_false(control_name_valid(wrong[i]));

	setenv("XDG_RUNTIME_DIR", directory, 1);
	assert_int_equal(control_directory(dir, sizeof dir, false, err, sizeof err), -ENOENT);
	vm_begin(&other, NULL, "vm-1");
	assert_int_equal(control_start(&other), 0);
	assert_int_equal(control_directory(dir, sizeof dir, false, err, sizeof err), 0);
	assert_int_equal(strncmp(dir, directory, strlen(directory)), 0);
	assert_int_equal(lstat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	strcat(dir, "/vm-1.sock");
	assert_int_equal(access(dir, F_OK), 0);
	vm_end(&other);
	assert_int_not_equal(access(dir, F_OK), 0);

	/* A directory that others may enter, or a link in its place, is not used. */
	*strrchr(dir, '/') = 0;
	assert_int_equal(chmod(dir, 0755), 0);
	vm_begin(&other, NULL, "vm-1");
	assert_true(control_start(&other) < 0);
	assert_int_equal(other.status, HV_USAGE);
	vm_end(&other);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(symlink(directory, dir), 0);
	assert_true(control_directory(dir, sizeof dir, true, err, sizeof err) < 0);
	assert_int_equal(unlink(dir), 0);
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	snprintf(path, sizeof path, "/tmp/trapdoor-%u", geteuid());
	control_directory(dir, sizeof dir, false, err, sizeof err);
	assert_string_equal(dir, path);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(commands), TEST(pause_and_resume), TEST(screen_answer), TEST(pieces), TEST(long_line),
		TEST(client_that_never_reads), TEST(too_many_clients), TEST(taken_and_stale), cmocka_unit_test(race),
		cmocka_unit_test(names),
	};
	if (!mkdtemp(directory))
		return 1;
	snprintf(path, sizeof path, "%s/sock", directory);
	int failed = cmocka_run_group_tests_name("control", tests, NULL, NULL);
	return rmdir(directory) ? 1 : failed;
}
