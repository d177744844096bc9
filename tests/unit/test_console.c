// sources: console.c loop.c clock.c state_io.c
/* The console on pipes and on a pseudo-terminal, with the real loop. */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE 20000000000ull

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop loop;
static struct console con;
static uint8_t got[100000];
static size_t ngot, room; /* what the receiver took, and what it takes before it is full */
static unsigned quits;

static size_t receive(void *opaque, const uint8_t *data, size_t len)
{
	assert_ptr_equal(opaque, &con);
	size_t n = len < room ? len : room;
	assert_true(ngot + n <= sizeof(got));
	memcpy(got + ngot, data, n);
	ngot += n;
	room -= n;
	return n;
}

static void quit(void *opaque)
{
	assert_ptr_equal(opaque, &con);
	quits++;
}

static int setup(void **state)
{
	(void)state;
	ngot = quits = 0;
	room = sizeof(got);
	con = (struct console){ .receive = receive, .receive_opaque = &con, .quit = quit, .quit_opaque = &con };
	return loop_init(&loop, &lock) || loop_start(&loop);
}

static int teardown(void **state)
{
	(void)state;
	loop_stop(&loop);
	pthread_mutex_lock(&lock);
	console_stop(&con);
	console_stop(&con);
	pthread_mutex_unlock(&lock);
	loop_destroy(&loop);
	return 0;
}

static void start(int in_fd, int out_fd)
{
	pthread_mutex_lock(&lock);
	assert_int_equal(console_start(&con, &loop, in_fd, out_fd), 0);
	pthread_mutex_unlock(&lock);
}

/* A condition that the loop's thread makes true under the lock. */
#define wait_until(condition)                                 \
	do {                                                  \
		uint64_t end = clock_ns() + PATIENCE;         \
		for (bool done = false; !done;) {             \
			assert_true(clock_ns() < end);        \
			usleep(500);                          \
			pthread_mutex_lock(&lock);            \
			done = (condition);                   \
			pthread_mutex_unlock(&lock);          \
		}                                             \
	} while (0)

static void pipe_is_passed_on_as_it_is(void **state)
{
	static const char text[] = "a\x01x\x03\x04\r\n\xff";
	int p[2];
	(void)state;
	assert_int_equal(pipe(p), 0);
	start(p[0], 1);
	assert_false(con.is_tty);
	assert_int_equal(write(p[1], text, sizeof(text)), sizeof(text));
	wait_until(ngot == sizeof(text));
	assert_memory_equal(got, text, sizeof(text));
	assert_int_equal(quits, 0);
	assert_int_equal(write(p[1], "last", 4), 4);
	close(p[1]);
	wait_until(con.eof);
	assert_memory_equal(got + sizeof(text), "last", 4); /* before the end */
	assert_int_equal(loop.fds[0].fd, -1);
	close(p[0]);
}

static void closed_input_is_an_end(void **state)
{
	(void)state;
	int fd = dup(1);
	close(fd);
	start(fd, 1);
	wait_until(con.eof);
}

static void dev_null_is_an_end(void **state)
{
	(void)state;
	int fd = open("/dev/null", O_RDONLY);
	start(fd, 1);
	wait_until(con.eof);
	close(fd);
}

static void input_waits_for_the_receiver(void **state)
{
	static uint8_t text[20000];
	int p[2];
	(void)state;
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(pipe(p), 0);
	room = 16;
	start(p[0], 1);
	assert_int_equal(write(p[1], text, sizeof(text)), sizeof(text));
	close(p[1]);
	/* As much as there is room for is read ahead, then the descriptor rests. */
	wait_until(con.npending == sizeof(con.pending));
	assert_int_equal(ngot, 16);
	assert_int_equal(loop.fds[0].events, 0);
	bool all = false;
	for (unsigned portion = 1; !all; portion = portion % 300 + 13) {
		pthread_mutex_lock(&lock);
		room = portion;
		console_kick(&con);
		all = ngot == sizeof(text);
		pthread_mutex_unlock(&lock);
	}
	assert_int_equal(ngot, sizeof(text));
	assert_memory_equal(got, text, sizeof(text));
	wait_until(con.eof);
	close(p[0]);
}

