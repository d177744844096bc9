// sources: net.c netback.c net_options.c virtio.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c written.c
/* The network device between a driver, which this program plays on real rings in guest memory, and a network that only
 * remembers. */
#include "engine.h"
#include "lab4.h"
#include "netback.h"
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- the rest of hv ---------------------------------------------------------------------------------------------------- */

static struct vm vm;
static bool irq_level;

int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->reason, sizeof v->reason, fmt, ap);
	va_end(ap);
	v->status = status;
	v->stopping = 1;
	return -ECANCELED;
}
int vm_todo(struct vm *v, const char *step, const char *hint)
{
	return vm_stop(v, HV_TODO, "%s %s", step, hint);
}
void json_string(FILE *out, const char *s)
{
	fprintf(out, "\"%s\"", s);
}
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns)
{
	(void)loop;
	timer->deadline_ns = deadline_ns;
}
int loop_fd_add(struct loop *loop, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque)
{
	(void)loop, (void)fd, (void)events, (void)fn, (void)opaque;
	return 0;
}
void loop_fd_remove(struct loop *loop, int fd)
{
	(void)loop, (void)fd;
}
static void irq_line(struct vm *v, unsigned irq, bool level)
{
	(void)v, (void)irq;
	irq_level = level;
}
static const struct engine_ops engine = { .name = "none", .irq_line = irq_line };

/* --- a network that remembers ------------------------------------------------------------------------------------------ */

static struct netback *wire; /* of the device, as the network knows it */
static uint8_t sent[4][70000];
static size_t sent_len[4];
static unsigned nsent, block_at;
static bool paused;

static int wire_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	if (o->kind == NET_TAP)
		return snprintf(err, size, "no tap here"), -EPERM;
	wire = nb;
	nb->link = true;
	return 0;
}
static void wire_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	netback_gather(iov, n, sent[nsent % 4]);
	sent_len[nsent++ % 4] = len;
	if (nsent == block_at)
		netback_set_blocked(nb, true);
}
static void wire_pause(struct netback *nb, bool p)
{
	(void)nb;
	paused = p;
}
static void wire_close(struct netback *nb)
{
	(void)nb;
	wire = NULL;
}
#define WIRE { .open = wire_open, .send = wire_send, .pause = wire_pause, .close = wire_close }
const struct netback_ops net_user_ops = WIRE, net_tap_ops = WIRE, net_socket_ops = WIRE;

/* --- a driver ---------------------------------------------------------------------------------------------------------- */

enum { RX, TX };
#define SIZE 16u
#define HDR 12u
#define RING(q) (0x10000u + 0x4000u * (q)) /* descriptors; available ring 0x1000 and used ring 0x2000 behind them */
#define BUFFERS 0x40000u
#define F_MTU FEATURE(3)
#define F_MAC FEATURE(5)
#define F_MRG FEATURE(15)
#define F_STATUS FEATURE(16)

static struct virtio_dev *dev;
static uint16_t next_desc[2];

static void reg(uint64_t offset, uint32_t value)
{
	virtio_mmio_write(dev, offset, 4, value);
}
static uint32_t status(void)
{
	return (uint32_t)virtio_mmio_read(dev, 0x70, 4);
}
static void *mem(uint64_t gpa)
{
	return guest_range(&vm.mem, gpa, 1);
}
static struct split_desc *desc(unsigned q)
{
	return mem(RING(q));
}
static struct split_avail *avail(unsigned q)
{
	return mem(RING(q) + 0x1000);
}
static struct split_used *used(unsigned q)
{
	return mem(RING(q) + 0x2000);
}

static void start(uint64_t features)
{
	reg(0x70, 0);
	reg(0x70, 3);
	reg(0x24, 0);
	reg(0x20, (uint32_t)features);
	reg(0x24, 1);
	reg(0x20, (uint32_t)((features | F_VERSION_1) >> 32));
	reg(0x70, 0xb);
	assert_int_equal(status(), 0xb);
	for (unsigned q = 0; q < 2; q++) {
		memset(mem(RING(q)), 0, 0x3000);
		next_desc[q] = 0;
		reg(0x30, q);
		reg(0x38, SIZE);
		reg(0x80, RING(q));
		reg(0x90, RING(q) + 0x1000);
		reg(0xa0, RING(q) + 0x2000);
		reg(0x44, 1);
	}
	reg(0x70, 0xf);
	assert_int_equal(status(), 0xf);
}

