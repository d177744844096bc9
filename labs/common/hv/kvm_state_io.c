#include "kvm_state_io.h"
#include "kvm_pieces.h"
#include "migration.h"
#include "vcpu.h"

#define SIZE(p) (sizeof(p) / sizeof *(p))
/* KVM's types are other names for the same numbers, which STATE() does not know. Hosts are little-endian, as the stream is. */
#define FIELD(io, field) state_bytes((io), &(field), sizeof(field))
/* A byte that is a switch. */
#define SWITCH(io, field)                                                                     \
	do {                                                                                  \
		FIELD(io, field);                                                             \
		state_check(io, (field) <= 1, "the switch " #field " is neither on nor off"); \
	} while (0)

/* --- a vCPU -------------------------------------------------------------------------------------------------------------------- */

/* RFLAGS: what is always 0, and bit 1, which is always 1 (SDM vol. 1, 3.4.3). A CPU refuses to enter a guest with others (vol.
 * 3, 27.3.1.4). */
#define FLAGS_ZERO 0xffffffffffc08028ull

static void regs_io(struct kvm_regs *r, struct state_io *io)
{
	_Static_assert(sizeof *r == 18 * sizeof(uint64_t),
		       "no padding: RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, RIP, RFLAGS");
	FIELD(io, *r);
	state_check(io, !(r->rflags & FLAGS_ZERO) && (r->rflags & FLAG_FIXED), "RFLAGS 0x%llx has reserved bits", r->rflags);
}

static void segment_io(struct kvm_segment *s, struct state_io *io)
{
	FIELD(io, s->base);
	FIELD(io, s->limit);
	FIELD(io, s->selector);
	FIELD(io, s->type);
	FIELD(io, s->dpl);
	SWITCH(io, s->present);
	SWITCH(io, s->db);
	SWITCH(io, s->s);
	SWITCH(io, s->l);
	SWITCH(io, s->g);
	SWITCH(io, s->avl);
	SWITCH(io, s->unusable);
	state_check(io, s->type < 16 && s->dpl < 4, "a segment has type %u and DPL %u", s->type, s->dpl);
}

static void sregs_io(struct kvm_sregs *s, struct state_io *io)
{
	struct kvm_segment *const segment[] = { &s->cs, &s->ds, &s->es, &s->fs, &s->gs, &s->ss, &s->tr, &s->ldt };
	unsigned injected = 0;

	for (unsigned i = 0; i < SIZE(segment); i++)
		segment_io(segment[i], io);
	FIELD(io, s->gdt.base);
	FIELD(io, s->gdt.limit);
	FIELD(io, s->idt.base);
	FIELD(io, s->idt.limit);
	FIELD(io, s->cr0);
	FIELD(io, s->cr2);
	FIELD(io, s->cr3);
	FIELD(io, s->cr4);
	FIELD(io, s->cr8);
	FIELD(io, s->efer);
	FIELD(io, s->apic_base);
	FIELD(io, s->interrupt_bitmap);
	for (unsigned i = 0; i < SIZE(s->interrupt_bitmap); i++)
		injected += (unsigned)__builtin_popcountll(s->interrupt_bitmap[i]);
	state_check(io, injected <= 1, "%u interrupts are being delivered at once", injected);
	state_check(io, s->cr8 < 16, "CR8 0x%llx has reserved bits", s->cr8);
}

static void xcrs_io(struct kvm_xcrs *x, struct state_io *io)
{
	FIELD(io, x->nr_xcrs);
	if (!state_check(io, x->nr_xcrs <= SIZE(x->xcrs), "%u extended control registers", x->nr_xcrs))
		return;
	for (unsigned i = 0; i < x->nr_xcrs; i++) {
		FIELD(io, x->xcrs[i].xcr);
		FIELD(io, x->xcrs[i].value);
	}
}

static void xsave_io(struct kvm_cpu_state *s, struct state_io *io)
{
	FIELD(io, s->xsave_size);
	/* The 4096 bytes of struct kvm_xsave, or more where there are more registers. */
	if (state_check(io, s->xsave_size >= sizeof(struct kvm_xsave) && s->xsave_size <= sizeof s->xsave,
			"an XSAVE area of %u bytes", s->xsave_size))
		state_bytes(io, s->xsave, s->xsave_size);
}

static void debugregs_io(struct kvm_debugregs *d, struct state_io *io)
{
	FIELD(io, d->db);
	FIELD(io, d->dr6);
	FIELD(io, d->dr7);
	state_check(io, !(d->dr6 >> 32) && !(d->dr7 >> 32), "DR6 or DR7 has reserved bits");
}

static void msrs_io(struct kvm_cpu_state *s, struct state_io *io)
{
	FIELD(io, s->nmsrs);
	if (!state_check(io, s->nmsrs <= KVM_MSRS_MAX, "%u MSRs", s->nmsrs))
		return;
	for (uint32_t i = 0; i < s->nmsrs; i++) {
		FIELD(io, s->msr[i].index);
		FIELD(io, s->msr[i].data);
	}
}

static void events_io(struct kvm_vcpu_events *e, struct state_io *io)
{
	FIELD(io, e->flags); /* which of the following count */
	SWITCH(io, e->exception.injected);
	SWITCH(io, e->exception.pending);
	SWITCH(io, e->exception.has_error_code);
	FIELD(io, e->exception.nr);
	FIELD(io, e->exception.error_code);
	SWITCH(io, e->exception_has_payload);
	FIELD(io, e->exception_payload);
	SWITCH(io, e->interrupt.injected);
	SWITCH(io, e->interrupt.soft);
	FIELD(io, e->interrupt.nr);
	FIELD(io, e->interrupt.shadow);
	SWITCH(io, e->nmi.injected);
	FIELD(io, e->nmi.pending); /* one may wait behind one that is delivered */
	SWITCH(io, e->nmi.masked);
	FIELD(io, e->sipi_vector);
	SWITCH(io, e->smi.smm);
	SWITCH(io, e->smi.pending);
	SWITCH(io, e->smi.smm_inside_nmi);
	FIELD(io, e->smi.latched_init);
	SWITCH(io, e->triple_fault.pending);
	state_check(io, e->exception.nr < 32, "exception %u is being delivered", e->exception.nr);
	state_check(io, e->nmi.pending <= 2, "%u NMIs are pending", e->nmi.pending);
	state_check(io, !(e->interrupt.shadow & ~(KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI)),
		    "an interrupt shadow 0x%x", e->interrupt.shadow);
	/* Never of a guest that is stopped between two instructions: KVM does not say it, and it would start a vCPU anew. */
	state_check(io, !(e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR), "a vCPU is started, and runs");
}

void kvm_cpu_state_io(struct kvm_cpu_state *state, struct state_io *io)
{
	FIELD(io, state->mp_state.mp_state);
	state_check(io, state->mp_state.mp_state <= KVM_MP_STATE_SIPI_RECEIVED, "a vCPU is in state %u",
		    state->mp_state.mp_state);
	regs_io(&state->regs, io);
	sregs_io(&state->sregs, io);
	xcrs_io(&state->xcrs, io);
	xsave_io(state, io);
	debugregs_io(&state->debugregs, io);
	FIELD(io, state->lapic.regs);
	msrs_io(state, io);
	events_io(&state->events, io);
}

/* --- what CPUID answers ---------------------------------------------------------------------------------------------------------- */

void cpuid_table_io(struct cpuid_table *t, struct state_io *io)
{
	STATE(io, t->n);
	if (!state_check(io, t->n <= CPUID_TABLE_MAX, "%u entries", t->n))
		return;
	for (uint32_t i = 0; i < t->n; i++) {
		struct kvm_cpuid_entry2 *e = &t->entry[i];

		FIELD(io, e->function);
		FIELD(io, e->index);
		FIELD(io, e->flags);
		FIELD(io, e->eax);
		FIELD(io, e->ebx);
		FIELD(io, e->ecx);
		FIELD(io, e->edx);
	}
}

/* --- interrupt controllers and timer ------------------------------------------------------------------------------------------------ */

/* The registers, then where it is in the sequence of its initialization (8259A data sheet, figure 6). */
static void pic_io(struct kvm_pic_state *p, struct state_io *io)
{
	FIELD(io, p->irr);
	FIELD(io, p->imr);
	FIELD(io, p->isr);
	FIELD(io, p->last_irr);
	FIELD(io, p->elcr);
	FIELD(io, p->elcr_mask);
	FIELD(io, p->irq_base);
	FIELD(io, p->priority_add);
	FIELD(io, p->init_state);
	SWITCH(io, p->read_reg_select);
	SWITCH(io, p->poll);
	SWITCH(io, p->special_mask);
	SWITCH(io, p->auto_eoi);
	SWITCH(io, p->rotate_on_auto_eoi);
	SWITCH(io, p->special_fully_nested_mode);
	SWITCH(io, p->init4);
	state_check(io, p->priority_add < 8, "line %u has the highest priority", p->priority_add);
	state_check(io, p->init_state < 4, "its initialization is at step %u of 3", p->init_state);
	state_check(io, !(p->irq_base & 7), "its vectors begin at 0x%x", p->irq_base);
}

static void ioapic_io(struct kvm_ioapic_state *a, struct state_io *io)
{
	FIELD(io, a->base_address);
	FIELD(io, a->ioregsel);
	FIELD(io, a->id);
	FIELD(io, a->irr);
	FIELD(io, a->redirtbl);
	state_check(io, a->base_address == IOAPIC_BASE, "an IOAPIC at 0x%llx", a->base_address);
	state_check(io, !(a->irr >> KVM_IOAPIC_NUM_PINS), "interrupts of pins that it does not have");
	state_check(io, a->id < 16 && a->ioregsel < 256, "number %u, register 0x%x selected", a->id, a->ioregsel);
}

static void pit_channel_io(struct kvm_pit_channel_state *c, struct state_io *io)
{
	FIELD(io, c->count);
	FIELD(io, c->latched_count);
	FIELD(io, c->count_latched);
	SWITCH(io, c->status_latched);
	FIELD(io, c->status);
	FIELD(io, c->read_state);
	FIELD(io, c->write_state);
	FIELD(io, c->write_latch);
	FIELD(io, c->rw_mode);
	FIELD(io, c->mode);
	SWITCH(io, c->bcd);
	SWITCH(io, c->gate);
	state_check(io, c->count <= 0x10000, "it counts from %u", c->count);
	/* Three bits of the control word, or 0xff: not programmed yet. Bytes are read and written in one of three ways, 0: not
	 * said yet, and 4: of a counter with two bytes the second is next (8254 data sheet; arch/x86/kvm/i8254.c). */
	state_check(io,
		    (c->mode < 8 || c->mode == 0xff) && c->read_state <= 4 && c->write_state <= 4 && c->rw_mode <= 3 &&
			    c->count_latched <= 4,
		    "counter in mode %u, access %u", c->mode, c->rw_mode);
}

void kvm_chips_state_io(struct kvm_chips_state *state, struct state_io *io)
{
	pic_io(&state->pic[0], io);
	pic_io(&state->pic[1], io);
	ioapic_io(&state->ioapic, io);
	for (unsigned i = 0; i < SIZE(state->pit.channels); i++)
		pit_channel_io(&state->pit.channels[i], io);
	FIELD(io, state->pit.flags);
}
