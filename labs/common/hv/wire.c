#define _GNU_SOURCE /* accept4 */
#include "wire.h"
#include "control_path.h"
#include "loop.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull
#define LOOK_MS 50	   /* while something is waited for, w->cancelled is looked at this often */
#define AGAIN_NS (20 * MS) /* between two attempts to connect */
#define PIECES 16	   /* of what is written, that go to the kernel at once */
#define PIECE_MOST (1u << 20)

/*
 * The rate: what is written moves w->paid_ns on by the time that it may take, and nothing is written before that time. The pieces are
 * small, so that the line is never busy for long. A thread seldom wakes up on time: what it is late by may be made up for, else a loaded
 * host would not come near the rate. Time in which there was nothing to write is not made up for: a burst would follow it.
 */
#define RATE_PIECE_NS (5 * MS)
#define RATE_LATE_NS (100 * MS)

/* --- waiting ---------------------------------------------------------------------------------------------------------------------- */

/* Until the descriptor (-1: none) has news, or `until` of clock_ns() comes (0: never does): 1, 0, -ECANCELED, or -errno. */
static int wait_until(const struct wire *w, int fd, short events, uint64_t until)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		uint64_t now = clock_ns(), ns = LOOK_MS * MS;

		if (w->cancelled && w->cancelled(w->opaque))
			return -ECANCELED;
		if (until)
			ns = now >= until ? 0 : until - now < ns ? until - now : ns;
		struct timespec slice = { .tv_nsec = (long)ns };
		int n = ppoll(&p, 1, &slice, NULL);
		if (n > 0)
			return 1;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (until && !ns)
			return 0;
	}
}

static uint64_t limit_of(uint64_t patience)
{
	return patience ? clock_ns() + patience : 0;
}

/* --- places ----------------------------------------------------------------------------------------------------------------------- */

struct place {
	bool local;
	struct sockaddr_un path;
	char host[256], port[8];
};

static int bad(char *err, size_t errlen, const char *uri, const char *why)
{
	snprintf(err, errlen, "\"%s\" is no place for a VM: %s", uri, why);
	return -EINVAL;
}

static int tcp_place(const char *uri, struct place *p, char *err, size_t errlen)
{
	const char *host = uri + 4, *end, *port;
	unsigned long number = 0;

	if (host[0] == '[') {
		end = strchr(++host, ']');
		port = end ? end + 1 : "";
		if (!end || *port != ':')
			return bad(err, errlen, uri, "an IPv6 address stands in brackets, and :PORT behind it");
	} else {
		end = port = strrchr(host, ':');
		if (!end)
			return bad(err, errlen, uri, "the port is missing (tcp:HOST:PORT)");
		if (memchr(host, ':', (size_t)(end - host)))
			return bad(err, errlen, uri, "an IPv6 address stands in brackets (tcp:[::1]:4444)");
	}
	if (end == host || (size_t)(end - host) >= sizeof p->host)
		return bad(err, errlen, uri,
			   end == host ? "the host is missing (tcp:HOST:PORT)" : "the host's name is too long");
	port++;
	if (port[0] && strspn(port, "0123456789") == strlen(port) && strlen(port) <= 5)
		for (const char *c = port; *c; c++)
			number = 10 * number + (unsigned long)(*c - '0');
	if (number < 1 || number > 65535)
		return bad(err, errlen, uri, "a port is a number from 1 to 65535");
	snprintf(p->host, sizeof p->host, "%.*s", (int)(end - host), host);
	snprintf(p->port, sizeof p->port, "%lu", number);
	return 0;
}

static int place_of(const char *uri, struct place *p, char *err, size_t errlen)
{
	*p = (struct place){ .local = !strncmp(uri, "unix:", 5) };
	if (!p->local)
		return strncmp(uri, "tcp:", 4) ? bad(err, errlen, uri, "it begins with neither unix: nor tcp:")
					       : tcp_place(uri, p, err, errlen);
	if (!uri[5])
		return bad(err, errlen, uri, "the path of the socket is missing (unix:PATH)");
	if (strlen(uri + 5) >= sizeof p->path.sun_path)
		return bad(err, errlen, uri, "the path of a Unix socket has 107 bytes at most");
	p->path.sun_family = AF_UNIX;
	strcpy(p->path.sun_path, uri + 5);
	return 0;
}

