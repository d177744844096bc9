// sources: vm_pause.c
/* vm_pause() with vCPUs that are threads of the test: they "run the guest" by counting, and look up as an engine's run loop does. */
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

#define CPUS 3

static struct vm *vm;
static pthread_t threads[CPUS];
static atomic_ulong guest[CPUS]; /* instructions */
static atomic_uint kicks;
static atomic_bool deaf;  /* vCPU 0 does not look up */
static atomic_bool debug; /* run() returns to the debugger, who keeps the vCPU for a while */

/* vm.c's: here a vCPU looks up all the time, and a kick only wakes who waits. */
void vm_kick(struct vm *v)
{
	pthread_mutex_lock(&v->lock);
	kicks++;
	pthread_cond_broadcast(&v->wake);
	pthread_mutex_unlock(&v->lock);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static _Thread_local unsigned self;

static enum run_result run(struct vm *v)
{
	while (!v->stopping) {
		if (!(self == 0 && deaf))
			vm_park(v);
		if (v->stopping)
			break;
		if (debug)
			return RUN_DEBUG;
		guest[self]++;
	}
	return RUN_STOPPED;
}

static const struct engine_ops engine = { .name = "test", .run = run };

static void *cpu_main(void *arg)
{
	self = (unsigned)(uintptr_t)arg;
	while (vm_run(vm) == RUN_DEBUG)
		while (debug && !vm->stopping)
			nap(); /* in the debugger */
	return NULL;
}

static int setup(void **state)
{
	pthread_mutexattr_t attr;

	(void)state;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -1;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm->lock, &attr);
	pthread_cond_init(&vm->wake, NULL);
	vm->engine = &engine;
	deaf = debug = false;
	for (unsigned i = 0; i < CPUS; i++)
		guest[i] = 0;
	return 0;
}

static void start(void)
{
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, cpu_main, (void *)(uintptr_t)i), 0);
}

static void wait_until_running(void)
{
	for (unsigned i = 0; i < CPUS; i++)
		for (unsigned long before = guest[i]; guest[i] == before;)
			nap();
}

static void stop(void)
{
	pthread_mutex_lock(&vm->lock);
	vm->stopping = 1;
	vm_kick(vm);
	pthread_mutex_unlock(&vm->lock);
}

static int teardown(void **state)
{
	(void)state;
	stop();
	for (unsigned i = 0; i < CPUS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(vm->cpus_inside, 0);
	free(vm);
	return 0;
}

static int pause_it(void)
{
	pthread_mutex_lock(&vm->lock);
	int err = vm_pause(vm);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

static void resume_it(void)
{
	pthread_mutex_lock(&vm->lock);
	vm_resume(vm);
	pthread_mutex_unlock(&vm->lock);
}

static void assert_still(void)
{
	unsigned long before[CPUS];

	for (unsigned i = 0; i < CPUS; i++)
		before[i] = guest[i];
	for (unsigned i = 0; i < 5; i++)
		nap();
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(guest[i], before[i]);
}

static void test_pause(void **state)
{
	(void)state;
	start();
	for (unsigned round = 0; round < 20; round++) {
		wait_until_running();
		unsigned before = kicks;
		assert_int_equal(pause_it(), 0);
		assert_int_not_equal(kicks, before);
		assert_still();
		resume_it();
	}
	wait_until_running();
}

static void test_pauses_nest(void **state)
{
	(void)state;
	start();
	wait_until_running();
	assert_int_equal(pause_it(), 0);
	assert_int_equal(pause_it(), 0);
	resume_it();
	assert_still();
	resume_it();
	wait_until_running();
}

/* Kicks that come for other reasons do not let a paused vCPU go. */
static void test_kicks_while_paused(void **state)
{
	(void)state;
	start();
	wait_until_running();
	assert_int_equal(pause_it(), 0);
	for (unsigned i = 0; i < 10; i++)
		vm_kick(vm);
	assert_still();
	resume_it();
	wait_until_running();
}

/* Before the first instruction: the pause is there at once, and the vCPUs do not begin. */
static void test_pause_before_start(void **state)
{
	(void)state;
	assert_int_equal(pause_it(), 0);
	start();
	assert_still();
	assert_int_equal(guest[0], 0);
	resume_it();
	wait_until_running();
}

/* A VM that stops while it is paused ends. teardown() would hang otherwise. */
static void test_stop_while_paused(void **state)
{
	(void)state;
	start();
	wait_until_running();
	assert_int_equal(pause_it(), 0);
	stop();
	for (unsigned i = 0; i < CPUS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(vm->cpus_inside, 0);
	assert_int_equal(pause_it(), -ECANCELED);
	start(); /* for teardown(): they end at once */
}

/* In the debugger a vCPU is outside the guest, and it does not go back while the VM is paused. */
static void test_debugger(void **state)
{
	(void)state;
	start();
	wait_until_running();
	debug = true;
	assert_int_equal(pause_it(), 0);
	debug = false;
	assert_still();
	resume_it();
	wait_until_running();
}

/* A handler that does not come back: no pause, no hang, and the others go on. */
static void test_deaf(void **state)
{
	(void)state;
	start();
	wait_until_running();
	deaf = true;
	assert_int_equal(pause_it(), -ETIMEDOUT);
	wait_until_running();
	assert_int_equal(vm->pauses, 0);
	deaf = false;
	assert_int_equal(pause_it(), 0);
	assert_still();
	resume_it();
	wait_until_running();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pauses_nest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kicks_while_paused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pause_before_start, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_while_paused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_debugger, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deaf, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
