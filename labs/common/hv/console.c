#include "console.h"
#include "state_io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CTRL_A 0x01
/* Small enough that a pipe or terminal that reported POLLOUT takes it without blocking (PIPE_BUF is at least 512). */
#define WRITE_CHUNK 512
#define CANCEL_POLL_MS 200
#define FLUSH_NS 5000000ull
#define LAST_POLLS 10 /* a reader that is slow gets that many more waits for the last line of a VM that has ended */

/* What a signal handler needs to restore the terminal. Plain copies: the handler may not follow pointers into a VM. */
static volatile sig_atomic_t tty_fd = -1;
static struct termios tty_saved;
static struct console *volatile last_started;

/* tcsetattr() from a job that has been moved to the background stops the caller by SIGTTOU unless that is blocked. */
static int set_terminal(int fd, const struct termios *mode)
{
	sigset_t ttou, old;
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	int r;
	do
		r = tcsetattr(fd, TCSANOW, mode);
	while (r < 0 && errno == EINTR);
	int err = r < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

void console_restore_terminal(void)
{
	int fd = tty_fd, saved_errno = errno; /* the code that a signal interrupted may be about to look at errno */
	struct console *con = last_started;
	if (con && con->nout <= sizeof con->out && write(con->out_fd, con->out, con->nout) >= 0)
		con->nout = 0;
	if (fd >= 0)
		set_terminal(fd, &tty_saved);
	errno = saved_errno;
}

static int enter_raw_mode(struct console *con)
{
	if (tcgetattr(con->in_fd, &con->saved) < 0)
		return -errno;
	struct termios raw = con->saved;
	/* Every key as it is typed, no signals, no echo, no flow control: the guest's own terminal driver does all that.
	 * Output processing stays on, because what hv itself and small guests print ends in a bare newline. */
	raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	raw.c_cflag = (raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;

	/* In this order, so that a signal between the two finds what it has to restore. */
	tty_saved = con->saved;
	tty_fd = con->in_fd;
	int err = set_terminal(con->in_fd, &raw);
	if (err)
		tty_fd = -1;
	con->raw = !err;
	return err;
}

static void leave_raw_mode(struct console *con)
{
	if (!con->raw)
		return;
	set_terminal(con->in_fd, &con->saved);
	con->raw = false;
	if (tty_fd == con->in_fd)
		tty_fd = -1;
}

static void hand_over(struct console *con)
{
	if (!con->npending || !con->receive || con->held)
		return;
	size_t taken = con->receive(con->receive_opaque, con->pending, con->npending);
	con->npending -= taken;
	memmove(con->pending, con->pending + taken, con->npending);
}

/* Reading goes on while there is room for what is read, so that Ctrl-A x is seen although the guest takes no input. */
static void update_events(struct console *con)
{
	if (!con->eof)
		loop_fd_events(con->loop, con->in_fd, con->npending < sizeof(con->pending) ? POLLIN : 0);
}

void console_state(struct console *con, struct state_io *io)
{
	uint8_t before[sizeof con->pending];
	size_t nbefore = con->npending, room;

	memcpy(before, con->pending, nbefore);
	STATE(io, con->npending);
	if (!state_check(io, con->npending <= sizeof con->pending, "more input waits than there is room for"))
		con->npending = 0;
	state_bytes(io, con->pending, con->npending);
	if (!io->loading)
		return;
	/* What was typed here while the VM was on its way comes behind what was typed there. */
	room = sizeof con->pending - con->npending;
	nbefore = nbefore < room ? nbefore : room;
	memcpy(con->pending + con->npending, before, nbefore);
	con->npending += nbefore;
	if (con->loop)
		update_events(con);
}

/* What is left of typed bytes once the escapes are taken out; in place. */
static size_t filter_escapes(struct console *con, uint8_t *data, size_t len)
{
	size_t kept = 0;
	for (size_t i = 0; i < len; i++) {
		uint8_t c = data[i];
		if (!con->escape) {
			if (c == CTRL_A)
				con->escape = true;
			else
				data[kept++] = c;
			continue;
		}
		con->escape = false;
		if (c == CTRL_A || c == 'a')
			data[kept++] = CTRL_A;
		else if (c == 'x' && con->quit)
			con->quit(con->quit_opaque);
	}
	return kept;
}

static void end_of_input(struct console *con)
{
	con->eof = true;
	loop_fd_remove(con->loop, con->in_fd);
	if (con->own_fd >= 0)
		close(con->own_fd);
	con->own_fd = -1;
}

/*
 * The descriptor is not made non-blocking: the flag would belong to everybody who has it, and outlive us. But of a pipe others may read,
 * too, behind the poll that saw something in it. So that is opened once more, and that description is ours alone. A terminal's
 * other readers are in the background, where they do not read.
 */
static int own_input(int in_fd)
{
	char path[32];
	struct stat st;

	if (fstat(in_fd, &st) || !S_ISFIFO(st.st_mode))
		return -1;
	snprintf(path, sizeof path, "/proc/self/fd/%d", in_fd);
	return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static void readable(void *opaque, short revents)
{
	struct console *con = opaque;

	if (revents & POLLNVAL) { /* hv was started with its standard input closed */
		end_of_input(con);
		return;
	}
	/* poll(2) has said that a read does not block, unless somebody else has read meanwhile (own_input()). On POLLHUP it returns what is
	 * left, then 0. */
	uint8_t *space = con->pending + con->npending;
	ssize_t n = read(con->in_fd, space, sizeof(con->pending) - con->npending);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) { /* the end, or EIO: the terminal has gone */
		end_of_input(con);
		return;
	}
	con->npending += con->is_tty ? filter_escapes(con, space, (size_t)n) : (size_t)n;
	hand_over(con);
	update_events(con);
}

void console_kick(struct console *con)
{
	if (!con->npending)
		return;
	hand_over(con);
	update_events(con);
}

static void flush_timer(void *opaque) { console_flush(opaque); }

/* Passes on what the descriptor takes without waiting. */
static void send_now(struct console *con)
{
	struct pollfd pfd = { .fd = con->out_fd, .events = POLLOUT };

	while (con->nout && !con->sending && !con->broken && poll(&pfd, 1, 0) > 0) {
		ssize_t n = write(con->out_fd, con->out, con->nout < WRITE_CHUNK ? con->nout : WRITE_CHUNK);

		if (n >= 0) {
			con->nout -= (size_t)n;
			memmove(con->out, con->out + n, con->nout);
		} else if (errno != EINTR && errno != EAGAIN) {
			con->broken = true;
		}
	}
	if (con->broken)
		con->nout = 0;
}

/* A slow reader is asked by a timer: its descriptor may be the input's too, which the loop watches already. */
static void try_again(void *opaque)
{
	struct console *con = opaque;

	send_now(con);
	if (con->nout == sizeof con->out)
		loop_timer_set(con->loop, &con->room_timer, clock_ns() + FLUSH_NS);
	else if (con->room)
		con->room(con->room_opaque);
}

int console_start(struct console *con, struct loop *loop, int in_fd, int out_fd)
{
	con->loop = loop;
	con->own_fd = own_input(in_fd);
	con->in_fd = in_fd = con->own_fd >= 0 ? con->own_fd : in_fd;
	con->out_fd = out_fd;
	con->is_tty = isatty(in_fd);
	con->raw = con->escape = con->eof = con->broken = false;
	con->npending = con->nout = 0;
	con->sending = con->ending = false;
	con->patience = 0;
	con->flush_timer = (struct loop_timer){ .fn = flush_timer, .opaque = con };
	con->room_timer = (struct loop_timer){ .fn = try_again, .opaque = con };
	last_started = con;

	/* A reader of our output that goes away (`hv run ... | head`) must not kill us with the terminal in raw mode. */
	signal(SIGPIPE, SIG_IGN);

	/* To read or change a terminal whose foreground job is another one stops the process (SIGTTIN, SIGTTOU). Commands
	 * under timeout(1) are in that state too. -1: not our controlling terminal, so no job control on it. */
	if (con->is_tty) {
		pid_t foreground = tcgetpgrp(in_fd);
		if (foreground >= 0 && foreground != getpgrp()) {
			con->eof = true;
			return 0;
		}
	}
	int err = loop_fd_add(loop, in_fd, POLLIN, readable, con);
	if (!err && con->is_tty) {
		err = enter_raw_mode(con);
		if (err)
			end_of_input(con);
	}
	return err;
}

void console_stop(struct console *con)
{
	if (!con->loop)
		return;
	con->ending = true;
	con->patience = LAST_POLLS;
	console_flush(con);
	loop_timer_set(con->loop, &con->flush_timer, 0);
	last_started = NULL;
	loop_timer_set(con->loop, &con->room_timer, 0);
	if (!con->eof)
		end_of_input(con);
	leave_raw_mode(con);
}

static void send_out(struct console *con, const uint8_t *data, size_t len)
{
	while (len && !con->broken) {
		struct pollfd pfd = { .fd = con->out_fd, .events = POLLOUT };
		if (poll(&pfd, 1, 0) <= 0) {
			if ((con->ending || (con->cancel && *con->cancel)) && con->patience-- <= 0)
				return;
			/* Wait here with a limit and without the lock, not in write(2): a reader that has stopped must keep
			 * neither the loop from its work nor hv from ending. */
			pthread_mutex_unlock(con->loop->lock);
			poll(&pfd, 1, CANCEL_POLL_MS);
			pthread_mutex_lock(con->loop->lock);
			continue;
		}
		ssize_t n = write(con->out_fd, data, len < WRITE_CHUNK ? len : WRITE_CHUNK);
		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno != EINTR && errno != EAGAIN) {
			/* EPIPE, ENOSPC, EBADF, ...: the guest goes on as a machine does whose serial cable was pulled. */
			con->broken = true;
		}
	}
}

void console_flush(struct console *con)
{
	uint8_t data[CONSOLE_OUT];
	size_t len = con->nout;

	if (con->sending || !len)
		return;
	/* A copy, because send_out() may give up the lock, and more output may come meanwhile. */
	memcpy(data, con->out, len);
	con->nout = 0;
	con->sending = true;
	send_out(con, data, len);
	con->sending = false;
}

/* Puts bytes into the buffer, making room as often as need be. */
static void collect(struct console *con, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		while (con->nout == sizeof con->out) {
			if (con->broken || (con->cancel && *con->cancel))
				return;
			if (!con->sending) {
				console_flush(con);
				continue;
			}
			pthread_mutex_unlock(con->loop->lock); /* the other thread is at it */
			poll(NULL, 0, 1);
			pthread_mutex_lock(con->loop->lock);
		}
		if (!con->nout && !con->whole_lines)
			loop_timer_set(con->loop, &con->flush_timer, clock_ns() + FLUSH_NS);
		con->out[con->nout++] = data[i];
		if (data[i] == '\n')
			console_flush(con);
	}
}

