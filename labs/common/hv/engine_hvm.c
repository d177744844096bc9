/*
 * The hvm engine: hardware-assisted virtualization. The guest runs in guest mode inside the machine, and comes back only for what the
 * control structure names. This file is the loop around it: what the next entry brings in, the entry, and which of the lab's functions
 * handles the exit. The back ends are svm_machine.c and vmx_machine.c.
 */
#include "gdbstub.h"
#include "hvm_monitor.h"
#include "hvm_policy.h"
#include "irqchip.h"
#include "lab1.h"
#include "lab2.h"
#include "lab3.h"
#include "machine_state.h"
#include "plan.h"
#include "segment.h"
#include "shadow_paging.h"
#include "vm_pause.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

const char *const hvm_exit_names[HVM_KINDS] = {
	[HVM_VIOLATION] = "violation", [HVM_MISCONFIG] = "misconfiguration", [HVM_CPUID] = "cpuid", [HVM_HLT] = "hlt", [HVM_IO] = "io",
	[HVM_RDMSR] = "rdmsr", [HVM_WRMSR] = "wrmsr", [HVM_CR] = "control register", [HVM_DR] = "debug register", [HVM_INVLPG] = "invlpg",
	[HVM_EXCEPTION] = "exception", [HVM_IRQ_WINDOW] = "interrupt window", [HVM_NMI_WINDOW] = "nmi window", [HVM_PAUSE] = "pause",
	[HVM_HYPERCALL] = "hypercall", [HVM_VIRT] = "virtualization instruction", [HVM_XSETBV] = "xsetbv", [HVM_CACHE] = "cache",
	[HVM_TASK] = "task switch", [HVM_SHUTDOWN] = "shutdown", [HVM_STEP] = "single step", [HVM_KICK] = "kick",
	[HVM_REFUSED] = "refused", [HVM_UNKNOWN] = "unknown",
};

/* What the CPU does not take, or a guest cannot survive. */
static int exit_fatal(struct vcpu *v, const struct hvm_exit *x)
{
	switch (x->kind) {
	case HVM_SHUTDOWN:
		if (hvm_fetch(v)) /* of the IDT */
			return -ECANCELED;
		return vm_stop(v->vm, HV_STOPPED,
			       "triple fault at rip 0x%llx: an exception could not be delivered, nor the double fault that followed; "
			       "IDT base 0x%llx limit 0x%x, rsp 0x%llx, cr2 0x%llx", (unsigned long long)v->rip,
			       (unsigned long long)v->idtr.base, v->idtr.limit, (unsigned long long)v->gpr[RSP],
			       (unsigned long long)v->cr2);
	case HVM_MISCONFIG:
		return vm_stop(v->vm, HV_STOPPED,
			       "the nested tables hold an entry that is not valid, on the way of gpa 0x%llx (guest's rip 0x%llx): "
			       "a bit that must be zero, or rights that no entry may have", (unsigned long long)x->violation.gpa,
			       (unsigned long long)v->rip);
	case HVM_REFUSED:
		return vm_stop(v->vm, HV_STOPPED,
			       "the CPU refuses to enter the guest (%s, code 0x%llx, 0x%llx): a field of the control structure, or the "
			       "guest's state in it, holds what no CPU can be in", hvm_of(v)->backend->name, (unsigned long long)x->raw,
			       (unsigned long long)x->info);
	case HVM_TASK:
		return vm_stop(v->vm, HV_STOPPED, "the guest switches tasks by hardware at rip 0x%llx, which hv does not do for it",
			       (unsigned long long)v->rip);
	default:
		return vm_stop(v->vm, HV_STOPPED, "the guest was left for a reason that hv did not ask for (%s, code 0x%llx, 0x%llx)",
			       hvm_of(v)->backend->name, (unsigned long long)x->raw, (unsigned long long)x->info);
	}
}

