/*
 * The SVM back end: the monitor that enters the guest, the VMCB's state save area, and what of the guest's state the VMCB leaves in the
 * machine's own registers (APM vol. 2, 15.5.1: FS, GS, TR, LDTR and the MSRs of VMLOAD). What the guest is left for, what an exit means
 * and how an event goes in is Lab 3's svm.c.
 */
#include "hvm_monitor.h"
#include "kvm_state.h"
#include "lab1.h"
#include "lab3.h"
#include "svm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define HSAVE_MA HVM_OWN_MA
#define VMCB_MA (HVM_OWN_MA + PAGE)
#define MSRPM_MA (HVM_OWN_MA + 2 * PAGE)
#define IOPM_MA (MSRPM_MA + SVM_MSRPM_SIZE)

#define EFER_SVME (1ull << 12)
#define MSR_VM_CR 0xc0010114
#define VM_CR_SVMDIS (1ull << 4)
#define MSR_VM_HSAVE_PA 0xc0010117

#define CPUID81_SVM (1u << 2)       /* leaf 0x80000001, ECX */
#define CPUID8A_NP (1u << 0)        /* leaf 0x8000000a, EDX */
#define CPUID8A_NRIPS (1u << 3)

/* No CPU answers with this: the guest has not been left since the entry. */
#define NOT_LEFT 0xfffffffffffff000ull

/*
 * The monitor. GIF is off around VMRUN, so an NMI by which hv wants the CPU back either ends the guest (it is intercepted) or comes
 * behind STGI: it is never lost between the two.
 */
static const uint8_t monitor[] = {
	0x0f, 0x01, 0xdd,    /* clgi */
	0x0f, 0x01, 0xd8,    /* vmrun: rax = the VMCB's machine address */
	0x0f, 0x01, 0xdc,    /* stgi */
	0xe6, HVM_PORT_EXIT, /* out %al,$HVM_PORT_EXIT */
	0xeb, 0xf3,          /* jmp clgi */
};

static const struct kvm_cpuid_entry2 *leaf(const struct hvm *h, uint32_t function)
{
	for (unsigned i = 0; i < h->m.cpuid->nent; i++)
		if (h->m.cpuid->entries[i].function == function)
			return &h->m.cpuid->entries[i];
	static const struct kvm_cpuid_entry2 none;
	return &none;
}

static int svm_check(struct hvm *h)
{
	struct nested_caps *caps = &h->nested.caps;

	/* SVM itself. KVM leaves it out of its CPUID table unless it was loaded with nested=1. */
	if (!(leaf(h, 0x80000001)->ecx & CPUID81_SVM))
		return vm_stop(h->vm, HV_HOST, "this /dev/kvm's machine has no SVM (on AMD: kvm-amd must be loaded with nested=1)");

	/* Nested paging. Without it the CPU walks tables of hv's making for the guest: --shadow. (APM vol. 2, 15.25.1) */
	if (!h->shadow && !(leaf(h, 0x8000000a)->edx & CPUID8A_NP))
		return vm_stop(h->vm, HV_HOST, "this /dev/kvm's machine has SVM without nested paging; --shadow=cached works without it");

	/* Pages of 2 MiB come with long mode; of 1 GiB by CPUID. A and D are always kept. (APM vol. 2, 15.25.5) */
	*caps = (struct nested_caps){ .phys_bits = h->vm->phys_bits, .page_2m = true, .accessed_dirty = true,
				      .page_1g = leaf(h, 0x80000001)->edx & CPUID81_1GIB };
	return 0;
}

static uint16_t attr_to_vmcb(uint16_t attr) { return (attr & 0xff) | (attr >> 4 & 0xf00); }
static uint16_t attr_from_vmcb(uint16_t attr) { return (attr & 0xff) | (attr & 0xf00) << 4; }

static struct vmcb_segment to_vmcb(const struct segment *s)
{
	return (struct vmcb_segment){ s->selector, attr_to_vmcb(s->attr), s->limit, s->base };
}

