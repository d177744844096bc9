/*
 * Lab 4, checkpoints 4.15 and 4.16: the network device (virtio 1.2, 5.1), with one queue for frames that come and one for
 * frames that go.
 *
 * Before each frame stands a header. It is there for work that a driver may leave to the device (checksums, cutting large
 * segments); none of that is offered here, so nearly all of it is zero. What carries the frames is behind struct netback and
 * not this file's business.
 */
#include "lab4.h"
#include "netback.h"
#include "state_io.h"

#include <sys/random.h>

enum { RX, TX, QUEUES };

#define F_NET_MTU FEATURE(3)
#define F_NET_MAC FEATURE(5)
#define F_NET_MRG_RXBUF FEATURE(15)
#define F_NET_STATUS FEATURE(16)

/* 5.1.4 */
#define NET_S_LINK_UP 1u
struct net_config {
	uint8_t mac[6];
	uint16_t status, max_virtqueue_pairs, mtu;
};

/* 5.1.6. The last field was once there with MRG_RXBUF only; since VERSION_1 it always is. */
#define HDR_F_NEEDS_CSUM 1u
#define HDR_GSO_NONE 0u
struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
	uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_config) == 12 && sizeof(struct net_header) == 12, "layout");

struct net {
	struct virtio_dev *dev;
	struct netback *back;
	struct net_config config;
	uint64_t rx_frames, tx_frames, rx_dropped, tx_dropped;
	struct vq_chain tx;
	/* Receive buffers that were taken and not used yet: a frame may need several, and whether there are enough shows only
	 * then. */
	unsigned nheld;
	uint64_t room; /* in all of them */
	struct vq_chain held[VIRTIO_QUEUE_MAX];
};

/* --- transmit (5.1.6.2) ------------------------------------------------------------------------------------------------ */

/* Sends the frame of n->tx. 0; or -EPROTO after virtio_broken(). */
static int transmit(struct net *n)
{
	struct vq_chain *c = &n->tx;

	// TODO 4.15: the frame behind the header goes to n->back->ops->send(). Hint: chain_read() and chain_out_iov()
	// do not care how the driver divided header and frame over descriptors, and nor may you. A chain without a
	// whole header, or with writable parts, breaks the device. A frame that asks for what was not offered
	// (NEEDS_CSUM, gso_type), or is shorter than ETH_HEADER or longer than n->back->frame_max, is dropped and
	// counted, and the device goes on.
	(void)c;
	return lab_todo(n->dev->vm, "4.15", "transmit() in net.c: a frame from the driver");
}

static void kick_tx(struct net *n)
{
	struct virtqueue *q = &n->dev->queue[TX];

	/* While the network takes nothing, frames stay with the driver, which stops when its queue is full. */
	while (!n->back->blocked && virtqueue_pop(q, &n->tx) > 0) {
		if (transmit(n))
			return;
		virtqueue_push(q, &n->tx, 0); /* the device has written nothing */
	}
	if (n->back->ops->sent)
		n->back->ops->sent(n->back);
	virtqueue_notify(q);
}

/* --- receive (5.1.6.3, 5.1.6.4) ---------------------------------------------------------------------------------------- */

/* Takes buffers until `total` bytes have room in them. 1; 0 when there are not enough now; -1 when there never will be. */
static int take_buffers(struct net *n, uint64_t total)
{
	struct virtqueue *q = &n->dev->queue[RX];

	// TODO 4.16: virtqueue_pop() into n->held[n->nheld], and n->nheld and n->room go up. Hint: a frame has one
	// buffer, with F_NET_MRG_RXBUF as many as it needs, but there are never more than q->size. A readable part, or
	// no room for a header, breaks the device.
	(void)q;
	(void)total;
	return lab_todo(n->dev->vm, "4.16", "take_buffers() in net.c: buffers for a frame from the network"), -1;
}

/* Writes header and frame into the buffers, for which there is room, and gives those back. */
static void fill_buffers(struct net *n, const uint8_t *frame, size_t len)
{
	struct virtqueue *q = &n->dev->queue[RX];
	size_t total = sizeof(struct net_header) + len;

	// TODO 4.16: the header into the first buffer, the frame behind it and into the others, each of which is filled
	// before the next. Hint: num_buffers says how many there are, also when that is 1. virtqueue_push() with the
	// number of bytes that are in this buffer, but virtqueue_push_more() for all except the last. What was not
	// needed stays in n->held.
	(void)q;
	(void)frame;
	(void)total;
	lab_todo(n->dev->vm, "4.16", "fill_buffers() in net.c: a frame from the network");
}

/* The network has a frame: struct netback_user says what true and false mean. */
static bool receive(void *opaque, const uint8_t *frame, size_t len)
{
	struct net *n = opaque;
	bool listens = n->dev->status & STATUS_DRIVER_OK && !(n->dev->status & STATUS_NEEDS_RESET) && n->dev->queue[RX].ready;
	int got = listens ? take_buffers(n, sizeof(struct net_header) + len) : -1;

	if (got < 0)
		n->rx_dropped++;
	if (got <= 0)
		return got;
	fill_buffers(n, frame, len);
	n->rx_frames++;
	virtqueue_notify(&n->dev->queue[RX]);
	return true;
}

