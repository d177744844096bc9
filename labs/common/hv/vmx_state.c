/*
 * The guest's registers: struct vcpu into fields of the VMCS and out of them (SDM vol. 3, 24.4). What an exit does not read is fetched
 * only when somebody asks, so what goes back is what hv changed since the exit, and nothing else.
 */
#include "lab3.h"
#include "vmx_state.h"

#include <sys/ioctl.h>

/* Of CR0 the machine keeps these to itself: NE must be set in VMX operation (SDM vol. 3, A.7), the cache is not the guest's to turn off. */
#define CR0_KEPT (CR0_CD | CR0_NW)

#define DR7_MACHINE 0x400 /* no breakpoints: the guest's DR7 is a field */

#define SEGMENTS 8 /* in the order of the fields: enum sreg, LDTR, TR */
#define LDTR 6
#define TR 7

static struct segment *segment_of(struct vcpu *v, unsigned n)
{
	return n < LDTR ? &v->seg[n] : n == LDTR ? &v->ldtr : &v->tr;
}

/* Access rights as the entry wants them (SDM vol. 3, table 24-2, 26.3.1.2): a code or data segment that can be used has been accessed,
 * the task register is busy. */
static uint32_t to_access(const struct segment *g, unsigned n)
{
	uint32_t access = g->attr & 0xf0ff;

	if (!(access & SEG_P))
		return access | ACCESS_UNUSABLE;
	return n == TR ? access | 2 : access & SEG_S ? access | 1 : access;
}

static void put_segment(struct vmx *s, const struct segment *g, unsigned n)
{
	vmx_write(s, VMCS_SELECTOR_ES + 2 * n, g->selector);
	vmx_write(s, VMCS_BASE_ES + 2 * n, g->base);
	vmx_write(s, VMCS_LIMIT_ES + 2 * n, g->limit);
	vmx_write(s, VMCS_ACCESS_ES + 2 * n, to_access(g, n));
}

static uint16_t from_access(uint64_t access)
{
	return (uint16_t)(access & (access & ACCESS_UNUSABLE ? 0xf07f : 0xf0ff));
}

/* An event may not come right behind STI or a load of SS. hv knows one kind of shadow, the VMCS two. */
static void put_shadow(struct vmx *s, const struct vcpu *v, bool tf)
{
	/* A guest that comes from elsewhere may be in its NMI handler. Not while the NMI itself is still to go in: then the CPU
	 * sets it (SDM vol. 3, 26.3.1.5). */
	bool nmi = s->h->inject.valid && s->h->inject.type == HVM_NMI;
	uint64_t first = s->h->nmi_blocked && !nmi ? BLOCKING_NMI : 0;
	uint64_t now = s->first ? first : vmx_read(s, VMCS_INTERRUPTIBILITY), want = now;

	if (v->shadow != !!(now & (BLOCKING_STI | BLOCKING_MOV_SS))) {
		want &= ~(uint64_t)(BLOCKING_STI | BLOCKING_MOV_SS);
		if (v->shadow)
			want |= v->rflags & FLAG_IF ? BLOCKING_STI : BLOCKING_MOV_SS;
	}
	vmx_write(s, VMCS_INTERRUPTIBILITY, want);
	/* In a shadow the entry checks that a single step is pending exactly when the guest steps (SDM vol. 3, 26.3.1.5). */
	if (s->first || (v->shadow && tf != s->tf))
		vmx_write(s, VMCS_PENDING_DEBUG, v->shadow && tf ? PENDING_BS : 0);
	s->tf = tf;
}

/* Without nested paging the guest's paging is on from the start, and the machine's tables are the shadows: W counts at CPL 0 too, and
 * they use NX. */
