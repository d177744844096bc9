/*
 * Preloaded into hv by test_capability.py: a /dev/kvm that lacks something. TRAPDOOR_NO_CAP=N: KVM_CHECK_EXTENSION says no to
 * capability N. TRAPDOOR_REFUSE=NAME: that call fails with EINVAL. TRAPDOOR_EXIT=N: KVM_RUN comes back with that exit reason.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct kvm_run *run;

static int refused(unsigned long request)
{
	static const struct {
		const char *name;
		unsigned long request;
	} calls[] = {
		{ "KVM_CREATE_VM", KVM_CREATE_VM }, { "KVM_SET_SREGS", KVM_SET_SREGS }, { "KVM_CREATE_IRQCHIP", KVM_CREATE_IRQCHIP },
		{ "KVM_SET_MSRS", KVM_SET_MSRS }, { "KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION },
		{ "KVM_RUN", KVM_RUN },
	};
	const char *name = getenv("TRAPDOOR_REFUSE");

	for (unsigned i = 0; name && i < sizeof calls / sizeof *calls; i++)
		if (calls[i].request == request && !strcmp(calls[i].name, name))
			return 1;
	return 0;
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	void *(*real)(void *, size_t, int, int, int, off_t) = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
	void *p = real(addr, len, prot, flags, fd, offset);
	if (fd >= 0 && (flags & MAP_SHARED))
		run = p; /* of all that hv maps, only a vCPU's kvm_run is shared and has a descriptor */
	return p;
}

int ioctl(int fd, unsigned long request, ...)
{
	int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	const char *cap = getenv("TRAPDOOR_NO_CAP"), *reason = getenv("TRAPDOOR_EXIT");
	va_list ap;
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);

	if (request == KVM_CHECK_EXTENSION && cap && (long)arg == atol(cap))
		return 0;
	if (refused(request)) {
		errno = EINVAL;
		return -1;
	}
	int r = real(fd, request, arg);
	if (request == KVM_RUN && reason && run) {
		run->exit_reason = (unsigned)atoi(reason);
		run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	}
	return r;
}