void console_write(struct console *con, const uint8_t *data, size_t len)
{
	if (!con->prefix) {
		collect(con, data, len);
		return;
	}
	for (size_t i = 0; i < len; i++) {
		if (!con->in_line)
			collect(con, (const uint8_t *)con->prefix, strlen(con->prefix));
		con->in_line = data[i] != '\n';
		collect(con, data + i, 1);
	}
}

size_t console_offer(struct console *con, const uint8_t *data, size_t len)
{
	size_t taken = 0;

	for (; taken < len && !con->broken; taken++) {
		size_t before = con->prefix && !con->in_line ? strlen(con->prefix) : 0;

		if (con->nout + before + 1 > sizeof con->out)
			send_now(con);
		if (con->nout + before + 1 > sizeof con->out)
			break;
		if (before)
			memcpy(con->out + con->nout, con->prefix, before);
		con->nout += before;
		con->out[con->nout++] = data[taken];
		con->in_line = data[taken] != '\n';
		if (!con->in_line && con->whole_lines)
			send_now(con);
	}
	if (con->broken)
		return len;
	if (!con->whole_lines)
		send_now(con);
	if (taken < len)
		loop_timer_set(con->loop, &con->room_timer, clock_ns() + FLUSH_NS);
	else if (con->nout && !con->whole_lines)
		loop_timer_set(con->loop, &con->flush_timer, clock_ns() + FLUSH_NS);
	return taken;
}
