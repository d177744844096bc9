/*
 * A cable between two VMs: a Unix socket that keeps frames apart (SOCK_SEQPACKET). Who comes first listens on the path, the
 * other one connects. Each may go and come again; whoever is left takes the role that is free. A third one waits, and gets a
 * place when one of the two goes; a fourth takes the third one's place.
 *
 * So a VM can move to another process: there it joins when it runs, and waits, if the other VM listens, for the end of the process that it
 * came from, a moment later. If that one listened, it is who comes first of the two others. For the guests the cable is plugged in all the
 * time: that it is not is believed only after GRACE_NS.
 *
 * The peer is not trusted more than the guest: a message is a frame, with bounds, and nothing else in it is looked at. A peer
 * that does not read stops the guest's sending, not hv.
 */
#define _GNU_SOURCE /* accept4 */
#include "control_path.h"
#include "netback.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRY_NS 200000000ull
#define GRACE_NS 500000000ull

struct net_socket {
	struct netback *nb;
	struct sockaddr_un addr;
	int listen_fd, fd, next_fd; /* fd: the peer, or -1; next_fd: who waits for its place, or -1 */
	bool paused;
	struct loop_timer retry, grace;
	size_t kept;	 /* length of the frame that the peer had no room for, or 0 */
	uint8_t *out;	 /* that frame */
	uint8_t frame[]; /* the one that is received */
};

static void on_peer(void *opaque, short revents);

static void watch(struct net_socket *s)
{
	loop_fd_events(s->nb->loop, s->fd, (short)((s->paused ? 0 : POLLIN) | (s->kept ? POLLOUT : 0)));
}

static void try_again(struct net_socket *s)
{
	loop_timer_set(s->nb->loop, &s->retry, clock_ns() + (s->grace.deadline_ns ? NETBACK_RETRY_NS : RETRY_NS));
}

/* There is no peer now, and perhaps there will be one soon. */
static void be_alone(struct net_socket *s)
{
	loop_timer_set(s->nb->loop, &s->grace, clock_ns() + GRACE_NS);
}

static void on_grace(void *opaque)
{
	struct net_socket *s = opaque;

	if (s->fd < 0)
		netback_set_link(s->nb, false);
}

static int take_peer(struct net_socket *s, int fd);

static void lose_peer(struct net_socket *s)
{
	loop_fd_remove(s->nb->loop, s->fd);
	close(s->fd);
	s->fd = -1;
	s->kept = 0;
	if (s->next_fd >= 0) {
		int fd = s->next_fd;

		s->next_fd = -1;
		take_peer(s, fd);
	}
	if (s->fd < 0) {
		be_alone(s);
		if (s->listen_fd < 0)
			try_again(s);
	}
	netback_set_blocked(s->nb, false); /* what comes now is dropped, as on a cable that is not plugged in */
}

static int take_peer(struct net_socket *s, int fd)
{
	if (loop_fd_add(s->nb->loop, fd, POLLIN, on_peer, s)) {
		close(fd);
		return -ENOSPC;
	}
	s->fd = fd;
	loop_timer_set(s->nb->loop, &s->grace, 0);
	watch(s);
	netback_set_link(s->nb, true);
	return 0;
}

static void on_connection(void *opaque, short revents)
{
	struct net_socket *s = opaque;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)revents;
	if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM)
		return; /* it has gone already */
	if (fd < 0) {
		/* Without a descriptor the connection would be announced again and again. Later there may be one. */
		loop_fd_events(s->nb->loop, s->listen_fd, 0);
		loop_timer_set(s->nb->loop, &s->retry, clock_ns() + RETRY_NS);
		return;
	}
	if (s->fd < 0) {
		take_peer(s, fd);
		return;
	}
	if (s->next_fd >= 0)
		close(s->next_fd);
	s->next_fd = fd;
}

/* --- frames ------------------------------------------------------------------------------------------------------------ */

/* 0; -EAGAIN when the peer has no room now; or another -errno when it is gone. */
static int put(struct net_socket *s, const struct iovec *iov, unsigned n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };

	for (;;) {
		if (sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
}

static void get(struct net_socket *s)
{
	struct netback *nb = s->nb;

	for (unsigned i = 0; i < NET_FRAMES_AT_ONCE; i++) {
		/* MSG_TRUNC: the length that the message had, also when it is longer than the buffer. */
		ssize_t n = recv(s->fd, s->frame, nb->frame_max, MSG_DONTWAIT | MSG_TRUNC);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			lose_peer(s);
			return;
		}
		if (n < (ssize_t)ETH_HEADER || (size_t)n > nb->frame_max)
			nb->dropped++;
		else if (!netback_deliver(nb, s->frame, (size_t)n))
			return;
	}
}

