#include "netback.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct netback *netback_open(struct loop *loop, const struct net_options *o, const struct netback_user *user, void *opaque,
			     int *error, char *err, size_t size)
{
	static const struct netback_ops *const kinds[] = {
		[NET_USER] = &net_user_ops, [NET_TAP] = &net_tap_ops, [NET_SOCKET] = &net_socket_ops
	};
	struct netback *nb = calloc(1, sizeof *nb);

	if (!nb) {
		snprintf(err, size, "no memory for a network device");
		*error = -ENOMEM;
		return NULL;
	}
	*nb = (struct netback){ .ops = kinds[o->kind],
				.loop = loop,
				.user = user,
				.opaque = opaque,
				.frame_max = o->mtu + ETH_HEADER + ETH_VLAN_TAG };
	nb->tail = &nb->head;
	*error = nb->ops->open(nb, o, err, size);
	if (*error) {
		netback_close(nb);
		return NULL;
	}
	return nb;
}

void netback_close(struct netback *nb)
{
	if (!nb)
		return;
	netback_forget(nb);
	nb->ops->close(nb);
	free(nb);
}

/* --- frames for the guest that wait ------------------------------------------------------------------------------------ */

static void drop_first(struct netback *nb)
{
	struct net_frame *f = nb->head;

	nb->head = f->next;
	if (!nb->head)
		nb->tail = &nb->head;
	nb->frames--;
	nb->bytes -= f->len;
	free(f);
}

static void enqueue(struct netback *nb, const uint8_t *frame, size_t len)
{
	bool room = nb->frames < NET_QUEUE_FRAMES && nb->bytes + len <= NET_QUEUE_BYTES;
	struct net_frame *f = room ? malloc(sizeof *f + len) : NULL;

	if (!f) {
		nb->dropped++;
		return;
	}
	f->next = NULL;
	f->len = len;
	memcpy(f->bytes, frame, len);
	*nb->tail = f;
	nb->tail = &f->next;
	nb->bytes += len;
	/* The first one that waits stops the reading, the last one that goes starts it again. */
	if (!nb->frames++)
		nb->ops->pause(nb, true);
}

/* The MTU is about what stands behind the header, and a VLAN tag belongs to that (virtio 1.2, 5.1.4.1). */
static bool too_long(const struct netback *nb, const uint8_t *frame, size_t len)
{
	bool tagged = len >= ETH_HEADER && frame[12] == 0x81 && frame[13] == 0x00; /* IEEE 802.1Q */

	return len > nb->frame_max - (tagged ? 0 : ETH_VLAN_TAG);
}

bool netback_deliver(struct netback *nb, const uint8_t *frame, size_t len)
{
	if (too_long(nb, frame, len))
		nb->dropped++;
	else if (nb->head || !nb->user->receive(nb->opaque, frame, len))
		enqueue(nb, frame, len);
	return !nb->head;
}

void netback_ready(struct netback *nb)
{
	if (!nb->head)
		return;
	while (nb->head && nb->user->receive(nb->opaque, nb->head->bytes, nb->head->len))
		drop_first(nb);
	if (!nb->head)
		nb->ops->pause(nb, false);
}

void netback_forget(struct netback *nb)
{
	bool waited = nb->head;

	while (nb->head)
		drop_first(nb);
	if (waited)
		nb->ops->pause(nb, false);
}

/* --- news of the network ----------------------------------------------------------------------------------------------- */

void netback_set_link(struct netback *nb, bool up)
{
	if (nb->link == up)
		return;
	nb->link = up;
	nb->user->link(nb->opaque, up);
}

void netback_set_blocked(struct netback *nb, bool blocked)
{
	if (nb->blocked == blocked)
		return;
	nb->blocked = blocked;
	if (!blocked)
		nb->user->unblocked(nb->opaque);
}

void netback_gather(const struct iovec *iov, unsigned n, uint8_t *buf)
{
	for (unsigned i = 0; i < n; i++) {
		memcpy(buf, iov[i].iov_base, iov[i].iov_len);
		buf += iov[i].iov_len;
	}
}
