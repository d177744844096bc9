/*
 * The kvm engine: the guest runs at CPL 0, in the machine itself. KVM does the CPU, the memory and the interrupt controllers; hv
 * does the devices. This is the division of labour between KVM and QEMU, and enough to boot Linux.
 */
#include "gdbstub.h"
#include "kvm_cpuid.h"
#include "kvm_engine.h"
#include "kvm_state.h"
#include "vm_life.h"
#include "vm_pause.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

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

/* The vCPU of a thread that runs one. KVM answers questions about a vCPU only to its own thread without waiting for the guest to exit,
 * so what the rest of hv asks in the course of an exit is about this one. */
static _Thread_local struct kvm_cpu *this_cpu;

static struct kvm_cpu *asked_cpu(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;
	return this_cpu ? this_cpu : &e->cpu[0];
}

static int put_vcpu(struct machine *m, const struct vcpu *v)
{
	const char *call;

	return kvm_set_vcpu(m, v, &call) ? machine_error(m, call) : 0;
}

/*
 * Does an int3 come back as an exit when KVM_SET_GUEST_DEBUG asks for it? Not on a machine that cannot intercept it (QEMU 7.2's
 * emulated SVM), and the only way to know is to try: one int3 without an IDT either exits or ends in a triple fault.
 */
static bool probe_int3(struct vm *vm, struct machine *m, const struct vcpu *boot)
{
	uint8_t int3 = 0xcc, before;
	struct vcpu there = *boot;
	struct kvm_guest_debug on = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP }, off = { 0 };
	struct machine_exit x = { .kind = MACHINE_FAILED };

	there.rip = PROBE_AT;
	there.idtr = (struct dtable){ 0 };
	if (guest_read(&vm->mem, PROBE_AT, &before, 1) || guest_write(&vm->mem, PROBE_AT, &int3, 1) || put_vcpu(m, &there) ||
	    ioctl(m->vcpu_fd, KVM_SET_GUEST_DEBUG, &on) < 0)
		return false;
	int err = machine_run(m, &x);
	ioctl(m->vcpu_fd, KVM_SET_GUEST_DEBUG, &off);
	guest_write(&vm->mem, PROBE_AT, &before, 1);
	put_vcpu(m, boot);
	return !err && x.kind == MACHINE_DEBUG;
}

static int kvm_create(struct vm *vm, const struct boot_state *boot)
{
	struct kvm_engine *e = calloc(1, sizeof *e);
	struct vcpu v = { .vm = vm };

	if (!e)
		return -ENOMEM;
	vm->engine_state = e;
	vm->all_modes = true;
	e->ncpus = vm->opt.cpus;
	for (unsigned i = 0; i < e->ncpus; i++)
		e->cpu[i] = (struct kvm_cpu){ .vm = vm, .id = i, .trace = &vm->trace.cpu[i] };
	struct machine *m = &e->cpu[0].m;
	boot_vcpu(&v, boot);
	if (machine_open(m, vm) || machine_create(m) || kvm_create_chips(m) ||
	    machine_add_memory(m, 0, 0, vm->mem.hva, vm->mem.size))
		return -ECANCELED;
	kvm_cpuid_features(m->cpuid, ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0);
	kvm_cpuid_topology(m->cpuid, 0, e->ncpus);
	if (machine_add_vcpu(m))
		return -ECANCELED;
	machine_native_tsc(m);
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	if (put_vcpu(m, &v) || kvm_smp_create(e))
		return -ECANCELED;
	if (vm->opt.gdb_port >= 0)
		e->int3_exits = probe_int3(vm, m, &v);
	kvm_look_start(vm);
	return 0;
}