static struct segment from_vmcb(const struct vmcb_segment *s)
{
	return (struct segment){ .selector = s->selector, .attr = attr_from_vmcb(s->attr), .limit = s->limit, .base = s->base };
}

/* The guest's FS, GS, TR, LDTR: in the machine's registers while the monitor runs as while the guest does. */
static int put_vmload_state(struct svm *s)
{
	struct vcpu *v = &s->h->vm->vcpu;
	struct kvm_sregs r;

	if (ioctl(s->h->m.vcpu_fd, KVM_GET_SREGS, &r) < 0)
		return machine_error(&s->h->m, "KVM_GET_SREGS");
	hvm_monitor_sregs(&r, 0, EFER_SVME);
	r.fs = segment_to_kvm(&v->seg[FS]);
	r.gs = segment_to_kvm(&v->seg[GS]);
	r.tr = segment_to_kvm(&v->tr);
	r.ldt = segment_to_kvm(&v->ldtr);
	if (ioctl(s->h->m.vcpu_fd, KVM_SET_SREGS, &r) < 0)
		return machine_error(&s->h->m, "KVM_SET_SREGS");
	s->at_start = true;
	return hvm_msrs(s->h, false);
}

static int svm_create(struct hvm *h)
{
	struct svm *s = calloc(1, sizeof *s);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} hsave = { .head.nmsrs = 1, .entry[0] = { .index = MSR_VM_HSAVE_PA, .data = HSAVE_MA } };

	h->state = s;
	if (!s)
		return vm_stop(h->vm, HV_HOST, "the host has not enough memory");
	s->h = h;
	hvm_monitor_write(h);
	memcpy(h->mon + HVM_CODE_MA, monitor, sizeof monitor);
	s->vmcb = (struct vmcb *)(h->mon + VMCB_MA);
	s->iopm = h->mon + (s->iopm_ma = IOPM_MA);
	s->msrpm = h->mon + (s->msrpm_ma = MSRPM_MA);
	memset(s->iopm, 0xff, SVM_IOPM_SIZE);
	memset(s->msrpm, 0xff, SVM_MSRPM_SIZE);
	svm_controls(s);
	if (h->vm->stopping || put_vmload_state(s))
		return -ECANCELED;
	if (ioctl(h->m.vcpu_fd, KVM_SET_MSRS, &hsave) != 1)
		return machine_error(&h->m, "KVM_SET_MSRS (VM_HSAVE_PA)");
	return 0;
}

void svm_msr_pass(struct svm *s, uint32_t index)
{
	/* Two bits for each MSR: read, write. Three ranges of 8192 (APM vol. 2, 15.11). */
	static const uint32_t base[] = { 0, 0xc0000000, 0xc0010000 };
	for (unsigned i = 0; i < 3; i++)
		if (index - base[i] < 0x2000) {
			unsigned bit = (index - base[i]) * 2;
			s->msrpm[i * 0x800 + bit / 8] &= (uint8_t)~(3u << bit % 8);
		}
}

