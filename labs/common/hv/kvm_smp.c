/*
 * Several vCPUs. vCPU 0 is Lab 1's; the others are made here, one file descriptor each on the same VM, and each is run by a thread of
 * its own in the same loop. They meet in two places: KVM, which does memory and interrupts between them, and vm->lock.
 */
#include "kvm_cpuid.h"
#include "kvm_engine.h"
#include "vm_life.h"
#include "vm_pause.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* One more vCPU, as machine_add_vcpu() makes the first. KVM creates it waiting for INIT, because it is not the boot processor. */
static int add_cpu(struct kvm_engine *e, unsigned id)
{
	const struct machine *first = &e->cpu[0].m;
	struct machine *m = &e->cpu[id].m;
	size_t size = sizeof *m->cpuid + MACHINE_CPUID_MAX * sizeof m->cpuid->entries[0];

	*m = (struct machine){ .vm = first->vm, .kvm_fd = first->kvm_fd, .vm_fd = first->vm_fd, .run_size = first->run_size };
	m->cpuid = malloc(size);
	if (!m->cpuid)
		return vm_stop(m->vm, HV_HOST, "the host has not enough memory");
	memcpy(m->cpuid, first->cpuid, size);
	kvm_cpuid_topology(m->cpuid, id, e->ncpus);
	m->vcpu_fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (m->vcpu_fd < 0)
		return machine_error(m, "KVM_CREATE_VCPU");
	if (ioctl(m->vcpu_fd, KVM_SET_CPUID2, m->cpuid) < 0)
		return machine_error(m, "KVM_SET_CPUID2");
	void *run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu_fd, 0);
	if (run == MAP_FAILED)
		return machine_error(m, "mapping the vCPU's kvm_run");
	m->run = run;
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	machine_native_tsc(m);
	return 0;
}

int kvm_smp_create(struct kvm_engine *e)
{
	int err = 0;

	for (unsigned id = 1; id < e->ncpus && !err; id++)
		err = add_cpu(e, id);
	return err;
}

static void *cpu_main(void *arg)
{
	struct kvm_cpu *c = arg;

	vm_cpu_begin(c->vm);
	kvm_run_cpu(c);
	vm_cpu_end(c->vm);
	return NULL;
}

int kvm_smp_start(struct kvm_engine *e)
{
	struct vm *vm = e->cpu[0].vm;
	int err = 0;

	/* With the lock: a kick that comes now waits until it knows all threads. They inherit which signals are blocked. */
	pthread_mutex_lock(&vm->lock);
	for (unsigned id = 1; id < e->ncpus && !err; id++) {
		struct kvm_cpu *c = &e->cpu[id];
		err = c->started ? 0 : pthread_create(&c->thread, NULL, cpu_main, c);
		c->started = !err;
	}
	pthread_mutex_unlock(&vm->lock);
	return err ? vm_stop(vm, HV_HOST, "the host has no thread for a vCPU: %s", strerror(err)) : 0;
}

void kvm_smp_join(struct kvm_engine *e)
{
	struct vm *vm = e->cpu[0].vm;

	for (unsigned id = 1; id < e->ncpus; id++) {
		struct kvm_cpu *c = &e->cpu[id];
		if (!c->started)
			continue;
		pthread_join(c->thread, NULL);
		pthread_mutex_lock(&vm->lock);
		c->started = false;
		pthread_mutex_unlock(&vm->lock);
	}
}

void kvm_smp_destroy(struct kvm_engine *e)
{
	for (unsigned id = 1; id < e->ncpus; id++) {
		struct machine *m = &e->cpu[id].m;
		if (m->run)
			munmap(m->run, m->run_size);
		if (m->vcpu_fd > 0)
			close(m->vcpu_fd);
		free(m->cpuid);
		*m = (struct machine){ 0 };
	}
}

void kvm_kick(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;

	for (unsigned id = 0; e && id < e->ncpus; id++) {
		struct kvm_cpu *c = &e->cpu[id];
		if (c->m.run)
			c->m.run->immediate_exit = 1;
		if (c->started && !pthread_equal(pthread_self(), c->thread))
			pthread_kill(c->thread, VM_KICK_SIGNAL);
	}
}