static void add_desc(unsigned q, uint32_t gpa, uint32_t len, uint16_t flags)
{
	uint16_t i = next_desc[q]++ % SIZE;

	desc(q)[i] = (struct split_desc){ gpa, len, flags, (uint16_t)((i + 1) % SIZE) };
}
/* The chain that begins with this descriptor is available. */
static void offer(unsigned q, uint16_t head)
{
	avail(q)->ring[avail(q)->idx % SIZE] = head % SIZE;
	avail(q)->idx++;
}
static void kick(unsigned q)
{
	reg(0x50, q);
}
static void rx_buffer(uint32_t gpa, uint32_t len)
{
	uint16_t head = next_desc[RX];

	add_desc(RX, gpa, len, DESC_F_WRITE);
	offer(RX, head);
}
static void tx_frame(uint32_t gpa, uint32_t len)
{
	uint16_t head = next_desc[TX];

	add_desc(TX, gpa, len, 0);
	offer(TX, head);
	kick(TX);
}

static uint8_t *pattern(size_t len, unsigned seed)
{
	static uint8_t frame[70000];

	for (size_t i = 0; i < len; i++)
		frame[i] = (uint8_t)(i * 7 + (i >> 8) + seed);
	return frame;
}

static int setup(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof vm);
	vm.engine = &engine;
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
	bus_init(&vm.mmio, "address");
	nsent = block_at = 0;
	paused = false;
	if (guest_mem_create(&vm.mem, 4 * MiB) || net_create(&vm, "user,mac=02:01:02:03:04:05,mtu=3000"))
		return -1;
	dev = vm.virtio[0];
	return 0;
}
static int teardown(void **state)
{
	(void)state;
	virtio_destroy(&vm);
	guest_mem_destroy(&vm.mem);
	return wire != NULL;
}

/* --- tests ------------------------------------------------------------------------------------------------------------- */

static void configuration(void **state)
{
	static const uint8_t mac[6] = { 2, 1, 2, 3, 4, 5 };
	uint32_t generation = (uint32_t)virtio_mmio_read(dev, 0xfc, 4);

	(void)state;
	assert_int_equal(virtio_mmio_read(dev, 8, 4), 1);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(virtio_mmio_read(dev, 0x100 + i, 1), mac[i]);
	assert_int_equal(virtio_mmio_read(dev, 0x106, 2), 1);
	assert_int_equal(virtio_mmio_read(dev, 0x10a, 2), 3000);
	/* Nothing else: no checksums, no segmentation, no control queue, one pair of queues. */
	assert_int_equal(dev->offered, F_MTU | F_MAC | F_MRG | F_STATUS | F_VERSION_1 | vm.opt.device[0].rings);
	virtio_mmio_write(dev, 0x100, 4, 0); /* read-only */
	assert_int_equal(virtio_mmio_read(dev, 0x100, 1), 2);

	start(F_STATUS);
	netback_set_link(wire, false);
	assert_int_equal(virtio_mmio_read(dev, 0x106, 2), 0);
	assert_int_equal(virtio_mmio_read(dev, 0xfc, 4), generation + 1);
	assert_int_equal(virtio_mmio_read(dev, 0x60, 4), INTERRUPT_CONFIG);
	assert_true(irq_level);
	netback_set_link(wire, false); /* no news */
	assert_int_equal(virtio_mmio_read(dev, 0xfc, 4), generation + 1);
}

static void transmit_whole(void **state)
{
	(void)state;
	start(F_MRG);
	memset(mem(BUFFERS), 0, HDR);
	memcpy(mem(BUFFERS + HDR), pattern(1514, 1), 1514);
	tx_frame(BUFFERS, HDR + 1514);
	assert_int_equal(nsent, 1);
	assert_int_equal(sent_len[0], 1514);
	assert_memory_equal(sent[0], pattern(1514, 1), 1514);
	assert_int_equal(used(TX)->idx, 1);
	assert_int_equal(used(TX)->ring[0].len, 0);
	assert_true(irq_level);
}

