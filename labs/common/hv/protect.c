#include "protect.h"
#include "lab1.h"

bool port_allowed(struct vcpu *v, uint16_t port, unsigned size)
{
	uint16_t map_base, bits;

	if (v->cpl <= (v->rflags & FLAG_IOPL) >> 12)
		return true;
	if (!(v->tr.attr & SEG_P) || v->tr.limit < 0x67 || !gva_read_system(v, v->tr.base + 0x66, &map_base, 2))
		return raise_error(v, VEC_GP, 0);
	/* The CPU always reads two bytes of the map, so both must lie within the TSS. */
	if (map_base + port / 8 + 1u > v->tr.limit)
		return raise_error(v, VEC_GP, 0);
	if (!gva_read_system(v, v->tr.base + map_base + port / 8, &bits, 2))
		return false;
	if (bits >> port % 8 & ((1u << size) - 1))
		return raise_error(v, VEC_GP, 0);
	return true;
}

bool mark_accessed(struct vcpu *v, struct descriptor *d)
{
	if (d->lo >> 40 & 1)
		return true;
	d->lo |= 1ull << 40;
	return gva_write_system(v, d->gva, &d->lo, 8);
}

bool load_data_segment(struct vcpu *v, unsigned sreg, uint16_t selector)
{
	struct descriptor d;

	if (sreg == FS || sreg == GS)
		trap_refresh_segments(v); /* what hv knows of the base must be what is overwritten: see put_special() */
	if (!(selector & 0xfffc)) {
		/* A null selector is fine in 64-bit mode, in SS only below CPL 3 and with RPL == CPL (SDM vol. 2, MOV). */
		if (sreg == SS && (v->cpl == 3 || (selector & 3) != v->cpl))
			return raise_error(v, VEC_GP, selector & 0xfffc);
		v->seg[sreg] = (struct segment){ .selector = selector };
	} else {
		if (!descriptor_read(v, selector, false, VEC_GP, &d))
			return false;
		unsigned attr = descriptor_attr(&d), dpl = (attr & SEG_DPL) >> 5, rpl = selector & 3;
		bool code = attr & 8, readable_or_writable = attr & 2, conforming = code && (attr & 4);
		bool ok = attr & SEG_S;
		if (sreg == SS) /* writable data of exactly this level */
			ok = ok && !code && readable_or_writable && dpl == v->cpl && rpl == v->cpl;
		else /* data, or readable code; not more privileged than the code that loads it */
			ok = ok && (!code || readable_or_writable) && (conforming || (v->cpl <= dpl && rpl <= dpl));
		if (!ok)
			return raise_error(v, VEC_GP, selector & 0xfffc);
		if (!(attr & SEG_P))
			return raise_error(v, sreg == SS ? VEC_SS : VEC_NP, selector & 0xfffc);
		if (!mark_accessed(v, &d))
			return false;
		segment_from_descriptor(&v->seg[sreg], selector, &d);
	}
	if (sreg == SS)
		v->shadow = true; /* the next instruction usually loads RSP (SDM vol. 3, 6.8.3) */
	if (sreg == FS || sreg == GS)
		trap_special_changed(v);
	return true;
}

/* SS for a return to level v->cpl: as load_data_segment(), but without the shadow, and below CPL 3 a null selector may have any RPL.
 * (APM vol. 3, IRET; vol. 2, 4.10.5) */
static bool load_return_stack(struct vcpu *v, uint16_t selector)
{
	bool shadow = v->shadow;

	if (!(selector & 0xfffc) && v->cpl != 3) {
		v->seg[SS] = (struct segment){ .selector = selector };
		return true;
	}
	if (!load_data_segment(v, SS, selector))
		return false;
	v->shadow = shadow;
	return true;
}

/* Loads CS and rip for a far transfer that stays at v->cpl. false: neither changed; an exception is queued or the VM stopped.
 * (SDM vol. 2, JMP) */
static bool load_code_segment(struct vcpu *v, uint16_t selector, uint64_t rip)
{
	struct descriptor d;

	if (!(selector & 0xfffc))
		return raise_error(v, VEC_GP, 0);
	if (!descriptor_read(v, selector, false, VEC_GP, &d))
		return false;
	unsigned attr = descriptor_attr(&d), dpl = (attr & SEG_DPL) >> 5;
	if (!(attr & SEG_S) || !(attr & 8) || ((attr & 4) ? dpl > v->cpl : dpl != v->cpl || (selector & 3) > v->cpl))
		return raise_error(v, VEC_GP, selector & 0xfffc);
	if ((attr & SEG_L) && (attr & SEG_DB)) /* reserved for both at once */
		return raise_error(v, VEC_GP, selector & 0xfffc);
	if (!(attr & SEG_P))
		return raise_error(v, VEC_NP, selector & 0xfffc);
	if (!(attr & SEG_L)) {
		vm_stop(v->vm, HV_STOPPED, "the guest jumped to 32-bit code (selector 0x%x): the trap engine runs 64-bit code only",
			selector);
		return false;
	}
	if (!canonical(rip))
		return raise_error(v, VEC_GP, 0);
	if (!mark_accessed(v, &d))
		return false;
	segment_from_descriptor(&v->seg[CS], (selector & ~3) | v->cpl, &d);
	v->rip = rip;
	return true;
}

