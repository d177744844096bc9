/*
 * The kvm engine: the guest runs at CPL 0, in the machine itself. KVM does the CPU, the memory and the interrupt controllers; hv
 * does the devices. This is the division of labour between KVM and QEMU, and enough to boot Linux.
 */
#include "gdbstub.h"
#include "kvm_state.h"
#include "vm_life.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* How often the vCPU is looked at, see look_after(). */
#define LOOK_AFTER_NS 100000000ull

/*
 * KVM reports DR7 with a single step that the processor made, and leaves the field alone behind an instruction that exited to KVM and
 * was carried out there (arch/x86/kvm/x86.c, kvm_vcpu_do_singlestep). So this value, which DR7 never has, tells the two apart.
 */
#define NOT_BY_THE_CPU (~0ull)

/* Where a CPU begins after a reset (SDM vol. 3, 9.1.4). */
#define RESET_BASE 0xffff0000ull
#define RESET_IP 0xfff0ull

/* Where a trial instruction is put: boot data, which comes back as it was. */
#define PROBE_AT BOOT_START_INFO

struct kvm_engine {
	struct machine m;
	struct loop_timer look_timer;
	volatile bool look_due;
	bool int3_exits; /* a breakpoint's int3 comes back to hv; otherwise breakpoints are found by single-stepping */
	bool debug_step; /* the debugger asked for one instruction */
	bool stepping;   /* KVM single-steps, for that or to find breakpoints */
};

static int put_vcpu(struct kvm_engine *e, const struct vcpu *v)
{
	const char *call;

	return kvm_set_vcpu(&e->m, v, &call) ? machine_error(&e->m, call) : 0;
}

/*
 * Does an int3 come back as an exit when KVM_SET_GUEST_DEBUG asks for it? Not on a machine that cannot intercept it (QEMU 7.2's
 * emulated SVM), and the only way to know is to try: one int3 without an IDT either exits or ends in a triple fault.
 */
static bool probe_int3(struct vm *vm, struct kvm_engine *e, const struct vcpu *boot)
{
	uint8_t int3 = 0xcc, before;
	struct vcpu there = *boot;
	struct kvm_guest_debug on = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP }, off = { 0 };
	struct machine_exit x = { .kind = MACHINE_FAILED };

	there.rip = PROBE_AT;
	there.idtr = (struct dtable){ 0 };
	if (guest_read(&vm->mem, PROBE_AT, &before, 1) || guest_write(&vm->mem, PROBE_AT, &int3, 1) || put_vcpu(e, &there) ||
	    ioctl(e->m.vcpu_fd, KVM_SET_GUEST_DEBUG, &on) < 0)
		return false;
	int err = machine_run(&e->m, &x);
	ioctl(e->m.vcpu_fd, KVM_SET_GUEST_DEBUG, &off);
	guest_write(&vm->mem, PROBE_AT, &before, 1);
	put_vcpu(e, boot);
	return !err && x.kind == MACHINE_DEBUG;
}

