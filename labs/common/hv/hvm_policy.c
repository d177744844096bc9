#include "hvm_policy.h"
#include "memory_access.h"
#include "trapengine.h"

const struct policy_range *policy_find(const struct policy *p, uint64_t gpa)
{
	for (unsigned i = p->count; i--;)
		if (gpa - p->range[i].gpa < p->range[i].len)
			return &p->range[i];
	return NULL;
}

bool policy_uniform(const struct policy *p, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < p->count; i++) {
		const struct policy_range *r = &p->range[i];
		bool overlaps = r->gpa < gpa + len && gpa < r->gpa + r->len;
		bool covers = r->gpa <= gpa && gpa + len <= r->gpa + r->len;
		if (overlaps && !covers)
			return false;
	}
	return true;
}

int policy_add(struct policy *p, const struct policy_range *r)
{
	if (p->count == POLICY_RANGES)
		return -ENOSPC;
	p->range[p->count++] = *r;
	return 0;
}

unsigned hvm_rights(const struct hvm *h, uint64_t gpa)
{
	const struct policy_range *r = policy_find(h->policy, gpa);

	/* A page whose watch is being passed: everything, for one instruction. */
	for (unsigned i = 0; i < h->policy->npassing; i++)
		if (h->policy->passing[i] == (gpa & ~(PAGE - 1)))
			return NESTED_RWX;
	return r ? r->rights : NESTED_RWX;
}

bool policy_may_write(void *opaque, uint64_t gpa)
{
	const struct policy_range *r = policy_find(opaque, gpa);

	return !r || (r->rights & NESTED_W);
}

static const char *access_name(unsigned access)
{
	return access & NESTED_W ? "write" : access & NESTED_X ? "fetch" : "read";
}

static void report(struct policy *p, const struct vcpu *v, const struct hvm_exit *x)
{
	if (p->reported < WATCH_REPORTS)
		p->report[p->reported] = (struct watch_report){ x->violation.gpa, v->rip, x->violation.access };
	p->reported++;
}

/*
 * A watched access is carried out by hv where that is possible. Where it is not (a fetch, an instruction that hv does not emulate, the
 * CPU's own access to a page table), the page is opened for one instruction: the guest is single-stepped over it.
 */
int hvm_forbidden(struct vcpu *v, const struct hvm_exit *x)
{
	struct hvm *h = hvm_of(v);
	const struct policy_range *r = policy_find(h->policy, x->violation.gpa);
	uint64_t page = x->violation.gpa & ~(PAGE - 1);
	struct insn insn;

	if (!r || !r->watch)
		return vm_stop(v->vm, HV_STOPPED, "the guest's %s of gpa 0x%llx at rip 0x%llx is not allowed there",
			       access_name(x->violation.access), (unsigned long long)x->violation.gpa, (unsigned long long)v->rip);
	report(h->policy, v, x);
	trap_note(v, "watched: %s of gpa 0x%llx", access_name(x->violation.access), (unsigned long long)x->violation.gpa);
	if (hvm_fetch(v))
		return -ECANCELED;
	if (!(x->violation.access & NESTED_X) && !x->violation.in_walk && !x->interrupted.valid) {
		if (!insn_fetch(v, &insn))
			return v->vm->stopping ? -ECANCELED : 0;
		if (memory_can_emulate(&insn))
			return memory_emulate(v);
	}
	if (h->policy->npassing == POLICY_PASSING)
		return vm_stop(v->vm, HV_STOPPED, "one instruction at rip 0x%llx needs more than %u watched pages",
			       (unsigned long long)v->rip, POLICY_PASSING);
	h->policy->passing[h->policy->npassing++] = page;
	if (!h->passing || h->policy->step_rip != v->rip)
		h->policy->step_times = 0;
	h->policy->step_rip = v->rip;
	h->passing = true;
	unsigned rights = NESTED_RWX;
	if (h->dirty->on && x->violation.access & NESTED_W)
		h->dirty->bitmap[page / PAGE / 64] |= 1ull << page / PAGE % 64;
	else if (h->dirty->on) /* it may write there as well: then it comes again */
		rights &= ~NESTED_W;
	int err = nested_map(&h->nested, page, h->guest_ma + page, PAGE, rights, TYPE_WB, 1);
	return err ? hvm_out_of_tables(v) : 0;
}

/*
 * Some CPUs end a step before the instruction: when its first attempt had made the machine fill its own tables, Bochs leaves a step
 * pending for an instruction that has not been carried out. The next attempt finds everything in place. An instruction that really
 * ends where it began (a jump to itself) is let through a few times at once.
 */
#define STEPS_IN_PLACE 4

int policy_stepped(struct hvm *h)
{
	struct policy *p = h->policy;

	return h->vm->vcpu.rip == p->step_rip && p->step_times++ < STEPS_IN_PLACE ? 0 : policy_passed(h);
}

int policy_passed(struct hvm *h)
{
	struct policy *p = h->policy;

	h->passing = false;
	/* They come back on demand, with the rights that they may have. */
	while (p->npassing)
		if (nested_unmap(&h->nested, p->passing[--p->npassing], PAGE) && hvm_out_of_tables(&h->vm->vcpu))
			return -ECANCELED;
	return 0;
}

void policy_json(const struct policy *p, FILE *out)
{
	unsigned n = p->reported < WATCH_REPORTS ? (unsigned)p->reported : WATCH_REPORTS;

	fprintf(out, ",\"watched_total\":%llu,\"watched\":[", (unsigned long long)p->reported);
	for (unsigned i = 0; i < n; i++)
		fprintf(out, "%s{\"gpa\":\"0x%llx\",\"rip\":\"0x%llx\",\"access\":\"%s\"}", i ? "," : "",
			(unsigned long long)p->report[i].gpa, (unsigned long long)p->report[i].rip,
			p->report[i].access & NESTED_W ? "w" : p->report[i].access & NESTED_X ? "x" : "r");
	fputc(']', out);
}