static int handle(struct vcpu *v, const struct hvm_exit *x)
{
	int err;

	switch (x->kind) {
	case HVM_VIOLATION: return hvm_violation(v, x);
	case HVM_CPUID: return exit_cpuid(v, x);
	case HVM_HLT: return exit_hlt(v, x);
	case HVM_IO: return exit_io(v, x);
	case HVM_RDMSR: return exit_msr(v, x);
	case HVM_WRMSR:
		err = exit_msr(v, x);
		irqchip_msr_written(v);
		return err;
	case HVM_CR: return exit_cr(v, x);
	case HVM_EXCEPTION: case HVM_INVLPG: return hvm_shadow_exit(v, x);
	case HVM_HYPERCALL: return hvm_hypercall(v, x);
	case HVM_PAUSE: case HVM_CACHE: return hvm_skip(v, x); /* the caches are the machine's */
	case HVM_DR: case HVM_VIRT: case HVM_XSETBV: /* the guest's CPU has neither SVM nor VMX nor XSAVE */
		raise_exception(v, VEC_UD);
		return 0;
	case HVM_IRQ_WINDOW: case HVM_NMI_WINDOW: case HVM_KICK: return 0;
	default: return exit_fatal(v, x);
	}
}

/* --trace exits: the instruction at rip. */
static void describe(struct vcpu *v, char *text, size_t len)
{
	uint8_t bytes[INSN_MAX];
	struct insn insn;
	unsigned n;

	text[0] = 0;
	if (v->vm->trace.exits && (n = gva_peek(v, insn_gva(v), bytes, INSN_MAX)) &&
	    !insn_decode(bytes, n, insn_mode(v), &insn))
		insn_text(&insn, v->rip, text, len);
}

/* A step that hv or the debugger wanted is done. true: nothing of the guest's. */
static bool step_over(struct vcpu *v, struct hvm *h, const struct hvm_exit *x, bool *debugger)
{
	if (x->kind != HVM_STEP)
		return false;
	h->step = false;
	if (h->passing)
		policy_stepped(h);
	if (v->vm->shadow)
		v->vm->shadow->store.times = 0;
	*debugger = h->debug_step || (h->debug_breakpoints && gdbstub_has_breakpoint(v->vm, v->rip));
	return true;
}

static int handle_exit(struct vcpu *v, struct hvm *h, const struct hvm_exit *x, bool *debugger)
{
	struct vm *vm = v->vm;
	uint64_t rip = v->rip;
	char text[96];

	h->fetched = false;
	h->forcing = false;
	trace_count(vm->trace.kind, hvm_exit_names[x->kind]);
	vm->trace.interventions += x->kind != HVM_KICK && x->kind != HVM_STEP && x->kind != HVM_IRQ_WINDOW && x->kind != HVM_NMI_WINDOW;
	describe(v, text, sizeof text);
	vm->trace.note[0] = 0;
	if (x->kind != HVM_VIOLATION)
		h->last.times = 0;
	if (h->passing && !h->step && x->kind != HVM_VIOLATION && policy_passed(h))
		return -ECANCELED;
	if (vm->shadow && x->kind != HVM_EXCEPTION)
		vm->shadow->last.times = 0;
	h->hidden = x->kind == HVM_VIOLATION;
	events_interrupted(v, x);
	int err = vm->stopping ? -ECANCELED : step_over(v, h, x, debugger) ? 0 : handle(v, x);
	if (vm->trace.exits) {
		if (v->event.pending && !vm->trace.note[0])
			trap_note(v, "raises %s", vector_name(v->event.vector));
		trace_exit(vm, hvm_exit_names[x->kind], rip, text, "%s", vm->trace.note);
	}
	return err;
}

