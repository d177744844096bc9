/*
 * The kvm engine: the guest runs at CPL 0, in the machine itself. KVM does the CPU, the memory and the interrupt controllers; hv
 * does the devices. This is the division of labour between KVM and QEMU, and enough to boot Linux.
 */
#include "gdbstub.h"
#include "kvm_state.h"

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

struct kvm_engine {
	struct machine m;
	struct loop_timer look_timer;
	volatile bool look_due;
	bool int3_exits; /* a breakpoint's int3 comes back to hv; otherwise breakpoints are found by single-stepping */
	bool debug_step; /* the debugger asked for one instruction */
	bool stepping;   /* KVM single-steps, for that or to find breakpoints */
};

static int write_registers(struct kvm_engine *e, const struct boot_state *boot)
{
	struct kvm_segment code = {
		.limit = ~0u, .selector = BOOT_CS, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = code;
	struct kvm_sregs s;
	struct kvm_regs r = {
		.rip = boot->entry, .rsp = BOOT_STACK, .rflags = FLAG_FIXED, .rsi = boot->rsi, .rbx = boot->rbx
	};

	if (ioctl(e->m.vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_GET_SREGS");
	data.selector = BOOT_DS;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gdt.base = BOOT_GDT;
	s.gdt.limit = 0x2f;
	s.idt.base = 0;
	s.idt.limit = 0;
	s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s.cr3 = BOOT_PML4;
	s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s.efer = EFER_LME | EFER_LMA;
	if (ioctl(e->m.vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_SET_SREGS");
	if (ioctl(e->m.vcpu_fd, KVM_SET_REGS, &r) < 0)
		return machine_error(&e->m, "KVM_SET_REGS");
	return 0;
}

/*
 * Does an int3 come back as an exit when KVM_SET_GUEST_DEBUG asks for it? Not on a machine that cannot intercept it (QEMU 7.2's
 * emulated SVM), and the only way to know is to try: one int3 without an IDT either exits or ends in a triple fault.
 */
static bool probe_int3(struct vm *vm, struct kvm_engine *e, const struct boot_state *boot)
{
	const uint64_t scratch = BOOT_STACK & ~0xfffull; /* nobody has used the boot stack yet */
	const uint8_t int3 = 0xcc, zero = 0;
	struct boot_state there = { .entry = scratch };
	struct kvm_guest_debug on = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP }, off = { 0 };
	struct machine_exit x = { .kind = MACHINE_FAILED };

	if (guest_write(&vm->mem, scratch, &int3, 1) || write_registers(e, &there) ||
	    ioctl(e->m.vcpu_fd, KVM_SET_GUEST_DEBUG, &on) < 0)
		return false;
	int err = machine_run(&e->m, &x);
	ioctl(e->m.vcpu_fd, KVM_SET_GUEST_DEBUG, &off);
	guest_write(&vm->mem, scratch, &zero, 1);
	write_registers(e, boot);
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

	if (!e)
		return -ENOMEM;
	vm->engine_state = e;
	if (machine_open(&e->m, vm) || machine_create(&e->m) || create_chips(&e->m) ||
	    machine_add_memory(&e->m, 0, 0, vm->mem.hva, vm->mem.size) || machine_add_vcpu(&e->m))
		return -ECANCELED;
	machine_native_tsc(&e->m);
	e->m.run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	if (write_registers(e, boot))
		return -ECANCELED;
	if (vm->opt.gdb_port >= 0)
		e->int3_exits = probe_int3(vm, e, boot);
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

/* Instruction text for the trace; the tables are the guest's own, so the address is translated by KVM. */
static const char *text_at(struct vm *vm, struct kvm_engine *e, uint64_t rip, char *buf, size_t len)
{
	uint8_t bytes[INSN_MAX];
	struct insn insn;
	uint64_t gpa;

	buf[0] = 0;
	if (kvm_translate_gva(&e->m, rip, &gpa) || guest_read(&vm->mem, gpa, bytes, sizeof bytes) ||
	    insn_decode(bytes, sizeof bytes, &insn))
		return buf;
	insn_text(&insn, rip, buf, len);
	return buf;
}

static void trace_access(struct vm *vm, struct kvm_engine *e, const struct machine_exit *x, const char *kind, struct bus *bus)
{
	uint64_t rip = e->m.run->s.regs.regs.rip, value = 0;
	const char *dev = bus_device_name(bus, x->addr);
	char text[96];

	if (!vm->trace.exits)
		return;
	memcpy(&value, x->data, x->size);
	trace_exit(vm, kind, rip, text_at(vm, e, rip, text, sizeof text), "%s 0x%llx %s 0x%llx (%s)", bus->name,
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
static int explain_shutdown(struct vm *vm, struct kvm_engine *e)
{
	struct vcpu v;
	char text[96] = "";

	if (kvm_get_vcpu(&e->m, &v))
		return vm_stop(vm, HV_STOPPED, "triple fault");
	if (!(v.cr0 & CR0_PE)) /* on AMD's CPUs KVM resets the processor before it says so (APM vol. 2, 15.14.3) */
		return vm_stop(vm, HV_STOPPED,
			       "triple fault: an exception could not be delivered, nor the double fault that followed; "
			       "this KVM does not tell where. The trap engine does");
	text_at(vm, e, v.rip, text, sizeof text);
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
			explain_shutdown(vm, e);
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
	return kvm_set_vcpu(&e->m, in);
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
