// sources: rng.c blk.c disk.c disk_uring.c disk_threads.c net.c netback.c net_options.c virtio.c ring_order.c mmio.c virtqueue.c packed.c bus.c loop.c clock.c mem.c
/*
 * Guest memory that changes under the device's feet. A guest with two CPUs: one gives honest chains and kicks, the other flips words of the
 * descriptors, tables, rings and requests between what is right and what is not, as fast as it can, with seeded values. A device that reads
 * a word twice sees both sooner or later.
 *
 * Asked for: no access outside guest memory, no hang, a device that runs or needs a reset and works after one, no request that goes past
 * the end of the disk, and no address of this program in the guest's memory.
 */
#define _GNU_SOURCE
#include "disk.h"
#include "engine.h"
#include "lab4.h"
#include "netback.h"
#include "vring.h"
#include "written.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

/* ns for each device and ring format */
#define WATCHED 80000000ull
#define RACE 40000000ull
#define MEM (256 * KiB)
#define SIZE 16u
#define CHAINS 4u
#define CHAIN 4u /* buffers of each */
#define AREA(q) (0x4000u * (q) + 0x1000u)
#define DESC(q) AREA(q)
#define DRIVER(q) (AREA(q) + 0x400u)
#define DEVICE(q) (AREA(q) + 0x800u)
#define TABLE(q, chain) (AREA(q) + 0x1008u + 64 * (chain))			    /* aligned for nothing but a long */
#define DATA(q, chain, i) (0x10000u * ((q) + 1) + 0x1000u * (i) + 0x400u * (chain)) /* headers in a page of their own */
#define SECTORS 64u
#define RUNNING (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK)

static struct vm vm;
static struct virtio_dev *dev;
static bool packed, indirect;
static uint64_t seed;

/* Also called in threads, where cmocka's assertions cannot end a test. */
#define MUST(what)                                                                         \
	do {                                                                               \
		if (!(what)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                           \
		}                                                                          \
	} while (0)

static uint64_t rnd(uint64_t *s, uint64_t below)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	return (z ^ z >> 31) % below;
}

/* --- the rest of hv ---------------------------------------------------------------------------------------------------------- */

int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	(void)v, (void)status;
	fprintf(stderr, "the VM was stopped: %s\n", fmt);
	abort();
}
int vm_todo(struct vm *v, const char *step, const char *hint)
{
	(void)hint;
	return vm_stop(v, HV_TODO, step);
}
void json_string(FILE *out, const char *s)
{
	(void)out, (void)s;
}
/* All that devices write goes by here, what the kernel writes for them too, which would only be told EFAULT. */
void written_add(struct vm *v, uint64_t gpa, uint64_t len)
{
	MUST(guest_range(&v->mem, gpa, len));
}
static void no_irq(struct vm *v, unsigned irq, bool level)
{
	(void)v, (void)irq, (void)level;
}
static const struct engine_ops engine = { .irq_line = no_irq };

/* --- a device that touches every buffer at both ends, and a network that reads all of every frame ----------------------------------- */

static void touch_kick(struct virtio_dev *d, struct virtqueue *q)
{
	static struct vq_chain c;

	(void)d;
	while (virtqueue_pop(q, &c) > 0) {
		for (unsigned i = 0; i < c.nout + c.nin; i++) {
			volatile uint8_t *p = c.iov[i].iov_base;

			if (i < c.nout)
				(void)p[0], (void)p[c.iov[i].iov_len - 1];
			else
				p[0] = p[c.iov[i].iov_len - 1] = 0xa5;
		}
		virtqueue_push(q, &c, (uint32_t)c.in_len);
	}
	virtqueue_notify(q);
}
static const struct virtio_ops touch_ops = { .name = "touch", .id = VIRTIO_ID_RNG, .nqueues = 1, .kick = touch_kick };

static struct netback *wire;
static unsigned nsent;
static size_t sent_len;

static int wire_open(struct netback *nb, const struct net_options *o, char *err, size_t size)
{
	(void)o, (void)err, (void)size;
	wire = nb;
	nb->link = true;
	return 0;
}
static void wire_send(struct netback *nb, const struct iovec *iov, unsigned n, size_t len)
{
	static uint8_t frame[70000];
	size_t sum = 0;

	(void)nb;
	for (unsigned i = 0; i < n; i++)
		sum += iov[i].iov_len;
	MUST(sum == len && len <= nb->frame_max);
	netback_gather(iov, n, frame);
	nsent++;
	sent_len = len;
}
static void wire_pause(struct netback *nb, bool p)
{
	(void)nb, (void)p;
}
static void wire_close(struct netback *nb)
{
	(void)nb;
}
#define WIRE                                                                                   \
	{                                                                                      \
		.open = wire_open, .send = wire_send, .pause = wire_pause, .close = wire_close \
	}
