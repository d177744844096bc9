#include "vcpu_state.h"
#include "flat_memory.h"
#include "gva.h"
#include "registers.h"
#include "segment.h"
#include "trapengine.h"
#include "vm.h"

void vcpu_state_of(struct vm *vm, struct vcpu_state *s)
{
	*s = (struct vcpu_state){ .cpu = vm->vcpu,
				  .flat = !vm->all_modes && !vm->shadow,
				  .patched = !vm->all_modes && vm->opt.patch };
}

/* --- the common form ----------------------------------------------------------------------------------------------------------- */

static void to_common_form(struct vcpu *v)
{
	/* Trap finds this out when it is about to enter the guest. */
	if (!canonical(v->rip) && !v->event.pending)
		raise_error(v, VEC_GP, 0);
	/* Whatever it is, it wakes the guest: on trap that happens with the delivery. */
	if (v->event.pending)
		v->halted = false;
	else
		v->event = (struct event){ 0 };
	/* Intel has the CPL in SS, AMD beside it, and trap cares for it in null selectors as little as AMD does (SDM vol. 3,
	 * 24.4.1; APM vol. 2, 15.5.1). */
	v->seg[SS].attr = (uint16_t)((v->seg[SS].attr & ~SEG_DPL) | v->cpl << 5);
	/* What a CPU adds to these it may have and another may not. */
	v->dr[6] = dr_value(6, v->dr[6]);
	v->dr[7] = dr_value(7, v->dr[7]);
}

/* --- the fields ------------------------------------------------------------------------------------------------------------------ */

static void segment_io(struct segment *s, struct state_io *io)
{
	STATE(io, s->selector);
	STATE(io, s->attr);
	STATE(io, s->limit);
	STATE(io, s->base);
}

static void event_io(struct event *e, struct state_io *io)
{
	uint8_t kind = (uint8_t)e->kind;

	STATE(io, e->pending);
	STATE(io, kind);
	STATE(io, e->vector);
	STATE(io, e->has_error);
	STATE(io, e->error);
	if (io->loading)
		e->kind = (enum event_kind)kind;
}

static void fields_io(struct vcpu *v, struct state_io *io)
{
	uint8_t cpl = (uint8_t)v->cpl;

	for (unsigned i = 0; i < 16; i++)
		STATE(io, v->gpr[i]);
	STATE(io, v->rip);
	STATE(io, v->rflags);
	for (unsigned i = 0; i < 6; i++)
		segment_io(&v->seg[i], io);
	segment_io(&v->ldtr, io);
	segment_io(&v->tr, io);
	STATE(io, v->gdtr.base);
	STATE(io, v->gdtr.limit);
	STATE(io, v->idtr.base);
	STATE(io, v->idtr.limit);
	STATE(io, v->cr0);
	STATE(io, v->cr2);
	STATE(io, v->cr3);
	STATE(io, v->cr4);
	STATE(io, v->cr8);
	STATE(io, v->efer);
	for (unsigned i = 0; i < 8; i++)
		if (i != 4 && i != 5)
			STATE(io, v->dr[i]);
	STATE(io, cpl);
	v->cpl = cpl;
	STATE(io, v->msr.star);
	STATE(io, v->msr.lstar);
	STATE(io, v->msr.cstar);
	STATE(io, v->msr.sfmask);
	STATE(io, v->msr.kernel_gs_base);
	STATE(io, v->msr.sysenter_cs);
	STATE(io, v->msr.sysenter_esp);
	STATE(io, v->msr.sysenter_eip);
	STATE(io, v->msr.pat);
	STATE(io, v->msr.apic_base);
	STATE(io, v->msr.tsc_aux);
	STATE(io, v->msr.misc_enable);
	event_io(&v->event, io);
	STATE(io, v->shadow);
	STATE(io, v->halted);
}

/* --- what no CPU can be in --------------------------------------------------------------------------------------------------------- */