static void kvm_destroy(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;

	if (!e)
		return;
	kvm_look_stop(vm);
	kvm_smp_destroy(e);
	machine_close(&e->cpu[0].m);
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

static void trace_access(struct kvm_cpu *c, const struct machine_exit *x, const char *kind, struct bus *bus)
{
	uint64_t rip = c->m.run->s.regs.regs.rip, value = 0;
	const char *dev = bus_device_name(bus, x->addr);
	struct vm *vm = c->vm;
	char text[96], who[16] = "";
	struct vcpu v;

	if (!vm->trace.exits)
		return;
	if (vm->opt.cpus > 1)
		snprintf(who, sizeof who, "vCPU %u: ", c->id);
	memcpy(&value, x->data, x->size);
	trace_exit(vm, kind, rip, text_now(vm, &v, text, sizeof text), "%s%s 0x%llx %s 0x%llx (%s)", who, bus->name,
		   (unsigned long long)x->addr, x->write ? "write" : "read", (unsigned long long)value, dev ? dev : "nothing answers");
}

/* Port and memory accesses: each element to the bus. */
static void handle_access(struct kvm_cpu *c, const struct machine_exit *x)
{
	struct vm *vm = c->vm;
	bool port = x->kind == MACHINE_IO;
	struct bus *bus = port ? &vm->pio : &vm->mmio;
	const char *kind = port ? x->write ? "io out" : "io in" : x->write ? "mmio write" : "mmio read";

	pthread_mutex_lock(&vm->lock);
	trace_count(vm->trace.kind, kind);
	vm->trace.interventions++;
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
	trace_access(c, x, kind, bus);
	pthread_mutex_unlock(&vm->lock);
}

/* A triple fault tells nothing by itself; the registers it left do. */
static int explain_shutdown(struct kvm_cpu *c)
{
	struct vm *vm = c->vm;
	struct vcpu v = { .vm = vm };
	char text[96], who[20] = "";

	text_now(vm, &v, text, sizeof text);
	/* On AMD's CPUs KVM resets the processor before it says so (APM vol. 2, 15.14.3): these are a reset's CS and IP. */
	if (!(v.cr0 & CR0_PE) && v.seg[CS].base == RESET_BASE && v.rip == RESET_IP)
		return vm_stop(vm, HV_STOPPED,
			       "triple fault: an exception could not be delivered, nor the double fault that followed; "
			       "this KVM does not tell where. The other engines do");
	if (vm->opt.cpus > 1)
		snprintf(who, sizeof who, " of vCPU %u", c->id);
	return vm_stop(vm, HV_STOPPED,
		       "triple fault%s at rip 0x%llx%s%s%s: an exception could not be delivered, nor the double fault that followed; "
		       "IDT base 0x%llx limit 0x%x, rsp 0x%llx, cr2 0x%llx",
		       who, (unsigned long long)v.rip, text[0] ? " (`" : "", text, text[0] ? "`)" : "", (unsigned long long)v.idtr.base,
		       v.idtr.limit, (unsigned long long)v.gpr[RSP], (unsigned long long)v.cr2);
}

static void count(struct vm *vm, const char *kind)
{
	pthread_mutex_lock(&vm->lock);
	trace_count(vm->trace.kind, kind);
	pthread_mutex_unlock(&vm->lock);
}

/* Acts on why the vCPU came back. true: the debugger decides what happens next. */
static bool handle_exit(struct kvm_cpu *c, const struct machine_exit *x)
{
	struct vm *vm = c->vm;
	struct kvm_engine *e = vm->engine_state;

	c->unfinished = false;
	switch (x->kind) {
	case MACHINE_IO:
	case MACHINE_MMIO:
		handle_access(c, x);
		c->unfinished = true;
		break;
	case MACHINE_KICKED:
		count(vm, "interrupted");
		if (c->look_due)
			kvm_look_after(c);
		break;
	case MACHINE_DEBUG:
		count(vm, "debug");
		vm->trace.interventions += e->debug_step && c->m.run->debug.arch.dr7 == NOT_BY_THE_CPU;
		return e->int3_exits || e->debug_step || gdbstub_has_breakpoint(vm, c->m.run->s.regs.regs.rip);
	case MACHINE_SHUTDOWN:
		count(vm, "shutdown");
		explain_shutdown(c);
		break;
	case MACHINE_EVENT:
		count(vm, "system event");
		vm_stop(vm, HV_OK, "the guest asked KVM for a reset or power-off");
		break;
	case MACHINE_HALTED:
		vm_stop(vm, HV_STOPPED, "KVM reported HLT although its interrupt controllers were asked for");
		break;
	case MACHINE_FAILED: /* it stopped the VM itself */
		e->failed = c;
		break;
	}
	return false;
}

/*
 * Behind an access to a device KVM waits for the next KVM_RUN to complete the instruction: to load the register with what was read, to
 * go on with the second half of a long store, to move RIP (KVM API 5, KVM_EXIT_IO and KVM_EXIT_MMIO). A vCPU whose state somebody takes
 * must not stand there, so it stands still only behind one more KVM_RUN: with immediate_exit that does this much and returns before the
 * guest runs. It may ask for the next access instead, and then there is again one to finish. Whoever begins to wait for this vCPU later
 * than this looks kicks it, which is an immediate_exit too.
 */
static void look_up(struct kvm_cpu *c)
{
	if (!c->unfinished)
		vm_park(c->vm);
	else if (c->vm->pauses || c->vm->gdb)
		c->m.run->immediate_exit = 1;
}

enum run_result kvm_run_cpu(struct kvm_cpu *c)
{
	struct vm *vm = c->vm;
	struct kvm_engine *e = vm->engine_state;
	struct machine_exit x;

	this_cpu = c;
	while (!vm->stopping) {
		/* Clear first, look then: a kick in between makes KVM_RUN return at once (see engine_trap.c). */
		c->m.run->immediate_exit = 0;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		look_up(c);
		if (vm->stopping)
			break;
		if (vm->gdb && !c->unfinished && gdbstub_take_interrupt(vm))
			return RUN_DEBUG;
		if (e->debug_step)
			c->m.run->debug.arch.dr7 = NOT_BY_THE_CPU;
		trace_enter_guest(c->trace);
		int err = machine_run(&c->m, &x);
		trace_leave_guest(c->trace);
		if (err)
			vm_stop(vm, HV_STOPPED, "machine_run() failed with error %d", -err);
		else if (handle_exit(c, &x))
			return RUN_DEBUG;
	}
	return RUN_STOPPED;
}

/* The calling thread is vCPU 0's. The others begin with the first call and run until the VM stops: the debugger, for whom a run may
 * end before, has VMs with one vCPU only. */
static enum run_result kvm_run(struct vm *vm)
{
	struct kvm_engine *e = vm->engine_state;
	enum run_result result = kvm_smp_start(e) ? RUN_STOPPED : kvm_run_cpu(&e->cpu[0]);

	if (result == RUN_STOPPED) {
		kvm_smp_join(e);
		if (e->failed)
			this_cpu = e->failed; /* what is asked now is where it happened */
	}
	return result;
}

static int kvm_get_state(struct vm *vm, struct vcpu *out)
{
	out->vm = vm;
	return kvm_get_vcpu(&asked_cpu(vm)->m, out);
}

static int kvm_set_state(struct vm *vm, const struct vcpu *in)
{
	const char *call;

	return kvm_set_vcpu(&asked_cpu(vm)->m, in, &call);
}

static int kvm_translate(struct vm *vm, uint64_t gva, uint64_t *gpa)
{
	return kvm_translate_gva(&asked_cpu(vm)->m, gva, gpa);
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
	return ioctl(e->cpu[0].m.vcpu_fd, KVM_SET_GUEST_DEBUG, &dbg) < 0 ? -errno : 0;
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.what = "hardware assistance: the guest runs at CPL 0 under KVM, hv does the devices",
	.create = kvm_create,
	.destroy = kvm_destroy,
	.run = kvm_run,
	.kick = kvm_kick,
	.irq_line = kvm_irq_line,
	.irq_fd = kvm_irq_fd,
	.io_fd = kvm_io_fd,
	.max_cpus = VM_CPUS_MAX,
	.has_pic = true,
	.has_pit = true,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.translate = kvm_translate,
	.set_debug = kvm_set_debug,
	.state_kind = "kvm",
	.cpu_io = kvm_cpu_io,
	.clock_io = kvm_clock_io,
	.chips_io = kvm_chips_io,
	.cpuid_table = kvm_cpuid_table,
	.cpuid_put = kvm_cpuid_put,
	.log_start = kvm_log_start,
	.log_fetch = kvm_log_fetch,
	.log_stop = kvm_log_stop,
	.log_runs = true,
};