static void no_receiver_yet(void **state)
{
	int p[2];
	(void)state;
	assert_int_equal(pipe(p), 0);
	con.receive = NULL;
	start(p[0], 1);
	assert_int_equal(write(p[1], "early", 5), 5);
	close(p[1]);
	wait_until(con.eof);
	pthread_mutex_lock(&lock);
	con.receive = receive;
	console_kick(&con);
	pthread_mutex_unlock(&lock);
	assert_int_equal(ngot, 5);
	close(p[0]);
}

static bool is_raw(int fd)
{
	struct termios t;
	assert_int_equal(tcgetattr(fd, &t), 0);
	return !(t.c_lflag & (ICANON | ECHO | ISIG)) && !(t.c_iflag & (IXON | ICRNL)) && (t.c_oflag & OPOST);
}

/* Field by field: the structure has padding. */
static void expect_mode(int fd, const struct termios *expected)
{
	struct termios t;
	assert_int_equal(tcgetattr(fd, &t), 0);
	assert_int_equal(t.c_iflag, expected->c_iflag);
	assert_int_equal(t.c_oflag, expected->c_oflag);
	assert_int_equal(t.c_cflag, expected->c_cflag);
	assert_int_equal(t.c_lflag, expected->c_lflag);
	assert_memory_equal(t.c_cc, expected->c_cc, sizeof(t.c_cc));
}

static void terminal_is_raw_and_restored(void **state)
{
	int master, slave;
	struct termios before;
	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(slave, &before), 0);
	start(slave, slave);
	assert_true(con.is_tty);
	assert_true(is_raw(slave));
	assert_int_equal(write(master, "\x03\x1b[A\r\x13", 6), 6); /* Ctrl-C, arrow, return, Ctrl-S */
	wait_until(ngot == 6);
	assert_memory_equal(got, "\x03\x1b[A\r\x13", 6);

	console_restore_terminal(); /* what a signal handler does */
	expect_mode(slave, &before);

	pthread_mutex_lock(&lock);
	console_stop(&con);
	pthread_mutex_unlock(&lock);
	start(slave, slave);
	assert_true(is_raw(slave));
	pthread_mutex_lock(&lock);
	console_stop(&con);
	pthread_mutex_unlock(&lock);
	expect_mode(slave, &before);
	assert_int_equal(loop.fds[0].fd, -1);

	/* After the end, a late signal touches nothing. */
	struct termios mine = before;
	mine.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(slave, TCSANOW, &mine);
	console_restore_terminal();
	expect_mode(slave, &mine);
	close(master);
	close(slave);
}

static void escape_keys(void **state)
{
	int master, slave;
	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	start(slave, slave);
	assert_int_equal(write(master, "x1\x01\x01x2\x01" "a3\x01z4x\x01", 14), 14);
	wait_until(ngot == 9 && quits == 0);
	assert_memory_equal(got, "x1\x01x2\x01" "34x", 9);
	assert_int_equal(write(master, "x", 1), 1); /* the second half of Ctrl-A x, on its own */
	wait_until(quits == 1 && ngot == 9);

	/* A guest that takes nothing does not keep the user from leaving. */
	pthread_mutex_lock(&lock);
	room = 0;
	pthread_mutex_unlock(&lock);
	assert_int_equal(write(master, "hello\x01x", 7), 7);
	wait_until(quits == 2);
	close(master);
	wait_until(con.eof); /* the terminal is gone: EIO, not a busy loop */
	close(slave);
}

