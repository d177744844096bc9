/*
 * What the labs' emulation code asks of the machine underneath (trapengine.h), whichever engine runs it.
 */
#include "hvm.h"
#include "trap_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>

void trap_refresh_segments(struct vcpu *v)
{
	struct trap_engine *e = trap_engine_of(v);
	struct kvm_sregs s;

	if (v->vm->engine == &engine_hvm) {
		hvm_fetch(v);
		return;
	}
	/* What hv itself changed and has not yet told the machine is newer. */
	if (e->special_changed || ioctl(e->m.vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return;
	v->seg[FS].base = e->special.fs = s.fs.base;
	v->seg[GS].base = e->special.gs = s.gs.base;
}

uint64_t segment_base(struct vcpu *v, unsigned sreg)
{
	trap_refresh_segments(v);
	return v->seg[sreg].base;
}

/* The hvm engine brings all of the state into the control structure at each entry. */
void trap_special_changed(struct vcpu *v)
{
	if (v->vm->engine == &engine_trap)
		trap_engine_of(v)->special_changed = true;
}

void trap_debugregs_changed(struct vcpu *v)
{
	if (v->vm->engine == &engine_trap)
		trap_engine_of(v)->debugregs_changed = true;
}

uint64_t trap_machine_tsc(struct vcpu *v)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} msrs = { .head.nmsrs = 1, .entry[0].index = MSR_TSC };
	ioctl(v->vm->machine->vcpu_fd, KVM_GET_MSRS, &msrs);
	return msrs.entry[0].data;
}

void trap_set_tsc(struct vcpu *v, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} msrs = { .head.nmsrs = 1, .entry[0] = { .index = MSR_TSC, .data = value + (1ull << 40) } };

	/* A value within a second of what the counter says already is to KVM an attempt to make several vCPUs agree, and it keeps the one
	 * that it has. Another value in between, far away, makes it take this one as it is. */
	ioctl(v->vm->machine->vcpu_fd, KVM_SET_MSRS, &msrs);
	msrs.entry[0].data = value;
	ioctl(v->vm->machine->vcpu_fd, KVM_SET_MSRS, &msrs);
}

struct cpuid_result trap_host_cpuid(const struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
	const struct kvm_cpuid2 *c = v->vm->machine->cpuid;
	for (unsigned i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *x = &c->entries[i];
		if (x->function == leaf && (!(x->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || x->index == subleaf))
			return (struct cpuid_result){ x->eax, x->ebx, x->ecx, x->edx };
	}
	return (struct cpuid_result){ 0 };
}

uint64_t trap_cr4_allowed(const struct vcpu *v)
{
	uint64_t allowed = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;

	if (v->vm->shadow || v->vm->engine == &engine_hvm) {
		uint32_t ebx = trap_host_cpuid(v, 7, 0).ebx;
		bool smap = !v->vm->shadow || v->vm->engine != &engine_hvm; /* see hvm_shadow.c */
		allowed |= (ebx & CPUID7_SMEP ? CR4_SMEP : 0) | (smap && (ebx & CPUID7_SMAP) ? CR4_SMAP : 0);
	}
	return allowed;
}

uint32_t port_in(struct vcpu *v, uint16_t port, unsigned size)
{
	uint64_t value;
	pthread_mutex_lock(&v->vm->lock);
	bus_read(&v->vm->pio, port, size, &value);
	pthread_mutex_unlock(&v->vm->lock);
	return (uint32_t)value;
}

void port_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
	pthread_mutex_lock(&v->vm->lock);
	bus_write(&v->vm->pio, port, size, value);
	pthread_mutex_unlock(&v->vm->lock);
}

void trap_note(struct vcpu *v, const char *fmt, ...)
{
	if (!v->vm->trace.exits)
		return;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(v->vm->trace.note, sizeof v->vm->trace.note, fmt, ap);
	va_end(ap);
}
