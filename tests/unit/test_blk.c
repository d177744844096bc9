// sources: blk.c disk.c disk_uring.c disk_threads.c mmio.c virtqueue.c packed.c virtio.c ring_order.c written.c bus.c mem.c loop.c clock.c
/* The block device behind its registers and its ring, driven by a driver that is in this program. */
#define _GNU_SOURCE
#include "disk.h"
#include "engine.h"
#include "hold_io.h"
#include "lab4.h"
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#define SECTORS 2048u
#define CONFIG_WRITEBACK (0x100 + 32)

/* Guest memory: the rings, then what is read, then what is written. */
#define DESC 0x1000ull
#define AVAIL 0x3000ull
#define USED 0x4000ull
#define OUT 0x100000ull
#define IN 0x200000ull
#define QUEUE 256u

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };
#define F_RO FEATURE(5)
#define F_FLUSH FEATURE(9)
#define F_CONFIG_WCE FEATURE(11)
#define F_DISCARD FEATURE(13)
#define F_WRITE_ZEROES FEATURE(14)

static struct vm vm;
static struct virtio_dev *dev;
static char image[32];
static uint16_t avail_idx;
static uint64_t seed;
static uint8_t model[SECTORS * SECTOR]; /* what the disk should contain */

/* What the frame has elsewhere. */
int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->reason, sizeof v->reason, fmt, ap);
	va_end(ap);
	v->status = status;
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
static void no_irq(struct vm *v, unsigned irq, bool level)
{
	(void)v;
	(void)irq;
	(void)level;
}
static const struct engine_ops engine = { .irq_line = no_irq };

static uint64_t rnd(uint64_t below)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

static void reg(unsigned offset, uint32_t value)
{
	pthread_mutex_lock(&vm.lock);
	virtio_mmio_write(dev, offset, 4, value);
	pthread_mutex_unlock(&vm.lock);
}
static uint32_t get(unsigned offset)
{
	pthread_mutex_lock(&vm.lock);
	uint32_t value = (uint32_t)virtio_mmio_read(dev, offset, 4);
	pthread_mutex_unlock(&vm.lock);
	return value;
}

static void drive(uint64_t features)
{
	reg(0x70, 0);
	reg(0x70, 1);
	reg(0x70, 3);
	features |= F_VERSION_1;
	for (unsigned i = 0; i < 2; i++) {
		reg(0x24, i);
		reg(0x20, (uint32_t)(features >> 32 * i));
	}
	reg(0x70, 11);
	assert_int_equal(get(0x70), 11);
	reg(0x30, 0);
	reg(0x38, QUEUE);
	memset(guest_range(&vm.mem, DESC, 0x8000), 0, 0x8000);
	reg(0x80, DESC);
	reg(0x90, AVAIL);
	reg(0xa0, USED);
	reg(0x44, 1);
	reg(0x70, 15);
	assert_int_equal(get(0x70), 15);
	avail_idx = 0;
}

static void make(const char *words)
{
	char arg[100];
	struct loop_timer none = { 0 };

	strcpy(image, "/tmp/test-blk.XXXXXX");
	int fd = mkstemp(image);
	for (unsigned i = 0; i < sizeof model; i++)
		model[i] = (uint8_t)rnd(256);
	assert_int_equal(write(fd, model, sizeof model), sizeof model);
	close(fd);
	io_clear();
	io_set(false);
	vm = (struct vm){ .engine = &engine, .virtio_rest = none };
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX;
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm.lock, &attr);
	assert_int_equal(guest_mem_create(&vm.mem, 4 * MiB), 0);
	bus_init(&vm.mmio, "address");
	assert_int_equal(loop_init(&vm.loop, &vm.lock), 0);
	snprintf(arg, sizeof arg, "%s,id=serial-0123456789ab%s", image, words);
	assert_int_equal(blk_create(&vm, arg), 0);
	dev = vm.virtio[0];
	assert_int_equal(loop_start(&vm.loop), 0);
}

static void unmake(void)
{
	loop_stop(&vm.loop);
	virtio_destroy(&vm);
	loop_destroy(&vm.loop);
	guest_mem_destroy(&vm.mem);
	unlink(image);
}