/* The state that is in the VMCB. */
static void put_vmcb(struct svm *s)
{
	struct vcpu *v = &s->h->vm->vcpu;
	struct vmcb *b = s->vmcb;

	b->es = to_vmcb(&v->seg[ES]);
	b->cs = to_vmcb(&v->seg[CS]);
	b->ss = to_vmcb(&v->seg[SS]);
	b->ds = to_vmcb(&v->seg[DS]);
	b->gdtr = (struct vmcb_segment){ .base = v->gdtr.base, .limit = v->gdtr.limit };
	b->idtr = (struct vmcb_segment){ .base = v->idtr.base, .limit = v->idtr.limit };
	b->cpl = (uint8_t)v->cpl;
	/* VMRUN demands SVME; the guest does not see it (APM vol. 2, 15.5.1). Lab 2's shadows count on NXE and WP. */
	b->efer = v->efer | EFER_SVME | (s->h->shadow ? EFER_NXE : 0);
	b->cr0 = v->cr0 | (s->h->shadow ? CR0_WP : 0);
	b->cr2 = v->cr2;
	b->cr4 = v->cr4;
	b->cr3 = s->h->shadow ? s->h->shadow_cr3 : v->cr3;
	b->dr6 = v->dr[6];
	b->dr7 = v->dr[7];
	b->rflags = v->rflags | (s->h->step || s->unblocking ? FLAG_TF : 0);
	b->exceptions = (b->exceptions & ~(1u << VEC_DB)) | (s->h->step || s->unblocking ? 1u << VEC_DB : 0);
	b->rip = v->rip;
	b->rsp = v->gpr[RSP];
	b->rax = v->gpr[RAX];
	b->pat = v->msr.pat;
	b->shadow = v->shadow;
}

static void take_vmcb(struct svm *s)
{
	struct vcpu *v = &s->h->vm->vcpu;
	const struct vmcb *b = s->vmcb;

	v->seg[ES] = from_vmcb(&b->es);
	v->seg[CS] = from_vmcb(&b->cs);
	v->seg[SS] = from_vmcb(&b->ss);
	v->seg[DS] = from_vmcb(&b->ds);
	v->gdtr = (struct dtable){ b->gdtr.base, (uint16_t)b->gdtr.limit };
	v->idtr = (struct dtable){ b->idtr.base, (uint16_t)b->idtr.limit };
	v->cpl = b->cpl;
	v->cr2 = b->cr2;
	v->cr4 = b->cr4;
	if (!s->h->shadow) { /* else they change by exits only */
		v->efer = b->efer & ~EFER_SVME;
		v->cr0 = b->cr0;
		v->cr3 = b->cr3;
	}
	v->dr[6] = b->dr6;
	v->dr[7] = b->dr7;
	/* hv's own TF goes. Behind the IRET that ends an NMI handler the flags are what the guest had saved. */
	bool returned = s->unblocking && b->exitcode == SVM_EXIT_EXCEPTION + VEC_DB;
	v->rflags = b->rflags & ~(!s->guest_tf && !returned && (s->h->step || s->unblocking) ? FLAG_TF : 0);
	v->rip = b->rip;
	v->gpr[RSP] = b->rsp;
	v->gpr[RAX] = b->rax;
	v->shadow = b->shadow & 1;
}

/*
 * The guest's NMI handler ends with IRET, which is where the CPU leaves it: before the IRET. NMIs stay blocked until it is carried out,
 * so the guest is stepped over it.
 */
static void unblock_nmi(struct svm *s, struct hvm_exit *x)
{
	if (x->kind == HVM_NMI_WINDOW) {
		s->unblocking = true;
		x->kind = HVM_KICK;
	}
	if (!s->unblocking || x->kind != HVM_EXCEPTION || x->exception.vector != VEC_DB)
		return;
	s->unblocking = s->h->nmi_blocked = false;
	s->h->vm->vcpu.dr[6] &= ~DR6_BS; /* the step was hv's */
	x->kind = HVM_NMI_WINDOW;
}

