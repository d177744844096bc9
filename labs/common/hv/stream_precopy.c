#include "stream_precopy.h"
#include "engine.h"
#include "lab5.h"

#include <stdio.h>

#define FETCHES_MAX 60 /* one that never stops is cancelled */

static struct made_up *present; /* whose precopy() runs */

static void tell(const char *what)
{
	printf("  %s stands %d bytes %llu\n", what, present->m->stands, (unsigned long long)present->m->stream.wire.written);
}

static int log_start(struct vm *vm)
{
	(void)vm;
	tell("log on");
	return 0;
}

static void log_stop(struct vm *vm)
{
	(void)vm;
	tell("log off");
}

/* The guest has written since the log was fetched last; at the latest now. */
static int log_fetch(struct vm *vm, uint64_t *bitmap)
{
	tell("fetch");
	if (++present->fetches == FETCHES_MAX)
		present->m->cancel = true;
	for (unsigned i = 0; i < present->writes; i++) {
		const struct planned_write *w = &present->write[i];

		if (w->fetch != present->fetches)
			continue;
		fill_from_seed(vm->mem.hva + w->gfn * PAGE, w->count * PAGE, w->seed);
		for (uint64_t gfn = w->gfn; gfn < w->gfn + w->count; gfn++)
			bitmap[gfn / 64] |= 1ull << gfn % 64;
	}
	return 0;
}

static void kick(struct vm *vm)
{
	(void)vm;
}

static const struct engine_ops engine_made_up = { .name = "made-up",
						  .kick = kick,
						  .log_start = log_start,
						  .log_fetch = log_fetch,
						  .log_stop = log_stop,
						  .log_runs = true };

int made_up_precopy(struct made_up *machine, struct migration *m)
{
	struct vm *vm = m->vm;
	const struct engine_ops *engine = vm->engine;

	present = machine;
	machine->m = m;
	machine->fetches = 0;
	vm->engine = &engine_made_up;
	m->started = clock_ns();
	int err = precopy(m);
	for (unsigned i = 0; i < m->rounds; i++)
		printf("  round %u pages %llu dirty %llu throttle %u\n", i + 1, (unsigned long long)m->round[i].pages,
		       (unsigned long long)m->round[i].dirty, m->round[i].throttle);
	for (uint64_t gfn = 0; m->owed && gfn < vm->mem.size / PAGE; gfn++)
		if (m->owed[gfn / 64] >> gfn % 64 & 1)
			printf("  owed %llu\n", (unsigned long long)gfn);
	printf("  then stands %d throttle %u\n", m->stands, m->throttle);
	vm->engine = engine;
	return err;
}
