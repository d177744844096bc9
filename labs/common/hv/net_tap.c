/*
 * A tap interface of the host's kernel: what the guest sends comes out of it, as if the guest were on a cable.
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
	if (t->fd >= 0) {
		loop_fd_remove(nb->loop, t->fd);
		close(t->fd);
	}
	free(t);
	nb->state = NULL;
}

static int net_tap_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	/* No header before the frame (neither that of IFF_NO_PI nor that of offloads, which the device does not have). */
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	struct net_tap *t = malloc(sizeof *t + nb->frame_max + 1);

	if (!t)
		return snprintf(err, size, "no memory for a network device"), -ENOMEM;
	nb->state = t;
	memcpy(ifr.ifr_name, o->name, strlen(o->name)); /* net_parse() looked at the length */
	t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (t->fd < 0 || ioctl(t->fd, TUNSETIFF, &ifr)) {
		int error = errno;

		if (error == EPERM || error == EACCES)
			snprintf(err, size,
				 "the tap interface \"%s\" is not yours to use: as root, `ip tuntap add dev %s mode tap "
				 "user NAME` gives it "
				 "to you; or use --net user",
				 o->name, o->name);
		else if (t->fd < 0)
			snprintf(err, size, "/dev/net/tun cannot be opened (%s): `modprobe tun` as root, or use --net user",
				 strerror(error));
		else
			snprintf(err, size, "the tap interface \"%s\" cannot be used: %s", o->name, strerror(error));
		return -error;
	}
	if (loop_fd_add(nb->loop, t->fd, POLLIN, on_readable, nb))
		return snprintf(err, size, "there are too many devices with descriptors"), -ENOSPC;
	nb->link = true;
	return 0;
}

const struct netback_ops net_tap_ops = {
	.open = net_tap_open,
	.send = net_tap_send,
	.pause = net_tap_pause,
	.close = net_tap_close,
};
