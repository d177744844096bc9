/*
 * User-mode network: libslirp, a small TCP/IP stack in this process. It answers ARP, DHCP and DNS for the guest and turns its
 * connections into this process's own sockets, so nothing on the host has to be set up and nobody has to be root.
 *
 * The guest is 10.0.2.15 by DHCP, this machine 10.0.2.2, the name server 10.0.2.3. IPv4 only.
 *
 * A guest that moves keeps its address, but not its connections: their other ends are sockets of the process that it came from,
 * which end with it. It learns of that by a reset when it sends. Forwarded ports are taken over.
 */
#include "netback.h"

#include <dlfcn.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1000000ull

/* The library is loaded when this network is asked for: with glib, which it brings along, it is a third of the memory that an hv without
 * it takes. Whoever packs hv with its libraries finds the name in this section (grader/lib/elf.py). */
static const char library[] __attribute__((section(".dlopen"))) = "libslirp.so.0";

static struct {
	__typeof__(slirp_new) *new;
	__typeof__(slirp_cleanup) *cleanup;
	__typeof__(slirp_input) *input;
	__typeof__(slirp_pollfds_fill) *pollfds_fill;
	__typeof__(slirp_pollfds_poll) *pollfds_poll;
	__typeof__(slirp_add_hostfwd) *add_hostfwd;
	/* NULL in old libraries. */
	__typeof__(slirp_state_save) *state_save;
	__typeof__(slirp_state_load) *state_load;
	__typeof__(slirp_state_version) *state_version;
} slirp;

struct net_user {
	struct netback *nb;
	Slirp *slirp;
	struct loop_source source;
	bool paused;
	uint64_t guest_errors;
	struct net_forward forward[NET_FORWARDS]; /* those that are still another process's */
	unsigned nforwards;
	struct loop_timer retry;
	uint64_t give_up_ns;
	struct pollfd *pfd; /* of the round, while slirp looks through it or fills it */
	unsigned room, used;
	uint8_t frame[];
};

/* --- what slirp calls -------------------------------------------------------------------------------------------------- */

static ssize_t on_packet(const void *buf, size_t len, void *opaque)
{
	struct net_user *u = opaque;

	netback_deliver(u->nb, buf, len);
	return (ssize_t)len; /* what does not fit is lost as on a wire, and TCP sends it again */
}

/* A guest can cause as many of these as it likes: they are counted, not printed. */
static void on_guest_error(const char *msg, void *opaque)
{
	struct net_user *u = opaque;

	(void)msg;
	u->guest_errors++;
}

static int64_t on_clock(void *opaque)
{
	(void)opaque;
	return (int64_t)clock_ns();
}

/* All descriptors are named anew before each wait, so nothing is to be done when one comes or goes. */
static void on_poll_fd(int fd, void *opaque)
{
	(void)fd;
	(void)opaque;
}

static void on_notify(void *opaque)
{
	struct net_user *u = opaque;

	loop_source_changed(u->nb->loop);
}

/* Timers are wanted for IPv6's router advertisements only, which are off. */
static const SlirpCb callbacks = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.register_poll_fd = on_poll_fd,
	.unregister_poll_fd = on_poll_fd,
	.notify = on_notify,
};

/* --- the loop ---------------------------------------------------------------------------------------------------------- */

static const struct {
	int slirp;
	short poll;
} events[] = { { SLIRP_POLL_IN, POLLIN },
	       { SLIRP_POLL_OUT, POLLOUT },
	       { SLIRP_POLL_PRI, POLLPRI },
	       { SLIRP_POLL_ERR, POLLERR },
	       { SLIRP_POLL_HUP, POLLHUP } };
#define EVENTS (sizeof events / sizeof *events)

static int add_poll(int fd, int wanted, void *opaque)
{
	struct net_user *u = opaque;

	/* A socket for which there is no room gets its turn when others are gone; a guest may open as many as it likes. */
	if (u->used == u->room)
		return -1;
	u->pfd[u->used] = (struct pollfd){ .fd = fd };
	for (unsigned i = 0; i < EVENTS; i++)
		if (wanted & events[i].slirp)
			u->pfd[u->used].events |= events[i].poll;
	return (int)u->used++;
}

