/*
 * What virtio.c and the devices need of the rest of hv, for tests that link them without it: one VM with memory, a bus and
 * an interrupt line that is counted, and one device. Where hv would stop the VM, the test program ends: in the loop's
 * thread and in a signal handler cmocka's assertions cannot end a test. The event loop is in loop_stubs.h, for those that
 * do not link the real one.
 */
#ifndef VIRTIO_STUBS_H
#define VIRTIO_STUBS_H

#include "bus.h"
#include "engine.h"
#include "lab4.h"
#include "trace.h"
#include "written.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* For every thread, as said above. */
#define MUST(what)                                                                         \
	do {                                                                               \
		if (!(what)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                           \
		}                                                                          \
	} while (0)

static struct vm vm;
static struct virtio_dev *dev;
static bool irq_level;
static unsigned edges; /* of the interrupt line, upwards */

int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	va_list ap;

	(void)v, (void)status;
	fputs("the VM was stopped: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

int vm_todo(struct vm *v, const char *step, const char *hint)
{
	return vm_stop(v, HV_TODO, "step %s: %s", step, hint);
}

/* All that devices write goes by here, what the kernel writes for them too, which would only be told EFAULT. */
void written_add(struct vm *v, uint64_t gpa, uint64_t len)
{
	MUST(guest_range(&v->mem, gpa, len));
}

static void set_irq_line(struct vm *v, unsigned irq, bool level)
{
	(void)v, (void)irq;
	edges += level && !irq_level;
	irq_level = level;
}

/* A VM without memory, whose first device may offer every format of the rings. */
__attribute__((unused)) static void empty_vm(void)
{
	static const struct engine_ops engine = { .name = "test", .irq_line = set_irq_line };

	memset(&vm, 0, sizeof vm);
	vm.engine = &engine;
	vm.opt.device[0].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
	bus_init(&vm.mmio, "address");
	irq_level = false;
	edges = 0;
}

__attribute__((unused)) static void *at(uint64_t gpa)
{
	return vm.mem.hva + gpa;
}

__attribute__((unused)) static uint16_t *word(uint64_t gpa)
{
	return at(gpa);
}

#endif
