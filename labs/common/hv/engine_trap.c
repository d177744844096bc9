/*
 * The trap engine: the guest runs deprivileged, at CPL 3, under the monitor's IDT (monitor.c). This file is the loop around
 * the world switch (trap_switch.c): it lets the guest run, looks at what came back, and calls the lab's handle_trap() and
 * deliver_event(). The guest's state is struct vcpu and nothing else.
 */
#include "gdbstub.h"
#include "irqchip.h"
#include "machine_state.h"
#include "shadow_paging.h"
#include "trap_state.h"
#include "vm_pause.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* A #DB: the end of a step that hv wanted, the guest's own single step, or its debug registers. */
static int handle_debug(struct vcpu *v, struct trap_engine *e, bool *debugger)
{
	struct kvm_debugregs d;

	if (ioctl(e->m.vcpu_fd, KVM_GET_DEBUGREGS, &d) < 0)
		return machine_error(&e->m, "KVM_GET_DEBUGREGS");
	if (e->step) {
		uint8_t op = 0;
		uint64_t word, gpa;
		/* pushf stored the machine's TF, which is hv's and not the guest's: bit 8, so it is in one byte of the word. */
		if (gva_peek(v, e->entry_rip, &op, 1) && op == 0x9c && !(v->rflags & FLAG_TF) &&
		    gva_peek(v, v->gpr[RSP] + 1, &word, 1) && !gva_translate(v, v->gpr[RSP] + 1, &gpa)) {
			word &= ~(FLAG_TF >> 8);
			guest_write(&v->vm->mem, gpa, &word, 1);
		}
		v->shadow = false;
		if (v->vm->shadow)
			v->vm->shadow->store.times = 0;
		*debugger = e->debug_step;
		if (!(v->rflags & FLAG_TF) && !(d.dr6 & 0xf)) {
			e->debugregs_changed = true; /* BS in the machine's DR6 is about hv's step: take it back */
			return 0;
		}
	}
	v->dr[6] = d.dr6;
	v->vm->trace.interventions++;
	raise_exception(v, VEC_DB);
	return 0;
}

static int handle_syscall(struct vcpu *v)
{
	struct insn insn;

	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	trace_count(v->vm->trace.mnemonic, "syscall");
	switch (emulate_syscall(v, &insn)) {
	case EMU_STOP:
		return -ECANCELED;
	case EMU_NEXT:
		v->rip += insn.len;
		return 0;
	default:
		return 0;
	}
}

/* Some software KVMs let `syscall` jump to LSTAR without leaving CPL 3, so that the monitor's page refuses it. Then the machine's
 * RCX and R11 tell where it came from, and the trap frame of the refusal is as good as any. */
static bool syscall_without_privilege(struct vcpu *v, const struct trap_engine *e, const struct trap_frame *f)
{
	static const uint8_t syscall[2] = { 0x0f, 0x05 };
	uint8_t bytes[2];

	/* A guest that was sent there, by its own LSTAR for one, gets the page fault. */
	if (f->rip != MONITOR_GVA + MON_SYSCALL || e->entry_rip == f->rip || gva_peek(v, v->gpr[RCX] - 2, bytes, 2) != 2 ||
	    memcmp(bytes, syscall, 2))
		return false;
	v->rip = v->gpr[RCX] - 2;
	v->rflags = (v->rflags & (FLAG_IF | FLAG_IOPL)) | (v->gpr[R11] & ~(FLAG_IF | FLAG_IOPL));
	return true;
}

/*
 * The guest single-steps, and hv has emulated the instruction at rip: the machine stepped over nothing, so the #DB behind the
 * instruction is up to hv. TF counts as it was before the instruction. (SDM vol. 3, 17.3.1.4)
 */
