#include "machine.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* What hv needs of /dev/kvm, checked once at the start so that nothing fails later with a bare number. */
static const struct {
	int cap;
	const char *what;
} required[] = {
	{ KVM_CAP_USER_MEMORY, "memory slots (KVM_CAP_USER_MEMORY)" },
	{ KVM_CAP_EXT_CPUID, "a CPUID table (KVM_CAP_EXT_CPUID)" },
	{ KVM_CAP_SYNC_REGS, "registers in kvm_run (KVM_CAP_SYNC_REGS)" },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate_exit (KVM_CAP_IMMEDIATE_EXIT)" },
};

/* SDM vol. 3, 4.1.4; 36 where the CPU does not say. */
static unsigned phys_bits(const struct kvm_cpuid2 *cpuid)
{
	for (unsigned i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000008)
			return cpuid->entries[i].eax & 0xff;
	return 36;
}

int machine_open(struct machine *m, struct vm *vm)
{
	*m = (struct machine){ .vm = vm, .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1 };
	vm->machine = m;
	m->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (m->kvm_fd < 0) {
		int err = errno;
		if (err == ENOENT)
			vm_stop(vm, HV_HOST, "there is no /dev/kvm on this machine; `make doctor` says what to do "
					     "(everything can be run in the QEMU test host)");
		else if (err == EACCES || err == EPERM)
			vm_stop(vm, HV_HOST, "no permission to open /dev/kvm; join its group (usually: sudo adduser $USER kvm) and "
					     "log in again, or use the QEMU test host");
		else
			vm_stop(vm, HV_HOST, "/dev/kvm cannot be opened: %s", strerror(err));
		return -err;
	}
	int version = ioctl(m->kvm_fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		vm_stop(vm, HV_HOST, "/dev/kvm answers with API version %d, hv needs version %d", version, KVM_API_VERSION);
		return -ENOSYS;
	}
	for (size_t i = 0; i < sizeof required / sizeof *required; i++)
		if (ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, required[i].cap) <= 0) {
			vm_stop(vm, HV_HOST, "this /dev/kvm has no %s, which hv needs", required[i].what);
			return -ENOSYS;
		}
	m->cpuid = calloc(1, sizeof *m->cpuid + MACHINE_CPUID_MAX * sizeof m->cpuid->entries[0]);
	if (!m->cpuid)
		return -ENOMEM;
	m->cpuid->nent = MACHINE_CPUID_MAX;
	if (ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, m->cpuid) < 0)
		return machine_error(m, "KVM_GET_SUPPORTED_CPUID");
	vm->phys_bits = phys_bits(m->cpuid);
	return 0;
}

void machine_close(struct machine *m)
{
	if (m->run)
		munmap(m->run, m->run_size);
	int fds[] = { m->vcpu_fd, m->vm_fd, m->kvm_fd };
	for (unsigned i = 0; i < 3; i++)
		if (fds[i] > 0)
			close(fds[i]);
	free(m->cpuid);
	*m = (struct machine){ .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1 };
}

void machine_native_tsc(struct machine *m)
{
	/* On a host whose kernel measured its clock again after KVM had been loaded, KVM wants to scale the counter, cannot where
	 * the CPU has no scaling, and from then on reads every counter as if it stood still. 0 means: as fast as the host's.
	 * It matters nowhere else, so a refusal does not either. */
	ioctl(m->vcpu_fd, KVM_SET_TSC_KHZ, 0);
}

int machine_error(struct machine *m, const char *call)
{
	int err = errno ? errno : EIO;

	switch (err) {
	case EINVAL:
		vm_stop(m->vm, HV_HOST, "%s was refused (EINVAL): this /dev/kvm does not accept the state or size hv asked for; "
					"`make doctor` shows what it can do", call);
		break;
	case ENOMEM:
		vm_stop(m->vm, HV_HOST, "%s: the host has not enough memory", call);
		break;
	case EEXIST:
		vm_stop(m->vm, HV_HOST, "%s: that already exists, or overlaps what does", call);
		break;
	default:
		vm_stop(m->vm, HV_HOST, "%s failed: %s", call, strerror(err));
	}
	return -err;
}

void machine_explain(struct machine *m)
{
	struct kvm_run *run = m->run;
	unsigned long long rip = run->s.regs.regs.rip;

	switch (run->exit_reason) {
	case KVM_EXIT_FAIL_ENTRY:
		vm_stop(m->vm, HV_STOPPED,
			"the CPU rejected the machine's register state (VM entry failed, hardware reason 0x%llx) at rip 0x%llx: "
			"a control register, segment or flag holds a combination that no CPU can be in",
			(unsigned long long)run->fail_entry.hardware_entry_failure_reason, rip);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vm_stop(m->vm, HV_STOPPED, "KVM gave up at rip 0x%llx: %s (suberror %u)", rip,
			run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				? "it met an instruction on device memory, or outside all memory, that it cannot emulate"
			: run->internal.suberror == KVM_INTERNAL_ERROR_DELIVERY_EV
				? "an exit happened while an event was being delivered"
				: "internal error",
			run->internal.suberror);
		break;
	case KVM_EXIT_UNKNOWN:
		vm_stop(m->vm, HV_STOPPED, "the CPU left the guest for a reason KVM does not know (hardware reason 0x%llx) at rip 0x%llx",
			(unsigned long long)run->hw.hardware_exit_reason, rip);
		break;
	default:
		vm_stop(m->vm, HV_STOPPED, "KVM returned with exit reason %u at rip 0x%llx, which nothing here asked for",
			run->exit_reason, rip);
	}
}
