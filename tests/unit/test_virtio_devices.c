// sources: virtio_balloon.c virtio_console.c mem.c state_io.c
/* The balloon and the console: what they do with chains, which this test makes and takes back in place of the rings. */
#include "virtio_balloon.h"
#include "virtio_console.h"
#include "vm.h"
#include "written.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MEM (32 * MiB)

static struct vm vm;
static struct virtio_dev *dev;
static const struct virtio_ops *ops;

/* Chains that wait in each queue: a readable or a writable part in one piece. */
static struct offered {
	void *data;
	size_t len;
	bool writable;
} offered[VIRTIO_QUEUES][8];
static unsigned noffered[VIRTIO_QUEUES], pushed[VIRTIO_QUEUES], again, notified, config_changes;
static uint32_t last_written;
static char broken[160], sent[256 * 1024];
static size_t nsent, host_takes;

int virtqueue_pop(struct virtqueue *q, struct vq_chain *c)
{
	unsigned i = q->index;

	if (!noffered[i] || broken[0])
		return 0;
	struct offered o = offered[i][0];

	memmove(&offered[i][0], &offered[i][1], --noffered[i] * sizeof o);
	memset(c, 0, sizeof *c);
	c->q = q;
	c->iov[0] = (struct iovec){ o.data, o.len };
	*(o.writable ? &c->nin : &c->nout) = 1;
	*(o.writable ? &c->in_len : &c->out_len) = o.len;
	return 1;
}

void virtqueue_push(struct virtqueue *q, const struct vq_chain *c, uint32_t written)
{
	assert_ptr_equal(c->q, q);
	pushed[q->index]++;
	last_written = written;
}

void virtqueue_unpop(struct virtqueue *q, const struct vq_chain *c)
{
	(void)q, (void)c;
}
void virtqueue_notify(struct virtqueue *q)
{
	(void)q, notified++;
}
void virtqueue_again(struct virtqueue *q)
{
	(void)q, again++;
}

static size_t piece(uint64_t len, uint64_t offset, size_t want)
{
	return offset >= len ? 0 : want < len - offset ? want : (size_t)(len - offset);
}

size_t chain_read(const struct vq_chain *c, uint64_t offset, void *dst, size_t len)
{
	size_t n = piece(c->out_len, offset, len);

	memcpy(dst, (uint8_t *)c->iov[0].iov_base + offset, n);
	return n;
}

size_t chain_write(const struct vq_chain *c, uint64_t offset, const void *src, size_t len)
{
	size_t n = piece(c->in_len, offset, len);

	memcpy((uint8_t *)c->iov[0].iov_base + offset, src, n);
	return n;
}

int virtio_broken(struct virtio_dev *d, const char *fmt, ...)
{
	va_list ap;

	(void)d;
	va_start(ap, fmt);
	vsnprintf(broken, sizeof broken, fmt, ap);
	va_end(ap);
	return -1;
}

void virtio_config_changed(struct virtio_dev *d)
{
	(void)d, config_changes++;
}

struct virtio_dev *virtio_create(struct vm *v, const struct virtio_ops *o, void *state, uint64_t features,
				 const void *config, unsigned len)
{
	dev = calloc(1, sizeof *dev);
	*dev = (struct virtio_dev){
		.vm = v, .ops = o, .state = state, .offered = features, .config = config, .config_len = len
	};
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		dev->queue[i] = (struct virtqueue){ .dev = dev, .index = i };
	v->virtio[v->nvirtio++] = dev;
	ops = o;
	return dev;
}

int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	return (void)v, (void)status, (void)fmt, -5;
}
void written_add(struct vm *v, uint64_t gpa, uint64_t len)
{
	assert_non_null(guest_range(&v->mem, gpa, len));
}
int loop_fd_add(struct loop *l, int fd, short e, void (*fn)(void *, short), void *o)
{
	return (void)l, (void)fd, (void)e, (void)fn, (void)o, 0;
}
void loop_fd_remove(struct loop *loop, int fd)
{
	(void)loop, (void)fd;
}

size_t console_offer(struct console *con, const uint8_t *data, size_t len)
{
	size_t n = len < host_takes ? len : host_takes;

	(void)con;
	memcpy(sent + nsent, data, n);
	nsent += n;
	host_takes -= n;
	return n;
}

void console_write(struct console *con, const uint8_t *data, size_t len)
{
	host_takes += len;
	console_offer(con, data, len);
}

static unsigned console_kicks;
void console_kick(struct console *con)
{
	(void)con, console_kicks++;
}

static void offer(unsigned queue, void *data, size_t len, bool writable)
{
	offered[queue][noffered[queue]++] = (struct offered){ data, len, writable };
}

static void kick(unsigned queue)
{
	ops->kick(dev, &dev->queue[queue]);
}

