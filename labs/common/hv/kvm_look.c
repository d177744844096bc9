#include "kvm_engine.h"

#include <sys/ioctl.h>

#define LOOK_AFTER_NS 100000000ull

static void look_tick(void *opaque)
{
	struct vm *vm = opaque;
	struct kvm_engine *e = vm->engine_state;

	e->look_round++;
	for (unsigned i = 0; i < e->ncpus; i++)
		e->cpu[i].look_due = true;
	vm_kick(vm);
	loop_timer_set(&vm->loop, &e->look_timer, clock_ns() + LOOK_AFTER_NS);
}

void kvm_look_start(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;

	e->look_timer.fn = look_tick;
	e->look_timer.opaque = vm;
	loop_timer_set(&vm->loop, &e->look_timer, clock_ns() + LOOK_AFTER_NS);
}

void kvm_look_stop(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;
	loop_timer_set(&vm->loop, &e->look_timer, 0);
}

/*
 * On a machine that is itself nested and emulated, the exit that says "the guest takes interrupts again" can get lost. KVM then
 * holds a pending interrupt for ever (seen in the test host: the 8259's request set, nothing masked, IF on, and Linux waiting
 * for its first tick in calibrate_delay). Registers that are written, even unchanged, make KVM look at pending events again.
 * But they also make KVM forget an exception that it has found and not delivered yet. A fault would come again, a single step's
 * #DB would not: then the next time will do. And they take back the TF with which KVM itself single-steps; but then it exits, and
 * looks at events, behind every instruction anyway.
 */
static void look_at_events(struct kvm_cpu *c)
{
	const struct kvm_engine *e = c->vm->engine_state;
	struct kvm_vcpu_events events;

	if (!e->stepping && (ioctl(c->m.vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0 ||
			     !(events.exception.injected || events.exception.pending)))
		c->m.run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

/*
 * Notes whether this vCPU was found unable to go on by itself. When that is so for all, nothing can wake any of them, and KVM would
 * wait in the kernel for ever.
 */
static int note(struct kvm_cpu *c, bool dead)
{
	struct vm *vm = c->vm;
	struct kvm_engine *e = vm->engine_state;
	unsigned long long rip = e->cpu[0].m.run->s.regs.regs.rip;
	/* The looks are not at the same moment: one that is already looked at may be woken by an NMI of one that is not. In the next
	 * round it is seen running, or it is dead since before the others were looked at again. */
	unsigned times = e->ncpus > 1 ? 2 : 1;
	bool all = true;

	pthread_mutex_lock(&vm->lock);
	c->dead_times = dead ? c->dead_times + 1 : 0;
	c->dead_round = e->look_round;
	for (unsigned i = 0; i < e->ncpus; i++)
		all = all && e->cpu[i].dead_times >= times && e->cpu[i].dead_round == e->look_round;
	pthread_mutex_unlock(&vm->lock);
	if (!all)
		return 0;
	if (e->ncpus == 1)
		return vm_stop(vm, HV_STOPPED, "the guest halted with interrupts off at rip 0x%llx: nothing can ever wake it", rip);
	return vm_stop(vm, HV_STOPPED,
		       "all %u vCPUs are halted with interrupts off or were never started, vCPU 0 at rip 0x%llx: nothing can ever "
		       "wake them", e->ncpus, rip);
}

int kvm_look_after(struct kvm_cpu *c)
{
	struct kvm_mp_state mp;

	c->look_due = false;
	if (ioctl(c->m.vcpu_fd, KVM_GET_MP_STATE, &mp) < 0)
		return 0;
	if (mp.mp_state == KVM_MP_STATE_RUNNABLE || mp.mp_state == KVM_MP_STATE_HALTED)
		look_at_events(c);
	if (mp.mp_state == KVM_MP_STATE_HALTED)
		return note(c, !(c->m.run->s.regs.regs.rflags & FLAG_IF));
	return note(c, mp.mp_state != KVM_MP_STATE_RUNNABLE); /* else it waits for INIT or SIPI */
}
