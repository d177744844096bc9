#include "written.h"
#include "engine.h"

#include <stdlib.h>

void written_add(struct vm *vm, uint64_t gpa, uint64_t len)
{
	struct written *w = &vm->written;

	if (!len)
		return;
	guest_written(&vm->mem, gpa, len);
	if (!vm->engine->memory_written)
		return;
	if (!w->bitmap) {
		w->words = (vm->mem.size / PAGE + 63) / 64;
		w->bitmap = calloc(w->words, sizeof *w->bitmap);
	}
	if (!w->bitmap) {
		vm_stop(vm, HV_HOST, "the host has no memory left for a list of pages");
		return;
	}
	for (uint64_t gfn = gpa / PAGE; gfn <= (gpa + len - 1) / PAGE; gfn++)
		w->bitmap[gfn / 64] |= 1ull << gfn % 64;
	__atomic_store_n(&w->any, true, __ATOMIC_RELEASE);
}

void written_apply(struct vm *vm)
{
	struct written *w = &vm->written;

	if (!__atomic_load_n(&w->any, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&vm->lock);
	w->any = false;
	for (size_t i = 0; i < w->words; i++)
		while (w->bitmap[i]) {
			uint64_t gfn = i * 64 + (unsigned)__builtin_ctzll(w->bitmap[i]);

			w->bitmap[i] &= w->bitmap[i] - 1;
			vm->engine->memory_written(vm, gfn * PAGE, PAGE);
		}
	pthread_mutex_unlock(&vm->lock);
}

void written_free(struct vm *vm)
{
	free(vm->written.bitmap);
	vm->written = (struct written){ 0 };
}
