/*
 * The bare machine on /dev/kvm: a VM, its memory slots, one CPU, and the ways it comes back from running. Both engines
 * stand on it. machine_open() is part of the frame (machine_host.c); the four functions after it are Lab 1's machine.c.
 */
#ifndef HV_MACHINE_H
#define HV_MACHINE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

#define MACHINE_CPUID_MAX 200

struct machine {
	struct vm *vm; /* for vm_stop() */
	int kvm_fd;    /* /dev/kvm, opened and checked by machine_open() */
	int vm_fd, vcpu_fd;
	struct kvm_run *run; /* shared with KVM: why it returned, and the data of that exit */
	size_t run_size;
	struct kvm_cpuid2 *cpuid; /* what KVM supports; an engine edits it before machine_add_vcpu() */
};

/* Why KVM_RUN came back. */
enum machine_exit_kind {
	MACHINE_IO,       /* a port was accessed */
	MACHINE_MMIO,     /* an address without memory was accessed */
	MACHINE_KICKED,   /* a signal or immediate_exit: nothing happened in the guest */
	MACHINE_HALTED,   /* HLT, with no interrupt controller in KVM */
	MACHINE_SHUTDOWN, /* triple fault */
	MACHINE_DEBUG,    /* a breakpoint or step that KVM_SET_GUEST_DEBUG asked for */
	MACHINE_EVENT,    /* KVM_EXIT_SYSTEM_EVENT: the guest reset or powered off through KVM */
	MACHINE_FAILED    /* KVM or the CPU refused to run the machine; the VM is already stopped with a sentence */
};

struct machine_exit {
	enum machine_exit_kind kind;
	bool write;      /* MACHINE_IO, MACHINE_MMIO: out or a store */
	unsigned size;   /* bytes per access: 1, 2, 4 (or 8: MMIO) */
	uint64_t addr;   /* port or machine address */
	unsigned count;  /* MACHINE_IO: accesses one after another (rep ins and rep outs) */
	uint8_t *data;   /* size * count bytes: what was written, or where to put what is read */
};

/*
 * Opens /dev/kvm and checks that it can do what hv needs, one sentence for each thing missing. Fills kvm_fd and cpuid.
 * 0, or a negative errno after vm_stop(HV_HOST).
 */
int machine_open(struct machine *m, struct vm *vm);
/* Closes and frees everything; works on a machine that was only half made. */
void machine_close(struct machine *m);
/* Stops the VM with the sentence that belongs to a failed KVM call: `call` as in the API ("KVM_CREATE_VM"). -errno. */
int machine_error(struct machine *m, const char *call);
/* For MACHINE_FAILED: turns run->exit_reason (FAIL_ENTRY, INTERNAL_ERROR, UNKNOWN...) into a sentence and stops the VM. */
void machine_explain(struct machine *m);
/* Makes the new vCPU's time stamp counter run at the host's speed, whatever KVM took that to be when it was loaded. */
void machine_native_tsc(struct machine *m);

/* --- Lab 1, machine.c ------------------------------------------------------------------------------------------------ */

/* Creates the VM: m->vm_fd. 0 or -errno after machine_error(). (KVM API 4.2, KVM_CREATE_VM) */
int machine_create(struct machine *m);

/* Puts size bytes of host memory at machine address ma, as memory slot `slot`. Both are multiples of 4 KiB.
 * 0 or -errno after machine_error(). (KVM API 4.35, KVM_SET_USER_MEMORY_REGION) */
int machine_add_memory(struct machine *m, unsigned slot, uint64_t ma, void *hva, uint64_t size);

/* Creates the one vCPU, gives it the CPUID answers in m->cpuid, and maps its kvm_run: m->vcpu_fd, m->run, m->run_size.
 * 0 or -errno after machine_error(). (KVM API 4.7 KVM_CREATE_VCPU, 4.92 KVM_SET_CPUID2, 4.5 KVM_GET_VCPU_MMAP_SIZE) */
int machine_add_vcpu(struct machine *m);

/* Runs the machine until it needs hv, and says why in *exit. 0; a negative errno when KVM_RUN itself failed (not for EINTR and
 * EAGAIN, which are MACHINE_KICKED) or the step is not written. (KVM API 4.10, KVM_RUN, and chapter 5) */
int machine_run(struct machine *m, struct machine_exit *exit);

#endif