static int svm_enter(struct hvm *h)
{
	struct svm *s = h->state;
	struct vcpu *v = &h->vm->vcpu;
	struct kvm_run *run = h->m.run;
	bool flush = h->shadow ? h->shadow_flush : h->nested.flush;

	if (flush && !h->shadow) {
		if (hvm_replay(h))
			return -ECANCELED;
		nested_flushed(&h->nested);
		s->at_start = true;
	}
	h->shadow_flush = false;
	s->vmcb->tlb_control = flush ? SVM_TLB_FLUSH_ALL : 0;
	s->guest_tf = v->rflags & FLAG_TF;
	put_vmcb(s);
	svm_inject(s, &h->inject);
	svm_windows(s, h->irq_window, h->nmi_window);
	if (s->unblocking) /* it has come for this IRET already: now it is carried out */
		s->vmcb->intercept1 &= ~SVM_I1_IRET;
	s->vmcb->exitcode = NOT_LEFT;
	s->vmcb->clean = 0;
	if (h->vm->stopping)
		return -ECANCELED;
	s->gpr_in[RAX] = v->gpr[RAX]; /* these two are in the VMCB */
	s->gpr_in[RSP] = v->gpr[RSP];
	if (s->at_start || memcmp(s->gpr_in, v->gpr, sizeof s->gpr_in)) {
		struct kvm_regs *r = &run->s.regs.regs;
		hvm_gpr_to_kvm(r, v->gpr);
		if (s->at_start) {
			r->rax = VMCB_MA;
			r->rip = HVM_CODE_MA;
			r->rsp = HVM_STACK_MA;
			r->rflags = FLAG_FIXED;
		}
		run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
		s->at_start = false;
	}
	return 0;
}

/*
 * The machine stands in the NMI's stub, where NMIs are blocked until IRET (SDM vol. 3, 6.7.1). Who then makes it go on somewhere else
 * (hvm_replay(), at_start) skips that IRET, and the next NMI would never be taken: it would end the guest at each entry, for ever.
 */
static int leave_stub(struct hvm *h)
{
	struct kvm_vcpu_events events;

	if (ioctl(h->m.vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return machine_error(&h->m, "KVM_GET_VCPU_EVENTS");
	events.nmi.masked = 0;
	return ioctl(h->m.vcpu_fd, KVM_SET_VCPU_EVENTS, &events) < 0 ? machine_error(&h->m, "KVM_SET_VCPU_EVENTS") : 0;
}

static bool svm_left(struct hvm *h, const struct machine_exit *m, struct hvm_exit *x)
{
	struct svm *s = h->state;
	struct vcpu *v = &h->vm->vcpu;

	*x = (struct hvm_exit){ .kind = HVM_KICK };
	if (m->write && m->size == 1 && m->addr == HVM_PORT_EXIT && s->vmcb->exitcode != NOT_LEFT) {
		hvm_gpr_from_kvm(v->gpr, &h->m.run->s.regs.regs);
		take_vmcb(s);
		memcpy(s->gpr_in, v->gpr, sizeof s->gpr_in);
		x->raw = s->vmcb->exitcode;
		svm_decode_exit(s, x);
		bool stepped = h->step && x->kind == HVM_EXCEPTION && x->exception.vector == VEC_DB;
		unblock_nmi(s, x);
		if (stepped)
			x->kind = HVM_STEP;
		return true;
	}
	if (!hvm_monitor_stub(h, m))
		return false;
	/* The NMI. If it ended the guest, that is still to be reported; else it came before the entry, and what was to go in still is. */
	x->interrupted = h->inject;
	return s->vmcb->exitcode == NOT_LEFT && !leave_stub(h);
}

static int svm_fetch(struct hvm *h)
{
	struct vcpu *v = &h->vm->vcpu;
	struct kvm_sregs r;

	if (ioctl(h->m.vcpu_fd, KVM_GET_SREGS, &r) < 0)
		return machine_error(&h->m, "KVM_GET_SREGS");
	v->seg[FS] = segment_from_kvm(&r.fs);
	v->seg[GS] = segment_from_kvm(&r.gs);
	v->tr = segment_from_kvm(&r.tr);
	v->ldtr = segment_from_kvm(&r.ldt);
	return hvm_msrs(h, true);
}

static int svm_store(struct hvm *h) { return put_vmload_state(h->state); }

static void svm_destroy(struct hvm *h) { free(h->state); }

const struct hvm_backend hvm_svm = {
	.name = "svm",
	.format = &format_npt,
	.check = svm_check,
	.create = svm_create,
	.enter = svm_enter,
	.left = svm_left,
	.fetch = svm_fetch,
	.store = svm_store,
	.destroy = svm_destroy,
};