const struct netback_ops net_user_ops = WIRE, net_tap_ops = WIRE, net_socket_ops = WIRE;

/* --- the honest CPU ------------------------------------------------------------------------------------------------------------ */

struct buffer {
	uint32_t len;
	bool writable;
};
enum { TOUCH, RNG, BLOCK, NET, KINDS };
static const char *const names[KINDS] = { "touch", "rng", "block", "net" };
static int kind, disk;
static uint64_t broken; /* how often, all of them */

static const struct buffer *shape(unsigned q, unsigned chain)
{
	static const struct buffer touch[] = { { 24, false }, { 0, false }, { 40, true }, { 16, true } };
	static const struct buffer rng[] = { { 40, true }, { 0, true }, { 300, true }, { 16, true } };
	static const struct buffer transfer[] = { { 16, false }, { 512, false }, { 512, true }, { 1, true } };
	static const struct buffer ranges[] = { { 16, false }, { 32, false }, { 0, true }, { 1, true } };
	static const struct buffer rx[] = { { 200, true }, { 200, true }, { 200, true }, { 100, true } };
	static const struct buffer tx[] = { { 12, false }, { 60, false }, { 0, false }, { 100, false } };

	switch (kind) {
	case TOUCH: return touch;
	case RNG: return rng;
	case BLOCK: return chain & 1 ? ranges : transfer;
	default: return q ? tx : rx;
	}
}

static void *at(uint64_t gpa)
{
	return vm.mem.hva + gpa;
}

/* Writes a descriptor of either format; last: `next`, or the buffer ID. */
static void put(uint64_t gpa, uint64_t addr, uint32_t len, uint16_t flags, uint16_t last)
{
	if (packed)
		*(volatile struct packed_desc *)at(gpa) = (struct packed_desc){ addr, len, last, flags };
	else
		*(volatile struct split_desc *)at(gpa) = (struct split_desc){ addr, len, flags, last };
}

/* The last buffer of each chain ends where memory ends. */
static uint64_t address(unsigned q, unsigned chain, unsigned i)
{
	return i < CHAIN - 1 ? DATA(q, chain, i) : MEM - shape(q, chain)[i].len;
}

static void put_buffer(uint64_t gpa, unsigned q, unsigned chain, unsigned i, uint16_t flags, uint16_t last)
{
	const struct buffer *b = &shape(q, chain)[i];

	put(gpa, address(q, chain, i), b->len, flags | (b->writable ? DESC_F_WRITE : 0) | (i + 1 < CHAIN ? DESC_F_NEXT : 0),
	    last);
}

/* Requests as they should be. All of a block request's sectors exist: 0 to 15. */
static void put_requests(unsigned q)
{
	for (unsigned c = 0; c < CHAINS; c++) {
		uint32_t *request = memset(at(DATA(q, c, 0)), 0, 16);
		uint64_t *range = memset(at(DATA(q, c, 1)), 0, 32);

		if (kind != BLOCK)
			continue;
		request[0] = (const uint8_t[]){ 0, 11, 1, 13 }[c];
		request[2] = 3;
		range[0] = 8;
		range[1] = range[3] = 1;
	}
}

/* Everything at its place, nothing available. */
static void put_rings(unsigned q)
{
	struct split_avail *avail = at(DRIVER(q));

	memset(at(AREA(q)), 0, 0x1000);
	put_requests(q);
	for (unsigned c = 0; c < CHAINS; c++)
		for (unsigned i = 0; i < CHAIN; i++) {
			unsigned n = CHAIN * c + i;

			if (indirect)
				put_buffer(TABLE(q, c) + 16 * i, q, c, i, 0, (uint16_t)(i + 1));
			if (!packed && !indirect)
				put_buffer(DESC(q) + 16 * n, q, c, i, 0, (uint16_t)(n + 1));
			if (!packed && indirect)
				put(DESC(q) + 16 * n, TABLE(q, c), 16 * CHAIN, DESC_F_INDIRECT, 0);
			if (!packed)
				avail->ring[n] = (uint16_t)(n % CHAINS * CHAIN);
		}
}

static void reg(unsigned offset, uint32_t value)
{
	virtio_mmio_write(dev, offset, 4, value);
}