/* In a job that is not the terminal's: the process must go on, and leave terminal and input alone. */
static void background_job_is_not_stopped(void **state)
{
	int master, slave, status;
	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	pid_t leader = fork();
	if (!leader) {
		setsid();
		ioctl(slave, TIOCSCTTY, 0);
		pid_t job = fork();
		if (!job) {
			setpgid(0, 0); /* the leader's group stays in the foreground */
			int err = console_start(&con, &loop, slave, slave);
			_exit(!err && con.eof && !con.raw && !is_raw(slave) ? 42 : 1);
		}
		int job_status;
		if (waitpid(job, &job_status, WUNTRACED) != job || WIFSTOPPED(job_status)) {
			kill(job, SIGKILL);
			_exit(2);
		}
		_exit(WIFEXITED(job_status) ? WEXITSTATUS(job_status) : 3);
	}
	assert_int_equal(waitpid(leader, &status, 0), leader);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
	close(master);
	close(slave);
}

static void write_locked(const void *data, size_t len)
{
	pthread_mutex_lock(&lock);
	console_write(&con, data, len);
	console_flush(&con);
	pthread_mutex_unlock(&lock);
}

static bool readable_within(int fd, int ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	return poll(&pfd, 1, ms) > 0;
}

static void output_is_collected_until_a_line_ends(void **state)
{
	int in[2], out[2];
	char text[8];
	(void)state;
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	start(in[0], out[1]);
	pthread_mutex_lock(&lock); /* which keeps the timer away */
	console_write(&con, (const uint8_t *)"ab", 2);
	assert_false(readable_within(out[0], 0));
	console_write(&con, (const uint8_t *)"c\nd", 3);
	assert_int_equal(read(out[0], text, sizeof text), 4);
	assert_memory_equal(text, "abc\n", 4);
	assert_false(readable_within(out[0], 0));
	pthread_mutex_unlock(&lock);
	assert_true(readable_within(out[0], 5000)); /* without an end of line it goes out by the timer */
	assert_int_equal(read(out[0], text, sizeof text), 1);
	pthread_mutex_lock(&lock);
	console_write(&con, (const uint8_t *)"xyz", 3); /* and what is left at the end is not lost */
	console_stop(&con);
	pthread_mutex_unlock(&lock);
	assert_int_equal(read(out[0], text, sizeof text), 3);
	assert_memory_equal(text, "xyz", 3);
	close(in[0]), close(in[1]), close(out[0]), close(out[1]);
}

#define BIG (1u << 20)
static uint8_t big[BIG], seen[BIG];

