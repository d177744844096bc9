/*
 * The console device (virtio 1.2, 5.3), with one port: to read before you write a device yourself.
 *
 * A device never sees a ring. It sees chains: virtqueue_pop() takes what the driver has made available, virtqueue_push() gives it back,
 * virtqueue_notify() interrupts the driver if it wants that. Between pop and push the buffers are the device's, for as long as it likes.
 * The whole life of a buffer:
 *
 *	driver                                     device
 *	makes a chain available
 *	QueueNotify, unless told not to  ------->  kick()
 *	                                           virtqueue_pop(): 1, here is a chain
 *	                                           chain_read(), chain_write(): does what the chain asks for
 *	                                           virtqueue_push(): done, so many bytes were written
 *	                                           virtqueue_pop(): 0, there is no more; from here on the driver has to notify
 *	interrupt, unless told not to    <-------  virtqueue_notify()
 *	takes the chain from the used ring
 *
 * Four rules follow, and this device shows each of them:
 *
 * 1. A kick says "look", not how much there is: kick() takes chains until virtqueue_pop() says 0. Who stops earlier, as transmit() does
 *    when the output is slow, has to come back by himself: the driver was not asked to notify again.
 * 2. The order is pop, work, push, notify. A chain that was pushed is the driver's again: not one byte of it is read or written behind
 *    that. One notify() for all pushes of a kick is enough; it is there that interrupts are saved.
 * 3. The two queues are used the other way round. In transmitq the driver brings data, and the device answers at once. In receiveq it
 *    brings *room*, long before there is data; the device takes it when there is input, which is when nobody kicked.
 * 4. Everybody waits while a device works: kick() runs with the VM's lock held. So it does a bounded amount of work (KICK_BYTES), and
 *    it never waits for a host. A chain that cannot be finished now is kept (`held`), and its reset is expected at any time: drain().
 *
 * Whose input it is: with --console the guest has two serial lines on one host console, a UART and this. Output of both goes there. Input
 * goes to this device from DRIVER_OK to reset, else to the UART, so that a guest without the driver can be typed at too.
 */
#include "virtio_console.h"
#include "state_io.h"
#include "vm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { RECEIVEQ, TRANSMITQ, QUEUES };

#define F_SIZE FEATURE(0)
#define F_EMERG_WRITE FEATURE(2)

#define KICK_BYTES (64 * KiB) /* of output at most, then others have their turn */
#define PIECE 512

struct virtio_console {
	struct virtio_dev *dev;
	struct console *con;
	/* 5.3.4 */
	struct {
		uint16_t cols, rows;
		uint32_t max_nr_ports, emerg_wr;
	} config;
	/* The chain of transmitq that is being written out, and how much of it was. */
	struct vq_chain held;
	bool holding;
	uint64_t offset;
	uint64_t resume_at; /* of a chain that was put back: so much of it was written, and it is taken again */
	/* Who had the input before the driver came. */
	size_t (*uart_receive)(void *opaque, const uint8_t *data, size_t len);
	void *uart;
	int winch_fd; /* signalfd, or -1 */
	uint64_t tx_bytes, rx_bytes;
};

/* --- output ---------------------------------------------------------------------------------------------------------------------- */

/* Writes out as much of the held chain as the host takes now, `budget` bytes at most; what is left of that. */
static uint64_t write_out(struct virtio_console *vc, uint64_t budget)
{
	uint8_t piece[PIECE];

	while (budget) {
		/* Through a copy: the guest may change its memory meanwhile, and a byte that was looked at shall be the one that is
		 * written. */
		size_t n = chain_read(&vc->held, vc->offset, piece, budget < PIECE ? budget : PIECE);
		size_t taken = console_offer(vc->con, piece, n);

		vc->offset += taken;
		vc->tx_bytes += taken;
		budget -= taken;
		if (!n || taken < n)
			break;
	}
	return budget;
}

static void transmit(struct virtio_console *vc)
{
	struct virtqueue *q = &vc->dev->queue[TRANSMITQ];
	uint64_t budget = KICK_BYTES;

	for (;;) {
		if (!vc->holding) {
			if (virtqueue_pop(q, &vc->held) <= 0)
				break;
			if (vc->held.in_len) { /* 5.3.6.2 */
				virtio_broken(vc->dev, "a writable buffer in the console's transmitq");
				return;
			}
			vc->holding = true;
			vc->offset = vc->resume_at;
			vc->resume_at = 0;
		}
		budget = write_out(vc, budget);
		if (vc->offset < vc->held.out_len) {
			if (!budget)
				virtqueue_again(q);
			break; /* else the host is slow, and the console calls room() */
		}
		vc->holding = false;
		virtqueue_push(q, &vc->held, 0);
	}
	virtqueue_notify(q);
}

/* The host takes output again. By a kick of our own, because that is bounded: a fast reader could keep us here for ever. */
static void room(void *opaque)
{
	struct virtio_console *vc = opaque;

	virtqueue_again(&vc->dev->queue[TRANSMITQ]);
}

/* --- input ----------------------------------------------------------------------------------------------------------------------- */

/* The host console has input; how much of it was taken. What was not waits there: kick() asks for it when the driver brings more room. */
static size_t receive(void *opaque, const uint8_t *data, size_t len)
{
	struct virtio_console *vc = opaque;
	struct virtqueue *q = &vc->dev->queue[RECEIVEQ];
	static struct vq_chain c;
	size_t taken = 0;

	while (taken < len && virtqueue_pop(q, &c) > 0) {
		if (c.out_len || !c.in_len) { /* 5.3.6.2 */
			virtio_broken(vc->dev, "a buffer in the console's receiveq that is not all writable");
			break;
		}
		size_t n = chain_write(&c, 0, data + taken, len - taken);

		virtqueue_push(q, &c, (uint32_t)n);
		taken += n;
	}
	virtqueue_notify(q);
	vc->rx_bytes += taken;
	return taken;
}