static uint16_t used_idx(void)
{
	return ring_load16(&((struct split_used *)guest_range(&vm.mem, USED, 2))->idx);
}

static void until_used(uint16_t idx)
{
	for (unsigned i = 0; used_idx() != idx; i++) {
		assert_true(i < 100000);
		usleep(100);
	}
}

/* A chain over [OUT, OUT + out) and [IN, IN + in), cut at random into up to `cuts` more descriptors each. Its first descriptor is
 * `head`. */
static void give(unsigned head, uint64_t out_at, uint64_t out, uint64_t in_at, uint64_t in, unsigned cuts)
{
	struct split_desc *desc = guest_range(&vm.mem, DESC, 16 * QUEUE);
	struct split_avail *avail = guest_range(&vm.mem, AVAIL, 6 + 2 * QUEUE);
	unsigned n = head;

	for (unsigned part = 0; part < 2; part++) {
		uint64_t at = part ? in_at : out_at, left = part ? in : out;
		for (unsigned k = cuts; left; k -= k > 0) {
			uint64_t len = k ? rnd(k > 3 ? 20 : left) + 1 : left;
			if (len > left)
				len = left;
			desc[n] = (struct split_desc){ at, (uint32_t)len, DESC_F_NEXT | (part ? DESC_F_WRITE : 0),
						       (uint16_t)(n + 1) };
			n++;
			at += len;
			left -= len;
		}
	}
	desc[n - 1].flags &= (uint16_t)~DESC_F_NEXT;
	avail->ring[avail_idx % QUEUE] = (uint16_t)head;
	ring_store16(&avail->idx, ++avail_idx);
}

static void header(uint64_t at, uint32_t type, uint64_t sector)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} h = { type, 0, sector };
	assert_int_equal(guest_write(&vm.mem, at, &h, sizeof h), 0);
}

/* One request from start to end; its status, and in *used the length that came back. */
static unsigned request(uint32_t type, uint64_t sector, uint64_t out, uint64_t in, unsigned cuts, uint32_t *used)
{
	uint8_t *status = guest_range(&vm.mem, IN + in, 1);
	uint16_t idx = used_idx();
	struct split_used *ring = guest_range(&vm.mem, USED, 6 + 8 * QUEUE);

	*status = S_NONE;
	header(OUT, type, sector);
	give((unsigned)rnd(100), OUT, 16 + out, IN, in + 1, cuts);
	reg(0x50, 0);
	until_used((uint16_t)(idx + 1));
	if (used)
		*used = ring->ring[idx % QUEUE].len;
	return *status;
}

static void *out_data(void)
{
	return guest_range(&vm.mem, OUT + 16, MiB - 16);
}
static void *in_data(void)
{
	return guest_range(&vm.mem, IN, MiB);
}

static void image_is_model(void)
{
	static uint8_t now[sizeof model];
	int fd = open(image, O_RDONLY);

	assert_int_equal(read(fd, now, sizeof now), sizeof now);
	close(fd);
	assert_memory_equal(now, model, sizeof model);
}

static void framing(const char *words)
{
	make(words);
	drive(F_FLUSH);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t n = rnd(9) + 1, sector = rnd(SECTORS - n + 1);
		unsigned cuts = (unsigned)rnd(12);
		uint32_t used;

		if (rnd(2)) {
			for (unsigned k = 0; k < n * SECTOR; k++)
				model[sector * SECTOR + k] = ((uint8_t *)out_data())[k] = (uint8_t)rnd(256);
			assert_int_equal(request(T_OUT, sector, n * SECTOR, 0, cuts, &used), S_OK);
			assert_int_equal(used, 1);
		} else {
			memset(in_data(), 0x55, n * SECTOR);
			assert_int_equal(request(T_IN, sector, 0, n * SECTOR, cuts, &used), S_OK);
			assert_int_equal(used, n * SECTOR + 1);
			assert_memory_equal(in_data(), &model[sector * SECTOR], n * SECTOR);
		}
	}
	image_is_model();
	unmake();
}