/* Waits in HLT until something can wake the guest, or somebody wants something. */
static int wait_halted(struct vcpu *v, struct hvm *h)
{
	struct vm *vm = v->vm;

	if (!(v->rflags & FLAG_IF) && !h->nmi_pending)
		return vm_stop(vm, HV_STOPPED, "the guest halted with interrupts off at rip 0x%llx: nothing can ever wake it",
			       (unsigned long long)v->rip);
	pthread_mutex_lock(&vm->lock);
	while (!vm->stopping && !irqchip_pending(vm) && !h->nmi_pending && !vm->kicked)
		pthread_cond_wait(&vm->wake, &vm->lock);
	if (irqchip_pending(vm) || h->nmi_pending)
		v->halted = false;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/* The machine was interrupted somewhere: in the guest, or in the monitor. An NMI brings it to where hv knows all of the guest's state. */
static int force_out(struct hvm *h)
{
	if (h->forcing)
		return 0;
	h->forcing = true;
	return ioctl(h->m.vcpu_fd, KVM_NMI) < 0 ? machine_error(&h->m, "KVM_NMI") : 0;
}

/* Runs the machine until the guest was left. 0 with *x, negative with the VM stopped. */
static int run_guest(struct hvm *h, struct hvm_exit *x)
{
	struct machine_exit m;
	int stopping;

	for (;;) {
		trace_enter_guest(&h->vm->trace.cpu[0]);
		int err = machine_run(&h->m, &m);
		trace_leave_guest(&h->vm->trace.cpu[0]);
		if (err)
			return -ECANCELED;
		switch (m.kind) {
		case MACHINE_KICKED:
			h->m.run->immediate_exit = 0; /* nowhere else: a kick that comes now must make the next run return */
			if (force_out(h))
				return -ECANCELED;
			trace_count(h->vm->trace.kind, "interrupted");
			break;
		case MACHINE_IO:
			/* A VM that was stopped from outside runs on to its next exit: only there all of the guest's state is known. */
			stopping = h->vm->stopping;
			if (h->backend->left(h, &m, x))
				return 0;
			if (h->vm->stopping && !stopping)
				return -ECANCELED;
			trace_count(h->vm->trace.kind, "monitor"); /* the NMI's stub; the exit is still to come */
			break;
		case MACHINE_SHUTDOWN:
			return vm_stop(h->vm, HV_STOPPED,
				       "the machine itself shut down (triple fault) in the monitor, near machine rip 0x%llx",
				       (unsigned long long)h->m.run->s.regs.regs.rip);
		case MACHINE_FAILED:
			return -ECANCELED;
		default:
			return vm_stop(h->vm, HV_STOPPED,
				       "the machine came back in a way the hvm engine never asks for (kind %d, address 0x%llx)",
				       m.kind, (unsigned long long)m.addr);
		}
	}
}

/* Exceptions whose instruction is repeated. */
#define FAULTS (1u << VEC_DE | 1u << VEC_BR | 1u << VEC_UD | 1u << VEC_NM | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | \
		1u << VEC_PF | 1u << VEC_MF | 1u << VEC_AC | 1u << VEC_XM)

/* The CPU pushes the flags as they are in the control structure. In the frame of a fault RF is set, so that an instruction
 * breakpoint does not strike a second time. (SDM vol. 3, 17.3.1.1) */
static void count_and_flag(struct vcpu *v, const struct hvm_event *e)
{
	if (!e->valid)
		return;
	v->vm->trace.delivered[e->vector]++;
	if (e->type == HVM_EXCEPTION_HW && e->vector < 32 && FAULTS >> e->vector & 1)
		v->rflags |= FLAG_RF;
}

static enum run_result hvm_run(struct vm *vm)
{
	struct hvm *h = vm->engine_state;
	struct vcpu *v = &vm->vcpu;
	struct hvm_exit x;

