// sources: netback.c net_options.c net_socket.c net_tap.c net_user.c loop.c clock.c
/* The networks behind a device: what --net takes, the queue, the socket with peers that mean harm, libslirp, a tap interface. */
#define _GNU_SOURCE /* unshare */
#include "netback.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE 20000000000ull
#define FRAMES 2000u

static pthread_mutex_t lock;
static struct loop loop;
static char directory[] = "/tmp/netback.XXXXXX", path[64], err[300];

/* --- a device ---------------------------------------------------------------------------------------------------------- */

static struct {
	bool full; /* no buffers */
	unsigned frames, links, unblocked;
	size_t len[FRAMES];
	uint8_t first[FRAMES], last[70000];
	bool link;
} seen;

static bool receive(void *opaque, const uint8_t *frame, size_t len)
{
	(void)opaque;
	if (seen.full)
		return false;
	if (seen.frames < FRAMES) {
		seen.len[seen.frames] = len;
		seen.first[seen.frames] = frame[0];
		memcpy(seen.last, frame, len);
	}
	seen.frames++;
	return true;
}
static void unblocked(void *opaque)
{
	(void)opaque;
	seen.unblocked++;
}
static void link_changed(void *opaque, bool up)
{
	(void)opaque;
	seen.links++;
	seen.link = up;
}
static const struct netback_user device = { receive, unblocked, link_changed };

static void wait_for(const char *what, bool (*done)(unsigned), unsigned argument)
{
	for (uint64_t end = clock_ns() + PATIENCE;;) {
		pthread_mutex_lock(&lock);
		bool reached = done(argument);
		pthread_mutex_unlock(&lock);
		if (reached)
			return;
		if (clock_ns() > end)
			fail_msg("waited for %s in vain", what);
		usleep(500);
	}
}
static bool link_is(unsigned up)
{
	return seen.link == up;
}
static bool frames_are(unsigned n)
{
	return seen.frames >= n;
}

static struct netback *opened(const char *text)
{
	struct net_options o;
	int error = 0;

	assert_int_equal(net_parse(text, &o, err, sizeof err), 0);
	pthread_mutex_lock(&lock);
	struct netback *nb = netback_open(&loop, &o, &device, NULL, &error, err, sizeof err);
	pthread_mutex_unlock(&lock);
	assert_true(!nb == !!error);
	return nb;
}
static void closed(struct netback *nb)
{
	pthread_mutex_lock(&lock);
	netback_close(nb);
	pthread_mutex_unlock(&lock);
}
static void send_frame(struct netback *nb, uint8_t *frame, size_t len)
{
	struct iovec iov[2] = { { frame, len / 2 }, { frame + len / 2, len - len / 2 } };

	pthread_mutex_lock(&lock);
	nb->ops->send(nb, iov, 2, len);
	if (nb->ops->sent)
		nb->ops->sent(nb);
	pthread_mutex_unlock(&lock);
}

static int setup(void **state)
{
	pthread_mutexattr_t attr;

	(void)state;
	memset(&seen, 0, sizeof seen);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&lock, &attr);
	return loop_init(&loop, &lock) || loop_start(&loop);
}
static int teardown(void **state)
{
	(void)state;
	loop_stop(&loop);
	for (unsigned i = 0; i < LOOP_FDS; i++)
		if (loop.fds[i].fd >= 0)
			return -1; /* somebody forgot it */
	if (loop.sources || loop.timers)
		return -1;
	loop_destroy(&loop);
	return access(path, F_OK) ? 0 : unlink(path);
}

/* --- options ----------------------------------------------------------------------------------------------------------- */

