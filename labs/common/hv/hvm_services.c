/*
 * What the hvm engine and the lab's files ask of the frame: state that is fetched when it is needed, the step over an instruction, what the
 * guest's CPU has.
 */
#include "irqchip.h"
#include "lab1.h"
#include "hvm_policy.h"
#include "lab2.h"
#include "lab3.h"
#include "plan.h"
#include "segment.h"

/* The same violation comes back so often only if what was mapped does not allow the access. */
#define SAME_VIOLATION_MAX 32

int hvm_fetch(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);

	if (h->fetched)
		return 0;
	h->fetched = true;
	return h->backend->fetch(h);
}

void hvm_completed(struct vcpu *v)
{
	hvm_of(v)->hidden = false;
	v->shadow = false;
	v->rflags &= ~FLAG_RF;
	if (v->rflags & FLAG_TF) { /* the CPU would have raised it behind the instruction */
		v->dr[6] = (v->dr[6] & ~DR6_BREAKPOINTS) | DR6_BS;
		raise_exception(v, VEC_DB);
	}
}

int hvm_skip(struct vcpu *v, const struct hvm_exit *x)
{
	struct insn insn;
	unsigned len = x->len;

	if (!len) {
		if (!insn_fetch(v, &insn))
			return v->vm->stopping ? -ECANCELED : 0;
		len = insn.len;
	}
	v->rip += len;
	if (insn_mode(v) != 64)
		v->rip = (uint32_t)v->rip;
	hvm_completed(v);
	return 0;
}

int hvm_deliver(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);
	const struct hvm_event *e = &h->again;

	if (hvm_fetch(v))
		return -ECANCELED;
	if (!(v->efer & EFER_LMA))
		return vm_stop(v->vm, HV_STOPPED,
			       "%s could not be delivered at rip 0x%llx: the CPU's access to the IDT, to a descriptor or to the stack "
			       "is one that hv must carry out, and it can do so in long mode only", vector_name(e->vector),
			       (unsigned long long)v->rip);
	v->event = (struct event){ .pending = true, .kind = e->type == HVM_EXT_INTR ? EVENT_INTERRUPT : EVENT_EXCEPTION,
				   .vector = e->vector, .has_error = e->has_error, .error = e->error };
	h->again.valid = false;
	trap_note(v, "delivered by hv: %s", vector_name(e->vector));
	return deliver_event(v);
}

int hvm_violation(struct vcpu *v, const struct hvm_exit *x)
{
	struct hvm *h = hvm_of(v);
	uint64_t gpa = x->violation.gpa;
	unsigned access = x->violation.access;
	bool same = h->last.rip == v->rip && h->last.gpa == gpa && h->last.access == access;

	h->nested.count.violations++;
	h->last.times = same ? h->last.times + 1 : 0;
	h->last.rip = v->rip;
	h->last.gpa = gpa;
	h->last.access = access;
	trap_note(v, "gpa 0x%llx, %s%s", (unsigned long long)gpa, access & NESTED_W ? "write" : access & NESTED_X ? "fetch" : "read",
		  x->violation.in_walk ? ", to walk the guest's tables" : "");
	if (h->last.times >= SAME_VIOLATION_MAX && gpa < v->vm->mem.size)
		return vm_stop(v->vm, HV_STOPPED,
			       "the violation of rip 0x%llx at gpa 0x%llx (%s) came back %u times: what is in the nested tables does not "
			       "allow the access, or the CPU was never told to forget what was there", (unsigned long long)v->rip,
			       (unsigned long long)gpa, access & NESTED_W ? "write" : access & NESTED_X ? "fetch" : "read", h->last.times);
	/* The CPU delivers an event through memory that is a device's, or nobody's: there is no instruction that hv could carry out. */
	if (gpa >= v->vm->mem.size && x->interrupted.valid && h->again.valid)
		return hvm_deliver(v);
	uint64_t rip = v->rip;
	int err = exit_violation(v, x);
	if (!err && v->rip != rip) { /* carried out by hv: if it comes again, that is the guest's wish */
		h->last.times = 0;
		hvm_completed(v);
	}
	return err;
}

struct cpuid_result hvm_cpuid(struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_result host = trap_host_cpuid(v, leaf, subleaf), r = cpuid_policy(v, leaf, subleaf, host);

	/* Features of paging need no virtualization here: the CPU walks the guest's own tables. With --shadow it does not, and SMAP
	 * would ask for more of hv (hvm_shadow.c). */
	if (leaf == 7 && !subleaf)
		r.ebx |= host.ebx & (CPUID7_SMEP | (v->vm->shadow ? 0 : CPUID7_SMAP));
	if (leaf == 0x80000001)
		r.edx |= host.edx & CPUID81_1GIB;
	irqchip_cpuid(v, leaf, &r);
	return r;
}

int hvm_hypercall(struct vcpu *v, const struct hvm_exit *x)
{
	uint64_t number = v->gpr[RAX];

	trap_note(v, "hypercall %llu (0x%llx)", (unsigned long long)number, (unsigned long long)v->gpr[RBX]);
	v->gpr[RAX] = (uint64_t)(v->cpl ? -EPERM : number == HVM_CALL_STAGE ? 0 : -ENOSYS); /* calls are the kernel's */
	if (hvm_skip(v, x))
		return -ECANCELED;
	return number == HVM_CALL_STAGE && !v->cpl && hvm_of(v)->plan ? plan_stage(v, v->gpr[RBX]) : 0;
}

unsigned hvm_level(struct hvm *h, uint64_t gpa)
{
	struct nested_walk w;
	unsigned level = h->vm->opt.page_level ? h->vm->opt.page_level : 2;

	nested_walk(&h->nested, gpa, 0, &w);
	if (h->dirty->on)
		level = 1;
	if (level > w.level)
		level = w.level;
	if ((level == 3 && !h->nested.caps.page_1g) || (level == 2 && !h->nested.caps.page_2m))
		level--;
	for (; level > 1; level--) {
		uint64_t base = gpa & ~(level_size(level) - 1);
		if (base + level_size(level) <= h->vm->mem.size && policy_uniform(h->policy, base, level_size(level)))
			break;
	}
	return level;
}

int hvm_set_cr(struct vcpu *v, unsigned n, uint64_t value)
{
	*cr_register(v, n) = n == 0 ? (value & CR0_DEFINED) | CR0_ET : value; /* CR0 ignores what it does not have */
	if (n == 3 && v->vm->shadow)
		shadow_cr3_written(v);
	if (n == 0) /* SDM vol. 3, 9.8.5 */
		v->efer = (value & CR0_PG) && (v->efer & EFER_LME) ? v->efer | EFER_LMA : v->efer & ~EFER_LMA;
	return v->vm->stopping ? -ECANCELED : 0;
}

int hvm_out_of_tables(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);

	trap_note(v, "no table left: everything is unmapped");
	if (nested_unmap(&h->nested, 0, v->vm->mem.size))
		return vm_stop(v->vm, HV_STOPPED, "the pool of nested tables is used up, and unmapping everything did not help");
	return 0;
}