/* In-kernel 8259s, IOAPIC, local APIC and 8254, on the addresses that Intel's VT-x needs to be told. */
static int create_chips(struct machine *m)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY }; /* with a live port 0x61 */
	uint64_t identity_map = 0xfffbc000;

	if (ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		return machine_error(m, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(m->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0)
		return machine_error(m, "KVM_SET_TSS_ADDR");
	if (ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return machine_error(m, "KVM_CREATE_IRQCHIP");
	if (ioctl(m->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return machine_error(m, "KVM_CREATE_PIT2");
	return 0;
}

static void look_tick(void *opaque)
{
	struct vm *vm = opaque;
	struct kvm_engine *e = vm->engine_state;

	e->look_due = true;
	vm_kick(vm);
	loop_timer_set(&vm->loop, &e->look_timer, clock_ns() + LOOK_AFTER_NS);
}

static int kvm_create(struct vm *vm, const struct boot_state *boot)
{
	struct kvm_engine *e = calloc(1, sizeof *e);
	struct vcpu v = { .vm = vm };

	if (!e)
		return -ENOMEM;
	vm->engine_state = e;
	vm->all_modes = true;
	boot_vcpu(&v, boot);
	if (machine_open(&e->m, vm) || machine_create(&e->m) || create_chips(&e->m) ||
	    machine_add_memory(&e->m, 0, 0, vm->mem.hva, vm->mem.size) || machine_add_vcpu(&e->m))
		return -ECANCELED;
	machine_native_tsc(&e->m);
	e->m.run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	if (put_vcpu(e, &v))
		return -ECANCELED;
	if (vm->opt.gdb_port >= 0)
		e->int3_exits = probe_int3(vm, e, &v);
	e->look_timer.fn = look_tick;
	e->look_timer.opaque = vm;
	loop_timer_set(&vm->loop, &e->look_timer, clock_ns() + LOOK_AFTER_NS);
	return 0;
}

static void kvm_destroy(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;

	if (!e)
		return;
	loop_timer_set(&vm->loop, &e->look_timer, 0);
	machine_close(&e->m);
	free(e);
	vm->engine_state = NULL;
}

/* Instruction text, empty where there is none; the registers are fetched, which only a trace or an ending is worth. */
static const char *text_now(struct vm *vm, struct vcpu *v, char *buf, size_t len)
{
	struct insn insn;

	buf[0] = 0;
	if (!vm->engine->get_state(vm, v) && vm_insn_at(vm, v, &insn))
		insn_text(&insn, v->rip, buf, len);
	return buf;
}

static void trace_access(struct vm *vm, struct kvm_engine *e, const struct machine_exit *x, const char *kind, struct bus *bus)
{
	uint64_t rip = e->m.run->s.regs.regs.rip, value = 0;
	const char *dev = bus_device_name(bus, x->addr);
	struct vcpu v;
	char text[96];

	if (!vm->trace.exits)
		return;
	memcpy(&value, x->data, x->size);
	trace_exit(vm, kind, rip, text_now(vm, &v, text, sizeof text), "%s 0x%llx %s 0x%llx (%s)", bus->name,
		   (unsigned long long)x->addr, x->write ? "write" : "read", (unsigned long long)value, dev ? dev : "nothing answers");
}

/* Port and memory accesses: each element to the bus. */
static void handle_access(struct vm *vm, struct kvm_engine *e, const struct machine_exit *x)
{
	bool port = x->kind == MACHINE_IO;
	struct bus *bus = port ? &vm->pio : &vm->mmio;
	const char *kind = port ? x->write ? "io out" : "io in" : x->write ? "mmio write" : "mmio read";

	trace_count(vm->trace.kind, kind);
	vm->trace.interventions++;
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < x->count; i++) {
		uint8_t *data = x->data + i * x->size;
		uint64_t value = 0;
		if (x->write) {
			memcpy(&value, data, x->size);
			bus_write(bus, x->addr, x->size, value);
		} else {
			bus_read(bus, x->addr, x->size, &value);
			memcpy(data, &value, x->size);
		}
	}
	pthread_mutex_unlock(&vm->lock);
	trace_access(vm, e, x, kind, bus);
}

/* A triple fault tells nothing by itself; the registers it left do. */
static int explain_shutdown(struct vm *vm)
{
	struct vcpu v = { .vm = vm };
	char text[96];

	text_now(vm, &v, text, sizeof text);
	/* On AMD's CPUs KVM resets the processor before it says so (APM vol. 2, 15.14.3): these are a reset's CS and IP. */
	if (!(v.cr0 & CR0_PE) && v.seg[CS].base == RESET_BASE && v.rip == RESET_IP)
		return vm_stop(vm, HV_STOPPED,
			       "triple fault: an exception could not be delivered, nor the double fault that followed; "
			       "this KVM does not tell where. The other engines do");
	return vm_stop(vm, HV_STOPPED,
		       "triple fault at rip 0x%llx%s%s%s: an exception could not be delivered, nor the double fault that followed; "
		       "IDT base 0x%llx limit 0x%x, rsp 0x%llx, cr2 0x%llx",
		       (unsigned long long)v.rip, text[0] ? " (`" : "", text, text[0] ? "`)" : "", (unsigned long long)v.idtr.base,
		       v.idtr.limit, (unsigned long long)v.gpr[RSP], (unsigned long long)v.cr2);
}

/*
 * A few times a second. Two things would otherwise go unnoticed:
 * HLT with interrupts off ends nowhere, and KVM would wait in the kernel for ever.
 * On a machine that is itself nested and emulated, the exit that says "the guest takes interrupts again" can get lost. KVM then
 * holds a pending interrupt for ever (seen in the test host: the 8259's request set, nothing masked, IF on, and Linux waiting
 * for its first tick in calibrate_delay). Registers that are written, even unchanged, make KVM look at pending events again.
 * But they also make KVM forget an exception that it has found and not delivered yet. A fault would come again, a single step's
 * #DB would not: then the next time will do. And they take back the TF with which KVM itself single-steps; but then it exits, and
 * looks at events, behind every instruction anyway.
 */
static int look_after(struct vm *vm, struct kvm_engine *e)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;

	e->look_due = false;
	if (!e->stepping && (ioctl(e->m.vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0 ||
			     !(events.exception.injected || events.exception.pending)))
		e->m.run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	if (ioctl(e->m.vcpu_fd, KVM_GET_MP_STATE, &mp) < 0 || mp.mp_state != KVM_MP_STATE_HALTED)
		return 0;
	if (e->m.run->s.regs.regs.rflags & FLAG_IF)
		return 0;
	return vm_stop(vm, HV_STOPPED, "the guest halted with interrupts off at rip 0x%llx: nothing can ever wake it",
		       (unsigned long long)e->m.run->s.regs.regs.rip);
}

static enum run_result kvm_run(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;
	struct machine_exit x;

	while (!vm->stopping) {
		/* Clear first, look then: a kick in between makes KVM_RUN return at once (see engine_trap.c). */
		e->m.run->immediate_exit = 0;
		vm->kicked = false;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (vm->stopping)
			break;
		if (vm->gdb && gdbstub_take_interrupt(vm))
			return RUN_DEBUG;
		if (e->debug_step)
			e->m.run->debug.arch.dr7 = NOT_BY_THE_CPU;
		trace_enter_guest(&vm->trace);
		int err = machine_run(&e->m, &x);
		trace_leave_guest(&vm->trace);
		if (err)
			break;
		switch (x.kind) {
		case MACHINE_IO:
		case MACHINE_MMIO:
			handle_access(vm, e, &x);
			break;
		case MACHINE_KICKED:
			trace_count(vm->trace.kind, "interrupted");
			if (e->look_due && look_after(vm, e))
				return RUN_STOPPED;
			break;
		case MACHINE_DEBUG:
			trace_count(vm->trace.kind, "debug");
			vm->trace.interventions += e->debug_step && e->m.run->debug.arch.dr7 == NOT_BY_THE_CPU;
			if (e->int3_exits || e->debug_step || gdbstub_has_breakpoint(vm, e->m.run->s.regs.regs.rip))
				return RUN_DEBUG;
			break;
		case MACHINE_SHUTDOWN:
			explain_shutdown(vm);
			break;
		case MACHINE_EVENT:
			vm_stop(vm, HV_OK, "the guest asked KVM for a reset or power-off");
			break;
		case MACHINE_HALTED:
			vm_stop(vm, HV_STOPPED, "KVM reported HLT although its interrupt controllers were asked for");
			break;
		case MACHINE_FAILED:
			break;
		}
	}
	return RUN_STOPPED;
}

static void kvm_kick(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;
	if (e && e->m.run)
		e->m.run->immediate_exit = 1;
}

static void kvm_irq_line(struct vm *vm, unsigned irq, bool level)
{
	struct kvm_engine *e = vm->engine_state;
	struct kvm_irq_level line = { .irq = irq, .level = level };
	ioctl(e->m.vm_fd, KVM_IRQ_LINE, &line);
}

static int kvm_get_state(struct vm *vm, struct vcpu *out)
{
	struct kvm_engine *e = vm->engine_state;
	out->vm = vm;
	return kvm_get_vcpu(&e->m, out);
}

static int kvm_set_state(struct vm *vm, const struct vcpu *in)
{
	struct kvm_engine *e = vm->engine_state;
	const char *call;

	return kvm_set_vcpu(&e->m, in, &call);
}

static int kvm_translate(struct vm *vm, uint64_t gva, uint64_t *gpa)
{
	struct kvm_engine *e = vm->engine_state;
	return kvm_translate_gva(&e->m, gva, gpa);
}

static int kvm_set_debug(struct vm *vm, bool single, bool breakpoints)
{
	struct kvm_engine *e = vm->engine_state;
	bool step = single || (breakpoints && !e->int3_exits);
	struct kvm_guest_debug dbg = {
		.control = (single || breakpoints ? KVM_GUESTDBG_ENABLE : 0) | (step ? KVM_GUESTDBG_SINGLESTEP : 0) |
			   (breakpoints ? KVM_GUESTDBG_USE_SW_BP : 0)
	};

	e->debug_step = single;
	e->stepping = step;
	return ioctl(e->m.vcpu_fd, KVM_SET_GUEST_DEBUG, &dbg) < 0 ? -errno : 0;
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.what = "hardware assistance: the guest runs at CPL 0 under KVM, hv does the devices",
	.create = kvm_create,
	.destroy = kvm_destroy,
	.run = kvm_run,
	.kick = kvm_kick,
	.irq_line = kvm_irq_line,
	.has_pic = true,
	.has_pit = true,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.translate = kvm_translate,
	.set_debug = kvm_set_debug,
};