static void kick(struct virtio_dev *d, struct virtqueue *q)
{
	struct virtio_console *vc = d->state;

	if (q->index == TRANSMITQ)
		transmit(vc);
	else
		console_kick(vc->con); /* comes back to receive() if something waits */
}

/* --- from DRIVER_OK to reset ----------------------------------------------------------------------------------------------------- */

static void start(struct virtio_dev *d)
{
	struct virtio_console *vc = d->state;

	vc->uart_receive = vc->con->receive;
	vc->uart = vc->con->receive_opaque;
	vc->con->receive = receive;
	vc->con->receive_opaque = vc;
	console_kick(vc->con);
}

/* Nothing of the driver's may be touched behind this. Output that the host did not take is lost, as on a line that is cut. */
static void drain(struct virtio_dev *d)
{
	struct virtio_console *vc = d->state;

	if (vc->holding)
		virtqueue_push(vc->held.q, &vc->held, 0);
	vc->holding = false;
	vc->resume_at = 0;
}

static void settle(struct virtio_dev *d)
{
	struct virtio_console *vc = d->state;

	if (!vc->holding)
		return;
	virtqueue_unpop(vc->held.q, &vc->held);
	vc->holding = false;
	vc->resume_at = vc->offset;
}

static void reset(struct virtio_dev *d)
{
	struct virtio_console *vc = d->state;

	if (vc->con->receive == receive) {
		vc->con->receive = vc->uart_receive;
		vc->con->receive_opaque = vc->uart;
		console_kick(vc->con);
	}
}

/* Emergency output (5.3.4): a character without a queue, for a guest that has not come far, or not well. Works at any time. */
static void config_write(struct virtio_dev *d, unsigned offset, unsigned size, uint32_t value)
{
	struct virtio_console *vc = d->state;
	uint8_t byte = (uint8_t)value;

	(void)size;
	if (offset == 8) /* emerg_wr; there is nothing else to write */
		console_write(vc->con, &byte, 1);
}

/* --- size of the host's terminal -------------------------------------------------------------------------------------------------- */

static bool read_size(struct virtio_console *vc)
{
	struct winsize w;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) || (vc->config.cols == w.ws_col && vc->config.rows == w.ws_row))
		return false;
	vc->config.cols = w.ws_col;
	vc->config.rows = w.ws_row;
	return true;
}

static void on_winch(void *opaque, short revents)
{
	struct virtio_console *vc = opaque;
	struct signalfd_siginfo info;

	(void)revents;
	if (read(vc->winch_fd, &info, sizeof info) == sizeof info && read_size(vc))
		virtio_config_changed(vc->dev);
}

/* The size that the driver knows. If the terminal here has another one, it hears of that. */
static void console_device_state(struct virtio_dev *d, struct state_io *io)
{
	struct virtio_console *vc = d->state;

	STATE(io, vc->config.cols);
	STATE(io, vc->config.rows);
	STATE(io, vc->resume_at);
	state_check(io, vc->resume_at <= d->vm->mem.size * VQ_IOV_MAX, "it has written more than a guest has memory");
	if (io->loading && vc->winch_fd >= 0 && read_size(vc))
		virtio_config_changed(d);
}

/* SIGWINCH as something that the loop can wait for. Blocked here, before there are other threads, it is blocked in all of them. */
static int watch_size(struct virtio_console *vc)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	vc->winch_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return vc->winch_fd < 0 ? -errno : loop_fd_add(&vc->dev->vm->loop, vc->winch_fd, POLLIN, on_winch, vc);
}

/* --- making it -------------------------------------------------------------------------------------------------------------------- */

static void destroy(struct virtio_dev *d)
{
	struct virtio_console *vc = d->state;

	if (vc->winch_fd >= 0) {
		loop_fd_remove(&d->vm->loop, vc->winch_fd);
		close(vc->winch_fd);
	}
	free(vc);
}

static void stats(struct virtio_dev *d, FILE *out)
{
	const struct virtio_console *vc = d->state;

	fprintf(out, ",\"tx_bytes\":%llu,\"rx_bytes\":%llu", (unsigned long long)vc->tx_bytes,
		(unsigned long long)vc->rx_bytes);
}

static const struct virtio_ops console_ops = {
	.name = "console",
	.id = VIRTIO_ID_CONSOLE,
	.nqueues = QUEUES,
	.kick = kick,
	.start = start,
	.drain = drain,
	.reset = reset,
	.config_write = config_write,
	.destroy = destroy,
	.stats = stats,
	.settle = settle,
	.state = console_device_state,
	.adopts = F_SIZE,
};

int virtio_console_create(struct vm *vm, const char *arg)
{
	(void)arg;
	if (vm->con.room)
		return vm_stop(vm, HV_USAGE, "there is one console only: --console can stand once");

	struct virtio_console *vc = calloc(1, sizeof *vc);

	if (!vc)
		return -ENOMEM;
	vc->con = &vm->con;
	vc->winch_fd = -1;
	vc->config.max_nr_ports = 1;
	bool terminal = read_size(vc);
	vc->dev =
		virtio_create(vm, &console_ops, vc, F_EMERG_WRITE | (terminal ? F_SIZE : 0), &vc->config, sizeof vc->config);
	if (!vc->dev) {
		free(vc);
		return -ECANCELED;
	}
	vm->con.room = room;
	vm->con.room_opaque = vc;
	return terminal ? watch_size(vc) : 0;
}
