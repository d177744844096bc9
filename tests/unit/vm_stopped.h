/*
 * What devices need of the rest of hv and a unit test has no use for: a stop is remembered in the VM that it ends.
 * Programs whose devices must not stop the VM have virtio_stubs.h instead.
 */
#ifndef VM_STOPPED_H
#define VM_STOPPED_H

#include "vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int vm_stop(struct vm *v, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->reason, sizeof v->reason, fmt, ap);
	va_end(ap);
	v->status = status;
	v->stopping = 1;
	return -ECANCELED;
}
int vm_todo(struct vm *v, const char *step, const char *hint)
{
	return vm_stop(v, HV_TODO, "%s %s", step, hint);
}

#endif