int wire_uri_check(const char *uri, char *err, size_t errlen)
{
	struct place p;

	return place_of(uri, &p, err, errlen);
}

/* What can be said about a failure; -errno again. */
static int failed(char *err, size_t errlen, const char *what, const char *uri, int error)
{
	snprintf(err, errlen, "cannot %s %s: %s", what, uri, strerror(error));
	return -error;
}

static int addresses(const struct place *p, const char *uri, int flags, struct addrinfo **list, char *err, size_t errlen)
{
	struct addrinfo hints = { .ai_flags = flags | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
	int r = getaddrinfo(p->host, p->port, &hints, list);

	if (!r)
		return 0;
	snprintf(err, errlen, "the host of %s is not known: %s", uri, gai_strerror(r));
	return -EADDRNOTAVAIL;
}

/* --- listening -------------------------------------------------------------------------------------------------------------------- */

/*
 * Makes way, as the control socket does: what lies there is nothing, or a socket that nobody has open any more. Whether somebody has is
 * asked with a datagram socket, which never becomes a connection: a hv that waits there for its VM would take one for the source.
 */
static int make_way(const struct sockaddr_un *addr, char *err, size_t errlen)
{
	struct stat st;

	if (lstat(addr->sun_path, &st))
		return 0; /* nothing is there; if the reason is another one, bind() will tell */
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(err, errlen, "there is something at %s that is no socket", addr->sun_path);
		return -EEXIST;
	}
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return failed(err, errlen, "use", addr->sun_path, errno);
	int error = connect(fd, (const struct sockaddr *)addr, sizeof *addr) ? errno : EADDRINUSE;
	close(fd);
	if (error == EADDRINUSE || error == EPROTOTYPE) {
		snprintf(err, errlen, "somebody listens at %s already", addr->sun_path);
		return -EADDRINUSE;
	}
	if (error != ECONNREFUSED)
		return failed(err, errlen, "use", addr->sun_path, error);
	unlink(addr->sun_path);
	return 0;
}

static int listen_path(const struct place *p, const char *uri, int *listening, char *err, size_t errlen)
{
	int lock = control_lock(p->path.sun_path);
	int r = make_way(&p->path, err, errlen);

	if (!r) {
		*listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		/* Whoever may connect may give us a VM: the user only. The file gets the socket's mode (bind() in Linux' af_unix.c). */
		if (*listening < 0 || fchmod(*listening, 0600) ||
		    bind(*listening, (const struct sockaddr *)&p->path, sizeof p->path) || listen(*listening, 4))
			r = failed(err, errlen, "listen at", uri, errno);
	}
	if (lock >= 0)
		close(lock);
	return r;
}

static int listen_tcp(const struct place *p, const char *uri, int *listening, char *err, size_t errlen)
{
	struct addrinfo *list, *a;
	int one = 1, r = addresses(p, uri, AI_PASSIVE, &list, err, errlen);

	if (r)
		return r;
	for (a = list; a; a = a->ai_next) {
		*listening = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		/* The address of an earlier run, whose last connection the kernel still remembers, is free for this one. */
		if (*listening >= 0 && !setsockopt(*listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) &&
		    !bind(*listening, a->ai_addr, a->ai_addrlen) && !listen(*listening, 4))
			break;
		r = failed(err, errlen, "listen at", uri, errno);
		if (*listening >= 0)
			close(*listening);
		*listening = -1;
	}
	freeaddrinfo(list);
	return a ? 0 : r;
}

int wire_listen(const char *uri, int *listening, char *err, size_t errlen)
{
	struct place p;

	*listening = -1;
	int r = place_of(uri, &p, err, errlen);
	if (!r)
		r = p.local ? listen_path(&p, uri, listening, err, errlen) : listen_tcp(&p, uri, listening, err, errlen);
	if (r && *listening >= 0) {
		close(*listening);
		*listening = -1;
	}
	return r;
}

