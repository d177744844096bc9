/*
 * The debugger's side of a VM: the connection and who reads it when. While the guest stands still the vCPU thread reads
 * and answers packets (gdbstub_serve); while it runs the event loop watches for Ctrl-C, a hang-up or a new debugger, and
 * all it does then is to ask the vCPU thread to come here. What packets mean is in gdbcommand.c.
 */
#define _GNU_SOURCE /* accept4 */
#include "gdbstub.h"
#include "gdbcommand.h"
#include "gdbpacket.h"

#include "engine.h"
#include "vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* How often a wait for the debugger looks whether the VM is to stop for another reason. */
#define LOOK_UP_MS 100
/* A debugger that does not take what it is sent for this long is treated as gone. */
#define SEND_TRIES 100

struct gdbstub {
	struct vm *vm;
	int listen_fd, conn_fd; /* conn_fd: -1 without a debugger */
	atomic_bool interrupt;  /* run() is to return; set by the event loop, taken by the vCPU thread */
	bool interrupted;       /* it was taken */

	/* Changed with the VM's lock held, because the event loop looks at them. */
	bool running; /* the guest runs; input belongs to the event loop */
	bool lost;    /* the debugger hung up meanwhile */

	struct gdb_reader reader;
	uint8_t rx[4096]; /* received, not yet given to the reader */
	size_t rx_pos, rx_len;
	uint8_t frame[GDB_FRAME_MAX]; /* the last answer, for a debugger that asks to repeat it */
	size_t frame_len;
	struct gdb_session session; /* what the debugger set up */
};

/* --- the connection -------------------------------------------------------------------------------------------------- */

static void drop_client(struct gdbstub *s)
{
	if (s->conn_fd >= 0)
		close(s->conn_fd);
	s->conn_fd = -1;
	s->lost = false;
	s->rx_pos = s->rx_len = s->frame_len = 0;
	memset(&s->reader, 0, sizeof(s->reader));
	gdb_session_init(&s->session, s->vm);
}

/* Sends all of it; a debugger that went away is noticed by the next read. */
static void send_bytes(struct gdbstub *s, const uint8_t *data, size_t len)
{
	for (int tries = 0; len && tries < SEND_TRIES;) {
		ssize_t n = send(s->conn_fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			data += n;
			len -= (size_t)n;
			tries = 0;
		} else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			struct pollfd pfd = { .fd = s->conn_fd, .events = POLLOUT };
			poll(&pfd, 1, LOOK_UP_MS);
			tries++;
		} else {
			return;
		}
	}
	if (len)
		shutdown(s->conn_fd, SHUT_RDWR);
}

static void send_reply(struct gdbstub *s)
{
	s->frame_len = gdb_frame(s->frame, s->session.reply, s->session.reply_len);
	send_bytes(s, s->frame, s->frame_len);
}

/* Receives what is there. 1, 0 when there is nothing at the moment, -1 when the debugger is gone. */
static int receive(struct gdbstub *s)
{
	ssize_t n = recv(s->conn_fd, s->rx, sizeof(s->rx), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	s->rx_pos = 0;
	s->rx_len = n > 0 ? (size_t)n : 0;
	return n > 0 ? 1 : -1;
}

/* Waits for readability of a descriptor; false when the VM is to stop. */
static bool wait_readable(struct gdbstub *s, int fd)
{
	while (!s->vm->stopping) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		if (poll(&pfd, 1, LOOK_UP_MS) > 0)
			return true;
	}
	return false;
}