static void step_over_emulated(struct vcpu *v, uint64_t rip, bool tf)
{
	uint8_t bytes[INSN_MAX];
	struct insn insn;

	if (v->event.pending || !(tf || (v->rflags & FLAG_TF)))
		return;
	if (insn_decode(bytes, gva_peek(v, rip, bytes, INSN_MAX), 64, &insn) && !patch_fetch(v, rip, &insn))
		return;
	switch (insn.op) {
	case INSN_INT: case INSN_INT3: case INSN_INT1: /* the handler is not stepped */
		return;
	case INSN_SYSCALL: case INSN_SYSRET: /* these two look at the new flags: the kernel is not stepped, its caller is */
		tf = v->rflags & FLAG_TF;
		break;
	case INSN_MOV_TO_SREG: /* the shadow of a load of SS keeps debug exceptions off too (SDM vol. 3, 6.8.3) */
		tf = tf && insn.dst.reg != SS;
		break;
	default:
		break;
	}
	if (!tf)
		return;
	v->dr[6] = (v->dr[6] & ~DR6_BREAKPOINTS) | DR6_BS; /* no breakpoint was it (SDM vol. 3, 17.2.3) */
	trap_debugregs_changed(v);
	raise_exception(v, VEC_DB);
}

/*
 * True when the trap was an int3 and rip is behind it; everything above wants the instruction itself. Hosts that let int3 through
 * report a trap (#BP), for which this is right; QEMU 7.2 does it now and then with the #GP of the refused gate.
 */
static bool int3_behind(const struct vcpu *v, uint8_t vector, uint32_t error)
{
	uint8_t code[2] = { 0 }; /* the bytes before rip and at rip */

	if (!gva_peek(v, v->rip - 1, code, 2) || code[0] != 0xcc)
		return false;
	/* The manual's error code for vector 3 of the IDT, and QEMU's. */
	return vector == VEC_BP || (vector == VEC_GP && (error == 0x1a || error == 0x32) && code[1] != 0xcc);
}

/* One trap, from the monitor's stub `vector`. */
static int handle_vector(struct vcpu *v, struct trap_engine *e, uint8_t vector, bool *debugger)
{
	struct vm *vm = v->vm;
	struct trap_frame *f = monitor_frame(e->mon);
	e->what = vector_name(vector);
	vm->trace.trap[vector]++;
	if (f->cs != GUEST_CS)
		return vm_stop(vm, HV_STOPPED,
			       "the monitor itself faulted (%s at 0x%llx): the state hv resumed the guest with is impossible", e->what,
			       (unsigned long long)f->rip);
	trap_leave_by_frame(v, e);
	e->rip = v->rip;
	e->hidden = false;
	if (!vm->trace.first_trap.seen) {
		vm->trace.first_trap.seen = true;
		vm->trace.first_trap.vector = vector;
		vm->trace.first_trap.rip = v->rip;
		vm->trace.first_trap.rax = v->gpr[RAX];
	}
	if (vector == VEC_DB)
		return handle_debug(v, e, debugger);
	vm->trace.interventions++;
	if (vector == VEC_PF && syscall_without_privilege(v, e, f))
		return handle_syscall(v);
	if (int3_behind(v, vector, (uint32_t)f->error))
		e->rip = --v->rip;
	if (e->debug_breakpoints && gdbstub_has_breakpoint(vm, v->rip)) {
		*debugger = true;
		return 0;
	}
	bool held_off = v->shadow;
	v->shadow = false; /* this instruction completes or faults now; STI sets it again */
	uint32_t error = (uint32_t)f->error;
	bool tf = v->rflags & FLAG_TF;
	if (vector != VEC_PF && vm->shadow)
		vm->shadow->last.times = 0;
	int err = vector == VEC_PF ? trap_page_fault(v, e, error) : handle_trap(v, vector, error);
	if (err)
		return err;
	if (e->hidden) {
		/* To the guest nothing has happened: interrupts stay held off, and no breakpoint strikes here a second time. */
		v->shadow = held_off;
		v->rflags |= FLAG_RF;
	} else {
		step_over_emulated(v, e->rip, tf);
	}
	return 0;
}

static void describe(struct vcpu *v, struct trap_engine *e)
{
	struct insn insn;
	uint8_t bytes[INSN_MAX];

	if (!v->vm->trace.exits)
		return;
	e->text[0] = 0;
	v->vm->trace.note[0] = 0;
	unsigned n = gva_peek(v, v->rip, bytes, INSN_MAX);
	if ((n && !insn_decode(bytes, n, 64, &insn)) || patch_fetch(v, v->rip, &insn))
		insn_text(&insn, v->rip, e->text, sizeof e->text);
}