static void test_any_framing(void **state)
{
	(void)state;
	framing(",aio=threads");
	framing("");
}

static void test_bounds(void **state)
{
	static const struct {
		uint64_t sector, len;
	} wrong[] = { { SECTORS, 512 },
		      { SECTORS - 1, 1024 },
		      { ~0ull, 512 },
		      { ~0ull, 1024 },
		      { 1ull << 55, 512 },
		      { (1ull << 63) - 1, 512 },
		      { ~0ull - 6, 4096 },
		      { 0, 511 },
		      { 0, 513 },
		      { 0, 1 },
		      { 0, 0 } };
	uint32_t used;
	(void)state;

	make("");
	drive(F_FLUSH);
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		assert_int_equal(request(T_OUT, wrong[i].sector, wrong[i].len, 0, 2, &used), S_IOERR);
		assert_int_equal(used, 1);
		memset(in_data(), 0x77, 8192);
		assert_int_equal(request(T_IN, wrong[i].sector, 0, wrong[i].len, 2, &used), S_IOERR);
		/* What is counted must have been written, and the data was not. */
		assert_int_equal(used, wrong[i].len ? 0 : 1);
		for (unsigned k = 0; k < wrong[i].len; k++)
			assert_int_equal(((uint8_t *)in_data())[k], 0x77);
	}
	image_is_model();
	assert_int_equal(get(0x70), 15);
	assert_int_equal(request(T_IN, SECTORS - 1, 0, 512, 0, &used), S_OK);
	unmake();
}

static void test_id_and_unknown_types(void **state)
{
	static const char id[20] = "serial-0123456789ab";
	uint32_t used;
	(void)state;

	make("");
	drive(F_FLUSH);
	assert_int_equal(request(T_GET_ID, 0, 0, 20, 3, &used), S_OK);
	assert_int_equal(used, 21);
	assert_memory_equal(in_data(), id, 20);
	assert_int_equal(request(T_GET_ID, 0, 0, 5, 1, &used), S_OK);
	assert_int_equal(used, 6);
	assert_int_equal(request(T_GET_ID, 0, 0, 100, 1, &used), S_OK);
	assert_int_equal(used, 20);
	for (uint32_t type = 0; type < 40; type++)
		if (type != T_IN && type != T_OUT && type != T_FLUSH && type != T_GET_ID)
			assert_int_equal(request(type, 0, 512, 0, 1, &used), S_UNSUPP);
	assert_int_equal(request(0x80000000, 0, 512, 0, 1, &used), S_UNSUPP);
	image_is_model();
	unmake();
}

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

/* What is there to be read, when, and what it is (5.2.4, 5.2.5.2). */
static void test_configuration(void **state)
{
	(void)state;
	for (unsigned ro = 0; ro < 2; ro++) {
		make(ro ? ",ro" : "");
		/* SEG_MAX (2) and BLK_SIZE (6), flush always, and nothing else; no LIFETIME (15), no SECURE_ERASE (16). */
		assert_int_equal(dev->offered & 0xffffff, FEATURE(2) | FEATURE(6) | F_FLUSH |
								  (ro ? F_RO : F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES));
		assert_int_equal(virtio_mmio_read(dev, 0x100, 8), SECTORS);
		assert_int_equal(virtio_mmio_read(dev, CONFIG_WRITEBACK + 1, 1), 0); /* unused0 */
		for (unsigned i = 57; i < 60; i++)
			assert_int_equal(virtio_mmio_read(dev, 0x100 + i, 1), 0); /* unused1 */
		unmake();
	}
	/* A driver that can choose the cache but not flush reads writethrough as soon as it may read it. */
	make("");
	reg(0x70, 3);
	reg(0x24, 0);
	reg(0x20, F_CONFIG_WCE);
	reg(0x24, 1);
	reg(0x20, 1);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	reg(0x70, 11);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 0);
	/* And if it wants otherwise, that stays. */
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 1);
	reg(0x70, 15);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	unmake();
}

