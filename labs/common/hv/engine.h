/*
 * An engine runs guest code. What it offers to the rest of hv is this one table; devices, loaders, the debugger and the
 * control of a VM's life do not know which engine is behind it.
 */
#ifndef HV_ENGINE_H
#define HV_ENGINE_H

#include "loader.h"
#include "vm.h"

struct state_io;
struct cpuid_table;

/* What a call of run() ended with. */
enum run_result {
	RUN_STOPPED, /* vm->stopping is set */
	RUN_DEBUG    /* a breakpoint or single step: the debugger decides what happens next */
};

struct engine_ops {
	const char *name;
	const char *what; /* one line for --help */

	/* Makes the machine on /dev/kvm around vm->mem and puts the vCPU at boot's first instruction. 0, or a negative
	 * errno after vm_stop() said in a sentence what is missing. */
	int (*create)(struct vm *vm, const struct boot_state *boot);
	void (*destroy)(struct vm *vm);

	/* Runs the guest, its vCPU 0 on the calling thread, until the VM stops or the debugger wants it. Called without the lock, and
	 * only by vm_run(). */
	enum run_result (*run)(struct vm *vm);
	/* Async-signal-safe: makes run() look up soon, on all vCPUs' threads. vm_kick() sends vCPU 0's thread a signal. */
	void (*kick)(struct vm *vm);

	/* An ISA interrupt line changed. Called with the lock held. */
	void (*irq_line)(struct vm *vm, unsigned irq, bool level);
	/* An NMI for the guest. Called with the lock held. NULL where there are none. */
	void (*nmi)(struct vm *vm);
	/* An eventfd that raises this interrupt when it is written to: an edge, and nobody has to take the line down again. -errno. NULL
	 * where the engine lacks it, as also below. After create(); the caller closes it. */
	int (*irq_fd)(struct vm *vm, unsigned gsi);
	/* An eventfd that is signalled, instead of an exit, when the guest stores `value` with `len` bytes at gpa. Other values exit. */
	int (*io_fd)(struct vm *vm, uint64_t gpa, unsigned len, uint32_t value);
	unsigned max_cpus;
	/* True when the engine brings these devices itself. */
	bool has_pic, has_pit;

	/* The debugger's view; only while the vCPU is not running. */
	int (*get_state)(struct vm *vm, struct vcpu *out);
	int (*set_state)(struct vm *vm, const struct vcpu *in);
	/* gva to gpa by the guest's present tables. 0, or -EFAULT. */
	int (*translate)(struct vm *vm, uint64_t gva, uint64_t *gpa);
	/* Guest memory was written by somebody else than the guest: a debugger, a device. NULL where nothing depends on it. Called with the
	 * vCPU not running. */
	void (*memory_written)(struct vm *vm, uint64_t gpa, uint64_t len);
	/* What the engine has to say in --stats json, each item with a comma before it. NULL where there is nothing. */
	void (*stats)(struct vm *vm, FILE *out);
	/* single: stop after one instruction. Breakpoints are int3 bytes that the stub keeps in guest memory; guest_debug
	 * says that there are some, so that a #BP belongs to the debugger first. */
	int (*set_debug)(struct vm *vm, bool single, bool breakpoints);

	/*
	 * Saving and migration (migration.h). With the lock held and the vCPUs standing (vm_pause()), unless it says otherwise; on whatever
	 * thread. What an engine loads has been put into a VM that create() has made and that never ran.
	 */
	const char *state_kind; /* whose vCPU state it takes: "vcpu" (struct vcpu) or "kvm" */
	/* The state of one vCPU; of the engine's time (TSC, kvmclock; loading: vm->gap_ns later than they were when it was saved); of
	 * interrupt controllers that are the engine's own (NULL: none). */
	void (*cpu_io)(struct vm *vm, unsigned cpu, struct state_io *io);
	void (*clock_io)(struct vm *vm, struct state_io *io);
	void (*chips_io)(struct vm *vm, struct state_io *io);
	/* What the guest's CPUID answers. 0 or -errno. NULL: nothing that depends on the host. */
	int (*cpuid_table)(struct vm *vm, struct cpuid_table *out);
	/* From now on the guest's CPUID answers what it answered where it came from, also where this machine could do more: a guest looks
	 * once, and the layout of XSAVE's area, for one, depends on it. Behind cpuid_covers(), before cpu_io(). 0 or -errno.
	 * NULL as above. */
	int (*cpuid_put)(struct vm *vm, const struct cpuid_table *seen);
	/* Which pages vCPUs write: on from log_start(); log_fetch() sets (never clears) the bits of those written since then or
	 * since it was called last, and begins anew. 0 or -errno. */
	int (*log_start)(struct vm *vm);
	int (*log_fetch)(struct vm *vm, uint64_t *bitmap);
	void (*log_stop)(struct vm *vm);
	bool log_runs; /* these three also work while the vCPUs run, and without the lock */
};

extern const struct engine_ops engine_trap, engine_hvm, engine_kvm;

/* The engine of that name, or NULL. */
const struct engine_ops *engine_find(const char *name);

#endif
