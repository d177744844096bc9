/*
 * Lab 1, checkpoint 1.1: the bare machine.
 *
 * KVM gives a process a machine with no memory, no devices and one kind of button: KVM_RUN. This file builds that machine
 * and presses the button. What comes back is a struct kvm_run that says why the machine stopped; it is translated once,
 * here, so that nothing else has to know KVM's names for it. The contracts are in machine.h.
 *
 * Reading: the KVM API document of the kernel, Documentation/virt/kvm/api.rst, sections 4.2, 4.5, 4.7, 4.10, 4.35, 4.92, 5.
 */
#include "lab1.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

int machine_create(struct machine *m)
{
	// SOLUTION 1.1
	m->vm_fd = ioctl(m->kvm_fd, KVM_CREATE_VM, 0);
	if (m->vm_fd < 0)
		return machine_error(m, "KVM_CREATE_VM");
	return 0;
	// STARTER 1.1: ask KVM for a virtual machine. Hint: one ioctl on m->kvm_fd gives the file descriptor m->vm_fd.
	//	return lab_todo(m->vm, "1.1",
	//			"machine_create() in machine.c: ask KVM for a virtual machine with KVM_CREATE_VM");
	// END
}

int machine_add_memory(struct machine *m, unsigned slot, uint64_t ma, void *hva, uint64_t size)
{
	// SOLUTION 1.1
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = ma,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};
	if (ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return machine_error(m, "KVM_SET_USER_MEMORY_REGION");
	return 0;
	// STARTER 1.1: give the machine memory. Hint: what KVM calls guest_phys_addr is a machine address (ma) here.
	//	(void)slot, (void)ma, (void)hva, (void)size;
	//	return lab_todo(m->vm, "1.1",
	//			"machine_add_memory() in machine.c: describe a memory slot with KVM_SET_USER_MEMORY_REGION");
	// END
}

int machine_add_vcpu(struct machine *m)
{
	// SOLUTION 1.1
	m->vcpu_fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, 0);
	if (m->vcpu_fd < 0)
		return machine_error(m, "KVM_CREATE_VCPU");
	if (ioctl(m->vcpu_fd, KVM_SET_CPUID2, m->cpuid) < 0)
		return machine_error(m, "KVM_SET_CPUID2");
	int size = ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < 0)
		return machine_error(m, "KVM_GET_VCPU_MMAP_SIZE");
	void *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu_fd, 0);
	if (run == MAP_FAILED)
		return machine_error(m, "mapping the vCPU's kvm_run");
	m->run = run;
	m->run_size = size;
	return 0;
	// STARTER 1.1: create CPU number 0, tell it its CPUID answers, map its kvm_run. Hint: the size to map comes from
	// m->kvm_fd.
	//	return lab_todo(m->vm, "1.1",
	//			"machine_add_vcpu() in machine.c: KVM_CREATE_VCPU, then KVM_SET_CPUID2, then map kvm_run");
	// END
}

int machine_run(struct machine *m, struct machine_exit *exit)
{
	// SOLUTION 1.1
	struct kvm_run *run = m->run;

	if (ioctl(m->vcpu_fd, KVM_RUN, 0) < 0) {
		/* EINTR: a signal or immediate_exit. EAGAIN: a vCPU that waits to be started. Neither is an error. */
		if (errno != EINTR && errno != EAGAIN)
			return machine_error(m, "KVM_RUN");
		exit->kind = MACHINE_KICKED;
		return 0;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit->kind = MACHINE_IO;
		exit->write = run->io.direction == KVM_EXIT_IO_OUT;
		exit->size = run->io.size;
		exit->addr = run->io.port;
		exit->count = run->io.count;
		exit->data = (uint8_t *)run + run->io.data_offset;
		break;
	case KVM_EXIT_MMIO:
		exit->kind = MACHINE_MMIO;
		exit->write = run->mmio.is_write;
		exit->size = run->mmio.len;
		exit->addr = run->mmio.phys_addr;
		exit->count = 1;
		exit->data = run->mmio.data;
		break;
	case KVM_EXIT_INTR:
		exit->kind = MACHINE_KICKED;
		break;
	case KVM_EXIT_HLT:
		exit->kind = MACHINE_HALTED;
		break;
	case KVM_EXIT_SHUTDOWN:
		exit->kind = MACHINE_SHUTDOWN;
		break;
	case KVM_EXIT_DEBUG:
		exit->kind = MACHINE_DEBUG;
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit->kind = MACHINE_EVENT;
		break;
	default:
		machine_explain(m);
		exit->kind = MACHINE_FAILED;
	}
	return 0;
	// STARTER 1.1: press the button and say why the machine came back. Hint: the data of a port access lies
	// data_offset bytes into kvm_run.
	//	(void)exit;
	//	return lab_todo(m->vm, "1.1",
	//			"machine_run() in machine.c: call KVM_RUN and translate run->exit_reason into *exit");
	// END
}