/* What the more privileged level had in its segment registers is none of the outer one's business: data and non-conforming code of a
 * lower DPL become null. (SDM vol. 2, IRET and RET, "Operation"; vol. 3, 5.8.6) */
static void hide_inner_segments(struct vcpu *v)
{
	static const uint8_t data[] = { ES, DS, FS, GS };

	for (unsigned i = 0; i < sizeof data; i++) {
		struct segment *s = &v->seg[data[i]];
		bool conforming = (s->attr & (SEG_S | 8 | 4)) == (SEG_S | 8 | 4);
		if ((s->attr & SEG_P) && (s->attr & SEG_DPL) < v->cpl << 5 && !conforming)
			*s = (struct segment){ .base = s->base };
	}
}

bool return_to(struct vcpu *v, uint16_t cs, uint64_t rip, const uint16_t *ss)
{
	unsigned old_cpl = v->cpl;
	struct segment old_cs = v->seg[CS];
	uint64_t here = v->rip;

	if (!(cs & 0xfffc))
		return raise_error(v, VEC_GP, 0);
	if ((cs & 3) < old_cpl) /* never to an inner level */
		return raise_error(v, VEC_GP, cs & 0xfffc);
	v->cpl = cs & 3; /* both are checked as the new level would load them */
	if (!load_code_segment(v, cs, rip) || (ss && !load_return_stack(v, *ss))) {
		v->cpl = old_cpl;
		v->seg[CS] = old_cs;
		v->rip = here;
		return false;
	}
	if (v->cpl != old_cpl)
		hide_inner_segments(v);
	return true;
}

bool system_descriptor_read(struct vcpu *v, uint16_t selector, unsigned type, struct descriptor *d)
{
	if (selector & 4) /* both kinds live in the GDT */
		return raise_error(v, VEC_GP, selector & 0xfffc);
	if (!descriptor_read(v, selector, true, VEC_GP, d))
		return false;
	/* The upper half has a type field too, which must be 0 for a TSS (SDM vol. 3, figure 8-4). */
	if ((descriptor_attr(d) & (SEG_S | SEG_TYPE)) != type || (type == SEG_TSS && d->hi >> 40 & 0x1f))
		return raise_error(v, VEC_GP, selector & 0xfffc);
	if (!(descriptor_attr(d) & SEG_P))
		return raise_error(v, VEC_NP, selector & 0xfffc);
	return true;
}

int far_transfer(struct vcpu *v, const struct insn *insn)
{
	uint64_t here = v->rip, next = here + insn->len, rsp = v->gpr[RSP], frame[2] = { 0 };
	struct segment old = v->seg[CS];
	unsigned n = insn->opsize;

	if (insn->op == INSN_FAR_RET) {
		uint16_t pop = insn->src.kind == OPND_IMM ? (uint16_t)insn->src.imm : 0;
		uint64_t top = rsp + 2 * n + pop, outer[2] = { 0 };
		if (!stack_read(v, rsp, &frame[0], n) || !stack_read(v, rsp + n, &frame[1], n))
			return EMU_RAISED;
		if ((frame[1] & 3) <= v->cpl) {
			if (!return_to(v, (uint16_t)frame[1], frame[0], NULL))
				return raised(v);
			v->gpr[RSP] = top;
			return EMU_JUMPED;
		}
		/* To an outer level: RSP and SS follow on the stack. */
		if (!stack_read(v, top, &outer[0], n) || !stack_read(v, top + n, &outer[1], n))
			return EMU_RAISED;
		uint16_t ss = (uint16_t)outer[1];
		if (!return_to(v, (uint16_t)frame[1], frame[0], &ss))
			return raised(v);
		v->gpr[RSP] = outer[0] + pop;
		return EMU_JUMPED;
	}
	/* Only through memory in 64-bit mode: the offset first, the selector behind it. */
	uint64_t gva = operand_gva(v, insn, &insn->src), offset = 0;
	uint16_t selector;
	if (!gva_read(v, gva, &offset, n) || !gva_read(v, gva + n, &selector, 2))
		return EMU_RAISED;
	if (!load_code_segment(v, selector, offset))
		return raised(v);
	if (insn->op == INSN_FAR_CALL) { /* the target is good: only now may the stack change */
		uint64_t slot = old.selector;
		if (!stack_write(v, rsp - n, &slot, n) || !stack_write(v, rsp - 2 * n, &next, n)) {
			v->seg[CS] = old;
			v->rip = here;
			return EMU_RAISED;
		}
		v->gpr[RSP] = rsp - 2 * n;
	}
	return EMU_JUMPED;
}
