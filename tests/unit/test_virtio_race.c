// sources: rng.c blk.c disk.c disk_uring.c disk_threads.c net.c netback.c net_options.c virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c bus.c loop.c clock.c mem.c state_io.c
/*
 * Guest memory that changes under the device's feet. A guest with two CPUs: one gives honest chains and kicks, the other flips words of the
 * descriptors, tables, rings and requests between what is right and what is not, as fast as it can, with seeded values. A device that reads
 * a word twice sees both sooner or later.
 *
 * Asked for: no access outside guest memory, no hang, a device that runs or needs a reset and works after one, no request that goes past
 * the end of the disk, and no address of this program in the guest's memory.
 */
#define _GNU_SOURCE
#include "honest_driver.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <ucontext.h>

#include <cmocka.h>

/* ns for each device and ring format */
#define WATCHED 80000000ull
#define RACE 40000000ull

static const char *const names[KINDS] = { "touch", "rng", "block", "net" };
static uint64_t seed, broken; /* broken: how often, all devices */

static uint64_t rnd(uint64_t *s, uint64_t below)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	return (z ^ z >> 31) % below;
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

int main(void)
{
	const char *given = getenv("TRAPDOOR_SEED");
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_race) };

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
	fflush(stdout);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
