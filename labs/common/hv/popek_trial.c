/*
 * One trial of `hv popek`: a machine is made, the probe runs in it, and what it did is written down. The bare machine is used
 * directly, without an engine, so that nothing stands between the instruction and the CPU.
 */
#include "engine.h"
#include "kvm_state.h"
#include "popek_guest.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#define SECONDS 5 /* a trial that takes longer hangs */
#define ANSWER 0x5a /* of the device that is read */

struct trial {
	struct vm vm;
	struct machine m; /* bare machine only */
	bool ended;       /* by one of the guest's own stores or `out`s */
	enum popek_end end;
	uint8_t vector;
	uint64_t device;  /* what the devices saw: accesses, and the last value */
};

static struct trial *current; /* for the alarm */

static void on_alarm(int sig)
{
	(void)sig;
	current->vm.stopping = 1;
	if (current->m.run)
		current->m.run->immediate_exit = 1;
	else if (current->vm.engine_state)
		engine_trap.kick(&current->vm);
}

/* --- the devices, for both machines --- */

static uint64_t port_read(void *opaque, uint64_t port, unsigned size)
{
	struct trial *t = opaque;
	(void)size;
	t->device += 0x100;
	return port == POPEK_PORT_IN ? ANSWER : ~0ull;
}

static void port_write(void *opaque, uint64_t port, unsigned size, uint64_t value)
{
	struct trial *t = opaque;
	(void)size;
	if (port == POPEK_PORT_OUT) {
		t->device = ((t->device & ~0xffull) + 0x100) | (value & 0xff);
		return;
	}
	t->end = port == POPEK_PORT_SYSCALL ? END_SYSCALL : END_VECTOR;
	t->vector = t->end == END_VECTOR ? (uint8_t)port : 0;
	t->ended = true;
	vm_stop(&t->vm, HV_OK, "%s", "");
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size) { return (void)opaque, (void)offset, (void)size, 0; }

static void memory_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct trial *t = opaque;
	(void)size, (void)value;
	t->end = offset == POPEK_BEHIND ? END_BEHIND : END_TARGET;
	t->ended = true;
	vm_stop(&t->vm, HV_OK, "%s", "");
}

static const struct device_ops ports = { "probe", port_read, port_write }, memory = { "ending", memory_read, memory_write };

static void init_vm(struct trial *t)
{
	struct vm *vm = &t->vm;
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&vm->wake, NULL);
	trace_init(&vm->trace, false, stderr);
	bus_init(&vm->pio, "port");
	bus_init(&vm->mmio, "address");
	bus_add(&vm->pio, 0, 256, &ports, t);
	bus_add(&vm->mmio, POPEK_DEVICE, 2, &memory, t);
	vm->vcpu.vm = vm;
	vm->engine = &engine_trap;
}

/* --- the bare machine --- */

static const uint32_t msrs[] = { MSR_STAR, MSR_LSTAR, MSR_SFMASK, MSR_KERNEL_GS_BASE };
#define MSRS (sizeof msrs / sizeof *msrs)

static int exchange_msrs(struct machine *m, struct vcpu *v, bool write)
{
	uint64_t *value[MSRS] = { &v->msr.star, &v->msr.lstar, &v->msr.sfmask, &v->msr.kernel_gs_base };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[MSRS];
	} k = { .head.nmsrs = MSRS };

	for (unsigned i = 0; i < MSRS; i++)
		k.entry[i] = (struct kvm_msr_entry){ .index = msrs[i], .data = *value[i] };
	if (ioctl(m->vcpu_fd, write ? KVM_SET_MSRS : KVM_GET_MSRS, &k) != (int)MSRS)
		return machine_error(m, write ? "KVM_SET_MSRS" : "KVM_GET_MSRS");
	for (unsigned i = 0; i < MSRS; i++)
		*value[i] = k.entry[i].data;
	return 0;
}

static struct kvm_segment to_kvm(const struct segment *s)
{
	return (struct kvm_segment){
		.selector = s->selector, .base = s->base, .limit = s->limit, .type = s->attr & SEG_TYPE, .s = !!(s->attr & SEG_S),
		.dpl = (s->attr & SEG_DPL) >> 5, .present = !!(s->attr & SEG_P), .avl = s->attr >> 12 & 1, .l = !!(s->attr & SEG_L),
		.db = !!(s->attr & SEG_DB), .g = !!(s->attr & SEG_G),
	};
}