static int handle_io(struct vcpu *v, struct trap_engine *e, const struct machine_exit *x, bool *debugger)
{
	struct vm *vm = v->vm;
	uint64_t at = e->m.run->s.regs.regs.rip;
	int err;

	if (at < MONITOR_GVA || !x->write || x->size != 1)
		return vm_stop(vm, HV_STOPPED, "the guest reached a real port of the machine (0x%llx) at rip 0x%llx",
			       (unsigned long long)x->addr, (unsigned long long)at);
	e->under_way = false;
	if (x->addr == MON_PORT_SYSCALL) {
		trap_leave_by_syscall(v, e);
		vm->trace.interventions++;
		trace_count(vm->trace.kind, "syscall");
		e->what = "syscall";
		e->rip = v->rip;
		describe(v, e);
		v->shadow = false;
		err = handle_syscall(v);
	} else {
		v->rip = monitor_frame(e->mon)->rip;
		describe(v, e);
		err = handle_vector(v, e, (uint8_t)x->addr, debugger);
	}
	if (vm->trace.exits) {
		if (v->event.pending && !vm->trace.note[0])
			trap_note(v, "raises %s", vector_name(v->event.vector));
		trace_exit(vm, e->what, e->rip, e->text, "%s", vm->trace.note);
	}
	return err;
}