/* Control registers. The validators ask whether an instruction might set them in the guest's present mode: here each is asked whether it
 * may stay what it is, so LMA and PG, which set each other, are looked at beside that. (SDM vol. 3, 2.5, 9.8.5, 26.3.1.1) */
static bool check_control(const struct vcpu *v, struct state_io *io)
{
	bool lma = v->efer & EFER_LMA, long_mode = (v->efer & EFER_LME) && (v->cr0 & CR0_PG);

	return state_check(io, !(v->cr0 & ~CR0_DEFINED) && (v->cr0 & CR0_ET) && cr_value_valid(v, 0, v->cr0),
			   "CR0 is 0x%llx", (unsigned long long)v->cr0) &&
	       state_check(io, msr_value_valid(v, MSR_EFER, v->efer) && lma == long_mode && (!lma || (v->cr4 & CR4_PAE)),
			   "EFER is 0x%llx with CR0 0x%llx and CR4 0x%llx", (unsigned long long)v->efer,
			   (unsigned long long)v->cr0, (unsigned long long)v->cr4) &&
	       state_check(io, cr_value_valid(v, 4, v->cr4), "CR4 is 0x%llx, and this machine's guests may set 0x%llx",
			   (unsigned long long)v->cr4, (unsigned long long)trap_cr4_allowed(v)) &&
	       state_check(io, cr_value_valid(v, 3, v->cr3), "CR3 is 0x%llx", (unsigned long long)v->cr3) &&
	       state_check(io, cr_value_valid(v, 8, v->cr8), "CR8 is 0x%llx", (unsigned long long)v->cr8);
}

static bool check_msrs(const struct vcpu *v, struct state_io *io)
{
	static const uint32_t index[] = { MSR_LSTAR, MSR_CSTAR, MSR_KERNEL_GS_BASE, MSR_FS_BASE, MSR_GS_BASE, MSR_SYSENTER_ESP,
					  MSR_SYSENTER_EIP, MSR_PAT, MSR_APIC_BASE };

	for (unsigned i = 0; i < sizeof index / sizeof *index; i++) {
		uint64_t value = *msr_register((struct vcpu *)v, index[i]);

		if (!state_check(io, msr_value_valid(v, index[i], value), "MSR 0x%x is 0x%llx", index[i],
				 (unsigned long long)value))
			return false;
	}
	return true;
}

#define TYPE_CODE 8
#define TYPE_CONFORMING 4
#define TYPE_RW 2
#define TYPE_BUSY 2 /* of a task state segment's type, 1 or 9 */

/* Limit and granularity belong together: a limit in pages ends with a page (SDM vol. 3, 26.3.1.2). */
static bool limit_fits(const struct segment *s)
{
	return s->attr & SEG_G ? (s->limit & 0xfff) == 0xfff : !(s->limit >> 20);
}

static bool code_or_data_valid(const struct vcpu *v, unsigned n)
{
	const struct segment *s = &v->seg[n];
	unsigned dpl = (s->attr & SEG_DPL) >> 5;
	bool code = s->attr & TYPE_CODE, protected = (v->cr0 & CR0_PE) && !(v->rflags & FLAG_VM);

	if (!(s->attr & SEG_S) || !limit_fits(s))
		return false;
	if (n < FS && s->base >> 32) /* 64-bit bases are those of FS and GS only */
		return false;
	switch (n) {
	case CS: /* data, as real mode has it, until the first far jump */
		if ((v->efer & EFER_LMA) && (s->attr & SEG_L) && (s->attr & SEG_DB))
			return false;
		return !protected || !code || (s->attr & TYPE_CONFORMING ? dpl <= v->cpl : dpl == v->cpl);
	case SS: return !code && (s->attr & TYPE_RW);
	default: return !code || (s->attr & TYPE_RW);
	}
}