/* Everything: segments and tables too, which a debugger never changes. */
static int put_cpu(struct machine *m, struct vcpu *v)
{
	struct kvm_debugregs d = { .db = { v->dr[0], v->dr[1], v->dr[2], v->dr[3] }, .dr6 = v->dr[6], .dr7 = v->dr[7] };
	struct kvm_sregs s;

	if (ioctl(m->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return machine_error(m, "KVM_GET_SREGS");
	s.es = to_kvm(&v->seg[ES]), s.cs = to_kvm(&v->seg[CS]), s.ss = to_kvm(&v->seg[SS]);
	s.ds = to_kvm(&v->seg[DS]), s.fs = to_kvm(&v->seg[FS]), s.gs = to_kvm(&v->seg[GS]);
	s.ldt = to_kvm(&v->ldtr), s.tr = to_kvm(&v->tr);
	s.gdt = (struct kvm_dtable){ .base = v->gdtr.base, .limit = v->gdtr.limit };
	s.idt = (struct kvm_dtable){ .base = v->idtr.base, .limit = v->idtr.limit };
	s.cr0 = v->cr0, s.cr3 = v->cr3, s.cr4 = v->cr4, s.efer = v->efer;
	if (ioctl(m->vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return machine_error(m, "KVM_SET_SREGS");
	if (kvm_set_vcpu(m, v))
		return machine_error(m, "KVM_SET_REGS");
	if (ioctl(m->vcpu_fd, KVM_SET_DEBUGREGS, &d) < 0)
		return machine_error(m, "KVM_SET_DEBUGREGS");
	return exchange_msrs(m, v, true);
}

static int take_cpu(struct machine *m, struct vcpu *v)
{
	if (kvm_get_vcpu(m, v))
		return machine_error(m, "KVM_GET_REGS");
	v->cpl = v->seg[CS].selector & 3; /* a conforming segment's DPL would not tell (SDM vol. 3, 5.5) */
	return exchange_msrs(m, v, false);
}

static bool has_umip(const struct machine *m)
{
	for (unsigned i = 0; i < m->cpuid->nent; i++)
		if (m->cpuid->entries[i].function == 7 && m->cpuid->entries[i].index == 0)
			return m->cpuid->entries[i].ecx & 1u << 2; /* SDM vol. 2, CPUID */
	return false;
}

static bool has_xsave(const struct machine *m)
{
	for (unsigned i = 0; i < m->cpuid->nent; i++)
		if (m->cpuid->entries[i].function == 1)
			return m->cpuid->entries[i].ecx & 1u << 26;
	return false;
}

static int run_bare(struct trial *t, struct popek_seen *seen)
{
	struct machine *m = &t->m;
	struct machine_exit x;

	while (!t->vm.stopping) {
		if (machine_run(m, &x))
			return -ECANCELED;
		switch (x.kind) {
		case MACHINE_MMIO:
			if (x.write)
				bus_write(&t->vm.mmio, x.addr, x.size, *x.data);
			break;
		case MACHINE_IO:
			for (unsigned i = 0; i < x.count; i++) {
				uint64_t value = 0;
				memcpy(&value, x.data + i * x.size, x.size);
				if (x.write)
					bus_write(&t->vm.pio, x.addr, x.size, value);
				else
					bus_read(&t->vm.pio, x.addr, x.size, &value);
				memcpy(x.data + i * x.size, &value, x.size);
			}
			break;
		case MACHINE_HALTED:
			t->vm.vcpu.halted = true;
			return 0;
		case MACHINE_KICKED:
			break;
		default:
			seen->end = END_STOPPED;
			snprintf(seen->reason, sizeof seen->reason, "%s", t->vm.reason[0] ? t->vm.reason : "triple fault");
			return 0;
		}
	}
	if (!t->ended)
		return 0;
	/* KVM finishes an access when it is entered again; it then comes back at once. */
	m->run->immediate_exit = 1;
	return machine_run(m, &x);
}

static int try_bare(struct trial *t, const struct popek_probe *probe, enum popek_config config, struct popek_seen *seen)
{
	struct vm *vm = &t->vm;
	struct vcpu *v = &vm->vcpu;
	struct machine *m = &t->m;
	bool moved = config != POPEK_CPL0 && config != POPEK_CPL3_HOME;

	if (machine_open(m, vm))
		return -ECANCELED;
	if (config == POPEK_UMIP && !has_umip(m)) {
		seen->end = END_MISSING;
		return 0;
	}
	popek_guest_cpu(probe, moved, config == POPEK_CPL0 || config == POPEK_CPL0_MOVED ? 0 : 3, v);
	if (moved && has_xsave(m))
		v->cr4 |= CR4_OSXSAVE;
	if (config == POPEK_UMIP)
		v->cr4 |= CR4_UMIP;
	if (machine_create(m) || machine_add_memory(m, 0, 0, vm->mem.hva, vm->mem.size) || machine_add_vcpu(m) || put_cpu(m, v))
		return -ECANCELED;
	/* What KVM makes of it is what the probe finds. */
	if (take_cpu(m, v))
		return -ECANCELED;
	popek_guest_look(v, &vm->mem, t->device, seen->before);
	unsigned cpl = v->cpl;
	if (run_bare(t, seen) || take_cpu(m, v))
		return -ECANCELED;
	/* From CPL 3 every way into a handler is one to the supervisor; at CPL 0 too, but there the guest is the supervisor. */
	seen->heard = t->ended ? t->end == END_VECTOR || t->end == END_SYSCALL : cpl;
	return 0;
}

/* --- the trap engine --- */

static int try_trap(struct trial *t, const struct popek_probe *probe, const struct boot_state *boot, struct popek_seen *seen)
{
	struct vm *vm = &t->vm;
	struct vcpu start = { .vm = vm };

	pic_init(&vm->pic, NULL, NULL);
	if (engine_trap.create(vm, boot))
		return -ECANCELED;
	popek_guest_cpu(probe, false, 0, &start);
	engine_trap.set_state(vm, &start);
	popek_guest_look(&vm->vcpu, &vm->mem, t->device, seen->before);
	engine_trap.run(vm);
	struct vcpu end;
	engine_trap.get_state(vm, &end);
	vm->vcpu = end;
	if (vm->status == HV_TODO || vm->status == HV_HOST)
		return -ECANCELED;
	/* The ending itself is one exit. */
	seen->heard = vm->trace.total > (t->ended ? 1 : 0);
	if (!t->ended && !vm->vcpu.halted) {
		seen->end = END_STOPPED;
		snprintf(seen->reason, sizeof seen->reason, "%s", vm->reason);
	}
	return 0;
}

static void how_it_ended(const struct trial *t, struct popek_seen *seen)
{
	if (seen->end == END_STOPPED || seen->end == END_MISSING)
		return;
	if (!t->ended && t->vm.vcpu.halted) {
		seen->end = END_HALTED;
	} else if (!t->ended) {
		seen->end = END_STOPPED;
		snprintf(seen->reason, sizeof seen->reason, "it did not come back within %d seconds", SECONDS);
	} else {
		seen->end = t->end;
		seen->vector = t->vector;
	}
}

int popek_try(const struct popek_probe *probe, enum popek_config config, struct popek_seen *seen, char *err, size_t errlen)
{
	static struct trial trial;
	struct trial *t = &trial;
	struct sigaction alarmed = { .sa_handler = on_alarm };
	struct itimerval once = { .it_value.tv_sec = SECONDS }, never = { 0 };
	struct boot_state boot;
	int failed;

	*t = (struct trial){ .vm.opt = { .engine = engine_trap.name, .mem_size = POPEK_MEM, .gdb_port = -1, .mirror_if = true,
					 .patch = config == POPEK_PATCH } };
	*seen = (struct popek_seen){ .end = END_BEHIND };
	init_vm(t);
	if (guest_mem_create(&t->vm.mem, POPEK_MEM)) {
		snprintf(err, errlen, "the host cannot provide %llu MiB of memory for the guest", POPEK_MEM / MiB);
		return HV_HOST;
	}
	popek_guest_write(&t->vm.mem, probe, &boot);
	current = t;
	sigaction(SIGALRM, &alarmed, NULL);
	setitimer(ITIMER_REAL, &once, NULL);
	failed = config < POPEK_TRAP ? try_bare(t, probe, config, seen) : try_trap(t, probe, &boot, seen);
	setitimer(ITIMER_REAL, &never, NULL);
	if (!failed) {
		how_it_ended(t, seen);
		popek_guest_look(&t->vm.vcpu, &t->vm.mem, t->device, seen->after);
	} else {
		snprintf(err, errlen, "%s", t->vm.reason[0] ? t->vm.reason : "a machine could not be made");
	}
	int status = failed ? t->vm.status ? t->vm.status : HV_HOST : HV_OK;
	if (config >= POPEK_TRAP)
		engine_trap.destroy(&t->vm);
	else
		machine_close(&t->m);
	guest_mem_destroy(&t->vm.mem);
	return status;
}