/* How a driver divides header and frame means nothing: every cut of a frame of 60 bytes in three. */
static void transmit_in_pieces(void **state)
{
	(void)state;
	start(0);
	memset(mem(BUFFERS), 0, HDR);
	memcpy(mem(BUFFERS + HDR), pattern(60, 2), 60);
	for (unsigned a = 0; a <= HDR + 60; a += 5)
		for (unsigned b = a; b <= HDR + 60; b += 3) {
			uint16_t head = next_desc[TX];

			add_desc(TX, BUFFERS, a, DESC_F_NEXT);
			add_desc(TX, BUFFERS + a, b - a, DESC_F_NEXT);
			add_desc(TX, BUFFERS + b, HDR + 60 - b, 0);
			offer(TX, head);
			kick(TX);
			assert_int_equal(sent_len[(nsent - 1) % 4], 60);
			assert_memory_equal(sent[(nsent - 1) % 4], pattern(60, 2), 60);
		}
	assert_int_equal(nsent, used(TX)->idx);
	assert_int_equal(status(), 0xf);
}

static void transmit_what_was_not_agreed_on(void **state)
{
	static const struct {
		uint8_t flags, gso;
		uint32_t len;
		bool goes;
	} cases[] = {
		{ 0, 0, 60, true },   { 1, 0, 60, false },  { 0xfe, 0, 60, true }, { 0, 1, 60, false },	 { 0, 0x80, 60, false },
		{ 0, 0, 13, false },  { 0, 0, 14, true },   { 0, 0, 3018, true },  { 0, 0, 3019, false }, { 0, 0, 65550, false },
		{ 0, 0, 0, false },
	};

	(void)state;
	start(F_MTU);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		unsigned before = nsent;

		memset(mem(BUFFERS), 0, HDR);
		*(uint8_t *)mem(BUFFERS) = cases[i].flags;
		*(uint8_t *)mem(BUFFERS + 1) = cases[i].gso;
		tx_frame(BUFFERS, HDR + cases[i].len);
		assert_int_equal(nsent - before, cases[i].goes);
		assert_int_equal(used(TX)->idx, i + 1);
		assert_int_equal(status(), 0xf);
	}
}

static void transmit_against_the_rules(void **state)
{
	(void)state;
	for (uint32_t len = 1; len < HDR; len += 5) {
		start(0);
		tx_frame(BUFFERS, len);
		assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	}
	start(0);
	add_desc(TX, BUFFERS, 100, DESC_F_NEXT);
	add_desc(TX, BUFFERS + 100, 1, DESC_F_WRITE);
	offer(TX, 0);
	kick(TX);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	assert_int_equal(used(TX)->idx, 0);
	assert_int_equal(nsent, 0);
	start(0); /* and a reset heals it */
	tx_frame(BUFFERS, 100);
	assert_int_equal(nsent, 1);
}

static void network_that_takes_nothing(void **state)
{
	(void)state;
	start(0);
	memset(mem(BUFFERS), 0, 100);
	block_at = 1;
	for (unsigned i = 0; i < 5; i++)
		tx_frame(BUFFERS, 100 + i);
	assert_int_equal(nsent, 1);
	assert_int_equal(used(TX)->idx, 1);
	netback_set_blocked(wire, false);
	assert_int_equal(nsent, 5);
	assert_int_equal(used(TX)->idx, 5);
	assert_int_equal(sent_len[0], 104 - HDR);
}

static void receive_one_buffer(void **state)
{
	static const uint8_t header[HDR] = { [10] = 1 };

	(void)state;
	for (unsigned mrg = 0; mrg < 2; mrg++) {
		start(mrg ? F_MRG : 0);
		memset(mem(BUFFERS), 0xee, 4096);
		rx_buffer(BUFFERS, 2048);
		kick(RX);
		assert_true(netback_deliver(wire, pattern(600, 3), 600));
		assert_int_equal(used(RX)->idx, 1);
		assert_int_equal(used(RX)->ring[0].len, HDR + 600);
		assert_memory_equal(mem(BUFFERS), header, HDR);
		assert_memory_equal(mem(BUFFERS + HDR), pattern(600, 3), 600);
		assert_int_equal(*(uint8_t *)mem(BUFFERS + HDR + 600), 0xee);
		assert_true(irq_level);
	}
}