static int get_revents(int index, void *opaque)
{
	struct net_user *u = opaque;
	int happened = 0;

	for (unsigned i = 0; index >= 0 && (unsigned)index < u->used && i < EVENTS; i++)
		if (u->pfd[index].revents & events[i].poll)
			happened |= events[i].slirp;
	return happened;
}

static unsigned fill(void *opaque, struct pollfd *pfd, unsigned room, uint64_t *deadline_ns)
{
	struct net_user *u = opaque;
	uint32_t timeout = UINT32_MAX;

	u->used = 0;
	/* The guest has no buffers: sockets are not read, and whoever sends to them waits. */
	if (u->paused)
		return 0;
	u->pfd = pfd;
	u->room = room;
	slirp.pollfds_fill(u->slirp, &timeout, add_poll, u);
	if (timeout != UINT32_MAX) {
		uint64_t then = clock_ns() + timeout * NS_PER_MS;
		if (then < *deadline_ns)
			*deadline_ns = then;
	}
	return u->used;
}

static void polled(void *opaque, const struct pollfd *pfd, unsigned n)
{
	struct net_user *u = opaque;

	if (u->paused)
		return;
	u->pfd = (struct pollfd *)pfd;
	u->used = n;
	slirp.pollfds_poll(u->slirp, 0, get_revents, u);
}

/* --- the network ------------------------------------------------------------------------------------------------------- */

static void net_user_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	struct net_user *u = nb->state;

	/* A copy, because slirp reads headers more than once, and the guest can change its own memory in between. */
	netback_gather(iov, n, u->frame);
	slirp.input(u->slirp, u->frame, (int)len);
}

static void net_user_sent(struct netback *nb)
{
	/* A new connection, or room for data: there may be other descriptors to wait for. */
	loop_source_changed(nb->loop);
}

static void net_user_pause(struct netback *nb, bool paused)
{
	struct net_user *u = nb->state;

	u->paused = paused;
	if (!paused)
		loop_source_changed(nb->loop);
}

static void net_user_close(struct netback *nb)
{
	struct net_user *u = nb->state;

	if (!u)
		return;
	loop_source_remove(nb->loop, &u->source);
	loop_timer_set(nb->loop, &u->retry, 0);
	if (u->slirp)
		slirp.cleanup(u->slirp);
	free(u);
	nb->state = NULL;
}

static int load_library(char *err, size_t size)
{
	const struct {
		const char *name;
		void **function;
	} names[] = { { "slirp_new", (void **)&slirp.new },
		      { "slirp_cleanup", (void **)&slirp.cleanup },
		      { "slirp_input", (void **)&slirp.input },
		      { "slirp_pollfds_fill", (void **)&slirp.pollfds_fill },
		      { "slirp_pollfds_poll", (void **)&slirp.pollfds_poll },
		      { "slirp_add_hostfwd", (void **)&slirp.add_hostfwd } };
	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);

	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		if (!handle || !(*names[i].function = dlsym(handle, names[i].name)))
			return snprintf(err, size, "--net user needs libslirp: %s", dlerror()), -ENOENT;
	*(void **)&slirp.state_save = dlsym(handle, "slirp_state_save");
	*(void **)&slirp.state_load = dlsym(handle, "slirp_state_load");
	*(void **)&slirp.state_version = dlsym(handle, "slirp_state_version");
	return 0;
}

/* 0 or -errno. */
static int forward(struct net_user *u, const struct net_forward *f)
{
	if (slirp.add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port) >= 0)
		return 0;
	return errno ? -errno : -EIO;
}

static void describe(const struct net_forward *f, int error, char *err, size_t size)
{
	snprintf(err, size, "--net: %s port %u of this machine cannot be forwarded: %s", f->udp ? "UDP" : "TCP", f->host_port,
		 strerror(-error));
}

/* --- to another process ------------------------------------------------------------------------------------------------ */

