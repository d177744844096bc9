#include "netback.h"
#include "state_io.h"

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
				.kind = o->kind,
				.loop = loop,
				.user = user,
				.opaque = opaque,
				.moving = o->moving,
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

/* --- to another process ------------------------------------------------------------------------------------------------- */

/* Frames that came and wait for buffers. */
static void frames_state(struct netback *nb, struct state_io *io)
{
	struct net_frame *f = nb->head;
	uint32_t frames = nb->frames, len = 0;

	STATE(io, frames);
	if (!state_check(io, frames <= NET_QUEUE_FRAMES, "%u frames wait, and there is room for %u", frames, NET_QUEUE_FRAMES))
		return;
	if (io->loading)
		netback_forget(nb); /* those came before the guest was here */
	for (uint32_t i = 0; i < frames && !state_failed(io); i++) {
		if (!io->loading) {
			len = (uint32_t)f->len;
			STATE(io, len);
			state_bytes(io, f->bytes, f->len);
			f = f->next;
			continue;
		}
		STATE(io, len);
		if (!state_check(io, len >= ETH_HEADER && len <= nb->frame_max && len <= io->len - io->at,
				 "a frame of %u bytes waits", len))
			return;
		if (state_check(io, nb->bytes + len <= NET_QUEUE_BYTES, "more frames wait than there is room for"))
			enqueue(nb, io->data + io->at, len);
		io->at += len;
	}
}

void netback_state(struct netback *nb, struct state_io *io, bool link)
{
	uint8_t data[NETBACK_STATE_MAX], kind = nb->kind;
	uint32_t len = !io->loading && nb->ops->save ? (uint32_t)nb->ops->save(nb, data) : 0;

	frames_state(nb, io);
	STATE(io, kind);
	STATE(io, len);
	state_check(io, kind <= NET_SOCKET, "its network is of a kind that is unknown");
	if (!state_check(io, len <= sizeof data, "its network remembers too much"))
		return;
	state_bytes(io, data, len);
	if (!io->loading || state_failed(io))
		return;
	if (kind == nb->kind && len && nb->ops->load)
		nb->ops->load(nb, data, len);
	if (nb->moving) /* a network that is here already says itself whether the cable is plugged in */
		nb->link = link;
	else if (nb->link != link)
		nb->user->link(nb->opaque, nb->link);
}

void netback_resume(struct netback *nb)
{
	if (nb->moving && nb->ops->resume)
		nb->ops->resume(nb);
	nb->moving = false;
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
