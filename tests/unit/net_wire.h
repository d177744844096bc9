/*
 * A network that only remembers: the last frames that the device sent, and whether it asked for a pause. What the device hands over must be
 * what it says, or the program ends here. It stands in place of all three networks; the kind "tap" fails, to show how that looks.
 */
#ifndef NET_WIRE_H
#define NET_WIRE_H

#include "netback.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static struct netback *wire; /* of the device, as the network knows it */
static uint8_t sent[4][70000];
static size_t sent_len[4];
static unsigned nsent, block_at;
static bool paused;

static int wire_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	if (o->kind == NET_TAP)
		return snprintf(err, size, "no tap here"), -EPERM;
	wire = nb;
	nb->link = true;
	return 0;
}
static void wire_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	size_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += iov[i].iov_len;
	if (sum != len || len > nb->frame_max) {
		fprintf(stderr, "a frame of %zu bytes in %zu, of at most %zu\n", len, sum, nb->frame_max);
		abort();
	}
	netback_gather(iov, n, sent[nsent % 4]);
	sent_len[nsent++ % 4] = len;
	if (nsent == block_at)
		netback_set_blocked(nb, true);
}
static void wire_pause(struct netback *nb, bool p)
{
	(void)nb;
	paused = p;
}
static void wire_close(struct netback *nb)
{
	(void)nb;
	wire = NULL;
}
#define WIRE                                                                                   \
	{                                                                                      \
		.open = wire_open, .send = wire_send, .pause = wire_pause, .close = wire_close \
	}
const struct netback_ops net_user_ops = WIRE, net_tap_ops = WIRE, net_socket_ops = WIRE;

#endif