static void *slow_reader(void *arg)
{
	int fd = *(int *)arg;
	size_t n = 0;
	while (n < BIG) {
		ssize_t r = read(fd, seen + n, BIG - n < 3001 ? BIG - n : 3001);
		if (r <= 0)
			break;
		n += (size_t)r;
		if (n % 7 == 0)
			usleep(1000);
	}
	return NULL;
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* In the place of the C library's: a descriptor that takes less than it is given and sometimes nothing. */
static int stubborn_fd = -1;
static unsigned refusals;

ssize_t write(int fd, const void *data, size_t len)
{
	static unsigned calls;
	if (fd == stubborn_fd && ++calls % 3 == 0) {
		errno = ++refusals % 2 ? EAGAIN : EINTR;
		return -1;
	}
	return syscall(SYS_write, fd, data, fd == stubborn_fd ? len / 2 + 1 : len);
}

/* A stubborn pipe, a slow reader, and a signal every millisecond: all of it arrives, in order. */
static void output_is_whole(void **state)
{
	int p[2], in[2];
	pthread_t reader;
	sigset_t alarm_only;
	(void)state;
	for (size_t i = 0; i < BIG; i++)
		big[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(pipe(in), 0);
	fcntl(p[1], F_SETFL, O_NONBLOCK);
	start(in[0], p[1]);
	sigemptyset(&alarm_only);
	sigaddset(&alarm_only, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm_only, NULL);
	assert_int_equal(pthread_create(&reader, NULL, slow_reader, &p[0]), 0);
	pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
	struct sigaction act = { .sa_handler = on_alarm }; /* no SA_RESTART: system calls fail with EINTR */
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &(struct itimerval){ { 0, 1000 }, { 0, 1000 } }, NULL);
	stubborn_fd = p[1];
	write_locked(big, BIG);
	stubborn_fd = -1;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	pthread_join(reader, NULL);
	assert_memory_equal(big, seen, BIG);
	assert_false(con.broken);
	assert_true(refusals > 100);
	close(p[0]);
	close(p[1]);
	close(in[0]);
	close(in[1]);
}

static void reader_that_left_is_survived(void **state)
{
	int p[2], in[2];
	(void)state;
	assert_int_equal(pipe(p), 0);
	assert_int_equal(pipe(in), 0);
	signal(SIGPIPE, SIG_DFL);
	start(in[0], p[1]);
	close(p[0]);
	write_locked("x", 1); /* SIGPIPE would end the test here */
	assert_true(con.broken);
	write_locked("x", 1);
	close(p[1]);
	close(in[0]);
	close(in[1]);
}

static void set_flag(void *opaque)
{
	*(volatile int *)opaque = 1;
}

static void stuck_reader_can_be_given_up(void **state)
{
	static volatile int cancel; /* looked at until the console is stopped */
	struct loop_timer timer = { .fn = set_flag, .opaque = (void *)&cancel };
	int p[2], in[2];
	(void)state;
	assert_int_equal(pipe(p), 0);
	assert_int_equal(pipe(in), 0);
	start(in[0], p[1]);
	con.cancel = &cancel;
	write_locked("fits", 4);
	/* Nobody reads, but the loop still gets the lock, and its timer ends the wait. */
	pthread_mutex_lock(&lock);
	loop_timer_set(&loop, &timer, clock_ns() + 50000000);
	pthread_mutex_unlock(&lock);
	write_locked(big, BIG);
	assert_int_equal(cancel, 1);
	assert_false(con.broken);
	close(p[0]);
	close(p[1]);
	close(in[0]);
	close(in[1]);
}

/* The loop has seen that there is input, and waits for the lock; before it gets it, somebody else who has the pipe has read all of it. */
static void input_that_another_reader_takes(void **state)
{
	int in[2], out[2];
	char bytes[8];

	(void)state;
	assert_int_equal(pipe(in) | pipe(out), 0);
	start(in[0], out[1]);
	for (unsigned n = 0; n < 50; n++) {
		pthread_mutex_lock(&lock);
		assert_int_equal(write(in[1], "theirs", 6), 6);
		usleep(2000);
		assert_int_equal(read(in[0], bytes, sizeof bytes), 6);
		pthread_mutex_unlock(&lock);
	}
	/* The loop goes on, and takes what comes then; the flags of the others' descriptor are what they were. */
	assert_int_equal(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(write(in[1], "ours", 4), 4);
	for (unsigned n = 0; n < 2000 && __atomic_load_n(&ngot, __ATOMIC_RELAXED) < 4; n++)
		usleep(1000);
	assert_memory_equal(got, "ours", 4);
	close(in[1]);
	close(out[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pipe_is_passed_on_as_it_is, setup, teardown),
		cmocka_unit_test_setup_teardown(closed_input_is_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(dev_null_is_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(input_that_another_reader_takes, setup, teardown),
		cmocka_unit_test_setup_teardown(input_waits_for_the_receiver, setup, teardown),
		cmocka_unit_test_setup_teardown(no_receiver_yet, setup, teardown),
		cmocka_unit_test_setup_teardown(terminal_is_raw_and_restored, setup, teardown),
		cmocka_unit_test_setup_teardown(escape_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(background_job_is_not_stopped, setup, teardown),
		cmocka_unit_test_setup_teardown(output_is_collected_until_a_line_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(output_is_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(reader_that_left_is_survived, setup, teardown),
		cmocka_unit_test_setup_teardown(stuck_reader_can_be_given_up, setup, teardown),
	};
	return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