static bool check_segments(const struct vcpu *v, struct state_io *io)
{
	static const char *const name[] = { "ES", "CS", "SS", "DS", "FS", "GS" };
	const struct segment *tr = &v->tr, *ldtr = &v->ldtr;

	for (unsigned n = 0; n < 6; n++) {
		const struct segment *s = &v->seg[n];
		bool valid = !(s->attr & ~0xf0ff) && (s->attr & SEG_P ? code_or_data_valid(v, n) : n != CS);

		if (!state_check(io, valid, "%s has attributes 0x%x, base 0x%llx, limit 0x%x", name[n], s->attr,
				 (unsigned long long)s->base, s->limit))
			return false;
	}
	/* A task: 16-bit ones exist outside long mode only. Its descriptor says "available" until somebody loads it. */
	unsigned type = tr->attr & SEG_TYPE & ~TYPE_BUSY;
	bool task = (tr->attr & SEG_P) && !(tr->attr & SEG_S) && (type == 9 || (type == 1 && !(v->efer & EFER_LMA)));
	bool table = !(ldtr->attr & SEG_P) || (ldtr->attr & (SEG_S | SEG_TYPE)) == 2;
	return state_check(io, task && !(tr->attr & ~0xf0ff) && limit_fits(tr) && canonical(tr->base),
			   "TR has attributes 0x%x, limit 0x%x", tr->attr, tr->limit) &&
	       state_check(io,
			   table && !(ldtr->attr & ~0xf0ff) && (!(ldtr->attr & SEG_P) || limit_fits(ldtr)) &&
				   canonical(ldtr->base),
			   "LDTR has attributes 0x%x, limit 0x%x", ldtr->attr, ldtr->limit) &&
	       state_check(io, canonical(v->gdtr.base) && canonical(v->idtr.base),
			   "GDTR or IDTR has an address that is not canonical");
}

/* The privilege level: none in real mode, 3 in virtual-8086 mode (SDM vol. 3, 20.1, 20.2), which does not exist in long mode. */
static bool check_level(const struct vcpu *v, struct state_io *io)
{
	bool vm86 = v->rflags & FLAG_VM;

	return state_check(io, v->cpl <= 3 && (v->cr0 & CR0_PE || !v->cpl) && (!vm86 || v->cpl == 3),
			   "its CPL is %u with CR0 0x%llx", v->cpl, (unsigned long long)v->cr0) &&
	       state_check(io, (v->seg[SS].attr & SEG_DPL) >> 5 == v->cpl, "SS is a stack of level %u, and the CPL is %u",
			   (v->seg[SS].attr & SEG_DPL) >> 5, v->cpl) &&
	       state_check(io, !(v->rflags & ~FLAGS_DEFINED) && (v->rflags & FLAG_FIXED), "RFLAGS is 0x%llx",
			   (unsigned long long)v->rflags) &&
	       state_check(io, !vm86 || ((v->cr0 & CR0_PE) && !(v->efer & EFER_LMA)),
			   "RFLAGS says virtual-8086 mode, CR0 and EFER do not");
}

static bool check_debug(const struct vcpu *v, struct state_io *io)
{
	return state_check(io, v->dr[6] == dr_value(6, v->dr[6]) && v->dr[7] == dr_value(7, v->dr[7]),
			   "DR6 is 0x%llx, DR7 0x%llx", (unsigned long long)v->dr[6], (unsigned long long)v->dr[7]);
}

/* Exceptions, and those with an error code (SDM vol. 3, table 6-1). */
#define VECTORS_WITH_ERROR \
	(1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC)
#define VECTORS                                                                                                          \
	(VECTORS_WITH_ERROR | 1u << VEC_DE | 1u << VEC_DB | 1u << VEC_NMI | 1u << VEC_BP | 1u << VEC_OF | 1u << VEC_BR | \
	 1u << VEC_UD | 1u << VEC_NM | 1u << VEC_MF | 1u << VEC_XM)

/* What waits to be delivered. Software interrupts never wait: INT n is delivered while it is carried out, or has not happened. */
static bool event_valid(const struct vcpu *v)
{
	const struct event *e = &v->event;

	if (!e->pending)
		return !e->kind && !e->vector && !e->has_error && !e->error;
	if (e->error >> 16 || (!e->has_error && e->error))
		return false;
	switch (e->kind) {
	case EVENT_EXCEPTION:
		return e->vector < 32 && VECTORS >> e->vector & 1 &&
		       e->has_error == ((v->cr0 & CR0_PE) && VECTORS_WITH_ERROR >> e->vector & 1);
	case EVENT_INTERRUPT: /* it was accepted, so the guest took interrupts */
		return !e->has_error && (v->rflags & FLAG_IF);
	default: return false;
	}
}

