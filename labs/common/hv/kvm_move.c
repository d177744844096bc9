/*
 * The kvm engine's side of saving and migration, but for time (kvm_clock.c) and interrupt controllers (kvm_chips.c): vCPUs, what CPUID
 * answers, and the log of the pages that they write.
 */
#include "kvm_cpuid.h"
#include "kvm_engine.h"
#include "lab5.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Registers of a local APIC (SDM vol. 3, table 11-1). */
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_TIMER_NOW 0x390
#define LAPIC_TIMER_DIVIDE 0x3e0

/*
 * A guest may be a hypervisor, if the host's KVM allows that. While its own guest runs, what KVM calls the vCPU's registers are that
 * guest's, and behind them stands a second set that hv does not know. 0, or -errno with a sentence in c->err.
 */
static int check_nested(struct kvm_cpu *c)
{
	struct kvm_nested_state n = { .size = sizeof n };

	if (ioctl(c->m.kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE) <= 0)
		return 0;
	/* E2BIG: there is more than the header, so there is such a guest. */
	if (ioctl(c->m.vcpu_fd, KVM_GET_NESTED_STATE, &n) == 0 &&
	    !(n.flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING)) &&
	    (n.format != KVM_STATE_NESTED_FORMAT_VMX || n.hdr.vmx.vmxon_pa == ~0ull) &&
	    (n.format != KVM_STATE_NESTED_FORMAT_SVM || n.flags & KVM_STATE_NESTED_GIF_SET))
		return 0;
	snprintf(c->err, sizeof c->err, "vCPU %u runs a virtual machine of its own, whose state hv cannot take", c->id);
	return -ENOTSUP;
}

static uint32_t *lapic_register(struct kvm_lapic_state *l, unsigned reg)
{
	return (uint32_t *)(l->regs + reg);
}

/*
 * The local APIC's timer as it is `ns` later (or earlier, if that is negative). KVM gives and takes what is left of its count at the moment
 * of the call; the TSC goes on from when the VM was stopped, and a guest sees both. KVM's timer counts ns, after its divider (SDM vol. 3,
 * 11.5.4). In TSC-deadline mode there is no count. A count of 0 stays: KVM fires such a timer when it is put back, because one that ran
 * out while its vCPU stood still looks like this too; so one that has fired long ago may fire once more.
 */
static void turn_timer(struct kvm_lapic_state *l, int64_t ns)
{
	uint32_t mode = *lapic_register(l, LAPIC_LVT_TIMER) >> 17 & 3, divide = *lapic_register(l, LAPIC_TIMER_DIVIDE);
	unsigned shift = ((divide & 3) + (divide >> 1 & 4) + 1) & 7;
	uint32_t *count = lapic_register(l, LAPIC_TIMER_NOW);
	int64_t period = (int64_t)*lapic_register(l, LAPIC_TIMER_COUNT) << shift;
	int64_t left = ((int64_t)*count << shift) - ns;

	if (mode > 1 || !period || !*count)
		return;
	if (mode == 1) /* it begins again and again */
		left = ((left - 1) % period + period) % period + 1;
	*count = (uint32_t)((left < 0 ? 0 : left > period ? period : left) >> shift);
}

void kvm_cpu_io(struct vm *vm, unsigned cpu, struct state_io *io)
{
	struct kvm_engine *e = vm->engine_state;
	struct kvm_cpu *c = &e->cpu[cpu];
	struct kvm_cpu_state *state = calloc(1, sizeof *state);
	int err = state ? 0 : -ENOMEM;

	c->err[0] = 0;
	if (!err && !io->loading && !(err = check_nested(c)))
		err = kvm_cpu_take(c, state);
	if (!err && !io->loading)
		turn_timer(&state->lapic, (int64_t)(io->now_ns - state->lapic_at));
	if (!err)
		kvm_cpu_state_io(state, io);
	if (!err && io->loading)
		turn_timer(&state->lapic, (int64_t)(clock_ns() - io->now_ns));
	if (!err && io->loading && !state_failed(io) && !(err = kvm_cpu_put(c, state)))
		/* The guest's watchdogs shall not take the time on the way for one in which it hung. EINVAL: it has no kvmclock. */
		ioctl(c->m.vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
	if (err)
		state_fail(io, "%s", c->err[0] ? c->err : strerror(-err));
	free(state);
}

int kvm_cpuid_table(struct vm *vm, struct cpuid_table *out)
{
	const struct kvm_engine *e = vm->engine_state;
	const struct kvm_cpuid2 *cpuid = e->cpu[0].m.cpuid;

	_Static_assert(MACHINE_CPUID_MAX <= CPUID_TABLE_MAX, "all of it fits");
	out->n = cpuid->nent;
	memcpy(out->entry, cpuid->entries, cpuid->nent * sizeof out->entry[0]);
	return 0;
}

int kvm_cpuid_put(struct vm *vm, const struct cpuid_table *seen)
{
	struct kvm_engine *e = vm->engine_state;

	if (seen->n > MACHINE_CPUID_MAX)
		return -E2BIG;
	for (unsigned id = 0; id < e->ncpus; id++) {
		struct kvm_cpuid2 *cpuid = e->cpu[id].m.cpuid;

		cpuid->nent = seen->n;
		memcpy(cpuid->entries, seen->entry, seen->n * sizeof seen->entry[0]);
		kvm_cpuid_topology(cpuid, id, e->ncpus);
		if (ioctl(e->cpu[id].m.vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
			return -errno;
	}
	return 0;
}

/* --- which pages vCPUs write -------------------------------------------------------------------------------------- */

/* Slot 0 is all of guest memory, as kvm_create() made it; its flags may change while it is in use (KVM API 4.35). */
static int set_logging(struct vm *vm, bool on)
{
	const struct kvm_engine *e = vm->engine_state;
	struct kvm_userspace_memory_region region = { .slot = 0,
						      .flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
						      .memory_size = vm->mem.size,
						      .userspace_addr = (uintptr_t)vm->mem.hva };

	return ioctl(e->cpu[0].m.vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

int kvm_log_start(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;
	int err;

	e->dirty = calloc(page_words(vm), sizeof *e->dirty);
	if (!e->dirty)
		return -ENOMEM;
	err = set_logging(vm, true);
	if (err)
		kvm_log_stop(vm);
	return err;
}

int kvm_log_fetch(struct vm *vm, uint64_t *bitmap)
{
	struct kvm_engine *e = vm->engine_state;
	struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = e->dirty };

	/* Reads and clears, and write-protects what it clears: a write from now on is in the next one (KVM API 4.8). */
	if (ioctl(e->cpu[0].m.vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
		return -errno;
	for (uint64_t i = 0; i < page_words(vm); i++)
		bitmap[i] |= e->dirty[i];
	return 0;
}

void kvm_log_stop(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;

	set_logging(vm, false);
	free(e->dirty);
	e->dirty = NULL;
}