static void on_retry(void *opaque)
{
	struct net_user *u = opaque;
	unsigned left = 0;
	char err[200];

	for (unsigned i = 0; i < u->nforwards; i++) {
		int error = forward(u, &u->forward[i]);

		if (error == -EADDRINUSE && clock_ns() < u->give_up_ns) {
			u->forward[left++] = u->forward[i];
		} else if (error) {
			describe(&u->forward[i], error, err, sizeof err);
			fprintf(stderr, "hv: %s\n", err);
		}
	}
	u->nforwards = left;
	loop_source_changed(u->nb->loop);
	if (left)
		loop_timer_set(u->nb->loop, &u->retry, clock_ns() + NETBACK_RETRY_NS);
}

static void net_user_resume(struct netback *nb)
{
	struct net_user *u = nb->state;

	u->give_up_ns = clock_ns() + NETBACK_PATIENCE_NS;
	on_retry(u);
}

/* What slirp writes or reads: the version, then its bytes. */
struct piece {
	uint8_t *data;
	size_t len, room;
};

static ssize_t put_bytes(const void *buf, size_t len, void *opaque)
{
	struct piece *p = opaque;

	if (len > p->room - p->len)
		return -1;
	memcpy(p->data + p->len, buf, len);
	p->len += len;
	return (ssize_t)len;
}

static ssize_t get_bytes(void *buf, size_t len, void *opaque)
{
	struct piece *p = opaque;

	if (len > p->room - p->len)
		return -1;
	memcpy(buf, p->data + p->len, len);
	p->len += len;
	return (ssize_t)len;
}

static size_t net_user_save(struct netback *nb, uint8_t *data)
{
	struct net_user *u = nb->state;
	struct piece p = { data, sizeof(uint32_t), NETBACK_STATE_MAX };
	uint32_t version;

	if (!slirp.state_save || !slirp.state_load || !slirp.state_version)
		return 0;
	version = (uint32_t)slirp.state_version();
	memcpy(data, &version, sizeof(version));
	slirp.state_save(u->slirp, put_bytes, &p);
	return p.len;
}

/* Addresses that DHCP has given out. Slirp's format would also have sockets of programs on the host in it (a byte in front of
 * each that is not 0); there are none here, so none is let in: a library need not see what it does not expect. */
static void net_user_load(struct netback *nb, const uint8_t *data, size_t len)
{
	struct net_user *u = nb->state;
	struct piece p = { (uint8_t *)data, sizeof(uint32_t), len };
	uint32_t version;

	if (len <= sizeof version || data[sizeof version] || !slirp.state_load || !slirp.state_version)
		return;
	memcpy(&version, data, sizeof version);
	if (version && version <= (uint32_t)slirp.state_version())
		slirp.state_load(u->slirp, (int)version, get_bytes, &p);
}

static int net_user_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	/* Version 1 has all that is used here, and older libraries know it. */
	SlirpConfig config = {
		.version = 1,
		.restricted = o->restricted,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200),
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),
		.vnameserver.s_addr = htonl(0x0a000203),
		.vdhcp_start.s_addr = htonl(0x0a00020f),
		.if_mtu = o->mtu,
		.if_mru = o->mtu,
	};
	int error = load_library(err, size);
	struct net_user *u = error ? NULL : calloc(1, sizeof *u + nb->frame_max);

	if (error)
		return error;
	if (!u)
		return snprintf(err, size, "no memory for a network device"), -ENOMEM;
	nb->state = u;
	u->nb = nb;
	u->slirp = slirp.new(&config, &callbacks, u);
	if (!u->slirp)
		return snprintf(err, size, "libslirp could not start"), -EIO;
	for (unsigned i = 0; i < o->nforwards; i++) {
		error = forward(u, &o->forward[i]);
		if (error == -EADDRINUSE && o->moving)
			u->forward[u->nforwards++] = o->forward[i];
		else if (error)
			return describe(&o->forward[i], error, err, size), error;
	}
	u->retry = (struct loop_timer){ .fn = on_retry, .opaque = u };
	u->source = (struct loop_source){ .fill = fill, .polled = polled, .opaque = u };
	loop_source_add(nb->loop, &u->source);
	nb->link = true;
	return 0;
}

const struct netback_ops net_user_ops = {
	.open = net_user_open,
	.send = net_user_send,
	.sent = net_user_sent,
	.pause = net_user_pause,
	.close = net_user_close,
	.resume = net_user_resume,
	.save = net_user_save,
	.load = net_user_load,
};
