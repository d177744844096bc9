// sources: throttle.c vm_pause.c loop.c clock.c
/* vCPUs that are threads of the test, and the share of their time in which they may run. */
#include "migration.h"
#include "vm_pause.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define CPUS 2
#define MS 1000000ull

static struct vm *vm;
static struct migration *m;
static pthread_t threads[CPUS];
static atomic_ulong looked[CPUS]; /* how often it looked up */
static atomic_bool deaf;

void vm_kick(struct vm *v)
{
	pthread_mutex_lock(&v->lock);
	pthread_cond_broadcast(&v->wake);
	pthread_mutex_unlock(&v->lock);
}

static void nap(uint64_t ms)
{
	nanosleep(&(struct timespec){ .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * MS) }, NULL);
}

static _Thread_local unsigned self;

static enum run_result run(struct vm *v)
{
	while (!v->stopping) {
		if (!(self == 0 && deaf))
			vm_park(v);
		looked[self]++;
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	}
	return RUN_STOPPED;
}

static const struct engine_ops engine = { .name = "test", .run = run };

static void *cpu_main(void *arg)
{
	self = (unsigned)(uintptr_t)arg;
	vm_run(vm);
	return NULL;
}

static int setup(void **state)
{
	pthread_mutexattr_t attr;

	(void)state;
	vm = calloc(1, sizeof *vm);
	m = calloc(1, sizeof *m);
	if (!vm || !m)
		return -1;
	m->vm = vm;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm->lock, &attr);
	pthread_cond_init(&vm->wake, NULL);
	vm->engine = &engine;
	deaf = false;
	if (loop_init(&vm->loop, &vm->lock) || loop_start(&vm->loop))
		return -1;
	for (unsigned i = 0; i < CPUS; i++)
		pthread_create(&threads[i], NULL, cpu_main, (void *)(uintptr_t)i);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	pthread_mutex_lock(&vm->lock);
	vm->stopping = 1;
	vm_kick(vm);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < CPUS; i++)
		pthread_join(threads[i], NULL);
	loop_stop(&vm->loop);
	loop_destroy(&vm->loop);
	free(m);
	free(vm);
	return 0;
}

static bool stands(void)
{
	pthread_mutex_lock(&vm->lock);
	bool r = vm->pauses && !vm->cpus_inside;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* The share of looks, half a millisecond apart, at which the vCPUs stood; percent. */
static double share(uint64_t ms)
{
	uint64_t end = clock_ns() + ms * MS, last = clock_ns();
	double stood = 0, all = 0;

	while (last < end) {
		nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
		uint64_t now = clock_ns();
		stood += stands() ? (double)(now - last) : 0;
		all += (double)(now - last);
		last = now;
	}
	return 100 * stood / all;
}

static void test_shares(void **state)
{
	static const unsigned percent[] = { 20, 50, 90, 99 };

	(void)state;
	for (size_t i = 0; i < sizeof percent / sizeof *percent; i++) {
		migration_throttle(m, percent[i]);
		bool right = false;
		/* A busy host can make the test look at the wrong moments, too. */
		for (int attempt = 0; attempt < 6 && !right; attempt++) {
			double got = share(2000);
			print_message("%u percent: %.1f\n", percent[i], got);
			right = got > percent[i] - 5 && got < percent[i] + 5;
		}
		assert_true(right);
		/* The rest is theirs. */
		for (unsigned c = 0; c < CPUS; c++) {
			unsigned long before = looked[c];
			for (unsigned n = 0; looked[c] == before; n++) {
				assert_true(n < 50);
				nap(100);
			}
		}
	}
	migration_throttle(m, 0);
	assert_true(share(200) == 0);
	assert_int_equal(vm->pauses, 0);
}

/* At whatever moment it ends, nobody stands behind it, and nothing looks at m any more. */
static void test_ends(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		struct migration *other = calloc(1, sizeof *other);
		other->vm = vm;
		migration_throttle(other, 1 + i % 99);
		if (i % 4 == 1)
			migration_throttle(other, 99);
		if (i % 8 == 2)
			migration_throttle(other, 0);
		nanosleep(&(struct timespec){ .tv_nsec = (long)(i % 100 * 37000) }, NULL);
		migration_throttle(other, 0);
		pthread_mutex_lock(&vm->lock);
		assert_int_equal(vm->pauses, 0);
		pthread_mutex_unlock(&vm->lock);
		free(other);
	}
	for (unsigned c = 0; c < CPUS; c++)
		for (unsigned long before = looked[c]; looked[c] == before;)
			nap(1);
}

/* Somebody else's pause is not taken back, however often the throttle's ends. */
static void test_other_pause(void **state)
{
	(void)state;
	migration_throttle(m, 50);
	pthread_mutex_lock(&vm->lock);
	vm->paused = true;
	assert_int_equal(vm_pause(vm), 0);
	pthread_mutex_unlock(&vm->lock);
	unsigned long before = looked[0] + looked[1];
	nap(300);
	assert_true(stands());
	migration_throttle(m, 0);
	nap(100);
	assert_int_equal(looked[0] + looked[1], before);
	assert_int_equal(vm->pauses, 1);
	assert_true(vm->paused);
	pthread_mutex_lock(&vm->lock);
	vm_resume(vm);
	pthread_mutex_unlock(&vm->lock);
}

/* A vCPU that does not look up for a while: it is tried again, and the end does not come before the loop's thread is out of it. */
static void test_deaf(void **state)
{
	(void)state;
	deaf = true;
	migration_throttle(m, 50);
	nap(2500);
	deaf = false;
	nap(300);
	assert_true(share(1000) > 30);
	deaf = true;
	nap(200);
	migration_throttle(m, 0);
	deaf = false;
	assert_int_equal(vm->pauses, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_shares, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deaf, setup, teardown),
	};

	return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
