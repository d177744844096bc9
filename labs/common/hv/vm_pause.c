#define _GNU_SOURCE /* pthread_cond_clockwait */
#include "vm_pause.h"

#include <errno.h>
#include <time.h>

/* How long a vCPU may take to come out of the guest and through the handler of its exit. */
#define PAUSE_SECONDS 2

int vm_pause(struct vm *vm)
{
	struct timespec end;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += PAUSE_SECONDS;
	vm->pauses++;
	vm_kick(vm);
	/* Bounded, because this may be the loop's thread: --timeout and Ctrl-C would otherwise wait with it for a handler that hangs. */
	while (vm->cpus_inside && !vm->stopping && !err)
		err = pthread_cond_clockwait(&vm->wake, &vm->lock, CLOCK_MONOTONIC, &end);
	if (vm->stopping)
		err = ECANCELED;
	else if (!vm->cpus_inside)
		err = 0;
	if (err)
		vm_resume(vm);
	return -err;
}

void vm_resume(struct vm *vm)
{
	if (!--vm->pauses)
		pthread_cond_broadcast(&vm->wake);
}

void vm_cpu_begin(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	while (vm->pauses && !vm->stopping)
		pthread_cond_wait(&vm->wake, &vm->lock);
	vm->cpus_inside++;
	pthread_mutex_unlock(&vm->lock);
}

void vm_cpu_end(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (!--vm->cpus_inside)
		pthread_cond_broadcast(&vm->wake);
	pthread_mutex_unlock(&vm->lock);
}

enum run_result vm_run(struct vm *vm)
{
	vm_cpu_begin(vm);
	enum run_result result = vm->engine->run(vm);
	vm_cpu_end(vm);
	return result;
}