static void test_read_only(void **state)
{
	struct range range = { 0, 8, 0 };
	uint32_t used;
	(void)state;

	make(",ro");
	assert_true(dev->offered & F_RO);
	assert_false(dev->offered & (F_DISCARD | F_WRITE_ZEROES));
	drive(F_RO | F_FLUSH);
	memset(out_data(), 0, 4096);
	assert_int_equal(request(T_OUT, 3, 512, 0, 1, &used), S_IOERR);
	memcpy(out_data(), &range, sizeof range);
	assert_int_equal(request(T_DISCARD, 0, sizeof range, 0, 0, &used), S_UNSUPP);
	assert_int_equal(request(T_WRITE_ZEROES, 0, sizeof range, 0, 0, &used), S_UNSUPP);
	assert_int_equal(request(T_FLUSH, 0, 0, 0, 0, &used), S_OK);
	assert_int_equal(request(T_IN, 3, 0, 512, 1, &used), S_OK);
	assert_memory_equal(in_data(), &model[3 * SECTOR], SECTOR);
	drive(F_FLUSH); /* it is what was offered that counts, not what was accepted */
	assert_int_equal(request(T_OUT, 3, 512, 0, 1, &used), S_IOERR);
	image_is_model();
	unmake();
}

static unsigned with_ranges(uint32_t type, const struct range *range, unsigned n)
{
	memcpy(out_data(), range, n * sizeof *range);
	return request(type, 0, n * sizeof *range, 0, 3, NULL);
}

static void test_discard_and_write_zeroes(void **state)
{
	const struct range two[] = { { 16, 8, 0 }, { 512, 1024, 0 } }, unmap = { 1600, 3, 1 };
	const struct range wrong[] = {
		{ SECTORS, 1, 0 }, { SECTORS - 1, 2, 0 }, { ~0ull, 1, 0 }, { ~0ull, 2, 0 }, { 0, 0, 0 }
	};
	struct range many[17];
	struct stat before, after;
	(void)state;

	make(",aio=threads");
	drive(F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, two, 2), S_OK);
	for (unsigned i = 0; i < 2; i++)
		memset(&model[two[i].sector * SECTOR], 0, two[i].sectors * SECTOR);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, &unmap, 1), S_OK);
	memset(&model[unmap.sector * SECTOR], 0, unmap.sectors * SECTOR);
	image_is_model();
	stat(image, &before);
	assert_int_equal(with_ranges(T_DISCARD, &two[1], 1), S_OK);
	stat(image, &after);
	assert_true(after.st_blocks + 1024 <= before.st_blocks + 8);
	image_is_model(); /* of what is discarded nothing is promised, but here it was zeros before, and is */
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		const struct range good_then_wrong[] = { { 100, 1, 0 }, wrong[i] };

		assert_int_equal(with_ranges(T_DISCARD, &wrong[i], 1), S_IOERR);
		assert_int_equal(with_ranges(T_WRITE_ZEROES, good_then_wrong, 2), S_IOERR);
	}
	/* 5.2.6.2: flags that are not known, and unmap of a discard. */
	assert_int_equal(with_ranges(T_DISCARD, &(struct range){ 0, 1, 1 }, 1), S_UNSUPP);
	assert_int_equal(with_ranges(T_DISCARD, &(struct range){ 0, 1, 2 }, 1), S_UNSUPP);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, &(struct range){ 0, 1, 2 }, 1), S_UNSUPP);
	assert_int_equal(with_ranges(T_WRITE_ZEROES, &(struct range){ 0, 1, 0x80000001 }, 1), S_UNSUPP);
	/* Also when another range is wrong in another way, on whichever side of it. */
	for (unsigned i = 0; i < 2; i++) {
		const struct range both[] = { { i ? 0 : SECTORS, 1, i ? 2 : 0 }, { i ? SECTORS : 0, 1, i ? 0 : 2 } };

		assert_int_equal(with_ranges(T_WRITE_ZEROES, both, 2), S_UNSUPP);
		assert_int_equal(with_ranges(T_DISCARD, both, 2), S_UNSUPP);
	}
	for (unsigned i = 0; i < 17; i++)
		many[i] = (struct range){ 8 * i, 1, 0 };
	assert_int_equal(with_ranges(T_WRITE_ZEROES, many, 17), S_IOERR);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 15, 0, 0, NULL), S_IOERR);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 0, 0, 0, NULL), S_IOERR);
	image_is_model();
	assert_int_equal(with_ranges(T_WRITE_ZEROES, many, 16), S_OK);
	for (unsigned i = 0; i < 16; i++)
		memset(&model[many[i].sector * SECTOR], 0, SECTOR);
	image_is_model();
	unmake();
}