void wire_unlisten(int listening)
{
	struct sockaddr_un addr = { 0 };
	socklen_t len = sizeof addr;

	if (listening < 0)
		return;
	/* While it is open nobody replaces it, so the path is ours. First the name: whoever finds it must find somebody who answers. */
	if (!getsockname(listening, (struct sockaddr *)&addr, &len) && addr.sun_family == AF_UNIX && addr.sun_path[0])
		unlink(addr.sun_path);
	close(listening);
}

/* --- connections ------------------------------------------------------------------------------------------------------------------ */

/*
 * Messages are short and waited for, so they go at once. A host that is gone without a word is noticed after about 15 s, also when this
 * side has nothing to say to it. On a Unix socket these options do not exist, and are not needed.
 */
static void connected(struct wire *w, int fd)
{
	int one = 1, idle = 5, interval = 2, count = 5;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	w->fd = fd;
	w->connection = true;
	w->left_ns = 0;
}

int wire_accept(struct wire *w, int listening)
{
	uint64_t limit = limit_of(w->patience);

	for (;;) {
		int r = wait_until(w, listening, POLLIN, limit);
		if (r <= 0)
			return r ? r : -EAGAIN;
		int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			connected(w, fd);
			return 0;
		}
		/* Whoever it was has given up meanwhile (accept(2) lists what else of the network's it hands on). */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && errno != EPROTO && errno != ENETDOWN &&
		    errno != EHOSTUNREACH && errno != ENETUNREACH)
			return -errno;
	}
}

/* One attempt: a descriptor or -errno. */
static int attempt(const struct wire *w, int family, const void *addr, socklen_t len, uint64_t limit)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
	socklen_t size = sizeof error;

	if (fd < 0)
		return -errno;
	if (!connect(fd, addr, len))
		return fd;
	int r = -errno;
	if (r == -EINPROGRESS) {
		r = wait_until(w, fd, POLLOUT, limit);
		if (r > 0 && !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && !error)
			return fd;
		r = r < 0 ? r : r ? -error : -ETIMEDOUT;
	}
	close(fd);
	return r;
}

int wire_connect(struct wire *w, const char *uri, uint64_t patience_ns, char *err, size_t errlen)
{
	struct addrinfo *list = NULL;
	struct place p;
	uint64_t limit = limit_of(patience_ns);
	int fd, r = place_of(uri, &p, err, errlen);

	if (!r && !p.local)
		r = addresses(&p, uri, 0, &list, err, errlen);
	if (r)
		return r;
	for (;;) {
		fd = -EADDRNOTAVAIL;
		if (p.local)
			fd = attempt(w, AF_UNIX, &p.path, sizeof p.path, limit);
		for (struct addrinfo *a = list; a && fd < 0 && fd != -ECANCELED; a = a->ai_next)
			fd = attempt(w, a->ai_family, a->ai_addr, a->ai_addrlen, limit);
		/* Nobody listens yet; EAGAIN: on a Unix socket, too many do not get through. All else does not change by waiting. */
		if (fd != -ECONNREFUSED && fd != -ENOENT && fd != -EAGAIN)
			break;
		uint64_t next = clock_ns() + AGAIN_NS;
		if (limit && next >= limit)
			break;
		r = wait_until(w, -1, 0, next);
		if (r < 0) {
			fd = r;
			break;
		}
	}
	if (list)
		freeaddrinfo(list);
	if (fd < 0)
		return failed(err, errlen, "connect to", uri, -fd);
	connected(w, fd);
	return 0;
}