static void right_options(void **state)
{
	struct net_options o;

	(void)state;
	assert_int_equal(net_parse("user", &o, err, sizeof err), 0);
	assert_true(o.kind == NET_USER && !o.has_mac && o.mtu == 1500 && !o.nforwards && !o.restricted);
	assert_int_equal(net_parse("tap=hv0,mtu=9000,mac=0A:00:fF:00:00:01", &o, err, sizeof err), 0);
	assert_true(o.kind == NET_TAP && o.mtu == 9000 && o.has_mac);
	assert_string_equal(o.name, "hv0");
	assert_memory_equal(o.mac, "\x0a\x00\xff\x00\x00\x01", 6);
	assert_int_equal(net_parse("socket=/tmp/a b", &o, err, sizeof err), 0);
	assert_string_equal(o.name, "/tmp/a b");
	assert_int_equal(net_parse("user,hostfwd=tcp::8080-:80,restrict=on,hostfwd=udp:0.0.0.0:53-10.0.2.16:5353", &o, err, sizeof err), 0);
	assert_true(o.restricted && o.nforwards == 2 && !o.forward[0].udp && o.forward[1].udp);
	assert_int_equal(o.forward[0].host.s_addr, htonl(INADDR_LOOPBACK)); /* not the whole world */
	assert_int_equal(o.forward[0].guest.s_addr, 0);
	assert_true(o.forward[0].host_port == 8080 && o.forward[0].guest_port == 80);
	assert_int_equal(o.forward[1].host.s_addr, 0);
	assert_int_equal(o.forward[1].guest.s_addr, htonl(0x0a000210));
}

static void wrong_options(void **state)
{
	static const char *const wrong[] = {
		"", "USER", "users", "user,", ",user", "tap", "tap=", "tap=sixteencharacter", "socket=", "user,mac=",
		"user,mac=02:00:00:00:00",
		"user,mac=02:00:00:00:00:01:02", "user,mac=02-00-00-00-00-01", "user,mac=03:00:00:00:00:01",
		"user,mac=00:00:00:00:00:00",
		"user,mac=2:00:00:00:00:001", "user,mtu=67", "user,mtu=65521", "user,mtu=-1", "user,mtu=1e3",
		"user,mtu=99999999999999999999",
		"user,restrict=yes", "tap=a,restrict=on", "socket=/a,hostfwd=tcp::1-:2", "user,hostfwd=",
		"user,hostfwd=tcp", "user,hostfwd=sctp::1-:2",
		"user,hostfwd=tcp::0-:2", "user,hostfwd=tcp::1-:0", "user,hostfwd=tcp::65536-:2", "user,hostfwd=tcp::1-:",
		"user,hostfwd=tcp::1:2",
		"user,hostfwd=tcp:localhost:1-:2", "user,hostfwd=tcp:1.2.3:1-:2", "user,hostfwd=tcp::1-10.0.2.15",
		"user,hostfwd=tcp:1-:2",
		"user,hostfwd=tcp::1-:2-:3", "user,hostfwd=tcp::+1-:2", "user,hostfwd=tcp:: 1-:2", "user,nosuch=1", "user,mac",
	};
	struct net_options o;
	char text[1000];

	(void)state;
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		err[0] = 0;
		if (!net_parse(wrong[i], &o, err, sizeof err) || strncmp(err, "--net", 5))
			fail_msg("\"%s\": %s", wrong[i], err);
	}
	/* Too long, in any place; and too many. */
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = 0;
	memcpy(text, "socket=", 7);
	for (size_t n = 7; n < sizeof text; n++)
		assert_int_equal(net_parse(text + n - 7, &o, err, sizeof err), -EINVAL);
	text[7 + sizeof o.name - 1] = 0;
	assert_int_equal(net_parse(text, &o, err, sizeof err), 0);
	strcpy(text, "user");
	for (unsigned i = 0; i <= NET_FORWARDS; i++)
		strcat(text, ",hostfwd=tcp::1-:2");
	assert_int_equal(net_parse(text, &o, err, sizeof err), -EINVAL);
}

/* --- the queue --------------------------------------------------------------------------------------------------------- */

static unsigned pauses, resumes;
static void count_pause(struct netback *nb, bool paused)
{
	(void)nb;
	++*(paused ? &pauses : &resumes);
}

