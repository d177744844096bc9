// sources: netback.c net_options.c net_socket.c control_path.c net_tap.c net_user.c loop.c clock.c state_io.c
/* The socket between two VMs: who comes first and who comes back, and peers that mean harm. */
#define _GNU_SOURCE
#include "control_path.h"
#include "netback_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static bool link_is(unsigned up)
{
	return seen.link == up;
}

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
		int fd = peer(false), third, fourth;
		char byte;

		wait_for("the link", link_is, true);
		third = peer(false);
		fourth = peer(false);
		assert_int_equal(recv(third, &byte, 1, 0), 0); /* one waits at most: turned away */
		close(third);
		close(fourth);
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

/* The other VM moves to another process, which joins before the one that it came from ends. The guest notices nothing. */
static void socket_peer_moves(void **state)
{
	struct netback *nb = cable();
	uint8_t frame[60] = { 7 };
	int from = peer(false), to;

	(void)state;
	wait_for("the link", link_is, true);
	for (unsigned i = 1; i < 4; i++) {
		to = peer(false);
		assert_int_equal(send(to, frame, sizeof frame, 0), sizeof frame);
		usleep(20000);
		assert_int_equal(seen.frames, i - 1);
		close(from);
		wait_for("a frame", frames_are, i);
		assert_int_equal(seen.links, 1);
		send_frame(nb, frame, sizeof frame);
		assert_int_equal(recv(to, frame, sizeof frame, 0), sizeof frame);
		from = to;
	}
	close(from);
	wait_for("the end of the link", link_is, false);
	closed(nb);
}

/* The same when the other side listened: now this one does, and the cable stays plugged in meanwhile. */
static void socket_listener_moves(void **state)
{
	int listening = peer(true), from, to;
	struct netback *nb = cable();

	(void)state;
	assert_true(nb->link);
	from = accept(listening, NULL, NULL);
	unlink(path);
	close(from);
	close(listening);
	to = peer(false);
	usleep(700000); /* longer than one that is alone is believed to have a peer */
	assert_true(nb->link);
	assert_int_equal(seen.links, 1);
	close(to);
	wait_for("the end of the link", link_is, false);
	closed(nb);
}