static int begin(int (*create)(struct vm *vm, const char *arg))
{
	memset(&vm, 0, sizeof vm);
	memset(noffered, 0, sizeof noffered);
	memset(pushed, 0, sizeof pushed);
	again = notified = config_changes = console_kicks = 0;
	nsent = host_takes = 0;
	broken[0] = 0;
	return guest_mem_create(&vm.mem, MEM) || create(&vm, NULL) ? -1 : 0;
}

static int begin_balloon(void **state)
{
	return (void)state, begin(virtio_balloon_create);
}
static int begin_console(void **state)
{
	return (void)state, begin(virtio_console_create);
}

static int end(void **state)
{
	(void)state;
	ops->destroy(dev);
	free(dev);
	guest_mem_destroy(&vm.mem);
	return 0;
}

/* --- balloon --- */

static void test_inflate(void **state)
{
	uint32_t pfn[] = { 7, 8, 9, 20, 19, 18, 200, 200, 100, (uint32_t)(MEM / PAGE) - 1 };

	(void)state;
	memset(vm.mem.hva, 0x5a, MEM);
	offer(0, pfn, sizeof pfn, false);
	kick(0);
	assert_int_equal(pushed[0], 1);
	assert_int_equal(last_written, 0);
	assert_int_equal(notified, 1);
	for (uint32_t p = 0; p < MEM / PAGE; p++) {
		bool gone = false;

		for (unsigned i = 0; i < sizeof pfn / sizeof *pfn; i++)
			gone |= pfn[i] == p;
		assert_int_equal(vm.mem.hva[p * PAGE], gone ? 0 : 0x5a);
		assert_int_equal(vm.mem.hva[p * PAGE + PAGE - 1], gone ? 0 : 0x5a);
	}
}

static void test_inflate_outside(void **state)
{
	uint32_t pfn[] = { 3, MEM / PAGE };

	(void)state;
	memset(vm.mem.hva, 0x5a, MEM);
	offer(0, pfn, sizeof pfn, false);
	kick(0);
	assert_non_null(strstr(broken, "0x2000"));
}

static void test_inflate_shape(void **state)
{
	uint32_t pfn[2] = { 3, 4 };

	(void)state;
	offer(0, pfn, 6, false);
	kick(0);
	assert_int_not_equal(broken[0], 0);
	broken[0] = 0;
	offer(0, pfn, 8, true);
	kick(0);
	assert_int_not_equal(broken[0], 0);
}

/* A list of any length is handled in bounded pieces, and given back when all of it is. */
static void test_long_list(void **state)
{
	static uint32_t pfn[10000];

	(void)state;
	for (unsigned i = 0; i < 10000; i++)
		pfn[i] = i % 8000;
	memset(vm.mem.hva, 0x5a, MEM);
	offer(0, pfn, sizeof pfn, false);
	kick(0);
	assert_int_equal(pushed[0], 0);
	assert_int_equal(again, 1);
	assert_int_equal(vm.mem.hva[4095 * PAGE], 0);
	assert_int_equal(vm.mem.hva[4096 * PAGE], 0x5a);
	kick(0);
	kick(0);
	assert_int_equal(pushed[0], 1);
	assert_int_equal(again, 2);
	assert_int_equal(vm.mem.hva[7999 * PAGE], 0);
	assert_int_equal(vm.mem.hva[8000 * PAGE], 0x5a);
	/* A reset in between gives the chain back and forgets it. */
	offer(0, pfn, sizeof pfn, false);
	kick(0);
	assert_int_equal(pushed[0], 1);
	ops->drain(dev);
	assert_int_equal(pushed[0], 2);
	ops->drain(dev);
	assert_int_equal(pushed[0], 2);
}

static void test_target(void **state)
{
	const uint32_t *config = dev->config;

	(void)state;
	vm.balloon_set(&vm, 5);
	assert_int_equal(config[0], 5 * 256);
	assert_int_equal(config_changes, 1);
	vm.balloon_set(&vm, MEM / MiB + 1);
	assert_int_equal(config[0], MEM / PAGE);
	vm.balloon_set(&vm, UINT64_MAX);
	assert_int_equal(config[0], MEM / PAGE);
	ops->config_write(dev, 0, 4, 1); /* the host's */
	assert_int_equal(config[0], MEM / PAGE);
	ops->config_write(dev, 4, 4, 77);
	assert_int_equal(config[1], 77);
	ops->reset(dev);
	assert_int_equal(config[1], 0);
}