static void queue_is_bounded(void **state)
{
	static const struct netback_ops counting = { .pause = count_pause };
	static uint8_t frame[65534];
	struct netback nb = { .ops = &counting, .user = &device, .frame_max = sizeof frame };

	(void)state;
	nb.tail = &nb.head;
	seen.full = true;
	pauses = resumes = 0;
	for (unsigned i = 0; i < 10000; i++) {
		frame[0] = (uint8_t)i;
		assert_false(netback_deliver(&nb, frame, 100 + i % 100));
	}
	assert_int_equal(nb.frames, NET_QUEUE_FRAMES);
	assert_int_equal(nb.dropped, 10000 - NET_QUEUE_FRAMES);
	seen.full = false;
	netback_ready(&nb);
	assert_int_equal(seen.frames, NET_QUEUE_FRAMES);
	for (unsigned i = 0; i < NET_QUEUE_FRAMES; i++)
		assert_true(seen.first[i] == (uint8_t)i && seen.len[i] == 100 + i % 100);
	assert_true(pauses == 1 && resumes == 1 && !nb.bytes);

	seen.full = true;
	frame[12] = 0x81; /* with a VLAN tag a frame may be as long as this */
	for (unsigned i = 0; i < 1000; i++)
		netback_deliver(&nb, frame, sizeof frame);
	assert_in_range(nb.bytes, NET_QUEUE_BYTES - sizeof frame, NET_QUEUE_BYTES);
	netback_forget(&nb);
	assert_true(!nb.head && !nb.bytes && !nb.frames && resumes == 2);
}

/* --- the socket -------------------------------------------------------------------------------------------------------- */

static int peer(bool listens)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	int (*call)(int, const struct sockaddr *, socklen_t) = listens ? bind : connect;

	strcpy(addr.sun_path, path);
	for (uint64_t end = clock_ns() + PATIENCE; call(fd, (struct sockaddr *)&addr, sizeof addr); usleep(1000))
		assert_true(clock_ns() < end);
	if (listens)
		assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static struct netback *cable(void)
{
	char text[100];

	snprintf(text, sizeof text, "socket=%s", path);
	return opened(text);
}

static void socket_comes_and_goes(void **state)
{
	struct netback *nb = cable();

	(void)state;
	assert_non_null(nb);
	assert_false(nb->link);
	for (unsigned i = 0; i < 3; i++) {
		int fd = peer(false), third;
		char byte;

		wait_for("the link", link_is, true);
		third = peer(false);
		assert_int_equal(recv(third, &byte, 1, 0), 0); /* turned away */
		close(third);
		assert_true(seen.link);
		close(fd);
		wait_for("the end of the link", link_is, false);
	}
	/* Without a peer frames are lost, as on a cable that is not plugged in. */
	uint8_t frame[60] = { 0 };
	send_frame(nb, frame, sizeof frame);
	assert_int_equal(nb->dropped, 1);
	closed(nb);
	assert_int_equal(access(path, F_OK), -1);
}

/* The other side listened and goes: the one that is left listens. A socket that nobody listens on does not disturb it. */
static void socket_takes_over(void **state)
{
	int listening = peer(true), fd;
	struct netback *nb = cable();

	(void)state;
	assert_non_null(nb);
	fd = accept(listening, NULL, NULL);
	assert_true(fd >= 0 && nb->link);
	close(fd);
	close(listening); /* the path stays */
	wait_for("the end of the link", link_is, false);
	fd = peer(false);
	wait_for("the link", link_is, true);
	close(fd);
	closed(nb);
	assert_int_equal(access(path, F_OK), -1);
}

static void socket_with_a_hostile_peer(void **state)
{
	static uint8_t frame[200000];
	struct netback *nb = cable();
	int fd = peer(false);
	static const size_t lengths[] = { 1, 13, 14, 1514, 1515, 1519, 65536, 200000, 60 };

	(void)state;
	wait_for("the link", link_is, true);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ 1 << 20 }, sizeof(int)), 0);
	for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
		memset(frame, (int)i, sizeof frame);
		assert_int_equal(send(fd, frame, lengths[i], 0), lengths[i]);
	}
	wait_for("three frames", frames_are, 3);
	pthread_mutex_lock(&lock);
	assert_int_equal(seen.frames, 3);
	assert_true(seen.len[0] == 14 && seen.len[1] == 1514 && seen.len[2] == 60);
	assert_true(seen.first[0] == 2 && seen.first[1] == 3 && seen.first[2] == 8);
	assert_int_equal(nb->dropped, 6);
	pthread_mutex_unlock(&lock);

	/* An empty message cannot be told from the end. */
	assert_int_equal(send(fd, frame, 0, 0), 0);
	wait_for("the end of the link", link_is, false);
	close(fd);
	closed(nb);
}