/* --- the rest ---------------------------------------------------------------------------------------------------------- */

static void net_kick(struct virtio_dev *d, struct virtqueue *q)
{
	struct net *n = d->state;

	if (q->index == TX)
		kick_tx(n);
	else
		netback_ready(n->back);
}

static void unblocked(void *opaque)
{
	struct net *n = opaque;

	virtio_kick(n->dev, TX);
}

static void link_changed(void *opaque, bool up)
{
	struct net *n = opaque;

	n->config.status = up ? NET_S_LINK_UP : 0;
	virtio_config_changed(n->dev);
}

static const struct netback_user net_user = { .receive = receive, .unblocked = unblocked, .link = link_changed };

/* Buffers that were taken and not used go back empty. */
static void net_drain(struct virtio_dev *d)
{
	struct net *n = d->state;

	for (unsigned i = 0; i < n->nheld; i++)
		virtqueue_push(&d->queue[RX], &n->held[i], 0);
	n->nheld = 0;
	n->room = 0;
}

static void net_reset(struct virtio_dev *d)
{
	struct net *n = d->state;

	netback_forget(n->back);
}

static void net_settle(struct virtio_dev *d)
{
	struct net *n = d->state;

	while (n->nheld)
		virtqueue_unpop(&d->queue[RX], &n->held[--n->nheld]);
	n->room = 0;
}

static void net_resume(struct virtio_dev *d)
{
	netback_resume(((struct net *)d->state)->back);
}

/* The address moves along, and so does what the driver knows of the cable: the network has to make it true. */
static void net_state(struct virtio_dev *d, struct state_io *io)
{
	struct net *n = d->state;
	uint16_t mtu = n->config.mtu;

	state_bytes(io, n->config.mac, sizeof n->config.mac);
	STATE(io, n->config.status);
	STATE(io, mtu);
	state_check(io, !(n->config.status & ~NET_S_LINK_UP), "bits are set that do not exist");
	state_check(io, mtu == n->config.mtu, "its MTU was %u, and here it is %u", mtu, n->config.mtu);
	if (!state_failed(io))
		netback_state(n->back, io, n->config.status);
}

static void net_destroy(struct virtio_dev *d)
{
	struct net *n = d->state;

	netback_close(n->back);
	sparse_free(n, sizeof *n);
}

static void net_stats(struct virtio_dev *d, FILE *out)
{
	struct net *n = d->state;

	fprintf(out, ",\"rx_frames\":%llu,\"tx_frames\":%llu,\"rx_dropped\":%llu,\"tx_dropped\":%llu,\"network_dropped\":%llu,\"link\":%s",
		(unsigned long long)n->rx_frames, (unsigned long long)n->tx_frames, (unsigned long long)n->rx_dropped,
		(unsigned long long)n->tx_dropped, (unsigned long long)(n->back ? n->back->dropped : 0),
		n->config.status ? "true" : "false");
}

static const struct virtio_ops net_ops = {
	.name = "net",
	.id = VIRTIO_ID_NET,
	.nqueues = QUEUES,
	.kick = net_kick,
	.drain = net_drain,
	.reset = net_reset,
	.destroy = net_destroy,
	.stats = net_stats,
	.settle = net_settle,
	.resume = net_resume,
	.state = net_state,
};

int net_create(struct vm *vm, const char *arg)
{
	struct net_options o;
	char err[300];
	int error;

	if (net_parse(arg, &o, err, sizeof err))
		return vm_stop(vm, HV_USAGE, "%s", err);

	/* Two VMs on one cable must differ. An address that is one interface's and that nobody was given (IEEE 802: bits 0 and
	 * 1). */
	if (!o.has_mac && getrandom(o.mac, sizeof o.mac, 0) == sizeof o.mac)
		o.mac[0] = (uint8_t)((o.mac[0] & ~3u) | 2u);

	struct net *n = sparse_alloc(sizeof *n);
	struct virtio_dev *d;

	if (!n)
		return vm_stop(vm, HV_HOST, "no memory for a network device");
	memcpy(n->config.mac, o.mac, sizeof o.mac);
	n->config.mtu = (uint16_t)o.mtu;
	d = virtio_create(vm, &net_ops, n, F_NET_MTU | F_NET_MAC | F_NET_MRG_RXBUF | F_NET_STATUS, &n->config, sizeof n->config);
	if (!d) {
		sparse_free(n, sizeof *n);
		return -ECANCELED;
	}
	n->dev = d;
	o.moving = vm->opt.incoming;
	n->back = netback_open(&vm->loop, &o, &net_user, n, &error, err, sizeof err);
	if (!n->back)
		return vm_stop(vm, error == -EINVAL ? HV_USAGE : HV_HOST, "%s", err);
	link_changed(n, n->back->link);
	return 0;
}
