/*
 * Lab 1, checkpoints 1.2 to 1.11 and 1.17: emulating what the guest may not do itself.
 *
 * The guest believes that it runs at CPL 0 on a machine of its own. When it executes a privileged instruction the machine
 * faults, and handle_trap() is called with the guest's state in *v. What the instruction would have done to a real CPU is
 * done to *v instead. The contracts are in lab1.h, the helpers in gva.h and trapengine.h.
 *
 * Reading: Intel SDM vol. 2 (each instruction's "Operation" section), vol. 3, 2.5, 2.8, 5.9.
 */
#include "lab1.h"

int handle_trap(struct vcpu *v, uint8_t vector, uint32_t error)
{
	struct insn insn;

	/* What looks undefined may be one of hv's own patches (checkpoint 1.22). */
	if (vector == VEC_UD && patch_fetch(v, v->rip, &insn))
		return emulate(v, &insn);
	// SOLUTION 1.2
	/* Only these can be the CPU's way of refusing an instruction; hosts differ in which one they choose for which. */
	switch (vector) {
	case VEC_GP: case VEC_UD: case VEC_NP: case VEC_SS: case VEC_TS: case VEC_BP: case VEC_OF:
		if (!insn_fetch(v, &insn))
			return v->vm->stopping ? -ECANCELED : 0;
		/* Plain moves are decoded for devices' sake, never because they are privileged. */
		if (insn.op != INSN_OTHER && insn.op < INSN_MOV)
			return emulate(v, &insn);
		break;
	default:
		break;
	}
	// STARTER 1.2: find out which instruction trapped and emulate it. Hint: insn_fetch() decodes what lies at v->rip; hosts
	// differ in the vector with which they refuse an instruction, so let insn.op decide.
	//	if (vector == VEC_GP)
	//		return lab_todo(v->vm, "1.2",
	//				"handle_trap() in emulate.c: decode the instruction at v->rip with insn_fetch(), call emulate()");
	// END
	// SOLUTION 1.11
	/* The guest did this to itself: it gets the exception, with the error code where there is one (SDM vol. 3, table 6-1). */
	if (vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC)
		raise_error(v, vector, error);
	else
		raise_exception(v, vector);
	return 0;
	// STARTER 1.11: not an instruction to emulate: the exception is the guest's own. Hint: raise_exception() and
	// raise_error() queue it.
	//	(void)error;
	//	return lab_todo(v->vm, "1.11",
	//			"handle_trap() in emulate.c: queue the guest's own exception with raise_exception() or raise_error()");
	// END
}

int emulate(struct vcpu *v, const struct insn *insn)
{
	trace_count(v->vm->trace.mnemonic, insn->mnemonic);
	switch (dispatch(v, insn)) {
	case EMU_STOP:
		return -ECANCELED;
	case EMU_NEXT:
		// SOLUTION 1.2
		v->rip += insn->len;
		return 0;
		// STARTER 1.2: step over the instruction that was emulated. Hint: the decoder gave you its length.
		//		return lab_todo(v->vm, "1.2",
		//				"emulate() in emulate.c: step over the instruction, or the guest traps at it again");
		// END
	default: /* EMU_JUMPED, EMU_RAISED: v->rip is already where it must be */
		return 0;
	}
}

// SOLUTION 1.2
static uint16_t port_operand(const struct vcpu *v, const struct operand *o)
{
	return o->kind == OPND_IMM ? (uint8_t)o->imm : (uint16_t)v->gpr[RDX];
}
// END

enum emu emulate_out(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.2
	uint16_t port = port_operand(v, &insn->dst);
	unsigned size = insn->opsize;

	if (!port_allowed(v, port, size))
		return EMU_RAISED;
	uint32_t value = (uint32_t)gpr_read(v, RAX, size);
	port_out(v, port, size, value);
	trap_note(v, "port 0x%x write 0x%x", port, value);
	return EMU_NEXT;
	// STARTER 1.2: write AL, AX or EAX to the port in DX or in the instruction. Hint: insn->opsize is 1, 2 or 4;
	// port_out() reaches the devices.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.2",
	//			"emulate_out() in emulate.c: `out` writes insn->opsize bytes of RAX to a port with port_out()");
	// END
}