/* And this VM moves: nothing is touched before it runs here. */
static void socket_moves_here(void **state)
{
	int listening = peer(true), fd;
	struct net_options o;
	struct netback *nb;
	char text[100];
	int error;

	(void)state;
	snprintf(text, sizeof text, "socket=%s", path);
	assert_int_equal(net_parse(text, &o, err, sizeof err), 0);
	o.moving = true;
	pthread_mutex_lock(&lock);
	nb = netback_open(&loop, &o, &device, NULL, &error, err, sizeof err);
	nb->link = true; /* as netback_state() found it */
	pthread_mutex_unlock(&lock);
	usleep(50000);
	fcntl(listening, F_SETFL, O_NONBLOCK);
	assert_int_equal(accept(listening, NULL, NULL), -1);
	fcntl(listening, F_SETFL, 0);
	pthread_mutex_lock(&lock);
	netback_resume(nb);
	pthread_mutex_unlock(&lock);
	fd = accept(listening, NULL, NULL);
	assert_true(fd >= 0);
	usleep(700000);
	assert_int_equal(seen.links, 0);
	close(fd);
	close(listening);
	wait_for("the end of the link", link_is, false);
	closed(nb);
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

static void *listen_late(void *fd)
{
	usleep(50000);
	assert_int_equal(listen(*(int *)fd, 1), 0);
	close(((int *)fd)[1]); /* the lock */
	return NULL;
}

/* A socket at which nobody listens yet is not one that was left behind. */
static void socket_of_one_that_just_comes(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd[2] = { socket(AF_UNIX, SOCK_SEQPACKET, 0), control_lock(path) };
	pthread_t thread;

	(void)state;
	strcpy(addr.sun_path, path);
	assert_true(fd[1] >= 0);
	assert_int_equal(bind(fd[0], (struct sockaddr *)&addr, sizeof addr), 0);
	pthread_create(&thread, NULL, listen_late, fd);
	struct netback *nb = cable();
	pthread_join(thread, NULL);
	assert_non_null(nb);
	assert_true(nb->link);
	closed(nb);
	close(fd[0]);
}

/* Another VM, with a loop of its own. */
struct vm_side {
	pthread_mutex_t lock;
	struct loop loop;
	pthread_barrier_t *start;
	struct netback *nb;
	bool link;
};

static bool side_receive(void *opaque, const uint8_t *frame, size_t len)
{
	(void)opaque, (void)frame, (void)len;
	return true;
}
static void side_unblocked(void *opaque)
{
	(void)opaque;
}
static void side_link(void *opaque, bool up)
{
	((struct vm_side *)opaque)->link = up;
}

static void *come(void *opaque)
{
	static const struct netback_user user = { side_receive, side_unblocked, side_link };
	struct vm_side *side = opaque;
	struct net_options o = { .kind = NET_SOCKET, .mtu = NET_MTU_DEFAULT };
	char why[200];
	int error;

	strcpy(o.name, path);
	pthread_mutex_lock(&side->lock);
	pthread_barrier_wait(side->start);
	side->nb = netback_open(&side->loop, &o, &user, side, &error, why, sizeof why);
	pthread_mutex_unlock(&side->lock);
	return NULL;
}

static bool both_linked(struct vm_side *side)
{
	bool linked = true;

	for (unsigned i = 0; i < 2; i++) {
		pthread_mutex_lock(&side[i].lock);
		linked &= side[i].nb && side[i].link;
		pthread_mutex_unlock(&side[i].lock);
	}
	return linked;
}

/* Two VMs that are started at the same moment: one listens, the other one connects. */
static void socket_two_at_once(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		struct vm_side side[2] = { 0 };
		pthread_barrier_t start;
		pthread_t thread[2];

		pthread_barrier_init(&start, NULL, 2);
		for (unsigned i = 0; i < 2; i++) {
			side[i].start = &start;
			pthread_mutex_init(&side[i].lock, NULL);
			assert_int_equal(loop_init(&side[i].loop, &side[i].lock) || loop_start(&side[i].loop), 0);
			pthread_create(&thread[i], NULL, come, &side[i]);
		}
		for (unsigned i = 0; i < 2; i++)
			pthread_join(thread[i], NULL);
		for (unsigned i = 0; !both_linked(side) && i < 2000; i++)
			usleep(1000);
		assert_true(both_linked(side));
		for (unsigned i = 0; i < 2; i++) {
			pthread_mutex_lock(&side[i].lock);
			netback_close(side[i].nb);
			pthread_mutex_unlock(&side[i].lock);
			loop_stop(&side[i].loop);
			loop_destroy(&side[i].loop);
		}
		pthread_barrier_destroy(&start);
	}
}

static unsigned long passes(void)
{
	pthread_mutex_lock(&lock);
	unsigned long n = loop.pass;
	pthread_mutex_unlock(&lock);
	return n;
}

/* A guest with many connections of its own can use up hv's descriptors. Then nobody can be let in; the loop has other work to do. */
static void socket_without_descriptors(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct netback *nb = cable();
	struct rlimit limit, none;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	(void)state;
	assert_non_null(nb);
	strcpy(addr.sun_path, path);
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = (rlim_t)fd + 1;
	setrlimit(RLIMIT_NOFILE, &none);
	unsigned long before = passes();
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	usleep(300000);
	unsigned long taken = passes() - before;
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_in_range(taken, 1, 20);
	wait_for("the link", link_is, true);
	closed(nb);
	close(fd);
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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(socket_comes_and_goes),
		TEST(socket_peer_moves),
		TEST(socket_listener_moves),
		TEST(socket_moves_here),
		TEST(socket_takes_over),
		TEST(socket_with_a_hostile_peer),
		TEST(socket_with_descriptors),
		TEST(socket_waits),
		TEST(socket_of_one_that_just_comes),
		TEST(socket_two_at_once),
		TEST(socket_without_descriptors),
		TEST(socket_path_that_is_a_file),
	};
	return cmocka_run_group_tests_name("net socket", tests, make_directory, remove_directory);
}
