/* Which pages were written: the engine's log, and what hv itself wrote past it. */
#include "engine.h"
#include "migration.h"
#include "vm_pause.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct page_log {
	bool on;
	uint64_t words, own[]; /* a bit per page that hv wrote */
};

void page_log_add(struct vm *vm, uint64_t gpa, uint64_t len)
{
	struct page_log *log = __atomic_load_n(&vm->page_log, __ATOMIC_ACQUIRE);

	if (!len || !log || !__atomic_load_n(&log->on, __ATOMIC_ACQUIRE))
		return;
	for (uint64_t gfn = gpa / PAGE; gfn <= (gpa + len - 1) / PAGE; gfn++)
		__atomic_fetch_or(&log->own[gfn / 64], 1ull << gfn % 64, __ATOMIC_RELEASE);
}

int page_log_start(struct vm *vm)
{
	struct page_log *log = vm->page_log;
	int err;

	if (!log) {
		/* It stays until the VM ends: others may be in page_log_add() at any time. */
		log = calloc(1, sizeof *log + page_words(vm) * sizeof *log->own);
		if (!log)
			return -ENOMEM;
		log->words = page_words(vm);
		__atomic_store_n(&vm->page_log, log, __ATOMIC_RELEASE);
	}
	memset(log->own, 0, log->words * sizeof *log->own);
	__atomic_store_n(&log->on, true, __ATOMIC_RELEASE);
	pthread_mutex_lock(&vm->lock);
	err = vm_pause(vm);
	if (!err) {
		err = vm->engine->log_start(vm);
		vm_resume(vm);
	}
	pthread_mutex_unlock(&vm->lock);
	if (err)
		__atomic_store_n(&log->on, false, __ATOMIC_RELEASE);
	return err;
}

static int engine_fetch(struct vm *vm, uint64_t *bitmap)
{
	int err;

	if (vm->engine->log_runs)
		return vm->engine->log_fetch(vm, bitmap);
	pthread_mutex_lock(&vm->lock);
	err = vm_pause(vm);
	if (!err) {
		err = vm->engine->log_fetch(vm, bitmap);
		vm_resume(vm);
	}
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int64_t page_log_fetch(struct vm *vm, uint64_t *bitmap)
{
	struct page_log *log = vm->page_log;
	int64_t pages = 0;

	memset(bitmap, 0, log->words * sizeof *bitmap);
	int err = engine_fetch(vm, bitmap);
	for (uint64_t i = 0; i < log->words && !err; i++) {
		bitmap[i] |= __atomic_exchange_n(&log->own[i], 0, __ATOMIC_ACQ_REL);
		pages += __builtin_popcountll(bitmap[i]);
	}
	return err ? err : pages;
}

void page_log_stop(struct vm *vm)
{
	struct page_log *log = vm->page_log;

	if (!log || !log->on)
		return;
	__atomic_store_n(&log->on, false, __ATOMIC_RELEASE);
	pthread_mutex_lock(&vm->lock);
	if (!vm_pause(vm)) { /* it ends otherwise, and the log with it */
		vm->engine->log_stop(vm);
		vm_resume(vm);
	}
	pthread_mutex_unlock(&vm->lock);
}
