/*
 * One trial of `hv popek`: a machine is put into the state in which the probe begins, the probe runs, and what it did is written
 * down. There are two machines. The bare one is used directly, without an engine, so that nothing stands between the
 * instruction and the CPU; the other one belongs to the trap engine. Making a machine takes much longer than a trial, so they
 * are kept; a trial that did not end as it should takes its machine with it.
 */
#include "engine.h"
#include "irqchip.h"
#include "kvm_state.h"
#include "patch.h"
#include "popek_guest.h"
#include "vm_life.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#define SECONDS 30 /* a trial takes milliseconds; one that takes this long hangs, even on a busy machine */
#define ANSWER 0x5a /* of the device that is read */

struct trial {
	bool made;
	struct vm vm;
	struct machine m; /* bare machine only */
	bool ended;       /* by one of the guest's own stores or `out`s */
	enum popek_end end;
	uint8_t vector;
	uint64_t device;  /* what the devices saw: accesses, and the last value */
};

static struct trial bare, trapped;
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
	t->vector = (uint8_t)port;
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

static int make_bare(struct trial *t)
{
	struct machine *m = &t->m;

	if (machine_open(m, &t->vm) || machine_create(m) || machine_add_memory(m, 0, 0, t->vm.mem.hva, t->vm.mem.size) ||
	    machine_add_vcpu(m))
		return -ECANCELED;
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS; /* so that a refusal can say where */
	return 0;
}

static int make(struct trial *t)
{
	static const struct boot_state boot = { .mode = BOOT_LONG };
	struct vm *vm = &t->vm;

	*t = (struct trial){ .vm.opt = { .engine = engine_trap.name, .mem_size = POPEK_MEM, .gdb_port = -1, .mirror_if = true } };
	vm_init(vm);
	bus_init(&vm->pio, "port");
	bus_init(&vm->mmio, "address");
	bus_add(&vm->pio, 0, 256, &ports, t);
	bus_add(&vm->mmio, POPEK_DEVICE, 2, &memory, t);
	irqchip_init(vm);
	if (guest_mem_create(&vm->mem, POPEK_MEM))
		return vm_stop(vm, HV_HOST, "the host cannot provide %llu MiB of memory for the guest", POPEK_MEM / MiB);
	t->made = true;
	return t == &bare ? make_bare(t) : engine_trap.create(vm, &boot);
}

static void unmake(struct trial *t)
{
	if (!t->made)
		return;
	if (t == &bare)
		machine_close(&t->m);
	else
		engine_trap.destroy(&t->vm);
	guest_mem_destroy(&t->vm.mem);
	t->made = false;
}

void popek_try_end(void)
{
	unmake(&bare);
	unmake(&trapped);
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

static int put_cpu(struct machine *m, struct vcpu *v)
{
	struct kvm_debugregs d = { .db = { v->dr[0], v->dr[1], v->dr[2], v->dr[3] }, .dr6 = v->dr[6], .dr7 = v->dr[7] };

	const char *call;

	if (kvm_set_vcpu(m, v, &call))
		return machine_error(m, call);
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

/* ECX of a leaf that KVM offers, subleaf 0. (SDM vol. 2, CPUID) */
static uint32_t cpuid_ecx(const struct machine *m, uint32_t leaf)
{
	for (unsigned i = 0; i < m->cpuid->nent; i++)
		if (m->cpuid->entries[i].function == leaf && m->cpuid->entries[i].index == 0)
			return m->cpuid->entries[i].ecx;
	return 0;
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

	if (config == POPEK_UMIP && !(cpuid_ecx(m, 7) & 1u << 2)) {
		seen->end = END_MISSING;
		return 0;
	}
	popek_guest_cpu(probe, moved, config == POPEK_CPL0 || config == POPEK_CPL0_MOVED ? 0 : 3, v);
	if (moved && cpuid_ecx(m, 1) & 1u << 26) /* XSAVE: whether it is on shows in CPUID */
		v->cr4 |= CR4_OSXSAVE;
	if (config == POPEK_UMIP)
		v->cr4 |= CR4_UMIP;
	/* What KVM makes of it is what the probe finds. */
	m->run->immediate_exit = 0;
	if (put_cpu(m, v) || take_cpu(m, v))
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

/* Runs the guest of the trap engine from rip until it ends. */
static void run_trap(struct trial *t, const struct popek_probe *probe, uint64_t rip, struct popek_seen *seen)
{
	struct vm *vm = &t->vm;
	struct vcpu v = { .vm = vm };

	popek_guest_cpu(probe, false, 0, &v);
	if (rip)
		v.rip = rip;
	t->ended = false;
	vm->stopping = 0;
	trace_init(&vm->trace, false, stderr);
	engine_trap.set_state(vm, &v);
	popek_guest_look(&v, &vm->mem, t->device, seen->before);
	engine_trap.run(vm);
	engine_trap.get_state(vm, &v);
	vm->vcpu = v;
}

static int try_trap(struct trial *t, const struct popek_probe *probe, enum popek_config config, const struct boot_state *boot,
		    struct popek_seen *seen)
{
	struct vm *vm = &t->vm;

	vm->opt.patch = config == POPEK_PATCH;
	if (vm->opt.patch && patch_image(&vm->vcpu, boot))
		return -ECANCELED;
	/* One trap beforehand. A machine that has had none yet maps the monitor's pages while its first exception is being delivered,
	 * and a nested KVM then begins a refused `int n` again, behind itself. */
	run_trap(t, probe, POPEK_TARGET, seen);
	if (t->ended)
		run_trap(t, probe, 0, seen);
	if (vm->status == HV_TODO || vm->status == HV_HOST)
		return -ECANCELED;
	/* The ending itself is one exit. */
	seen->heard = trace_total(&vm->trace) > (t->ended ? 1 : 0);
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
		seen->vector = t->end == END_VECTOR ? t->vector : 0;
	}
}

int popek_try(const struct popek_probe *probe, enum popek_config config, struct popek_seen *seen, char *err, size_t errlen)
{
	struct trial *t = config < POPEK_TRAP ? &bare : &trapped;
	struct sigaction alarmed = { .sa_handler = on_alarm };
	struct itimerval once = { .it_value.tv_sec = SECONDS }, never = { 0 };
	struct boot_state boot;

	*seen = (struct popek_seen){ .end = END_BEHIND };
	int failed = t->made ? 0 : make(t);
	if (!failed) {
		t->ended = false;
		t->device = 0;
		t->vm.stopping = 0;
		t->vm.status = 0;
		t->vm.reason[0] = 0;
		t->vm.vcpu.halted = false;
		popek_guest_write(&t->vm.mem, probe, &boot);
		current = t;
		sigaction(SIGALRM, &alarmed, NULL);
		setitimer(ITIMER_REAL, &once, NULL);
		failed = t == &bare ? try_bare(t, probe, config, seen) : try_trap(t, probe, config, &boot, seen);
		setitimer(ITIMER_REAL, &never, NULL);
	}
	if (failed) {
		int status = t->vm.status ? t->vm.status : HV_HOST;
		snprintf(err, errlen, "%s", t->vm.reason[0] ? t->vm.reason : "a machine could not be made");
		unmake(t);
		return status;
	}
	how_it_ended(t, seen);
	popek_guest_look(&t->vm.vcpu, &t->vm.mem, t->device, seen->after);
	if (seen->end == END_STOPPED)
		unmake(t);
	return HV_OK;
}