static void restart(void)
{
	uint64_t features = dev->offered & ~((packed ? 0 : F_RING_PACKED) | (indirect ? 0 : F_RING_INDIRECT_DESC));

	reg(0x70, 0);
	MUST(dev->status == 0);
	reg(0x70, 3);
	for (unsigned i = 0; i < 2; i++) {
		reg(0x24, i);
		reg(0x20, (uint32_t)(features >> 32 * i));
	}
	reg(0x70, 11);
	for (unsigned q = 0; q < dev->ops->nqueues; q++) {
		put_rings(q);
		reg(0x30, q);
		reg(0x38, SIZE);
		reg(0x80, DESC(q));
		reg(0x90, DRIVER(q));
		reg(0xa0, DEVICE(q));
		reg(0x44, 1);
	}
	reg(0x70, 15);
	MUST(dev->status == RUNNING);
}

/* Makes so many chains available, or as there is room for. Where the device is, it says itself: what is in the ring cannot be believed. */
static void offer(unsigned n, unsigned most)
{
	struct virtqueue *q = &dev->queue[n];

	if (!packed) {
		if (q->in_flight < most)
			ring_store16(&((struct split_avail *)at(DRIVER(n)))->idx,
				     (uint16_t)(q->next_avail + most - q->in_flight));
		return;
	}
	unsigned slot = q->next_avail, used = q->next_used + (q->used_wrap ? 0 : SIZE);
	unsigned room = SIZE - (slot + (q->avail_wrap ? 0 : SIZE) + 2 * SIZE - used) % (2 * SIZE);
	bool wrap = q->avail_wrap;

	for (unsigned c = 0; room >= (indirect ? 1 : CHAIN) && most; c = (c + 1) % CHAINS, most--)
		for (unsigned i = 0; i < (indirect ? 1 : CHAIN); i++, room--) {
			uint16_t flags = wrap ? PACKED_F_AVAIL : PACKED_F_USED;

			if (indirect)
				put(DESC(n) + 16 * slot, TABLE(n, c), 16 * CHAIN, flags | DESC_F_INDIRECT, (uint16_t)c);
			else
				put_buffer(DESC(n) + 16 * slot, n, c, i, flags, (uint16_t)c);
			slot = (slot + 1) % SIZE;
			wrap ^= !slot;
		}
}

static uint64_t chains(void)
{
	return dev->queue[0].chains + dev->queue[1].chains;
}

static bool idle(void)
{
	return !dev->queue[0].in_flight && !dev->queue[1].in_flight;
}

static void kick_all(void)
{
	static const uint8_t frame[600];

	for (unsigned q = 0; q < dev->ops->nqueues; q++) {
		offer(q, CHAINS);
		reg(0x50, q);
	}
	if (kind == NET)
		netback_deliver(wire, frame, sizeof frame);
	MUST((dev->status & ~STATUS_NEEDS_RESET) == RUNNING);
}

/* --- the other CPU --------------------------------------------------------------------------------------------------------------- */

static bool stop;

static uint64_t get_word(uint64_t gpa, unsigned size)
{
	switch (size) {
	case 1: return *(volatile uint8_t *)at(gpa);
	case 2: return *(volatile uint16_t *)at(gpa);
	case 4: return *(volatile uint32_t *)at(gpa);
	default: return *(volatile uint64_t *)at(gpa);
	}
}

static void put_word(uint64_t gpa, unsigned size, uint64_t value)
{
	switch (size) {
	case 1: *(volatile uint8_t *)at(gpa) = (uint8_t)value; break;
	case 2: *(volatile uint16_t *)at(gpa) = (uint16_t)value; break;
	case 4: *(volatile uint32_t *)at(gpa) = (uint32_t)value; break;
	default: *(volatile uint64_t *)at(gpa) = value;
	}
}

struct word {
	uint64_t gpa;
	unsigned size;
	uint64_t wrong;
};

static struct word in_descriptor(uint64_t gpa, uint64_t *s)
{
	const uint64_t addr[] = { MEM - 8, MEM, ~7ull, DESC(0), 1ull << 32, DATA(0, 1, 0) },
		       len[] = { ~0u, MEM, 0, 17, 4096, 1u << 31 };
	unsigned flags = packed ? 14 : 12, last = packed ? 12 : 14;