/* Descriptors that come along must not stay open. */
static void socket_with_descriptors(void **state)
{
	struct netback *nb = cable();
	int fd = peer(false), pipes[2];
	uint8_t frame[60] = { 0 }, space[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { frame, sizeof frame };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };

	(void)state;
	wait_for("the link", link_is, true);
	assert_int_equal(pipe(pipes), 0);
	*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &pipes[1], sizeof(int));
	assert_int_equal(sendmsg(fd, &msg, 0), sizeof frame);
	wait_for("the frame", frames_are, 1);
	close(pipes[1]);
	assert_int_equal(read(pipes[0], frame, 1), 0); /* nobody else holds its writing end */
	close(pipes[0]);
	close(fd);
	closed(nb);
}

/* Nothing is lost in either direction, however slow one side is. */
static void socket_waits(void **state)
{
	static uint8_t frame[1000];
	struct netback *nb = cable();
	int fd = peer(false);
	unsigned sent = 0, got = 0;

	(void)state;
	wait_for("the link", link_is, true);
	while (!nb->blocked) {
		assert_true(sent < 100000);
		memcpy(frame, &sent, sizeof sent);
		send_frame(nb, frame, sizeof frame);
		sent++;
	}
	for (; got < sent; got++) {
		unsigned number;

		assert_int_equal(recv(fd, frame, sizeof frame, 0), sizeof frame);
		memcpy(&number, frame, sizeof number);
		assert_int_equal(number, got);
	}
	pthread_mutex_lock(&lock);
	assert_true(!nb->blocked && seen.unblocked == 1 && !nb->dropped);
	seen.full = true;
	pthread_mutex_unlock(&lock);

	/* Until the socket is full: no more is taken out of it than the one frame that waits. */
	for (sent = 0; send(fd, memset(frame, (int)sent, sizeof frame), sizeof frame, MSG_DONTWAIT) > 0; sent++)
		assert_true(sent < 100000);
	pthread_mutex_lock(&lock);
	assert_true(nb->frames <= 1 && !nb->dropped);
	seen.full = false;
	netback_ready(nb);
	pthread_mutex_unlock(&lock);
	wait_for("all frames", frames_are, sent);
	for (unsigned i = 0; i < sent && i < FRAMES; i++)
		assert_int_equal(seen.first[i], (uint8_t)i);

	/* The peer goes while a frame is kept for it: the device is not left waiting. */
	while (!nb->blocked)
		send_frame(nb, frame, sizeof frame);
	close(fd);
	wait_for("the end of the link", link_is, false);
	assert_true(!nb->blocked && seen.unblocked == 2);
	closed(nb);
}

static void socket_path_that_is_a_file(void **state)
{
	int fd = open(path, O_CREAT | O_WRONLY, 0600);

	(void)state;
	close(fd);
	assert_null(cable());
	assert_non_null(strstr(err, "is no socket"));
	assert_int_equal(access(path, F_OK), 0); /* not removed */
}

/* --- libslirp ---------------------------------------------------------------------------------------------------------- */

/* Who has this address? From 10.0.2.15, or who it may be. */
static void arp(uint8_t *frame, uint32_t from, uint32_t target)
{
	static const uint8_t head[42] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1 };

	memcpy(frame, head, sizeof head);
	memcpy(frame + 28, &(uint32_t){ htonl(from) }, 4);
	memcpy(frame + 38, &(uint32_t){ htonl(target) }, 4);
}

