/*
 * What the hvm engine and the lab's files ask of the frame: state that is fetched when it is needed, the step over an instruction, what the
 * guest's CPU has.
 */
#include "lab1.h"
#include "hvm_policy.h"
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
	v->shadow = false;
	v->rflags &= ~FLAG_RF;
	if (v->rflags & FLAG_TF) { /* the CPU would have raised it behind the instruction */
		v->dr[6] = (v->dr[6] & ~DR6_BREAKPOINTS) | DR6_BS;
		raise_exception(v, VEC_DB);
	}
	return 0;
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
	return exit_violation(v, x);
}

struct cpuid_result hvm_cpuid(struct vcpu *v, uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_result host = trap_host_cpuid(v, leaf, subleaf), r = cpuid_policy(v, leaf, subleaf, host);

	/* Features of paging need no virtualization here: the CPU walks the guest's own tables. */
	if (leaf == 7 && !subleaf)
		r.ebx |= host.ebx & (CPUID7_SMEP | CPUID7_SMAP);
	if (leaf == 0x80000001)
		r.edx |= host.edx & CPUID81_1GIB;
	return r;
}

int hvm_hypercall(struct vcpu *v, const struct hvm_exit *x)
{
	uint64_t number = v->gpr[RAX];

	trap_note(v, "hypercall %llu (0x%llx)", (unsigned long long)number, (unsigned long long)v->gpr[RBX]);
	v->gpr[RAX] = number == HVM_CALL_STAGE ? 0 : (uint64_t)-ENOSYS;
	if (hvm_skip(v, x))
		return -ECANCELED;
	return number == HVM_CALL_STAGE && hvm_of(v)->plan ? plan_stage(v, v->gpr[RBX]) : 0;
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
	*cr_register(v, n) = value;
	if (n == 0) /* SDM vol. 3, 9.8.5 */
		v->efer = (value & CR0_PG) && (v->efer & EFER_LME) ? v->efer | EFER_LMA : v->efer & ~EFER_LMA;
	return 0;
}

int hvm_out_of_tables(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);

	trap_note(v, "no table left: everything is unmapped");
	if (nested_unmap(&h->nested, 0, v->vm->mem.size))
		return vm_stop(v->vm, HV_STOPPED, "the pool of nested tables is used up, and unmapping everything did not help");
	return 0;
}

int hvm_shadow_exit(struct vcpu *v, const struct hvm_exit *x) { (void)v, (void)x; return -1; }
int hvm_shadow_create(struct hvm *h) { (void)h; return -1; }
int hvm_shadow_root(struct vcpu *v) { (void)v; return 0; }
void hvm_shadow_destroy(struct hvm *h) { (void)h; }
