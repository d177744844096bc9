/*
 * Inside the kvm engine: its vCPUs and what they share. engine_kvm.c runs them; kvm_smp.c makes the second and further ones and their
 * threads; kvm_chips.c has the interrupt controllers; kvm_look.c finds what KVM does not report.
 */
#ifndef HV_KVM_ENGINE_H
#define HV_KVM_ENGINE_H

#include "engine.h"
#include "machine.h"

struct kvm_cpu {
	struct vm *vm;
	struct machine m; /* of the second and further ones only the vCPU is their own: the VM is vCPU 0's */
	unsigned id;      /* number, APIC id */
	struct trace_cpu *trace;

	pthread_t thread;
	bool started; /* thread is valid; vCPU 0 runs on the thread that calls run() */

	/* KVM waits for the end of an access that hv has carried out: only behind the next KVM_RUN are the registers those of a guest
	 * between two instructions. */
	bool unfinished;
	char err[160]; /* why a piece of its state was refused (kvm_pieces.h) */

	volatile bool look_due;
	/* How often one after another it was found unable to go on by itself, and in which round of looks at last. */
	unsigned dead_times, dead_round;
};

struct kvm_engine {
	struct kvm_cpu cpu[VM_CPUS_MAX];
	unsigned ncpus;
	struct kvm_cpu *failed; /* which one KVM refused to run, or NULL */
	struct loop_timer look_timer;
	unsigned look_round;
	/* The debugger's; with one vCPU only. */
	bool int3_exits; /* a breakpoint's int3 comes back to hv; otherwise breakpoints are found by single-stepping */
	bool debug_step; /* the debugger asked for one instruction */
	bool stepping;   /* KVM single-steps, for that or to find breakpoints */
	uint64_t *dirty; /* room for KVM's dirty log, while there is one */
};

/* Runs a vCPU on the calling thread until the VM stops or the debugger wants it (engine_kvm.c). */
enum run_result kvm_run_cpu(struct kvm_cpu *c);

/* --- kvm_chips.c --- */
/* 8259 pair, IOAPIC, local APICs and 8254 in the kernel, wired as in a PC. Before the first vCPU. 0 or -errno after vm_stop(). */
int kvm_create_chips(struct machine *m);
/* struct engine_ops has their contracts. */
void kvm_irq_line(struct vm *vm, unsigned irq, bool level);
int kvm_irq_fd(struct vm *vm, unsigned gsi);
int kvm_io_fd(struct vm *vm, uint64_t gpa, unsigned len, uint32_t value);
void kvm_chips_io(struct vm *vm, struct state_io *io);

/* --- kvm_clock.c, kvm_move.c: contracts in struct engine_ops --- */
void kvm_clock_io(struct vm *vm, struct state_io *io);
void kvm_cpu_io(struct vm *vm, unsigned cpu, struct state_io *io);
int kvm_cpuid_table(struct vm *vm, struct cpuid_table *out);
int kvm_cpuid_put(struct vm *vm, const struct cpuid_table *seen);
int kvm_log_start(struct vm *vm);
int kvm_log_fetch(struct vm *vm, uint64_t *bitmap);
void kvm_log_stop(struct vm *vm);

/* --- kvm_smp.c --- */
/* Makes vCPUs 1 to ncpus - 1 of the machine that has vCPU 0. They wait for the guest's INIT and SIPI (SDM vol. 3, 8.4). 0 or -errno
 * after vm_stop(). */
int kvm_smp_create(struct kvm_engine *e);
/* Gives each of them a thread. 0 or -ECANCELED after vm_stop(). */
int kvm_smp_start(struct kvm_engine *e);
/* Waits until these threads have ended. The VM is stopping. */
void kvm_smp_join(struct kvm_engine *e);
void kvm_smp_destroy(struct kvm_engine *e);
/* Makes all vCPUs come out of KVM_RUN, also before they are in it. vCPU 0's thread is sent its signal by vm_kick(). */
void kvm_kick(struct vm *vm);

/* --- kvm_look.c --- */
/* Has every vCPU looked after, a few times a second, from now until kvm_look_stop(). */
void kvm_look_start(struct vm *vm);
void kvm_look_stop(struct vm *vm);
/* On the vCPU's thread, when look_due is set. 0 or -ECANCELED after vm_stop(). */
int kvm_look_after(struct kvm_cpu *c);

#endif
