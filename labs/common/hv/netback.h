/*
 * The network behind a virtio-net device: frames in both directions, without the device knowing what carries them. net_user.c
 * is libslirp, net_tap.c a tap interface, net_socket.c another VM. All functions are called with the VM's lock held.
 *
 * Nothing grows without bound. To the guest: frames for which the driver has no buffer wait in a queue of NET_QUEUE_FRAMES; a
 * network that can wait itself (tap, socket) is then not read, what a network cannot hold is dropped and counted. From the
 * guest: while a network takes nothing, `blocked` is set, and the device leaves the rest with the driver.
 */
#ifndef HV_NETBACK_H
#define HV_NETBACK_H

#include "loop.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <sys/un.h>

#define ETH_HEADER 14u
#define ETH_VLAN_TAG 4u
#define NET_MTU_MIN 68u	   /* RFC 791 */
#define NET_MTU_MAX 65520u /* what libslirp can do, to four bytes */
#define NET_MTU_DEFAULT 1500u
#define NET_FRAME_MAX (NET_MTU_MAX + ETH_HEADER + ETH_VLAN_TAG)
#define NET_FRAMES_AT_ONCE 64u /* of one network, before others have a turn */
#define NET_QUEUE_FRAMES 256u
#define NET_QUEUE_BYTES (1024u * 1024u)
#define NET_FORWARDS 16u

/* A connection to this machine that goes to the guest. */
struct net_forward {
	bool udp;
	struct in_addr host, guest; /* guest 0.0.0.0: the address that DHCP gave out first */
	uint16_t host_port, guest_port;
};

struct net_options {
	enum { NET_USER, NET_TAP, NET_SOCKET } kind;
	char name[sizeof((struct sockaddr_un *)0)->sun_path]; /* of the tap interface, or the socket's path */
	uint8_t mac[6];
	bool has_mac, restricted;
	bool moving; /* another process has this network until netback_resume() */
	unsigned mtu;
	struct net_forward forward[NET_FORWARDS];
	unsigned nforwards;
};

/* Reads KIND[,OPTION...] as --net takes it. 0; or -EINVAL, with a sentence in err. */
int net_parse(const char *text, struct net_options *o, char *err, size_t size);

struct netback;
struct state_io;

/* One kind of network. */
struct netback_ops {
	/* Returns 0; or -errno with a sentence in err about what to do. */
	int (*open)(struct netback *nb, const struct net_options *o, char *err, size_t size);
	/* Takes one frame of ETH_HEADER to frame_max bytes. The memory is the guest's and may change while it is looked at. */
	void (*send)(struct netback *nb, const struct iovec *iov, unsigned n, size_t len);
	/* Called behind one or several sends. May be NULL. */
	void (*sent)(struct netback *nb);
	/* Stops reading from the network, or goes on. */
	void (*pause)(struct netback *nb, bool paused);
	void (*close)(struct netback *nb); /* also what open left half done */
	/* The VM runs here from now on, and the process that it came from ends soon: takes what only one of them can have, as
	 * soon as that is free. Called once, if the network was opened with o->moving. May be NULL. */
	void (*resume)(struct netback *nb);
	/* What the network itself remembers of the guest, NETBACK_STATE_MAX bytes at most: how many, or 0. May be NULL, as the
	 * other one. */
	size_t (*save)(struct netback *nb, uint8_t *data);
	void (*load)(struct netback *nb, const uint8_t *data, size_t len); /* checked like anything that comes from outside */
};
#define NETBACK_STATE_MAX 4096u
extern const struct netback_ops net_user_ops, net_tap_ops, net_socket_ops;

/* What the device does when there is news. */
struct netback_user {
	/* A frame for the guest. true: taken, or dropped because nobody listens; false: there is no buffer now, netback_ready()
	 * will follow. */
	bool (*receive)(void *opaque, const uint8_t *frame, size_t len);
	void (*unblocked)(void *opaque); /* `blocked` is false again */
	void (*link)(void *opaque, bool up);
};

struct netback {
	const struct netback_ops *ops;
	uint8_t kind; /* of the options */
	void *state;
	struct loop *loop;
	const struct netback_user *user;
	void *opaque;
	size_t frame_max;
	bool link, blocked, moving;
	uint64_t dropped; /* frames to the guest, or from it, that the network or the queue had no room for */
	struct net_frame {
		struct net_frame *next;
		size_t len;
		uint8_t bytes[];
	} * head, **tail;
	unsigned frames;
	size_t bytes;
};

/* Opens the network. NULL, with a sentence in err and the reason in *error, -errno. */
struct netback *netback_open(struct loop *loop, const struct net_options *o, const struct netback_user *user, void *opaque,
			     int *error, char *err, size_t size);
void netback_close(struct netback *nb); /* NULL is allowed */

/* For the device: the driver added buffers, so that what waits may go on; or it went away, and what waits with it. */
void netback_ready(struct netback *nb);
void netback_forget(struct netback *nb);

/* To be saved, and to move (virtio_state.h): frames that wait for the guest, and what the network remembers. It may be another
 * kind of network here than there. link: what the guest knows of the cable. */
void netback_state(struct netback *nb, struct state_io *io, bool link);
/* The VM runs here from now on. */
void netback_resume(struct netback *nb);

/* For the networks: a frame for the guest; it is copied if it has to wait. true when the network may go on reading. */
bool netback_deliver(struct netback *nb, const uint8_t *frame, size_t len);
void netback_set_link(struct netback *nb, bool up);
void netback_set_blocked(struct netback *nb, bool blocked);
/* Puts the pieces of a frame together in buf, which has room for frame_max bytes. */
void netback_gather(const struct iovec *iov, unsigned n, uint8_t *buf);
/* What another process still has is tried again and again for a while. */
#define NETBACK_RETRY_NS 20000000u
#define NETBACK_PATIENCE_NS 5000000000ull

#endif