	switch (rnd(s, 4)) {
	case 0: return (struct word){ gpa, 8, addr[rnd(s, 6)] };
	case 1: return (struct word){ gpa + 8, 4, len[rnd(s, 6)] };
	case 2:
		return (struct word){ gpa + flags, 2,
				      get_word(gpa + flags, 2) ^ 1u << (rnd(s, 4) ? rnd(s, 3)
									: packed  ? 7
										  : 15) };
	default: return (struct word){ gpa + last, 2, rnd(s, 2) ? SIZE : rnd(s, 65536) };
	}
}

/* Something that the device reads of the first `chains` chains, and what it must not be. */
static struct word choose(unsigned chains, uint64_t *s)
{
	unsigned q = (unsigned)rnd(s, dev->ops->nqueues), chain = (unsigned)rnd(s, chains), i = (unsigned)rnd(s, CHAIN);
	const uint64_t wide[] = { SECTORS - 1, SECTORS, ~0ull, 1ull << 55 };
	uint64_t gpa = DRIVER(q) + 2 * rnd(s, chains + 2);
	const uint64_t index[] = { SIZE, rnd(s, 65536), get_word(gpa, 2) + 1, get_word(gpa, 2) + SIZE + 1 };

	switch (rnd(s, 8)) {
	case 0: return (struct word){ gpa, 2, index[rnd(s, 4)] };
	case 1: return (struct word){ DEVICE(q) + 2 * rnd(s, 3), 2, rnd(s, 65536) };
	/* Block: type, sector, ranges; net: the header. */
	case 2: return (struct word){ DATA(q, chain, rnd(s, 2)) + 8, 8, wide[rnd(s, 4)] };
	case 3: return (struct word){ DATA(q, chain, rnd(s, 2)) + rnd(s, 2), 1, rnd(s, 16) };
	case 4: return in_descriptor(DESC(q) + 16 * CHAIN * chain, s);
	default: return in_descriptor((indirect ? TABLE(q, chain) : DESC(q) + 16 * CHAIN * chain) + 16 * i, s);
	}
}

static void *scribble(void *opaque)
{
	uint64_t s = *(uint64_t *)opaque;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		struct word w = choose(CHAINS, &s);
		uint64_t right = get_word(w.gpa, w.size);

		/* Many times at one place: a device that comes by there shall see it, not find the next place changed. */
		for (unsigned i = 0; i < 100; i++) {
			put_word(w.gpa, w.size, w.wrong);
			for (unsigned wait = (unsigned)rnd(&s, 16); wait; wait--)
				__asm__ volatile("");
			put_word(w.gpa, w.size, right);
			for (unsigned wait = (unsigned)rnd(&s, 64); wait; wait--)
				__asm__ volatile("");
		}
		if (!rnd(&s, 8)) /* and some stay */
			put_word(w.gpa, w.size, w.wrong);
	}
	return NULL;
}

/*
 * The same without luck, and without a second CPU to spare: the page of one word may not be touched, and whenever it is, the word may have
 * changed before the next touch. The instruction that touched it runs with the trap flag set (SDM 3B, 18.3.1.4), so that the page is taken
 * away again right behind it.
 */
static struct word watched;
static uint64_t touch_seed, watched_right, touches;
static bool watching;
#define TRAP_FLAG 0x100

static void *watched_page(void)
{
	return at(watched.gpa & ~(PAGE - 1));
}

static void on_touch(int sig, siginfo_t *info, void *context)
{
	greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
	bool there = (uintptr_t)info->si_addr - (uintptr_t)watched_page() < PAGE;

	if (sig == SIGSEGV && watching && there) {
		mprotect(watched_page(), PAGE, PROT_READ | PROT_WRITE);
		*flags |= TRAP_FLAG;
	} else if (sig == SIGSEGV) {
		signal(SIGSEGV, SIG_DFL); /* the same again, and it is fatal */
	} else {
		*flags &= ~TRAP_FLAG;
		touches++;
		if (rnd(&touch_seed, 2))
			put_word(watched.gpa, watched.size,
				 get_word(watched.gpa, watched.size) == watched_right ? watched.wrong : watched_right);
		mprotect(watched_page(), PAGE, PROT_NONE);
	}
}

/* One chain of each queue. */
static void kick_watched(void)
{
	restart();
	for (unsigned q = 0; q < dev->ops->nqueues; q++)
		offer(q, 1);
	if (kind == BLOCK)
		put_word(DATA(0, 0, 0), 4, rnd(&touch_seed, 2)); /* in or out */
	watched = choose(1, &touch_seed);
	watched_right = get_word(watched.gpa, watched.size);
	watching = true;
	mprotect(watched_page(), PAGE, PROT_NONE);
	for (unsigned q = 0; q < dev->ops->nqueues; q++)
		reg(0x50, q);
	mprotect(watched_page(), PAGE, PROT_READ | PROT_WRITE);
	watching = false;
	MUST((dev->status & ~STATUS_NEEDS_RESET) == RUNNING);
}