void wire_close(struct wire *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

/* --- bytes ------------------------------------------------------------------------------------------------------------------------ */

/* The ways in which a host says that the other side is gone. */
static bool gone(int error)
{
	return error == EPIPE || error == ECONNRESET || error == ECONNABORTED || error == EHOSTUNREACH ||
	       error == ENETUNREACH || error == ENETDOWN || error == ENOTCONN;
}

/* Waits until the rate allows the next piece: 0 or -ECANCELED. *most becomes the size of that piece. */
static int rate_wait(struct wire *w, size_t *most)
{
	uint64_t piece = (uint64_t)((double)w->rate * (double)RATE_PIECE_NS / 1e9), now;

	while ((now = clock_ns()) < w->paid_ns) {
		int r = wait_until(w, -1, 0, w->paid_ns);
		if (r < 0)
			return r;
	}
	if (now - w->paid_ns > RATE_LATE_NS)
		w->paid_ns = now - RATE_LATE_NS;
	if (*most > piece)
		*most = piece ? (size_t)piece : 1;
	return 0;
}

static void rate_pay(struct wire *w, size_t n)
{
	w->paid_ns += (uint64_t)((double)n * 1e9 / (double)w->rate);
}

/* At most `most` bytes of iov, from byte `at` on. Returns how many pieces. */
static unsigned window(struct iovec *out, const struct iovec *iov, unsigned n, size_t at, size_t most)
{
	unsigned pieces = 0;

	for (unsigned i = 0; i < n && most && pieces < PIECES; i++) {
		if (at >= iov[i].iov_len) {
			at -= iov[i].iov_len;
			continue;
		}
		size_t len = iov[i].iov_len - at < most ? iov[i].iov_len - at : most;
		out[pieces++] = (struct iovec){ .iov_base = (char *)iov[i].iov_base + at, .iov_len = len };
		most -= len;
		at = 0;
	}
	return pieces;
}

int wire_write(struct wire *w, const struct iovec *iov, unsigned n)
{
	size_t total = 0, done = 0;
	uint64_t now = clock_ns(), moved = now;

	for (unsigned i = 0; i < n; i++)
		total += iov[i].iov_len;
	if (now - w->left_ns > RATE_LATE_NS && w->paid_ns < now)
		w->paid_ns = now;
	while (done < total) {
		struct iovec piece[PIECES];
		size_t most = PIECE_MOST;
		if (w->cancelled && w->cancelled(w->opaque))
			return -ECANCELED;
		if (w->rate && w->paid_ns > moved)
			moved = w->paid_ns; /* the time that the rate takes is not the other side's */
		int r = w->rate ? rate_wait(w, &most) : 0;
		if (r)
			return r;
		struct msghdr msg = { .msg_iov = piece, .msg_iovlen = window(piece, iov, n, done, most) };
		/* MSG_NOSIGNAL: an end that nobody reads is news, no reason to die. Files: hv ignores SIGPIPE (vm_life.c). */
		ssize_t sent =
			w->connection ? sendmsg(w->fd, &msg, MSG_NOSIGNAL) : writev(w->fd, piece, (int)msg.msg_iovlen);
		if (sent >= 0) {
			done += (size_t)sent;
			w->written += (uint64_t)sent;
			if (w->rate)
				rate_pay(w, (size_t)sent);
			w->left_ns = moved = clock_ns();
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return gone(errno) ? -EPIPE : -errno;
		r = wait_until(w, w->fd, POLLOUT, w->patience ? moved + w->patience : 0);
		if (r <= 0)
			return r ? r : -ETIMEDOUT;
	}
	return 0;
}

int wire_read(struct wire *w, void *p, size_t n)
{
	uint64_t moved = clock_ns();

	for (size_t done = 0; done < n;) {
		if (w->cancelled && w->cancelled(w->opaque))
			return -ECANCELED;
		/* A piece at a time, so that a slow disk does not hold up the look at w->cancelled. */
		ssize_t got = read(w->fd, (char *)p + done, n - done < PIECE_MOST ? n - done : PIECE_MOST);
		if (got > 0) {
			done += (size_t)got;
			w->read += (uint64_t)got;
			moved = clock_ns();
			continue;
		}
		if (!got)
			return -ENODATA;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return gone(errno) ? -ENODATA : -errno;
		int r = wait_until(w, w->fd, POLLIN, w->patience ? moved + w->patience : 0);
		if (r <= 0)
			return r ? r : -ETIMEDOUT;
	}
	return 0;
}

int wire_wait(struct wire *w, uint64_t ns)
{
	return wait_until(w, w->fd, POLLIN, clock_ns() + ns);
}