/* Takes a debugger that asks for a connection; wait: until there is one. */
static void accept_client(struct gdbstub *s, bool wait)
{
	int one = 1;

	while (s->conn_fd < 0) {
		if (wait && !wait_readable(s, s->listen_fd))
			return;
		s->conn_fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (s->conn_fd < 0 && !wait)
			return;
	}
	/* Packets are small and each waits for its answer. */
	setsockopt(s->conn_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* --- while the guest runs: the event loop's side, with the VM's lock held ---------------------------------------------- */

/* Called by the event loop, or for what is left over in rx when the guest is started. */
static void ask_for_stop(struct gdbstub *s, int fd)
{
	loop_fd_remove(&s->vm->loop, fd);
	atomic_store(&s->interrupt, true);
	vm_kick(s->vm);
}

/* Looks for Ctrl-C. What follows it stays in rx for gdbstub_serve(); a packet has no business here and is not answered. */
static void watch_bytes(struct gdbstub *s)
{
	while (s->rx_pos < s->rx_len) {
		if (gdb_read_byte(&s->reader, s->rx[s->rx_pos++]) == GDB_INTERRUPT) {
			ask_for_stop(s, s->conn_fd);
			return;
		}
	}
}

static void on_input(void *opaque, short revents)
{
	struct gdbstub *s = opaque;
	(void)revents; /* a hang-up shows in recv() too */

	if (!s->running)
		return;
	int r = receive(s);
	if (r < 0) {
		s->lost = true;
		ask_for_stop(s, s->conn_fd);
	} else if (r > 0) {
		watch_bytes(s);
	}
}

static void on_client(void *opaque, short revents)
{
	struct gdbstub *s = opaque;
	(void)revents;

	if (s->running)
		ask_for_stop(s, s->listen_fd);
}

/* --- the vCPU thread's side ---------------------------------------------------------------------------------------------- */

/* Takes the input back from the event loop. Returns whether that had asked for the stop. */
static bool guest_stopped(struct gdbstub *s)
{
	struct vm *vm = s->vm;

	pthread_mutex_lock(&vm->lock);
	s->running = false;
	loop_fd_remove(&vm->loop, s->conn_fd >= 0 ? s->conn_fd : s->listen_fd);
	pthread_mutex_unlock(&vm->lock);
	bool interrupted = s->interrupted | atomic_exchange(&s->interrupt, false);
	s->interrupted = false;
	return interrupted;
}

/* Lets the guest run; true, or false when that cannot be done and the VM stops. */
static bool guest_resume(struct gdbstub *s)
{
	struct vm *vm = s->vm;

	if (gdb_session_resume(&s->session))
		return false;
	pthread_mutex_lock(&vm->lock);
	s->running = true;
	int r = s->conn_fd >= 0 ? loop_fd_add(&vm->loop, s->conn_fd, POLLIN, on_input, s)
				: loop_fd_add(&vm->loop, s->listen_fd, POLLIN, on_client, s);
	watch_bytes(s);
	pthread_mutex_unlock(&vm->lock);
	if (r)
		vm_stop(vm, HV_HOST, "the event loop has no room for the debugger's connection");
	return !r;
}

/* Acts on one event from the debugger; what to do next. */
static enum gdb_next handle_event(struct gdbstub *s, enum gdb_event event)
{
	struct gdb_session *session = &s->session;
	enum gdb_next next;

	switch (event) {
	case GDB_PACKET:
		if (!session->no_ack)
			send_bytes(s, (const uint8_t *)"+", 1);
		next = gdb_command(session, s->reader.buf);
		/* After "c" and the like the answer is the stop reply, when the guest stops again. */
		if (next == GDB_STAY || next == GDB_DETACH)
			send_reply(s);
		return next;
	case GDB_DAMAGED:
		if (!session->no_ack)
			send_bytes(s, (const uint8_t *)"-", 1);
		return GDB_STAY;
	case GDB_NAK: send_bytes(s, s->frame, s->frame_len); return GDB_STAY;
	case GDB_INTERRUPT: /* it stands still already */
	case GDB_ACK:
	case GDB_NOTHING: break;
	}
	return GDB_STAY;
}

bool gdbstub_serve(struct vm *vm, bool first)
{
	struct gdbstub *s = vm->gdb;
	bool interrupted = guest_stopped(s);

	gdb_session_stopped(&s->session, interrupted);
	if (s->lost)
		drop_client(s);
	if (s->conn_fd < 0) {
		accept_client(s, first);
	} else {
		gdb_session_stop_reply(&s->session);
		send_reply(s); /* only to the debugger that let the guest run; one that came just now asks by itself */
	}

	while (!vm->stopping && s->conn_fd >= 0) {
		if (s->rx_pos == s->rx_len && (!wait_readable(s, s->conn_fd) || receive(s) < 0)) {
			drop_client(s);
			break;
		}
		if (s->rx_pos == s->rx_len)
			continue;
		switch (handle_event(s, gdb_read_byte(&s->reader, s->rx[s->rx_pos++]))) {
		case GDB_RESUME: return guest_resume(s);
		case GDB_KILL: vm_stop(vm, HV_OK, "the debugger ended the VM"); /* fall through */
		case GDB_DETACH: drop_client(s); break;
		case GDB_STAY: break;
		}
	}
	/* Without a debugger the guest goes on by itself, as it was. */
	return !vm->stopping && guest_resume(s);
}

bool gdbstub_take_interrupt(struct vm *vm)
{
	struct gdbstub *s = vm->gdb;

	/* Engines ask before every entry into the guest; nearly always a plain load answers. */
	if (!atomic_load(&s->interrupt) || !atomic_exchange(&s->interrupt, false))
		return false;
	s->interrupted = true;
	return true;
}

bool gdbstub_has_breakpoint(struct vm *vm, uint64_t gva)
{
	return gdb_session_has_breakpoint(&vm->gdb->session, gva);
}

/* --- life ---------------------------------------------------------------------------------------------------------------- */

static int listen_on(int fd, int port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int one = 1;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK); /* whoever connects owns the guest: never from another machine */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1))
		return -errno;
	return 0;
}

int gdbstub_create(struct vm *vm, int port)
{
	struct gdbstub *s = calloc(1, sizeof(*s));
	int fd = s ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
	int r = fd < 0 ? -errno : listen_on(fd, port);

	if (r) {
		if (fd >= 0)
			close(fd);
		free(s);
		vm_stop(vm, HV_HOST, "cannot wait for a debugger on port %d: %s", port, strerror(-r));
		return r;
	}
	struct sockaddr_in addr;
	socklen_t len = sizeof(addr);
	if (!getsockname(fd, (struct sockaddr *)&addr, &len))
		fprintf(stderr, "hv: waiting for a debugger on 127.0.0.1:%u\n", ntohs(addr.sin_port));
	s->vm = vm;
	s->listen_fd = fd;
	s->conn_fd = -1;
	gdb_session_init(&s->session, vm);
	vm->gdb = s;
	return 0;
}

void gdbstub_destroy(struct vm *vm)
{
	struct gdbstub *s = vm->gdb;

	if (!s)
		return;
	guest_stopped(s);
	if (s->conn_fd >= 0 && !s->lost) {
		gdb_session_exit_reply(&s->session);
		send_reply(s);
	}
	drop_client(s);
	close(s->listen_fd);
	free(s);
	vm->gdb = NULL;
}