/* A frame over several buffers: all but the last are full, and the header tells how many. */
static void receive_merged(void **state)
{
	static const uint32_t sizes[] = { 20, 12, 500, 13, 1, 2000 };

	(void)state;
	start(F_MRG);
	for (unsigned i = 0; i < 6; i++)
		rx_buffer(BUFFERS + 0x1000 * i, sizes[i] < HDR ? HDR : sizes[i]);
	kick(RX);
	memset(mem(BUFFERS), 0xee, 0x6000);
	assert_true(netback_deliver(wire, pattern(600, 4), 600));
	assert_int_equal(used(RX)->idx, 6);
	assert_int_equal(((uint16_t *)mem(BUFFERS))[5], 6);

	const uint8_t *frame = pattern(600, 4);
	uint32_t expected[] = { 20, 12, 500, 13, 12, 612 - 557 }, at = 0;

	for (unsigned i = 0; i < 6; i++) {
		uint32_t skip = i ? 0 : HDR, len = used(RX)->ring[i].len;

		assert_int_equal(used(RX)->ring[i].id, i);
		assert_int_equal(len, expected[i]);
		assert_memory_equal(mem(BUFFERS + 0x1000 * i + skip), frame + at, len - skip);
		at += len - skip;
		assert_int_equal(*(uint8_t *)mem(BUFFERS + 0x1000 * i + len), 0xee);
	}
	assert_int_equal(at, 600);
}

/* Half of a frame is never to be seen (5.1.6.4.1), in either format. */
static void chains_that_belong_together(void **state)
{
	static struct vq_chain c[2];
	struct virtqueue *q = &dev->queue[RX];
	struct packed_desc *packed = mem(RING(RX));

	(void)state;
	start(F_MRG);
	rx_buffer(BUFFERS, 100);
	rx_buffer(BUFFERS, 100);
	assert_int_equal(virtqueue_pop(q, &c[0]) + virtqueue_pop(q, &c[1]), 2);
	virtqueue_push_more(q, &c[0], 100);
	assert_int_equal(used(RX)->idx, 0);
	virtqueue_push(q, &c[1], 50);
	assert_int_equal(used(RX)->idx, 2);

	start(F_MRG | F_RING_PACKED);
	for (uint16_t i = 0; i < 2; i++)
		packed[i] = (struct packed_desc){ BUFFERS, 100, i, PACKED_F_AVAIL | DESC_F_WRITE };
	assert_int_equal(virtqueue_pop(q, &c[0]) + virtqueue_pop(q, &c[1]), 2);
	virtqueue_push_more(q, &c[0], 100);
	assert_int_equal(packed[0].flags & PACKED_F_USED, 0);
	virtqueue_push(q, &c[1], 50);
	for (uint16_t i = 0; i < 2; i++)
		assert_int_equal(packed[i].flags & (PACKED_F_AVAIL | PACKED_F_USED), PACKED_F_AVAIL | PACKED_F_USED);
	assert_int_equal(packed[0].len, 100);
	assert_int_equal(packed[1].len, 50);
}

/* 5.1.4.1: the MTU is 3000. A VLAN tag does not count for it. */
static void receive_too_long_for_the_mtu(void **state)
{
	uint8_t *frame = pattern(3018, 5);

	(void)state;
	start(F_MTU);
	for (unsigned i = 0; i < 3; i++)
		rx_buffer(BUFFERS + 0x1000 * i, 0x1000);
	kick(RX);
	assert_true(netback_deliver(wire, frame, 3000 + 14));
	assert_int_equal(used(RX)->idx, 1);
	assert_true(netback_deliver(wire, frame, 3000 + 15));
	assert_int_equal(used(RX)->idx, 1);
	frame[12] = 0x81;
	frame[13] = 0;
	assert_true(netback_deliver(wire, frame, 3000 + 18));
	assert_int_equal(used(RX)->idx, 2);
	assert_true(netback_deliver(wire, frame, 3000 + 19));
	assert_int_equal(used(RX)->idx, 2);
	assert_int_equal(wire->dropped, 2);
	/* It stays what it was. */
	netback_set_link(wire, false);
	reg(0x70, 0);
	assert_int_equal(virtio_mmio_read(dev, 0x10a, 2), 3000);
}

static void receive_without_buffers(void **state)
{
	(void)state;
	start(F_MRG);
	assert_false(netback_deliver(wire, pattern(100, 1), 100));
	assert_true(paused);
	assert_false(netback_deliver(wire, pattern(200, 2), 200));
	rx_buffer(BUFFERS, 60); /* not enough for the first, and not given back */
	kick(RX);
	assert_int_equal(used(RX)->idx, 0);
	rx_buffer(BUFFERS + 0x1000, 60);
	kick(RX);
	assert_int_equal(used(RX)->idx, 2);
	assert_memory_equal(mem(BUFFERS + HDR), pattern(100, 1), 60 - HDR);
	assert_true(paused);
	rx_buffer(BUFFERS + 0x2000, 1000);
	kick(RX);
	assert_int_equal(used(RX)->idx, 3);
	assert_int_equal(used(RX)->ring[2].len, HDR + 200);
	assert_false(paused);
}