/* A write that comes back, and the sync that must be over before: it is held up. */
static void sync_first(uint32_t type, uint64_t out)
{
	uint16_t idx = used_idx();

	header(OUT, type, 5);
	give(0, OUT, 16 + out, IN, 1, 0);
	io_set(true);
	io.logged = 0;
	memset(io.log, 0, sizeof io.log);
	reg(0x50, 0);
	if (out) { /* the write itself goes through the gate once */
		io_await(1);
		assert_null(strchr(io.log, 'S'));
		io_set(false);
		for (unsigned i = 0; !strchr(io.log, 's') && i < 100000; i++)
			usleep(100);
	} else {
		io_await(1);
		usleep(20000);
		assert_int_equal(used_idx(), idx);
		io_set(false);
	}
	until_used((uint16_t)(idx + 1));
	assert_non_null(strchr(io.log, 's'));
	if (out)
		assert_string_equal(io.log, "wSs");
}

static void test_flush_and_writethrough(void **state)
{
	(void)state;
	make(",aio=threads");
	/* Writeback: a write alone syncs nothing; a flush is complete when the sync is. */
	drive(F_FLUSH);
	assert_int_equal(request(T_OUT, 5, 512, 0, 0, NULL), S_OK);
	assert_string_equal(io.log, "w");
	sync_first(T_FLUSH, 0);
	/* A driver that knows no flush has writethrough. */
	drive(0);
	sync_first(T_OUT, 512);
	/* One that can choose: writeback with flush, writethrough without, and as it says. */
	drive(F_FLUSH | F_CONFIG_WCE);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	io_clear();
	assert_int_equal(request(T_OUT, 5, 512, 0, 0, NULL), S_OK);
	assert_string_equal(io.log, "w");
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 0);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 0);
	sync_first(T_OUT, 512);
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 1);
	io_clear();
	assert_int_equal(request(T_OUT, 5, 512, 0, 0, NULL), S_OK);
	assert_string_equal(io.log, "w");
	drive(F_CONFIG_WCE);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 0);
	sync_first(T_OUT, 512);
	/* The choice does not outlive the driver; nobody else may write there. */
	drive(F_FLUSH);
	virtio_mmio_write(dev, CONFIG_WRITEBACK, 1, 0);
	assert_int_equal(get(CONFIG_WRITEBACK) & 0xff, 1);
	unmake();
}

static void test_host_errors(void **state)
{
	uint32_t used;
	(void)state;

	make(",aio=threads");
	drive(F_FLUSH);
	io.fail_write = ENOSPC;
	assert_int_equal(request(T_OUT, 0, 512, 0, 0, &used), S_IOERR);
	io.fail_read = EIO;
	assert_int_equal(request(T_IN, 0, 0, 512, 0, &used), S_IOERR);
	io.most = 100;
	assert_int_equal(request(T_IN, 7, 0, 4096, 5, &used), S_OK);
	assert_int_equal(used, 4097);
	assert_memory_equal(in_data(), &model[7 * SECTOR], 4096);
	assert_int_equal(get(0x70), 15);
	unmake();
}

static void *open_gate(void *late)
{
	usleep(50000);
	*(uint16_t *)late = used_idx();
	io_set(false);
	return NULL;
}