static void slirp_answers(void **state)
{
	struct netback *nb = opened("user");
	uint8_t frame[42];

	(void)state;
	assert_true(nb && nb->link);
	arp(frame, 0x0a00020f, 0x0a000202);
	send_frame(nb, frame, sizeof frame);
	assert_int_equal(seen.frames, 1);
	assert_memory_equal(seen.last, frame + 6, 6);
	assert_memory_equal(seen.last + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02", 10);

	/* Anything a guest can think of, with heads that lead deep into the library. */
	static const uint16_t types[] = { 0x0800, 0x0806, 0x86dd, 0x0000 };
	static uint8_t junk[1518];
	unsigned seed = 1;

	for (unsigned i = 0; i < 20000; i++) {
		size_t len = ETH_HEADER + (i * 7919) % (sizeof junk - ETH_HEADER);

		for (size_t at = 0; at < len; at++)
			junk[at] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
		junk[12] = (uint8_t)(types[i % 4] >> 8);
		junk[13] = (uint8_t)types[i % 4];
		if (i % 4 == 0 && len > 40) { /* a header that is nearly right, to an address of the library's own */
			junk[14] = 0x45;
			junk[20] = junk[21] = 0;
			junk[23] = (uint8_t[]){ 1, 6, 17, 2 }[i / 4 % 4];
			memcpy(junk + 26, "\x0a\x00\x02\x0f\x0a\x00\x02\x02", 8);
		}
		send_frame(nb, junk, len);
	}
	unsigned before = seen.frames;

	arp(frame, 0x0a00020f, 0x0a000203);
	send_frame(nb, frame, sizeof frame);
	assert_true(seen.frames > before);
	closed(nb);
}

static void slirp_forwards_a_port(void **state)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof any;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char text[100];

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof any) | listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&any, &len);
	snprintf(text, sizeof text, "user,hostfwd=tcp::%u-:80", ntohs(any.sin_port));
	assert_null(opened(text)); /* it is taken */
	assert_non_null(strstr(err, "cannot be forwarded"));
	close(fd);

	struct netback *nb = opened(text);
	uint8_t frame[42];

	assert_non_null(nb);
	arp(frame, 0x0a00020f, 0x0a000202); /* now it knows where the guest is */
	send_frame(nb, frame, sizeof frame);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&any, sizeof any), 0);
	wait_for("the guest's side of it", frames_are, 2); /* by the loop: descriptors of the library are watched */
	assert_memory_equal(seen.last + 12, "\x08\x00\x45", 3);
	assert_int_equal(seen.last[23], IPPROTO_TCP);
	assert_memory_equal(seen.last + 36, "\0\x50", 2);
	close(fd);
	closed(nb);
}

/* --- tap --------------------------------------------------------------------------------------------------------------- */

/* The kernel at the other end of the cable answers. In a network of its own, so that this machine's is left alone. */
static void tap_reaches_the_kernel(void **state)
{
	struct netback *nb = unshare(CLONE_NEWNET) ? NULL : opened("tap=hvtest");
	struct ifreq ifr = { .ifr_name = "hvtest" };
	struct sockaddr_in *addr = (struct sockaddr_in *)&ifr.ifr_addr;
	uint8_t frame[42];

	(void)state;
	if (!nb)
		skip(); /* no root, or no /dev/net/tun */
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	*addr = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(0xa9fe4d01) };
	assert_int_equal(ioctl(fd, SIOCSIFADDR, &ifr), 0);
	ifr.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	arp(frame, 0xa9fe4d02, 0xa9fe4d01);
	for (unsigned i = 0; i < 2000 && (!seen.frames || seen.last[13] != 6); i++, usleep(10000))
		if (i % 10 == 0)
			send_frame(nb, frame, sizeof frame);
	pthread_mutex_lock(&lock);
	assert_memory_equal(seen.last, frame + 6, 6);
	assert_memory_equal(seen.last + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02", 10);
	pthread_mutex_unlock(&lock);
	close(fd);
	closed(nb);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(right_options), TEST(wrong_options), TEST(queue_is_bounded), TEST(socket_comes_and_goes), TEST(socket_takes_over),
		TEST(socket_with_a_hostile_peer), TEST(socket_with_descriptors), TEST(socket_waits), TEST(socket_path_that_is_a_file),
		TEST(slirp_answers), TEST(slirp_forwards_a_port), TEST(tap_reaches_the_kernel),
	};
	if (!mkdtemp(directory))
		return 1;
	snprintf(path, sizeof path, "%s/cable", directory);
	int failed = cmocka_run_group_tests_name("netback", tests, NULL, NULL);
	return rmdir(directory) ? 1 : failed;
}