static void receive_too_small(void **state)
{
	(void)state;
	start(0); /* one buffer a frame */
	rx_buffer(BUFFERS, 100);
	kick(RX);
	assert_true(netback_deliver(wire, pattern(100 - HDR + 1, 1), 100 - HDR + 1)); /* dropped */
	assert_int_equal(used(RX)->idx, 0);
	assert_true(netback_deliver(wire, pattern(100 - HDR, 2), 100 - HDR));
	assert_int_equal(used(RX)->idx, 1);
	assert_int_equal(used(RX)->ring[0].len, 100);

	start(F_MRG); /* all that there are, and it is still too long */
	for (unsigned i = 0; i < SIZE; i++)
		rx_buffer(BUFFERS + 0x100 * i, 50);
	kick(RX);
	assert_true(netback_deliver(wire, pattern(SIZE * 50, 1), SIZE * 50));
	assert_int_equal(used(RX)->idx, 0);
	assert_true(netback_deliver(wire, pattern(60, 2), 60));
	assert_int_equal(used(RX)->idx, 2);
	assert_true(netback_deliver(wire, pattern(14 * 50 - HDR, 3), 14 * 50 - HDR));
	assert_int_equal(used(RX)->idx, SIZE);
	assert_memory_equal(mem(BUFFERS + 0x200 + HDR), pattern(14 * 50 - HDR, 3), 50 - HDR);
}

static void receive_against_the_rules(void **state)
{
	(void)state;
	start(F_MRG);
	rx_buffer(BUFFERS, HDR - 1);
	netback_deliver(wire, pattern(60, 1), 60);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	assert_false(paused); /* a broken device holds nobody up */
	start(F_MRG);
	add_desc(RX, BUFFERS, 100, 0);
	offer(RX, 0);
	netback_deliver(wire, pattern(60, 1), 60);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
	start(F_MRG);
	avail(RX)->idx = SIZE + 1;
	netback_deliver(wire, pattern(60, 1), 60);
	assert_int_equal(status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
}

static void nobody_listens(void **state)
{
	(void)state;
	reg(0x70, 0);
	for (unsigned i = 0; i < 1000; i++)
		assert_true(netback_deliver(wire, pattern(60, 1), 60));
	start(0);
	assert_int_equal(used(RX)->idx, 0);
	rx_buffer(BUFFERS, 100);
	kick(RX);
	assert_int_equal(used(RX)->idx, 0); /* what came before is gone */
}

/* After a reset nothing that was taken before is written to, and what waited is gone. */
static void reset_with_buffers_taken(void **state)
{
	(void)state;
	start(F_MRG);
	rx_buffer(BUFFERS, 50);
	kick(RX);
	assert_false(netback_deliver(wire, pattern(600, 1), 600));
	memset(mem(BUFFERS), 0xee, 100);
	reg(0x70, 0);
	assert_false(paused);
	start(F_MRG);
	rx_buffer(BUFFERS + 0x1000, 2000);
	kick(RX);
	assert_int_equal(used(RX)->idx, 0);
	assert_true(netback_deliver(wire, pattern(60, 2), 60));
	assert_int_equal(used(RX)->idx, 1);
	assert_memory_equal(mem(BUFFERS + 0x1000 + HDR), pattern(60, 2), 60);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(((uint8_t *)mem(BUFFERS))[i], 0xee);
}

static void wrong_use(void **state)
{
	(void)state;
	assert_int_equal(net_create(&vm, "cable"), -ECANCELED);
	assert_int_equal(vm.status, HV_USAGE);
	vm.stopping = 0;
	assert_int_equal(net_create(&vm, "tap=x"), -ECANCELED);
	assert_int_equal(vm.status, HV_HOST);
	assert_string_equal(vm.reason, "no tap here");
	virtio_json(&vm, stderr); /* the half-made device is shown, too */
	assert_int_equal(vm.nvirtio, 2); /* and taken down with the others */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(configuration), TEST(transmit_whole), TEST(transmit_in_pieces), TEST(transmit_what_was_not_agreed_on),
		TEST(transmit_against_the_rules), TEST(network_that_takes_nothing), TEST(receive_one_buffer), TEST(receive_merged),
		TEST(chains_that_belong_together),
		TEST(receive_too_long_for_the_mtu), TEST(receive_without_buffers), TEST(receive_too_small),
		TEST(receive_against_the_rules), TEST(nobody_listens), TEST(reset_with_buffers_taken), TEST(wrong_use),
	};
	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
