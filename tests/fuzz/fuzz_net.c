/*
 * A network device on one end of a socket, this file on the other: it sends frames, reads what comes or leaves it there, and unplugs the cable.
 */
#define _GNU_SOURCE /* accept4 */
#include "harness.h"
#include "lab4.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un here = { .sun_family = AF_UNIX };
static int listener, peer = -1;

static void remove_socket(void)
{
	unlink(here.sun_path);
}

void fuzz_create(struct vm *vm)
{
	char arg[sizeof here.sun_path + 16];

	snprintf(here.sun_path, sizeof here.sun_path, "/tmp/hv-fuzz-net.%d", getpid());
	atexit(remove_socket);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1))
		abort();
	snprintf(arg, sizeof arg, "socket=%s", here.sun_path);
	net_create(vm, arg);
}

static void read_all(void)
{
	static uint8_t frame[2048];

	while (recv(peer, frame, sizeof frame, MSG_DONTWAIT) > 0)
		;
}

/* The first byte says what happens, and the others, as often as it takes, are the frame. */
void fuzz_outside(struct vm *vm, const uint8_t *data, size_t len)
{
	static uint8_t frame[128 * 13]; /* and so some are too long */

	(void)vm;
	if (peer < 0)
		peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (!len || data[0] < 16)
		read_all();
	if (!len)
		return;
	if (data[0] == 255) {
		close(peer);
		peer = -1;
		return;
	}
	/* Short ones, and all up to the longest. */
	size_t n = data[0] < 128 ? len : (data[0] - 127) * 13u;

	for (size_t at = 0; at < n; at++)
		frame[at] = data[at % len];
	for (unsigned i = 0; i < 1 + data[0] % 4u; i++)
		send(peer, frame, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}