/* --- the tests ------------------------------------------------------------------------------------------------------------------- */

/* Does guest memory hold, at any place, an address of something that this program can read? */
static void no_address_of_ours(void)
{
	struct {
		uint64_t from, to;
	} map[2000];
	unsigned n = 0;
	char line[500];
	FILE *maps = fopen("/proc/self/maps", "r");

	MUST(maps);
	while (fgets(line, sizeof line, maps) && n < 2000) {
		char readable;

		MUST(sscanf(line, "%lx-%lx %c", &map[n].from, &map[n].to, &readable) == 3);
		/* Not the sanitizers' shadow memory, which lies low or is so large that random bytes look like an address in it. */
		n += readable == 'r' && map[n].from >= 1ull << 40 && map[n].to - map[n].from < 1ull << 36;
	}
	MUST(n > 0);
	fclose(maps);
	for (uint64_t gpa = 0; gpa + 8 <= MEM; gpa++) {
		uint64_t value;

		memcpy(&value, at(gpa), sizeof value);
		if (value < map[0].from || value >> 47 || !(uint32_t)value) /* at 4 GiB's boundaries nothing lies */
			continue;
		for (unsigned i = 0; i < n; i++)
			if (value >= map[i].from && value < map[i].to) {
				fprintf(stderr, "gpa 0x%llx holds 0x%llx, an address of this program\n",
					(unsigned long long)gpa, (unsigned long long)value);
				abort();
			}
	}
}

/* What the device does when nobody is in its way. */
static void works(void)
{
	uint8_t expected[512], *data = at(DATA(0, 0, 2));
	unsigned sent = nsent;

	memset(expected, 0x5a, sizeof expected);
	MUST(pwrite(disk, expected, sizeof expected, 3 * SECTOR) == sizeof expected);
	pthread_mutex_lock(&vm.lock);
	restart();
	memset(data, 0, 512);
	*(uint8_t *)at(MEM - 1) = 0xee;
	uint64_t before = chains(), mistakes = dev->broken;
	kick_all();
	for (unsigned i = 0; kind == BLOCK && !idle(); i++) {
		MUST(i < 50000);
		pthread_mutex_unlock(&vm.lock);
		usleep(100);
		pthread_mutex_lock(&vm.lock);
	}
	MUST(chains() >= before + CHAINS && dev->broken == mistakes && dev->status == RUNNING);
	switch (kind) {
	case TOUCH: MUST(data[0] == 0xa5 && data[39] == 0xa5); break;
	case RNG: MUST(memcmp(data, (uint8_t[300]){ 0 }, 300)); break;
	case BLOCK:
		/* The write to the same sector is under way at the same time, and no order holds between their bytes. */
		for (unsigned i = 0; i < 512; i++)
			MUST(data[i] == expected[i] || data[i] == ((const uint8_t *)at(DATA(0, 2, 1)))[i]);
		break;
	default: MUST(nsent >= sent + CHAINS && sent_len == 160); break;
	}
	pthread_mutex_unlock(&vm.lock);
}

static void make(void)
{
	static const uint64_t guard = 4 * GiB + 64 * KiB; /* as far as a length can lead */
	char path[32];
	pthread_mutexattr_t attr;
	uint8_t *reserved = mmap(NULL, 2 * guard + MEM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	MUST(reserved != MAP_FAILED && !mprotect(reserved + guard, MEM, PROT_READ | PROT_WRITE));
	vm = (struct vm){ .engine = &engine, .mem = { reserved + guard, MEM } };
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm.lock, &attr);
	bus_init(&vm.mmio, "address");
	disk = memfd_create("disk", 0);
	MUST(disk >= 0 && !ftruncate(disk, SECTORS * SECTOR) && !loop_init(&vm.loop, &vm.lock));
	snprintf(path, sizeof path, "/proc/self/fd/%d", disk);
	switch (kind) {
	case TOUCH: MUST(virtio_create(&vm, &touch_ops, NULL, 0, NULL, 0)); break;
	case RNG: MUST(!rng_create(&vm, NULL)); break;
	case BLOCK: MUST(!blk_create(&vm, path)); break;
	default: MUST(!net_create(&vm, "user")); break;
	}
	dev = vm.virtio[0];
	MUST(!loop_start(&vm.loop));
}