static void on_peer(void *opaque, short revents)
{
	struct net_socket *s = opaque;

	if (s->kept && revents & (POLLOUT | POLLHUP | POLLERR)) {
		int error = put(s, &(struct iovec){ s->out, s->kept }, 1);

		if (error && error != -EAGAIN) {
			lose_peer(s);
			return;
		}
		if (!error) {
			s->kept = 0;
			watch(s);
			netback_set_blocked(s->nb, false);
		}
	}
	/* The device may have sent in between, and the peer may be gone now. */
	if (s->fd >= 0 && !s->paused && revents & (POLLIN | POLLHUP | POLLERR))
		get(s);
}

static void net_socket_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	struct net_socket *s = nb->state;
	int error = s->fd < 0 || s->kept ? -ENOTCONN : put(s, iov, n);

	if (error == -EAGAIN) {
		netback_gather(iov, n, s->out);
		s->kept = len;
		watch(s);
		netback_set_blocked(nb, true);
		return;
	}
	nb->dropped += error != 0;
	if (error == -EPIPE || error == -ECONNRESET)
		lose_peer(s);
}

static void net_socket_pause(struct netback *nb, bool paused)
{
	struct net_socket *s = nb->state;

	s->paused = paused;
	if (s->fd >= 0)
		watch(s);
}

/* --- coming and going -------------------------------------------------------------------------------------------------- */

/* Somebody listened here and is gone, if a socket is all that is left. */
static void remove_stale(const char *path)
{
	struct stat st;

	if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
		unlink(path);
}

/* Connects, or listens when nobody does. 0 or -errno. With the lock, because a socket that refuses may have been made just now by somebody
 * who will listen in a moment, and what two find to be stale only one must remove. */
static int join_locked(struct net_socket *s)
{
	const struct sockaddr *addr = (struct sockaddr *)&s->addr;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;

	if (fd < 0)
		return -errno;
	if (!connect(fd, addr, sizeof s->addr))
		return take_peer(s, fd);
	if (errno == ECONNREFUSED)
		remove_stale(s->addr.sun_path);
	else if (errno != ENOENT)
		error = -errno;
	if (!error && (bind(fd, addr, sizeof s->addr) || listen(fd, 1)))
		error = -errno;
	if (!error && loop_fd_add(s->nb->loop, fd, POLLIN, on_connection, s))
		error = -ENOSPC;
	if (error)
		close(fd);
	else
		s->listen_fd = fd;
	return error;
}

static int join(struct net_socket *s)
{
	int lock = control_lock(s->addr.sun_path), error = join_locked(s);

	if (lock >= 0)
		close(lock);
	return error;
}

static void on_retry(void *opaque)
{
	struct net_socket *s = opaque;

	if (s->listen_fd >= 0)
		loop_fd_events(s->nb->loop, s->listen_fd, POLLIN);
	else if (join(s))
		try_again(s);
}

static void net_socket_resume(struct netback *nb)
{
	struct net_socket *s = nb->state;

	be_alone(s);
	on_retry(s);
}

static void net_socket_close(struct netback *nb)
{
	struct net_socket *s = nb->state;

	if (!s)
		return;
	loop_timer_set(nb->loop, &s->retry, 0);
	loop_timer_set(nb->loop, &s->grace, 0);
	if (s->next_fd >= 0)
		close(s->next_fd);
	if (s->fd >= 0) {
		loop_fd_remove(nb->loop, s->fd);
		close(s->fd);
	}
	if (s->listen_fd >= 0) {
		loop_fd_remove(nb->loop, s->listen_fd);
		unlink(s->addr.sun_path); /* first, or it could be the next one's already */
		close(s->listen_fd);
	}
	free(s->out);
	free(s);
	nb->state = NULL;
}

static int net_socket_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	struct net_socket *s = calloc(1, sizeof *s + nb->frame_max);

	if (!s)
		return snprintf(err, size, "no memory for a network device"), -ENOMEM;
	nb->state = s;
	s->nb = nb;
	s->listen_fd = s->fd = s->next_fd = -1;
	s->retry = (struct loop_timer){ .fn = on_retry, .opaque = s };
	s->grace = (struct loop_timer){ .fn = on_grace, .opaque = s };
	s->addr.sun_family = AF_UNIX;
	strcpy(s->addr.sun_path, o->name); /* net_parse() looked at the length */
	s->out = malloc(nb->frame_max);
	if (!s->out)
		return snprintf(err, size, "no memory for a network device"), -ENOMEM;

	int error = o->moving ? 0 : join(s);

	if (error) {
		snprintf(err, size, "--net socket=%s cannot be used: %s", o->name,
			 error == -EADDRINUSE ? "it exists and is no socket" : strerror(-error));
		return -EINVAL;
	}
	return 0;
}

const struct netback_ops net_socket_ops = {
	.open = net_socket_open,
	.send = net_socket_send,
	.pause = net_socket_pause,
	.close = net_socket_close,
	.resume = net_socket_resume,
};
