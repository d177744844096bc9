/*
 * Pausing a VM: every vCPU waits outside the guest, for as long as somebody wants it to (a control command, saving). vCPUs stand
 * still then; devices and their timers go on, so an interrupt may become pending, and a request under way may still write its answer.
 */
#ifndef HV_VM_PAUSE_H
#define HV_VM_PAUSE_H

#include "engine.h"

/*
 * Returns when no vCPU is in the guest: 0, and each of them waits until vm_resume(). -ECANCELED when the VM stops meanwhile, -ETIMEDOUT
 * when a vCPU did not look up within two seconds (it loops in the code of an exit's handler); then nothing is paused by this call.
 * Pauses nest: the guest goes on when there was a vm_resume() for each that returned 0.
 *
 * Call it with the lock held, and held once, as it is in every callback of the event loop; it is free while this waits. Never call it
 * on a vCPU's thread, which would wait for itself. A guest that stands still in the debugger is outside, and stays there: when the
 * debugger lets it go on, it waits for vm_resume() first.
 */
int vm_pause(struct vm *vm);
/* With the lock held. */
void vm_resume(struct vm *vm);

/* --- the vCPUs' side, without the lock ------------------------------------------------------------------------------- */

/* Around the time in which a vCPU's thread may enter the guest. vm_cpu_begin() waits while the VM is paused. */
void vm_cpu_begin(struct vm *vm);
void vm_cpu_end(struct vm *vm);
/* The engine's run() between these two; this is how everybody calls it. */
enum run_result vm_run(struct vm *vm);

/* Where a run loop looks whether the VM is to stop, once it has taken back its kick: waits while the VM is paused. */
static inline void vm_park(struct vm *vm)
{
	if (!vm->pauses)
		return;
	vm_cpu_end(vm);
	vm_cpu_begin(vm);
}

#endif