/* Both ways to take the queue away wait for what is in flight; afterwards nothing writes to the guest's memory any more. */
static void test_reset_with_requests_in_flight(void **state)
{
	static const struct {
		unsigned reg, value;
	} how[] = { { 0x70, 0 }, { 0x44, 0 } };
	uint8_t *in = NULL;
	(void)state;

	for (unsigned h = 0; h < 2; h++) {
		uint16_t late = 99;
		pthread_t thread;

		make(",aio=threads");
		drive(F_FLUSH);
		in = guest_range(&vm.mem, IN, MiB);
		memset(in, 0, MiB);
		for (unsigned i = 0; i < 20; i++) {
			header(OUT + i * 16, T_IN, i);
			give(i * 8, OUT + i * 16, 16, IN + i * 4096, 513, 1);
		}
		io_set(true);
		reg(0x50, 0);
		io_await(4); /* as many as there are threads */
		pthread_create(&thread, NULL, open_gate, &late);
		reg(how[h].reg, how[h].value);
		assert_false(io.closed); /* it waited */
		pthread_join(thread, NULL);
		assert_int_equal(late, 0);
		/* Whoever owns the memory now may use it. */
		memset(in, 0x33, MiB);
		usleep(20000);
		for (unsigned i = 0; i < MiB; i++)
			assert_int_equal(in[i], 0x33);
		drive(F_FLUSH);
		assert_int_equal(request(T_IN, 9, 0, 512, 1, NULL), S_OK);
		assert_memory_equal(in, &model[9 * SECTOR], SECTOR);
		unmake();
	}
}

/* The same descriptors again and again while they are in flight: what the device remembers stays within the size of the queue. */
static void test_requests_in_flight_are_bounded(void **state)
{
	struct split_avail *avail;
	(void)state;

	make(",aio=threads");
	drive(F_FLUSH);
	avail = guest_range(&vm.mem, AVAIL, 6 + 2 * QUEUE);
	header(OUT, T_IN, 1);
	io_set(true);
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned k = 0; k < 200; k++)
			give(0, OUT, 16, IN, 513, 0);
		reg(0x50, 0);
		assert_true(dev->queue[0].in_flight <= QUEUE);
		if (get(0x70) != 15)
			break;
	}
	/* 800 given, 256 taken: the rest is still in the ring, and 544 are more than it can hold. */
	assert_true(ring_load16(&avail->idx) >= 400);
	io_set(false);
	reg(0x70, 0);
	drive(F_FLUSH);
	io_set(true);
	for (unsigned k = 0; k < 256; k++)
		give(0, OUT, 16, IN, 513, 0);
	reg(0x50, 0);
	for (unsigned k = 0; k < 200; k++)
		give(0, OUT, 16, IN, 513, 0);
	reg(0x50, 0);
	assert_int_equal(dev->queue[0].in_flight, QUEUE);
	io_set(false);
	until_used(456); /* what waited is taken when there is room, without another kick */
	assert_int_equal(get(0x70), 15);
	unmake();
}

static void test_malformed_requests(void **state)
{
	(void)state;
	make("");
	for (unsigned i = 0; i < 3; i++) {
		drive(F_FLUSH);
		header(OUT, T_FLUSH, 0);
		if (i == 0)
			give(0, OUT, 15, IN, 1, 1); /* a header that is too short */
		else if (i == 1)
			give(0, OUT, 16, IN, 0, 1); /* no status */
		else
			give(0, OUT, 0, IN, 17, 1); /* no header */
		reg(0x50, 0);
		assert_int_equal(get(0x70), 15 | STATUS_NEEDS_RESET);
		assert_int_equal(used_idx(), 0);
	}
	drive(F_FLUSH);
	assert_int_equal(request(T_FLUSH, 0, 0, 0, 0, NULL), S_OK);
	unmake();
}

int main(void)
{
	const char *given = getenv("TRAPDOOR_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_framing),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_id_and_unknown_types),
		cmocka_unit_test(test_configuration),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_discard_and_write_zeroes),
		cmocka_unit_test(test_flush_and_writethrough),
		cmocka_unit_test(test_host_errors),
		cmocka_unit_test(test_reset_with_requests_in_flight),
		cmocka_unit_test(test_requests_in_flight_are_bounded),
		cmocka_unit_test(test_malformed_requests),
	};

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
