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
	// TODO 1.1: ask KVM for a virtual machine. Hint: one ioctl on m->kvm_fd gives the file descriptor m->vm_fd.
	return lab_todo(m->vm, "1.1",
			"machine_create() in machine.c: ask KVM for a virtual machine with KVM_CREATE_VM");
}

int machine_add_memory(struct machine *m, unsigned slot, uint64_t ma, void *hva, uint64_t size)
{
	// TODO 1.1: give the machine memory. Hint: what KVM calls guest_phys_addr is a machine address (ma) here.
	(void)slot, (void)ma, (void)hva, (void)size;
	return lab_todo(m->vm, "1.1",
			"machine_add_memory() in machine.c: describe a memory slot with KVM_SET_USER_MEMORY_REGION");
}

int machine_add_vcpu(struct machine *m)
{
	// TODO 1.1: create CPU number 0, tell it its CPUID answers, map its kvm_run. Hint: the size to map comes from
	// m->kvm_fd.
	return lab_todo(m->vm, "1.1",
			"machine_add_vcpu() in machine.c: KVM_CREATE_VCPU, then KVM_SET_CPUID2, then map kvm_run");
}

int machine_run(struct machine *m, struct machine_exit *exit)
{
	// TODO 1.1: press the button and say why the machine came back. Hint: the data of a port access lies
	// data_offset bytes into kvm_run.
	(void)exit;
	return lab_todo(m->vm, "1.1",
			"machine_run() in machine.c: call KVM_RUN and translate run->exit_reason into *exit");
}