	while (!vm->stopping) {
		bool debugger = false;
		/* Clear first, look then: a kick in between makes KVM_RUN return at once (see engine_trap.c). */
		h->m.run->immediate_exit = 0;
		vm->kicked = false;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		vm_park(vm);
		if (vm->gdb && gdbstub_take_interrupt(vm))
			return RUN_DEBUG;
		if (v->halted) {
			if (wait_halted(v, h))
				break;
			continue;
		}
		/* An instruction that is let through a watch is alone with it: an event would leave TF in the guest's frame. */
		h->inject.valid = h->irq_window = h->nmi_window = false;
		/* From trap, where the jump comes first and the fault then, as on AMD's CPUs: Intel's do not enter a guest that
		 * stands there. */
		if (v->event.pending && !canonical(v->rip) && (hvm_fetch(v) || deliver_event(v)))
			break;
		if (!h->passing || h->again.valid)
			events_next(v);
		count_and_flag(v, &h->inject);
		if (vm->stopping || (h->shadow && hvm_shadow_root(v)))
			break;
		h->step = h->debug_step || h->debug_breakpoints || (h->passing && !h->inject.valid) ||
			  (h->shadow && vm->shadow->store.armed);
		if (h->backend->enter(h) || run_guest(h, &x))
			break;
		shadow_store_over(v);
		written_apply(vm);
		if (handle_exit(v, h, &x, &debugger))
			break;
		if (debugger || (h->debug_step && x.kind != HVM_KICK && !h->hidden))
			return RUN_DEBUG;
	}
	return RUN_STOPPED;
}

static const struct hvm_backend *choose_backend(struct hvm *h)
{
	struct cpuid_result svm = trap_host_cpuid(&h->vm->vcpu, 0x80000001, 0), vmx = trap_host_cpuid(&h->vm->vcpu, 1, 0);

	if (svm.ecx & 1u << 2)
		return &hvm_svm;
	if (vmx.ecx & 1u << 5)
		return &hvm_vmx;
	vm_stop(h->vm, HV_HOST,
		"this /dev/kvm's machine has neither SVM nor VMX, which the hvm engine needs: KVM must be loaded with nested=1, "
		"on hardware that has it; the test hosts have (`make doctor` says more)");
	return NULL;
}

static int create_tables(struct hvm *h)
{
	if (h->shadow)
		return hvm_shadow_create(h);
	struct nested_caps caps = h->nested.caps;
	if (nested_create(&h->nested, h->vm, h->backend->format, &caps, h->mon + HVM_POOL_MA, HVM_POOL_MA, HVM_POOL_SIZE / PAGE))
		return vm_stop(h->vm, HV_HOST, "the host has not enough memory for the nested page tables");
	struct vm *vm = h->vm;
	unsigned level = vm->opt.page_level ? vm->opt.page_level : 2;
	if (vm->opt.premap && nested_map(&h->nested, 0, h->guest_ma, vm->mem.size, NESTED_RWX, TYPE_WB, level) && !vm->stopping)
		return vm_stop(vm, HV_STOPPED, "guest memory could not be mapped: nested_map() refused it, or the tables do not suffice");
	return vm->stopping ? -ECANCELED : 0;
}

/* What belongs to the tables and is not in them: policy, dirty log, plan. */
static int create_policy(struct hvm *h)
{
	struct vm *vm = h->vm;

	h->policy = calloc(1, sizeof *h->policy);
	h->dirty = calloc(1, sizeof *h->dirty);
	if (!h->policy || !h->dirty)
		return vm_stop(vm, HV_HOST, "the host has not enough memory");
	h->policy->vm = vm;
	*h->dirty = (struct dirty_log){ .pages = vm->mem.size / PAGE, .may_write = policy_may_write, .opaque = h->policy };
	h->dirty->bitmap = calloc(h->dirty->pages / 64 + 1, 8);
	if (!h->dirty->bitmap)
		return vm_stop(vm, HV_HOST, "the host has not enough memory for the dirty log");
	return vm->opt.plan ? plan_read(h, vm->opt.plan) : 0;
}

