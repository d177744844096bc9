// sources: netback.c net_options.c net_socket.c control_path.c net_tap.c net_user.c loop.c clock.c state_io.c
/* The networks behind a device: what --net takes, the queue, libslirp, a tap interface. The socket is in test_net_socket.c. */
#define _GNU_SOURCE /* unshare */
#include "netback_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

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
		TEST(right_options),
		TEST(wrong_options),
		TEST(queue_is_bounded),
		TEST(slirp_answers),
		TEST(slirp_forwards_a_port),
		TEST(tap_reaches_the_kernel),
	};
	return cmocka_run_group_tests_name("netback", tests, make_directory, remove_directory);
}