static void put_control_registers(struct vmx *s, const struct vcpu *v)
{
	bool shadow = s->h->shadow;

	vmx_write(s, VMCS_CR0, (v->cr0 & ~CR0_KEPT) | CR0_NE | (shadow ? CR0_WP | CR0_PG | CR0_PE : 0));
	vmx_write(s, VMCS_CR0_SHADOW, v->cr0);
	vmx_write(s, VMCS_CR4, v->cr4 | CR4_VMXE);
	vmx_write(s, VMCS_CR4_SHADOW, v->cr4);
	vmx_write(s, VMCS_EFER, v->efer | (shadow ? EFER_NXE : 0));
	uint64_t controls = vmx_read(s, VMCS_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_LONG_MODE;
	vmx_write(s, VMCS_ENTRY_CONTROLS, controls | (v->efer & EFER_LMA ? ENTRY_LONG_MODE : 0));
}

/* DR0 to DR3 and DR6 are no fields: the machine's are the guest's. */
static int take_debug_registers(struct vmx *s)
{
	struct vcpu *v = &s->h->vm->vcpu;
	struct kvm_debugregs d;

	if (ioctl(s->h->m.vcpu_fd, KVM_GET_DEBUGREGS, &d) < 0)
		return machine_error(&s->h->m, "KVM_GET_DEBUGREGS");
	memcpy(v->dr, d.db, sizeof d.db);
	v->dr[6] = d.dr6;
	return 0;
}

static int put_debug_registers(struct vmx *s)
{
	const struct vcpu *v = &s->h->vm->vcpu;
	struct kvm_debugregs d = { .db = { v->dr[0], v->dr[1], v->dr[2], v->dr[3] }, .dr6 = v->dr[6], .dr7 = DR7_MACHINE };

	return ioctl(s->h->m.vcpu_fd, KVM_SET_DEBUGREGS, &d) < 0 ? machine_error(&s->h->m, "KVM_SET_DEBUGREGS") : 0;
}

#define CHANGED(member) (s->first || memcmp(&v->member, &b->member, sizeof v->member))

int vmx_put_state(struct vmx *s)
{
	struct vcpu *v = &s->h->vm->vcpu, *b = &s->before;

	if (CHANGED(dr[6]) && put_debug_registers(s))
		return -ECANCELED;
	memcpy(s->box->gpr, v->gpr, sizeof s->box->gpr);
	s->box->cr2 = v->cr2;
	vmx_write(s, VMCS_RIP, v->rip);
	vmx_write(s, VMCS_RSP, v->gpr[RSP]);
	bool step = s->h->step && !s->trap_flag, tf = step || (v->rflags & FLAG_TF);
	s->guest_tf = v->rflags & FLAG_TF;
	vmx_write(s, VMCS_RFLAGS, v->rflags | (tf ? FLAG_TF : 0));
	put_shadow(s, v, tf);
	if (step && !v->shadow) /* the last step's exit may have left it behind */
		vmx_write(s, VMCS_PENDING_DEBUG, 0);
	if (CHANGED(cr0) || CHANGED(cr4) || CHANGED(efer))
		put_control_registers(s, v);
	vmx_write(s, VMCS_CR3, s->h->shadow ? s->h->shadow_cr3 : v->cr3);
	for (unsigned n = 0; n < SEGMENTS; n++)
		if (s->first || memcmp(segment_of(v, n), segment_of(b, n), sizeof v->tr))
			put_segment(s, segment_of(v, n), n);
	if (CHANGED(gdtr)) {
		vmx_write(s, VMCS_GDTR_BASE, v->gdtr.base);
		vmx_write(s, VMCS_GDTR_LIMIT, v->gdtr.limit);
	}
	if (CHANGED(idtr)) {
		vmx_write(s, VMCS_IDTR_BASE, v->idtr.base);
		vmx_write(s, VMCS_IDTR_LIMIT, v->idtr.limit);
	}
	if (CHANGED(dr[7]))
		vmx_write(s, VMCS_DR7, v->dr[7]);
	if (CHANGED(msr.pat))
		vmx_write(s, VMCS_PAT, v->msr.pat);
	if (CHANGED(msr.sysenter_cs))
		vmx_write(s, VMCS_SYSENTER_CS, v->msr.sysenter_cs);
	if (CHANGED(msr.sysenter_esp))
		vmx_write(s, VMCS_SYSENTER_ESP, v->msr.sysenter_esp);
	if (CHANGED(msr.sysenter_eip))
		vmx_write(s, VMCS_SYSENTER_EIP, v->msr.sysenter_eip);
	*b = *v; /* an entry that is not carried out is prepared once more, from here */
	s->first = false;
	return 0;
}

/* A control register as the guest sees it: bits that the mask gives to hv are what hv said they are (SDM vol. 3, 25.3). */
static uint64_t seen(struct vmx *s, enum vmcs_field real, enum vmcs_field mask, enum vmcs_field shadow)
{
	uint64_t m = vmx_read(s, mask);

	return (vmx_read(s, real) & ~m) | (vmx_read(s, shadow) & m);
}

int vmx_take_state(struct vmx *s)
{
	struct vcpu *v = &s->h->vm->vcpu;

	memcpy(v->gpr, s->box->gpr, sizeof v->gpr);
	v->cr2 = s->box->cr2;
	v->rip = vmx_read(s, VMCS_RIP);
	v->gpr[RSP] = vmx_read(s, VMCS_RSP);
	v->rflags = vmx_read(s, VMCS_RFLAGS) & ~(s->h->step && !s->trap_flag && !s->guest_tf ? FLAG_TF : 0);
	v->shadow = vmx_read(s, VMCS_INTERRUPTIBILITY) & (BLOCKING_STI | BLOCKING_MOV_SS);
	s->h->nmi_blocked = vmx_read(s, VMCS_INTERRUPTIBILITY) & BLOCKING_NMI;
	v->seg[CS].attr = from_access(vmx_read(s, VMCS_ACCESS_CS));
	v->seg[SS].attr = from_access(vmx_read(s, VMCS_ACCESS_SS));
	v->cpl = (v->seg[SS].attr & SEG_DPL) >> 5; /* SS has the CPL in any mode, and when it cannot be used too (SDM vol. 3, 24.4.1) */
	v->cr0 = seen(s, VMCS_CR0, VMCS_CR0_MASK, VMCS_CR0_SHADOW);
	v->cr4 = seen(s, VMCS_CR4, VMCS_CR4_MASK, VMCS_CR4_SHADOW);
	if (!s->h->shadow)
		v->cr3 = vmx_read(s, VMCS_CR3);
	/* Of EFER only LMA changes without an exit, with CR0.PG; and the CPU has the control bit follow it (SDM vol. 3, 27.2). */
	if (v->efer & EFER_LME) {
		v->efer = v->cr0 & CR0_PG ? v->efer | EFER_LMA : v->efer & ~EFER_LMA;
		uint64_t *controls = &s->value[vmcs_slot(VMCS_ENTRY_CONTROLS)];
		*controls = v->efer & EFER_LMA ? *controls | ENTRY_LONG_MODE : *controls & ~(uint64_t)ENTRY_LONG_MODE;
	}
	/* hv adds to DR6 when it carries out an instruction that the guest steps over (hvm_skip()). */
	if ((v->rflags & FLAG_TF) && take_debug_registers(s))
		return -ECANCELED;
	s->before = *v;
	return 0;
}

static const uint16_t rest[] = {
	VMCS_SELECTOR_ES, VMCS_SELECTOR_ES + 2, VMCS_SELECTOR_ES + 4, VMCS_SELECTOR_ES + 6, VMCS_SELECTOR_ES + 8,
	VMCS_SELECTOR_ES + 10, VMCS_SELECTOR_ES + 12, VMCS_SELECTOR_ES + 14, VMCS_BASE_ES, VMCS_BASE_ES + 2, VMCS_BASE_ES + 4,
	VMCS_BASE_ES + 6, VMCS_BASE_ES + 8, VMCS_BASE_ES + 10, VMCS_BASE_ES + 12, VMCS_BASE_ES + 14, VMCS_LIMIT_ES,
	VMCS_LIMIT_ES + 2, VMCS_LIMIT_ES + 4, VMCS_LIMIT_ES + 6, VMCS_LIMIT_ES + 8, VMCS_LIMIT_ES + 10, VMCS_LIMIT_ES + 12,
	VMCS_LIMIT_ES + 14, VMCS_ACCESS_ES, VMCS_ACCESS_ES + 6, VMCS_ACCESS_ES + 8, VMCS_ACCESS_ES + 10, VMCS_ACCESS_ES + 12,
	VMCS_ACCESS_ES + 14, VMCS_GDTR_BASE, VMCS_GDTR_LIMIT, VMCS_IDTR_BASE, VMCS_IDTR_LIMIT, VMCS_DR7, VMCS_SYSENTER_CS,
	VMCS_SYSENTER_ESP, VMCS_SYSENTER_EIP
};

static void take_fields(struct vmx *s, struct vcpu *v)
{
	for (unsigned n = 0; n < SEGMENTS; n++)
		*segment_of(v, n) = (struct segment){ .selector = (uint16_t)vmx_read(s, VMCS_SELECTOR_ES + 2 * n),
						      .base = vmx_read(s, VMCS_BASE_ES + 2 * n),
						      .limit = (uint32_t)vmx_read(s, VMCS_LIMIT_ES + 2 * n),
						      .attr = from_access(vmx_read(s, VMCS_ACCESS_ES + 2 * n)) };
	v->gdtr = (struct dtable){ vmx_read(s, VMCS_GDTR_BASE), (uint16_t)vmx_read(s, VMCS_GDTR_LIMIT) };
	v->idtr = (struct dtable){ vmx_read(s, VMCS_IDTR_BASE), (uint16_t)vmx_read(s, VMCS_IDTR_LIMIT) };
	v->dr[7] = vmx_read(s, VMCS_DR7);
	v->msr.sysenter_cs = vmx_read(s, VMCS_SYSENTER_CS);
	v->msr.sysenter_esp = vmx_read(s, VMCS_SYSENTER_ESP);
	v->msr.sysenter_eip = vmx_read(s, VMCS_SYSENTER_EIP);
}

int vmx_take_rest(struct vmx *s)
{
	struct vcpu *v = &s->h->vm->vcpu;

	if (vmx_look(s, rest, sizeof rest / sizeof *rest))
		return -ECANCELED;
	take_fields(s, v);
	take_fields(s, &s->before);
	if (take_debug_registers(s))
		return -ECANCELED;
	s->before.dr[6] = v->dr[6];
	return hvm_msrs(s->h, true);
}

int vmx_put_machine(struct vmx *s)
{
	return put_debug_registers(s) || hvm_msrs(s->h, false) ? -ECANCELED : 0;
}