enum emu emulate_in(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.3
	uint16_t port = port_operand(v, &insn->src);
	unsigned size = insn->opsize;

	if (!port_allowed(v, port, size))
		return EMU_RAISED;
	uint32_t value = port_in(v, port, size);
	gpr_write(v, RAX, size, value);
	trap_note(v, "port 0x%x read 0x%x", port, value);
	return EMU_NEXT;
	// STARTER 1.3: read a port into AL, AX or EAX. Hint: what happens to the rest of RAX depends on the size;
	// gpr_write() knows the rule.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.3",
	//			"emulate_in() in emulate.c: `in` reads a port into AL, AX or EAX with port_in()");
	// END
}

enum emu emulate_flags(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.4
	switch (insn->op) {
	case INSN_CLI:
	case INSN_STI:
		if (v->cpl > (v->rflags & FLAG_IOPL) >> 12)
			return raise_gp(v, 0);
		/* The instruction behind an STI that turned interrupts on still runs without them (SDM vol. 2, STI): without this,
		 * `sti; hlt` could take the interrupt before the HLT and then sleep for ever. */
		v->shadow = insn->op == INSN_STI && !(v->rflags & FLAG_IF);
		v->rflags = insn->op == INSN_STI ? v->rflags | FLAG_IF : v->rflags & ~FLAG_IF;
		trap_note(v, "IF = %d", insn->op == INSN_STI);
		return EMU_NEXT;
	default: /* INSN_HLT */
		v->halted = true;
		return EMU_NEXT;
	}
	// STARTER 1.4: cli, sti and hlt change v->rflags and v->halted, never the machine's. Hint: what does `sti; hlt`
	// promise? See v->shadow.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.4",
	//			"emulate_flags() in emulate.c: cli and sti change IF in v->rflags, hlt sets v->halted");
	// END
}

// SOLUTION 1.5
/* One element of ins or outs. (SDM vol. 2, INS, OUTS; vol. 1, 7.3.9) */
static bool string_io_element(struct vcpu *v, const struct insn *insn, uint16_t port)
{
	unsigned size = insn->opsize, reg = insn->op == INSN_INS ? RDI : RSI;
	const struct operand *mem = insn->op == INSN_INS ? &insn->dst : &insn->src;
	uint64_t gva = operand_gva(v, insn, mem), value = 0;

	if (insn->op == INSN_INS) {
		/* The memory is tried first: a fault must not swallow what the device gave. */
		if (!gva_writable(v, gva, size))
			return false;
		value = port_in(v, port, size);
		if (!gva_write(v, gva, &value, size))
			return false;
	} else {
		if (!gva_read(v, gva, &value, size))
			return false;
		port_out(v, port, size, (uint32_t)value);
	}
	gpr_write(v, reg, insn->addrsize, v->gpr[reg] + (v->rflags & FLAG_DF ? -(uint64_t)size : size));
	return true;
}
// END

enum emu emulate_string_io(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.5
	uint16_t port = (uint16_t)v->gpr[RDX];

	if (!port_allowed(v, port, insn->opsize))
		return EMU_RAISED;
	if (!insn->rep)
		return string_io_element(v, insn, port) ? EMU_NEXT : EMU_RAISED;
	/* A repeated string instruction can be interrupted between elements; RCX, RSI and RDI then say how far it came. So a
	 * bounded piece is done at a time, and the guest comes back here by itself for the next one. */
	unsigned piece = v->rflags & FLAG_TF ? 1 : 512; /* single-stepping stops between elements (SDM vol. 3, 17.3.1.4) */
	for (unsigned n = 0; n < piece && gpr_read(v, RCX, insn->addrsize); n++) {
		if (!string_io_element(v, insn, port))
			return EMU_RAISED;
		gpr_write(v, RCX, insn->addrsize, v->gpr[RCX] - 1);
	}
	trap_note(v, "port 0x%x, %llu elements left", port, (unsigned long long)gpr_read(v, RCX, insn->addrsize));
	return gpr_read(v, RCX, insn->addrsize) ? EMU_JUMPED : EMU_NEXT;
	// STARTER 1.5: ins and outs move data between a port and memory, one element or RCX of them. Hint: RDI or RSI
	// steps by the
	// element's size, in the direction that DF says; the width of the registers is insn->addrsize.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.5",
	//			"emulate_string_io() in emulate.c: ins and outs, with rep, DF and all three sizes");
	// END
}

