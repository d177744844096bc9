/*
 * The trap engine's hooks for saving and migration. The VM stands in vm_park(): the guest is between two entries, so struct vcpu is its
 * state but for what the machine's own registers hold of it (bases of FS and GS, the FPU).
 */
#include "trap_state.h"
#include "vcpu_state.h"

#include <string.h>

void trap_cpu_io(struct vm *vm, unsigned cpu, struct state_io *io)
{
	struct trap_engine *e = vm->engine_state;
	struct vcpu_state s;
	int err;

	(void)cpu; /* there is one */
	if (!io->loading)
		trap_refresh_segments(&vm->vcpu);
	vcpu_state_of(vm, &s);
	if (!io->loading && machine_fpu_get(&e->m, &s.fpu)) {
		machine_error(&e->m, "KVM_GET_XSAVE");
		return;
	}
	vcpu_state_io(&s, io);
	if (!io->loading || state_failed(io))
		return;
	err = machine_fpu_put(&e->m, &s.fpu);
	if (!state_check(io, !err, "KVM does not take its FPU: %s", strerror(-err)))
		return;
	/* That NMIs are blocked is forgotten: there are none. Shadows are empty, since this guest has not run here. */
	vm->vcpu = s.cpu;
	trap_special_changed(&vm->vcpu);
	trap_debugregs_changed(&vm->vcpu);
}

static struct machine_slot slot_of(const struct vm *vm)
{
	return (struct machine_slot){ .slot = TRAP_GUEST_SLOT, .ma = GUEST_MA, .hva = vm->mem.hva, .size = vm->mem.size };
}

int trap_log_start(struct vm *vm)
{
	struct machine_slot slot = slot_of(vm);

	return machine_log_start(vm->machine, &slot);
}

int trap_log_fetch(struct vm *vm, uint64_t *bitmap)
{
	struct machine_slot slot = slot_of(vm);

	return machine_log_fetch(vm->machine, &slot, 0, vm->mem.size / PAGE, bitmap);
}

void trap_log_stop(struct vm *vm)
{
	struct machine_slot slot = slot_of(vm);

	machine_log_stop(vm->machine, &slot);
}