/* Waits in HLT until an interrupt can be taken, or somebody wants something. */
static int wait_halted(struct vcpu *v)
{
	struct vm *vm = v->vm;

	if (!(v->rflags & FLAG_IF))
		return vm_stop(vm, HV_STOPPED, "the guest halted with interrupts off at rip 0x%llx: nothing can ever wake it",
			       (unsigned long long)v->rip);
	pthread_mutex_lock(&vm->lock);
	while (!vm->stopping && !irqchip_pending(vm) && !vm->kicked)
		pthread_cond_wait(&vm->wake, &vm->lock);
	if (irqchip_pending(vm))
		v->halted = false;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int deliver_pending(struct vcpu *v)
{
	if (!canonical(v->rip) && !v->event.pending)
		raise_error(v, VEC_GP, 0); /* iretq would fault in the monitor instead of in the guest */
	while (v->event.pending) {
		v->vm->trace.delivered[v->event.vector]++;
		v->halted = false;
		if (deliver_event(v))
			return -ECANCELED;
		if (!canonical(v->rip))
			raise_error(v, VEC_GP, 0);
	}
	return 0;
}

/* Everything that happens between two runs of the guest: exceptions in, interrupts in. */
static int before_entry(struct vcpu *v, struct trap_engine *e)
{
	struct vm *vm = v->vm;

	if (deliver_pending(v))
		return -ECANCELED;
	e->step = e->debug_step || (vm->shadow && vm->shadow->store.armed);
	/* An interrupt that comes up behind this also kicks, and is seen the next time round. */
	if (!irqchip_pending(vm))
		return 0;
	if (interrupt_window_open(v)) {
		v->event = (struct event){ .pending = true, .kind = EVENT_INTERRUPT, .vector = irqchip_acknowledge(vm) };
		trace_exit(vm, "interrupt", v->rip, NULL, "vector %u", v->event.vector);
		return deliver_pending(v);
	}
	if ((v->rflags & FLAG_IF) && v->shadow)
		e->step = true; /* one instruction, then the interrupt */
	return 0;
}

static enum run_result trap_run(struct vm *vm)
{
	struct trap_engine *e = vm->engine_state;
	struct vcpu *v = &vm->vcpu;
	struct machine_exit x;

	while (!vm->stopping) {
		bool debugger = false;
		/* The order matters: whoever wants something sets it first and kicks then, so a kick after these two lines makes
		 * KVM_RUN return at once, and one before them is seen by the checks below. */
		e->m.run->immediate_exit = 0;
		vm->kicked = false;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (!e->under_way) {
			vm_park(vm);
			if (vm->gdb && gdbstub_take_interrupt(vm))
				return RUN_DEBUG;
			if (before_entry(v, e))
				break;
			if (v->halted) {
				if (wait_halted(v))
					break;
				continue;
			}
			if (trap_enter(v, e))
				break;
		}
		if (vm->stopping)
			break;
		trace_enter_guest(&vm->trace.cpu[0]);
		int err = machine_run(&e->m, &x);
		trace_leave_guest(&vm->trace.cpu[0]);
		shadow_store_over(v);
		written_apply(vm);
		if (err)
			break;
		switch (x.kind) {
		case MACHINE_KICKED:
			trace_count(vm->trace.kind, "interrupted");
			trap_leave_by_kick(v, e);
			break;
		case MACHINE_IO:
			if (handle_io(v, e, &x, &debugger))
				break;
			if (!debugger && (!e->debug_step || e->hidden))
				break;
			/* A single step over an instruction that raised an exception ends at the handler's first instruction. */
			if (deliver_pending(v))
				break;
			return RUN_DEBUG;
		case MACHINE_SHUTDOWN:
			vm_stop(vm, HV_STOPPED,
				"the machine itself shut down (triple fault) at rip 0x%llx: the monitor's tables are damaged",
				(unsigned long long)e->m.run->s.regs.regs.rip);
			break;
		case MACHINE_FAILED:
			break;
		default:
			vm_stop(vm, HV_STOPPED, "the machine came back in a way the trap engine never asks for (kind %d)", x.kind);
		}
	}
	return RUN_STOPPED;
}

static int trap_create(struct vm *vm, const struct boot_state *boot)
{
	if (boot->mode != BOOT_LONG)
		return vm_stop(vm, HV_USAGE,
			       "%s: this %s starts in %s mode, and the trap engine runs 64-bit code only; "
			       "--engine kvm and --engine hvm run it",
			       vm->opt.image, boot->kind, boot->mode == BOOT_REAL ? "real" : "32-bit protected");
	struct trap_engine *e = calloc(1, sizeof *e);

	if (!e)
		return -ENOMEM;
	vm->engine_state = e;
	if (trap_machine_create(e, vm, boot))
		return -ECANCELED;
	return vm->opt.patch && boot->kind ? patch_image(&vm->vcpu, boot) : 0;
}

static void trap_destroy(struct vm *vm)
{
	struct trap_engine *e = vm->engine_state;

	if (!e)
		return;
	machine_close(&e->m);
	if (vm->shadow)
		spt_destroy(vm->shadow);
	free(vm->shadow);
	vm->shadow = NULL;
	if (e->mon)
		munmap(e->mon, MONITOR_SIZE + POOL_SIZE);
	free(e);
	vm->engine_state = NULL;
}

static void trap_kick(struct vm *vm)
{
	struct trap_engine *e = vm->engine_state;
	if (e && e->m.run)
		e->m.run->immediate_exit = 1;
}

static int trap_get_state(struct vm *vm, struct vcpu *out)
{
	trap_refresh_segments(&vm->vcpu);
	*out = vm->vcpu;
	return 0;
}

static int trap_set_state(struct vm *vm, const struct vcpu *in)
{
	vm->vcpu = *in;
	trap_special_changed(&vm->vcpu);
	trap_debugregs_changed(&vm->vcpu);
	return 0;
}

static int trap_translate(struct vm *vm, uint64_t gva, uint64_t *gpa) { return gva_translate(&vm->vcpu, gva, gpa); }

static void trap_memory_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	if (vm->shadow)
		shadow_written(&vm->vcpu, gpa, len);
}

static int trap_set_debug(struct vm *vm, bool single, bool breakpoints)
{
	struct trap_engine *e = vm->engine_state;
	e->debug_step = single;
	e->debug_breakpoints = breakpoints;
	return 0;
}

const struct engine_ops engine_trap = {
	.name = "trap",
	.what = "trap and emulate: the guest runs deprivileged at CPL 3, hv emulates what traps",
	.create = trap_create,
	.destroy = trap_destroy,
	.run = trap_run,
	.kick = trap_kick,
	.irq_line = irqchip_set_line,
	.max_cpus = 1,
	.get_state = trap_get_state,
	.set_state = trap_set_state,
	.translate = trap_translate,
	.memory_written = trap_memory_written,
	.set_debug = trap_set_debug,
	.state_kind = "vcpu",
	.cpu_io = trap_cpu_io,
	.clock_io = machine_clock_io,
	.log_start = trap_log_start,
	.log_fetch = trap_log_fetch,
	.log_stop = trap_log_stop,
};