enum emu emulate_cr(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.6
	bool write = insn->op == INSN_MOV_TO_CR;
	unsigned n = write ? insn->dst.reg : insn->src.reg;
	uint64_t value, *cr = cr_register(v, n);

	if (v->cpl)
		return raise_gp(v, 0);
	switch (insn->op) {
	case INSN_CLTS:
		v->cr0 &= ~CR0_TS;
		trap_special_changed(v);
		return EMU_NEXT;
	case INSN_LMSW:
		/* Only bits 0-3, and PE cannot be cleared (SDM vol. 2, LMSW). */
		if (!operand_read(v, insn, &insn->src, 2, &value))
			return EMU_RAISED;
		v->cr0 = (v->cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (value & (CR0_PE | CR0_MP | CR0_EM | CR0_TS));
		trap_special_changed(v);
		return EMU_NEXT;
	default:
		break;
	}
	if (!cr)
		return raise_ud(v);
	value = write ? v->gpr[insn->src.reg] : *cr;
	trap_note(v, "cr%u = 0x%llx", n, (unsigned long long)value);
	if (!write) {
		v->gpr[insn->dst.reg] = value;
		return EMU_NEXT;
	}
	if (!cr_value_valid(v, n, value))
		return raise_gp(v, 0);
	*cr = n == 0 ? (value & CR0_DEFINED) | CR0_ET : value; /* CR0 ignores what it does not have */
	if (n == 0 || n == 4)
		trap_special_changed(v);
	return EMU_NEXT;
	// STARTER 1.6: mov to and from CR0, CR2, CR3, CR4 and CR8, clts, lmsw. Hint: cr_register() finds it, cr_value_valid() knows what
	// the CPU refuses with #GP(0); what the machine must know of a change it learns through trap_special_changed().
	//	(void)insn;
	//	return lab_todo(v->vm, "1.6", "emulate_cr() in emulate.c: mov to and from control registers, clts, lmsw");
	// END
}

enum emu emulate_dr(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.7
	if (v->cpl)
		return raise_gp(v, 0);
	bool write = insn->op == INSN_MOV_TO_DR;
	unsigned dr = write ? insn->dst.reg : insn->src.reg;

	if (dr == 4 || dr == 5) { /* other names of DR6 and DR7, unless CR4.DE (SDM vol. 3, 17.2.2) */
		if (v->cr4 & CR4_DE)
			return raise_ud(v);
		dr += 2;
	}
	if (v->dr[7] & DR7_GD) { /* somebody wants to know who touches them (SDM vol. 3, 17.2.4) */
		v->dr[7] &= ~DR7_GD;
		v->dr[6] = (v->dr[6] & ~DR6_BREAKPOINTS) | DR6_BD;
		trap_debugregs_changed(v);
		raise_exception(v, VEC_DB);
		return EMU_RAISED;
	}
	if (!write) {
		v->gpr[insn->dst.reg] = v->dr[dr];
		return EMU_NEXT;
	}
	uint64_t value = v->gpr[insn->src.reg];
	if (dr >= 6 && value >> 32)
		return raise_gp(v, 0);
	v->dr[dr] = dr_value(dr, value);
	trap_debugregs_changed(v);
	return EMU_NEXT;
	// STARTER 1.7: mov to and from debug registers. Hint: DR4 and DR5 are other names unless CR4.DE; dr_value()
	// knows the bits that are fixed.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.7", "emulate_dr() in emulate.c: mov to and from debug registers");
	// END
}

enum emu emulate_tables(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.8
	struct operand o = insn->src;
	struct descriptor d;
	uint64_t gva, value;

	if (v->cpl)
		return raise_gp(v, 0);
	if (insn->op == INSN_LGDT || insn->op == INSN_LIDT) {
		struct dtable t;
		gva = operand_gva(v, insn, &o);
		if (!gva_read(v, gva, &t.limit, 2) || !gva_read(v, gva + 2, &t.base, 8))
			return EMU_RAISED;
		if (!canonical(t.base))
			return raise_gp(v, 0);
		*(insn->op == INSN_LGDT ? &v->gdtr : &v->idtr) = t;
		trap_note(v, "base 0x%llx limit 0x%x", (unsigned long long)t.base, t.limit);
		return EMU_NEXT;
	}
	/* LLDT and LTR. (SDM vol. 2) */
	bool tr = insn->op == INSN_LTR;
	if (!operand_read(v, insn, &o, 2, &value))
		return EMU_RAISED;
	if (!(value & 0xfffc)) {
		if (tr)
			return raise_gp(v, 0);
		v->ldtr = (struct segment){ .selector = (uint16_t)value };
		return EMU_NEXT;
	}
	if (!system_descriptor_read(v, (uint16_t)value, tr ? SEG_TSS : SEG_LDT, &d))
		return EMU_RAISED;
	if (tr) { /* LTR marks it busy, in the guest's own table */
		d.lo |= 1ull << 41;
		if (!gva_write_system(v, d.gva, &d.lo, 8))
			return EMU_RAISED;
	}
	segment_from_descriptor(tr ? &v->tr : &v->ldtr, (uint16_t)value, &d);
	return EMU_NEXT;
	// STARTER 1.8: lgdt, lidt, lldt and ltr load v->gdtr, v->idtr, v->ldtr and v->tr. Hint: system_descriptor_read() finds and
	// checks what lldt and ltr name, but a null selector is not its affair; ltr marks the guest's TSS descriptor busy.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.8", "emulate_tables() in emulate.c: lgdt and lidt first, then lldt and ltr");
	// END
}

enum emu emulate_msr(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.9
	uint32_t index = (uint32_t)v->gpr[RCX];
	uint64_t value, *msr = msr_register(v, index);

	if (v->cpl)
		return raise_gp(v, 0);
	trap_refresh_segments(v); /* the bases of FS and GS may have changed without a trap */
	if (insn->op == INSN_SWAPGS) {
		value = v->seg[GS].base;
		v->seg[GS].base = v->msr.kernel_gs_base;
		v->msr.kernel_gs_base = value;
		trap_special_changed(v);
		return EMU_NEXT;
	}
	trap_note(v, "MSR 0x%x", index);
	if (!msr && index != MSR_TSC)
		return raise_gp(v, 0);
	if (insn->op == INSN_RDMSR) {
		value = msr ? *msr : trap_machine_tsc(v);
		v->gpr[RAX] = (uint32_t)value;
		v->gpr[RDX] = value >> 32;
		return EMU_NEXT;
	}
	value = v->gpr[RDX] << 32 | gpr_read(v, RAX, 4);
	if (!msr_value_valid(v, index, value))
		return raise_gp(v, 0);
	if (msr)
		*msr = index == MSR_EFER ? value | EFER_LMA : value; /* LMA is the CPU's own: long mode is on */
	else
		trap_set_tsc(v, value);
	if (index == MSR_EFER || index == MSR_FS_BASE || index == MSR_GS_BASE)
		trap_special_changed(v);
	return EMU_NEXT;
	// STARTER 1.9: rdmsr, wrmsr and swapgs. Hint: msr_register() finds what the guest's CPU has, anything else is #GP(0), and so
	// is what msr_value_valid() refuses; FS and GS bases reach the machine through trap_special_changed(), and come from it with
	// trap_refresh_segments(), before you read or replace one.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.9", "emulate_msr() in emulate.c: rdmsr and wrmsr on v->msr, then swapgs");
	// END
}

enum emu emulate_segments(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.10
	uint64_t value, gva, offset = 0;
	unsigned sreg = insn->dst.reg;

	switch (insn->op) {
	case INSN_MOV_TO_SREG:
		if (!operand_read(v, insn, &insn->src, 2, &value) || !load_data_segment(v, sreg, (uint16_t)value))
			return EMU_RAISED;
		trap_note(v, "selector 0x%x", (unsigned)value);
		return EMU_NEXT;
	case INSN_POP_SREG:
		value = 0;
		if (!stack_read(v, v->gpr[RSP], &value, 2) || !load_data_segment(v, sreg, (uint16_t)value))
			return EMU_RAISED;
		v->gpr[RSP] += insn->opsize;
		return EMU_NEXT;
	case INSN_LOAD_FAR_POINTER:
		value = 0;
		gva = operand_gva(v, insn, &insn->src);
		sreg = insn->sreg;
		if (!gva_read(v, gva, &offset, insn->opsize) || !gva_read(v, gva + insn->opsize, &value, 2) ||
		    !load_data_segment(v, sreg, (uint16_t)value))
			return EMU_RAISED;
		gpr_write(v, insn->dst.reg, insn->opsize, offset);
		v->shadow = false; /* LSS loads RSP in the same go: nothing needs to be held off (SDM vol. 3, 6.8.3) */
		return EMU_NEXT;
	default:
		return far_transfer(v, insn);
	}
	// STARTER 1.10: loads of segment registers and far jumps, calls and returns. Hint: type, privilege, present, in
	// this order; the error
	// code is the selector without its RPL; a load of SS holds interrupts off for one instruction.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.10",
	//			"emulate_segments() in emulate.c: mov to a segment register first, then far transfers");
	// END
}

enum emu emulate_syscall(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.17
	bool enter = insn->op == INSN_SYSCALL;

	if (!(v->efer & EFER_SCE))
		return raise_ud(v);
	if (enter) { /* No stack switch: that is the kernel's affair. (SDM vol. 2, SYSCALL; APM vol. 2, 6.1.1) */
		uint16_t cs = v->msr.star >> 32 & 0xfffc;
		v->gpr[RCX] = v->rip + insn->len;
		v->gpr[R11] = v->rflags & ~FLAG_RF;
		v->rflags = (v->rflags & ~(v->msr.sfmask | FLAG_RF)) | FLAG_FIXED;
		v->seg[CS] = (struct segment){ .selector = cs, .attr = 0xa09b, .limit = ~0u };
		v->seg[SS] = (struct segment){ .selector = cs + 8, .attr = 0xc093, .limit = ~0u };
		v->rip = v->msr.lstar;
	} else { /* To 64-bit code only here. (SDM vol. 2, SYSRET) */
		if (v->cpl || (insn->opsize == 8 && !canonical(v->gpr[RCX])))
			return raise_gp(v, 0);
		if (insn->opsize != 8)
			return vm_stop(v->vm, HV_STOPPED, "sysret to 32-bit code at rip 0x%llx: the trap engine runs 64-bit code only",
				       (unsigned long long)v->rip);
		uint16_t base = v->msr.star >> 48;
		v->rflags = (v->gpr[R11] & 0x3c7fd7) | FLAG_FIXED;
		v->seg[CS] = (struct segment){ .selector = (base + 16) | 3, .attr = 0xa0fb, .limit = ~0u };
		v->seg[SS] = (struct segment){ .selector = (base + 8) | 3, .attr = 0xc0f3, .limit = ~0u };
		v->rip = v->gpr[RCX];
	}
	v->cpl = enter ? 0 : 3;
	trap_note(v, "to 0x%llx at CPL %u", (unsigned long long)v->rip, v->cpl);
	return EMU_JUMPED;
	// STARTER 1.17: syscall and sysret change CS, SS, RIP and RFLAGS by STAR, LSTAR and SFMASK. Hint: neither touches
	// RSP, and EFER.SCE must be on.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.17",
	//			"emulate_syscall() in emulate.c: syscall and sysret by STAR, LSTAR and SFMASK");
	// END
}
