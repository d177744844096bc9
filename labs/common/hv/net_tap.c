/*
 * A tap interface of the host's kernel: what the guest sends comes out of it, as if the guest were on a cable. One process at a
 * time can have it: a VM that moves to another hv on the same host gets it when the one that it came from has ended.
 */
#include "netback.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct net_tap {
	int fd;
	struct netback *nb;
	char name[IFNAMSIZ];
	bool attached; /* when it was opened */
	struct loop_timer retry;
	uint64_t give_up_ns;
	uint8_t frame[]; /* frame_max and one byte more, so that one which is too long is seen */
};

static void on_readable(void *opaque, short revents)
{
	struct netback *nb = opaque;
	struct net_tap *t = nb->state;

	(void)revents;
	for (unsigned i = 0; i < NET_FRAMES_AT_ONCE; i++) {
		ssize_t n = read(t->fd, t->frame, nb->frame_max + 1);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) { /* the interface was deleted: its descriptor would be ready for ever */
			loop_fd_remove(nb->loop, t->fd);
			netback_set_link(nb, false);
			return;
		}
		if (n < (ssize_t)ETH_HEADER || (size_t)n > nb->frame_max)
			nb->dropped++;
		else if (!netback_deliver(nb, t->frame, (size_t)n))
			return;
	}
}

static void net_tap_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	struct net_tap *t = nb->state;

	/* It takes a frame whole or not at all, and not while it is down. */
	if (writev(t->fd, iov, (int)n) != (ssize_t)len)
		nb->dropped++;
}

static void net_tap_pause(struct netback *nb, bool paused)
{
	struct net_tap *t = nb->state;

	loop_fd_events(nb->loop, t->fd, paused ? 0 : POLLIN);
}

static void net_tap_close(struct netback *nb)
{
	struct net_tap *t = nb->state;

	if (!t)
		return;
	loop_timer_set(nb->loop, &t->retry, 0);
	if (t->fd >= 0) {
		loop_fd_remove(nb->loop, t->fd);
		close(t->fd);
	}
	free(t);
	nb->state = NULL;
}

/* 0 or -errno. */
static int attach(struct net_tap *t)
{
	/* No header before the frame (neither that of IFF_NO_PI nor that of offloads, which the device does not have). */
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };

	memcpy(ifr.ifr_name, t->name, sizeof ifr.ifr_name);
	return ioctl(t->fd, TUNSETIFF, &ifr) ? -errno : loop_fd_add(t->nb->loop, t->fd, POLLIN, on_readable, t->nb);
}

static void on_retry(void *opaque)
{
	struct net_tap *t = opaque;
	int error = attach(t);

	if (error == -EBUSY && clock_ns() < t->give_up_ns) {
		loop_timer_set(t->nb->loop, &t->retry, clock_ns() + NETBACK_RETRY_NS);
	} else if (error) {
		fprintf(stderr, "hv: the tap interface \"%s\" cannot be used: %s\n", t->name, strerror(-error));
		netback_set_link(t->nb, false);
	}
}

static void net_tap_resume(struct netback *nb)
{
	struct net_tap *t = nb->state;

	t->give_up_ns = clock_ns() + NETBACK_PATIENCE_NS;
	if (!t->attached)
		on_retry(t);
}

static int net_tap_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	struct net_tap *t = calloc(1, sizeof *t + nb->frame_max + 1);
	int error;

	if (!t)
		return snprintf(err, size, "no memory for a network device"), -ENOMEM;
	nb->state = t;
	t->nb = nb;
	t->retry = (struct loop_timer){ .fn = on_retry, .opaque = t };
	memcpy(t->name, o->name, strlen(o->name)); /* net_parse() looked at the length */
	t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	error = t->fd < 0 ? -errno : attach(t);
	t->attached = !error;
	nb->link = true;
	if (!error || (error == -EBUSY && o->moving))
		return 0;
	if (error == -EPERM || error == -EACCES)
		snprintf(err, size,
			 "the tap interface \"%s\" is not yours to use: as root, `ip tuntap add dev %s mode tap "
			 "user NAME` gives it "
			 "to you; or use --net user",
			 o->name, o->name);
	else if (t->fd < 0)
		snprintf(err, size, "/dev/net/tun cannot be opened (%s): `modprobe tun` as root, or use --net user",
			 strerror(-error));
	else if (error == -ENOSPC)
		snprintf(err, size, "there are too many devices with descriptors");
	else
		snprintf(err, size, "the tap interface \"%s\" cannot be used: %s", o->name, strerror(-error));
	return error;
}

const struct netback_ops net_tap_ops = {
	.open = net_tap_open,
	.send = net_tap_send,
	.pause = net_tap_pause,
	.close = net_tap_close,
	.resume = net_tap_resume,
};