static void test_statistics(void **state)
{
	struct __attribute__((packed)) {
		uint16_t tag;
		uint64_t value;
	} items[33] = { [0] = { 6, 222 }, [32] = { 4, 111 } };
	char *text = NULL;
	size_t len;

	(void)state;
	/* Not MUST_TELL_HOST (0), FREE_PAGE_HINT (3), PAGE_POISON (4), PAGE_REPORTING (5). */
	assert_int_equal(dev->offered, FEATURE(1) | FEATURE(2));
	/* In any order, and among them some that nobody here knows (5.5.6.3). */
	for (unsigned i = 1; i < 32; i++) {
		items[i].tag = (uint16_t)(900 + i);
		items[i].value = 333;
	}
	offer(2, items, sizeof items, false);
	ops->start(dev);		/* nobody notifies of what was there before DRIVER_OK */
	assert_int_equal(pushed[2], 0); /* it is kept: giving it back is the question */
	FILE *out = open_memstream(&text, &len);
	ops->stats(dev, out);
	fclose(out);
	assert_non_null(strstr(text, "\"memory\":{\"free\":111,\"available\":222}"));
	assert_int_equal(pushed[2], 1);
	free(text);
}

/* --- console --- */

static void test_transmit(void **state)
{
	static char big[100 * 1024];

	(void)state;
	for (unsigned i = 0; i < sizeof big; i++)
		big[i] = (char)(i * 7 + i / 256);
	host_takes = sizeof sent;
	offer(1, "hello", 5, false);
	offer(1, big, sizeof big, false);
	kick(1);
	assert_int_equal(nsent, 64 * KiB); /* what one kick may do */
	assert_int_equal(pushed[1], 1);
	assert_int_equal(again, 1);
	kick(1);
	assert_int_equal(pushed[1], 2);
	assert_int_equal(nsent, 5 + sizeof big);
	assert_memory_equal(sent, "hello", 5);
	assert_memory_equal(sent + 5, big, sizeof big);
}

/* The host takes nothing for a while: the chain waits, nothing is lost or sent twice, and room() goes on by a kick. */
static void test_slow_host(void **state)
{
	(void)state;
	host_takes = 3;
	offer(1, "abcdef", 6, false);
	kick(1);
	assert_int_equal(pushed[1], 0);
	assert_int_equal(again, 0);
	host_takes = 100;
	vm.con.room(vm.con.room_opaque);
	assert_int_equal(again, 1);
	kick(1);
	assert_int_equal(pushed[1], 1);
	assert_int_equal(nsent, 6);
	assert_memory_equal(sent, "abcdef", 6);
	host_takes = 0;
	offer(1, "xyz", 3, false);
	kick(1);
	ops->drain(dev);
	assert_int_equal(pushed[1], 2);
}

static size_t uart(void *opaque, const uint8_t *data, size_t len)
{
	return (void)opaque, (void)data, len;
}

static void test_input(void **state)
{
	char room[8] = "........";

	(void)state;
	vm.con.receive = uart;
	ops->start(dev);
	assert_ptr_not_equal(vm.con.receive, uart);
	assert_int_equal(console_kicks, 1);
	assert_int_equal(vm.con.receive(vm.con.receive_opaque, (const uint8_t *)"typed", 5), 0); /* no room yet */
	offer(0, room, 3, true);
	offer(0, room + 3, 5, true);
	kick(0);
	assert_int_equal(console_kicks, 2);
	assert_int_equal(vm.con.receive(vm.con.receive_opaque, (const uint8_t *)"typed", 5), 5);
	assert_memory_equal(room, "typed...", 8);
	assert_int_equal(last_written, 2);
	assert_int_equal(pushed[0], 2);
	ops->reset(dev);
	assert_ptr_equal(vm.con.receive, uart);
}

static void test_console_shape(void **state)
{
	char byte = 0;

	(void)state;
	host_takes = 100;
	offer(1, &byte, 1, true);
	kick(1);
	assert_int_not_equal(broken[0], 0);
	assert_int_equal(nsent, 0);
	broken[0] = 0;
	ops->start(dev);
	offer(0, &byte, 1, false);
	assert_int_equal(vm.con.receive(vm.con.receive_opaque, (const uint8_t *)"x", 1), 0);
	assert_int_not_equal(broken[0], 0);
}

static void test_emergency(void **state)
{
	(void)state;
	assert_int_equal(dev->offered & ~FEATURE(0), FEATURE(2)); /* one port only: not MULTIPORT (1) */
	assert_int_equal(dev->status, 0);
	ops->config_write(dev, 8, 4, 'Q');
	ops->config_write(dev, 0, 4, 'R');
	assert_int_equal(nsent, 1);
	assert_int_equal(sent[0], 'Q');
}

int main(void)
{
#define BALLOON(f) cmocka_unit_test_setup_teardown(f, begin_balloon, end)
#define CONSOLE(f) cmocka_unit_test_setup_teardown(f, begin_console, end)
	const struct CMUnitTest tests[] = {
		BALLOON(test_inflate), BALLOON(test_inflate_outside), BALLOON(test_inflate_shape), BALLOON(test_long_list),
		BALLOON(test_target),  BALLOON(test_statistics),      CONSOLE(test_transmit),	   CONSOLE(test_slow_host),
		CONSOLE(test_input),   CONSOLE(test_console_shape),   CONSOLE(test_emergency),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