static bool check_flow(const struct vcpu *v, struct state_io *io)
{
	bool rip = insn_mode(v) != 64 ? !(v->rip >> 32) : canonical(v->rip) || v->event.pending;

	return state_check(io, rip, "RIP is 0x%llx", (unsigned long long)v->rip) &&
	       state_check(io, event_valid(v), "an event of kind %u, vector %u, error code 0x%x waits",
			   (unsigned)v->event.kind, v->event.vector, v->event.error) &&
	       state_check(io, !v->halted || !v->event.pending, "it is halted, and an event waits");
}

/* --- what this engine cannot run ------------------------------------------------------------------------------------------------- */

/* 64-bit code, without NMIs, is all that trap has. */
static bool check_trap(const struct vcpu_state *s, struct state_io *io)
{
	const struct vcpu *v = &s->cpu;

	return state_check(
		       io, v->efer & EFER_LMA,
		       "the guest is in %s mode, and the trap engine runs 64-bit code only; --engine hvm goes on with it",
		       v->cr0 & CR0_PE ? "protected" : "real") &&
	       state_check(io, v->seg[CS].attr & SEG_L,
			   "the guest runs 16- or 32-bit code, and the trap engine 64-bit code only; --engine hvm goes on "
			   "with it") &&
	       state_check(io, !s->nmi_pending, "an NMI waits, and the trap engine has none; --engine hvm goes on with it");
}

/* Who was told by the guest's page tables where its memory is must go on being told, or it must make no difference. */
static bool check_memory(const struct vcpu_state *s, struct state_io *io)
{
	const struct vm *vm = s->cpu.vm;
	bool flat = !vm->all_modes && !vm->shadow;

	return state_check(
		io, s->flat == flat || ((s->cpu.efer & EFER_LMA) && flat_equivalent(&s->cpu)),
		flat ? "its page tables count where it comes from, and are not one to one; without --shadow the trap engine "
		       "ignores them"
		     : "its page tables did not count where it comes from (trap without --shadow), and are not one to one");
}

static void check(const struct vcpu_state *s, struct state_io *io)
{
	const struct vcpu *v = &s->cpu;
	const struct vm *vm = v->vm;

	if (state_failed(io))
		return;
	/* What this engine cannot run comes first: the other rules ask as if it could. */
	if (!vm->all_modes && !check_trap(s, io))
		return;
	if (!state_check(
		    io, !vm->shadow || (v->efer & EFER_LMA),
		    "the guest runs without page tables of four levels, and Lab 2's shadows are made of such tables only"))
		return;
	if (!check_control(v, io) || !check_level(v, io) || !check_segments(v, io) || !check_msrs(v, io) ||
	    !check_debug(v, io) || !check_flow(v, io))
		return;
	if (!state_check(io, v->msr.apic_base == vm->lapic.base,
			 "the CPU and its local APIC do not agree where the APIC is"))
		return;
	if (!state_check(
		    io, s->patched == (!vm->all_modes && vm->opt.patch),
		    s->patched
			    ? "the guest's image was patched for the trap engine: only trap with --patch on goes on with it"
			    : "--patch on is of no use to a guest whose image was not patched"))
		return;
	check_memory(s, io);
}

void vcpu_state_io(struct vcpu_state *s, struct state_io *io)
{
	if (!io->loading)
		to_common_form(&s->cpu);
	fields_io(&s->cpu, io);
	STATE(io, s->nmi_pending);
	STATE(io, s->nmi_blocked);
	STATE(io, s->flat);
	STATE(io, s->patched);
	fpu_state_io(&s->fpu, io);
	if (io->loading)
		check(s, io);
}