static void unmake(void)
{
	loop_stop(&vm.loop);
	virtio_destroy(&vm);
	loop_destroy(&vm.loop);
	close(disk);
	munmap(vm.mem.hva - 4 * GiB - 64 * KiB, 8 * GiB + 128 * KiB + MEM);
}

/* Requests that the disk, or memory, could not do; and it never is to grow. */
static unsigned long disk_errors(void)
{
	char *text = NULL;
	const char *errors;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	unsigned long n;

	if (kind == BLOCK)
		dev->ops->stats(dev, out);
	fclose(out);
	MUST(lseek(disk, 0, SEEK_END) == SECTORS * SECTOR);
	errors = strstr(text, "\"errors\":");
	n = errors ? strtoul(errors + 9, NULL, 10) : 0;
	free(text);
	return n;
}

static void race(void)
{
	uint64_t own = seed + (unsigned)kind * 8 + packed * 4u + indirect * 2u, end, restarts = 0;
	unsigned long errors;
	pthread_t other;

	make();
	restart();
	touch_seed = ~own;
	touches = 0;
	stop = false;
	pthread_mutex_lock(&vm.lock);
	for (uint64_t until = clock_ns() + WATCHED; clock_ns() < until;)
		kick_watched();
	restart();
	errors = disk_errors();
	pthread_mutex_unlock(&vm.lock);
	uint64_t mistakes = dev->broken, served = chains();
	end = clock_ns() + RACE;
	MUST(!pthread_create(&other, NULL, scribble, &own));
	while (clock_ns() < end) {
		pthread_mutex_lock(&vm.lock);
		for (unsigned i = 0; i < 16; i++) {
			uint64_t before = chains();

			kick_all();
			/* Nothing to do for it: some wrong value stayed, that takes the device nowhere. */
			if (dev->status & STATUS_NEEDS_RESET || (chains() == before && idle()))
				restart(), restarts++;
		}
		pthread_mutex_unlock(&vm.lock);
		if (kind == BLOCK)
			usleep(1); /* requests complete in the loop's thread, which needs the lock */
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(other, NULL);
	works();
	/* Before, the kernel may have come upon the page that must not be touched. */
	MUST(disk_errors() == errors);
	no_address_of_ours();
	printf("%s, %s%s: %llu touches, %llu chains, broken %llu times; %llu chains, broken %llu times, %llu restarts\n",
	       names[kind], packed ? "packed" : "split", indirect ? ", indirect" : "", (unsigned long long)touches,
	       (unsigned long long)served, (unsigned long long)mistakes, (unsigned long long)(chains() - served),
	       (unsigned long long)(dev->broken - mistakes), (unsigned long long)restarts);
	broken += dev->broken;
	unmake();
}

static void test_race(void **state)
{
	struct sigaction action = { .sa_sigaction = on_touch, .sa_flags = SA_SIGINFO };

	(void)state;
	/* A crash is one, not a failed assertion of cmocka's; a hang ends the same way. */
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGTRAP, &action, NULL);
	alarm(60);
	for (kind = 0; kind < KINDS; kind++)
		for (unsigned format = 0; format < 4; format++) {
			packed = format & 2;
			indirect = format & 1;
			race();
		}
	alarm(0);
	assert_true(broken > 0); /* else nobody was in their way */
}

/* Of a queue with nothing in it, and of a broken one. */
static void test_a_million_kicks(void **state)
{
	(void)state;
	kind = RNG;
	packed = indirect = false;
	make();
	pthread_mutex_lock(&vm.lock);
	restart();
	for (unsigned i = 0; i < 500000; i++)
		reg(0x50, 0);
	assert_int_equal(dev->queue[0].kicks, 500000);
	assert_int_equal(dev->status, RUNNING);
	ring_store16(&((struct split_avail *)at(DRIVER(0)))->idx, SIZE + 1);
	for (unsigned i = 0; i < 500000; i++)
		reg(0x50, 0);
	assert_int_equal(dev->queue[0].kicks, 500001);
	assert_int_equal(dev->status, RUNNING | STATUS_NEEDS_RESET);
	assert_int_equal(dev->interrupts, 1);
	pthread_mutex_unlock(&vm.lock);
	works();
	unmake();
}

int main(void)
{
	const char *given = getenv("TRAPDOOR_SEED");
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_race), cmocka_unit_test(test_a_million_kicks) };

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
