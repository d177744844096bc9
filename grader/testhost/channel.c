#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

/* Console messages of the kernel go to ttyS0, so nothing but these records is ever written to this port. */
#define PORT "/dev/ttyS1"
static const char mark[4] = { 'T', 'D', 'R', '1' };

/*
 * In Bochs records leave by the parallel port instead: 10000 instructions per byte are a serial port's price there, and five
 * this one's. The kernel hands over what it does not know of its command line as the environment of process 1.
 */
#define KIND "channel"
#define LPT 0x378
#define LPT_CONTROL (LPT + 2)
#define LPT_READY 0x0c  /* printer selected, not being initialized */
#define LPT_STROBE 0x01 /* goes up when a byte is there to be taken (IEEE 1284-2000, compatibility mode) */

static int port = -1;
static bool parallel;

void channel_open(void)
{
	const char *kind = getenv(KIND);
	struct termios t;

	parallel = kind && !strcmp(kind, "parallel");
	port = open(PORT, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port < 0 || tcgetattr(port, &t) < 0) {
		fprintf(stderr, "runner: cannot open %s: %s\n", PORT, strerror(errno));
		reboot(RB_AUTOBOOT);
		exit(1);
	}
	cfmakeraw(&t); /* no echo, no translation of line ends */
	cfsetspeed(&t, B115200);
	tcsetattr(port, TCSANOW, &t);
}

/* The right to use the ports is inherited by children, so it is given back at once. */
static void put_parallel(const char *p, size_t len)
{
	if (ioperm(LPT, 3, 1) < 0) {
		fprintf(stderr, "runner: no access to the parallel port: %s\n", strerror(errno));
		reboot(RB_AUTOBOOT);
		exit(1);
	}
	for (; len; len--, p++) {
		outb(*p, LPT);
		outb(LPT_READY | LPT_STROBE, LPT_CONTROL);
		outb(LPT_READY, LPT_CONTROL);
	}
	ioperm(LPT, 3, 0);
}

static void put(const void *data, size_t len)
{
	const char *p = data;

	if (parallel) {
		put_parallel(data, len);
		return;
	}
	while (len) {
		ssize_t n = write(port, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			fprintf(stderr, "runner: the grader's port is gone: %s\n", strerror(errno));
			reboot(RB_AUTOBOOT);
			exit(1);
		}
		p += n;
		len -= n;
	}
}

void channel_send(char type, const void *a, size_t alen, const void *b, size_t blen)
{
	uint32_t len = alen + blen;
	char head[9];

	memcpy(head, mark, 4);
	head[4] = type;
	memcpy(head + 5, &len, 4);
	put(head, sizeof head);
	put(a, alen);
	put(b, blen);
}

static void send_text(char type, const char *fmt, va_list ap)
{
	char text[1024];
	int n = vsnprintf(text, sizeof text, fmt, ap);

	channel_send(type, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1, NULL, 0);
}

void channel_printf(char type, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	send_text(type, fmt, ap);
	va_end(ap);
}

char channel_receive(void)
{
	char c = 0;

	while (read(port, &c, 1) != 1)
		if (errno != EINTR)
			usleep(1000);
	return c;
}

void fatal(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	send_text('F', fmt, ap);
	va_end(ap);
	tcdrain(port);
	reboot(RB_AUTOBOOT);
	exit(1);
}