static int hvm_create(struct vm *vm, const struct boot_state *boot)
{
	struct hvm *h = calloc(1, sizeof *h);

	if (!h)
		return -ENOMEM;
	vm->engine_state = h;
	h->vm = vm;
	vm->all_modes = true;
	h->shadow = vm->opt.shadow != SHADOW_OFF;
	if (machine_open(&h->m, vm) || !(h->backend = choose_backend(h)))
		return -ECANCELED;
	h->mon = mmap(NULL, HVM_MONITOR_SIZE + HVM_POOL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->mon == MAP_FAILED) {
		h->mon = NULL;
		return machine_error(&h->m, "reserving memory for the monitor");
	}
	boot_vcpu(&vm->vcpu, boot);
	h->fetched = true;
	uint64_t first = h->shadow ? GUEST_MA : HVM_GUEST_MA, all = vm->neighbour.block ? 2 * vm->mem.size : vm->mem.size;
	h->guest_ma = first + vm->neighbour.index * vm->mem.size;
	if (machine_create(&h->m) || machine_add_memory(&h->m, 0, 0, h->mon, HVM_MONITOR_SIZE + HVM_POOL_SIZE) ||
	    machine_add_memory(&h->m, HVM_GUEST_SLOT, first, vm->mem.hva - (h->guest_ma - first), all) || machine_add_vcpu(&h->m))
		return -ECANCELED;
	machine_native_tsc(&h->m);
	h->m.run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	if (h->backend->check(h) || create_tables(h) || create_policy(h))
		return -ECANCELED;
	return h->backend->create(h);
}

static void hvm_destroy(struct vm *vm)
{
	struct hvm *h = vm->engine_state;

	if (!h)
		return;
	if (h->state)
		h->backend->destroy(h);
	machine_close(&h->m);
	nested_destroy(&h->nested);
	if (h->dirty)
		free(h->dirty->bitmap);
	free(h->dirty);
	free(h->policy);
	plan_free(h->plan);
	hvm_shadow_destroy(h);
	if (h->mon)
		munmap(h->mon, HVM_MONITOR_SIZE + HVM_POOL_SIZE);
	free(h);
	vm->engine_state = NULL;
}

static void hvm_kick(struct vm *vm)
{
	struct hvm *h = vm->engine_state;
	if (h && h->m.run)
		h->m.run->immediate_exit = 1;
}

static void hvm_nmi(struct vm *vm)
{
	struct hvm *h = vm->engine_state;
	h->nmi_pending = true;
	vm_kick(vm);
}

static int hvm_get_state(struct vm *vm, struct vcpu *out)
{
	int err = hvm_fetch(&vm->vcpu);

	*out = vm->vcpu;
	return err;
}

static int hvm_set_state(struct vm *vm, const struct vcpu *in)
{
	struct hvm *h = vm->engine_state;

	if (hvm_fetch(&vm->vcpu))
		return -ECANCELED;
	vm->vcpu = *in;
	return h->backend->store(h);
}

static int hvm_translate(struct vm *vm, uint64_t gva, uint64_t *gpa) { return gva_translate(&vm->vcpu, gva, gpa); }

static void hvm_memory_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	const struct hvm *h = vm->engine_state;

	if (vm->shadow)
		shadow_written(&vm->vcpu, gpa, len);
	/* What hv writes for the guest (INS, an access that it emulates) goes past the nested tables. */
	for (uint64_t gfn = gpa / PAGE; h->dirty && h->dirty->on && gfn <= (gpa + len - 1) / PAGE; gfn++)
		h->dirty->bitmap[gfn / 64] |= 1ull << gfn % 64;
}

static int hvm_set_debug(struct vm *vm, bool single, bool breakpoints)
{
	struct hvm *h = vm->engine_state;
	h->debug_step = single;
	h->debug_breakpoints = breakpoints;
	return 0;
}

const struct engine_ops engine_hvm = {
	.name = "hvm",
	.what = "hardware assistance by hv itself: SVM or VMX, with nested page tables or Lab 2's shadows",
	.create = hvm_create,
	.destroy = hvm_destroy,
	.run = hvm_run,
	.kick = hvm_kick,
	.irq_line = irqchip_set_line,
	.nmi = hvm_nmi,
	.max_cpus = 1,
	.get_state = hvm_get_state,
	.set_state = hvm_set_state,
	.translate = hvm_translate,
	.memory_written = hvm_memory_written,
	.stats = plan_json,
	.set_debug = hvm_set_debug,
	.state_kind = "vcpu",
	.cpu_io = hvm_cpu_io,
	.clock_io = machine_clock_io,
	.log_start = hvm_log_start,
	.log_fetch = hvm_log_fetch,
	.log_stop = hvm_log_stop,
};
