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
	// TODO 1.2: find out which instruction trapped and emulate it. Hint: insn_fetch() decodes what lies at v->rip;
	// hosts differ in the vector with which they refuse an instruction, so let insn.op decide.
	if (vector == VEC_GP)
		return lab_todo(v->vm, "1.2",
				"handle_trap() in emulate.c: decode the instruction at v->rip with insn_fetch(), call emulate()");
	// TODO 1.11: not an instruction to emulate: the exception is the guest's own. Hint: raise_exception() and
	// raise_error() queue it.
	(void)error;
	return lab_todo(v->vm, "1.11",
			"handle_trap() in emulate.c: queue the guest's own exception with raise_exception() or raise_error()");
}

int emulate(struct vcpu *v, const struct insn *insn)
{
	trace_count(v->vm->trace.mnemonic, insn->mnemonic);
	switch (dispatch(v, insn)) {
	case EMU_STOP:
		return -ECANCELED;
	case EMU_NEXT:
		// TODO 1.2: step over the instruction that was emulated. Hint: the decoder gave you its length.
		return lab_todo(v->vm, "1.2",
				"emulate() in emulate.c: step over the instruction, or the guest traps at it again");
	default: /* EMU_JUMPED, EMU_RAISED: v->rip is already where it must be */
		return 0;
	}
}

enum emu emulate_out(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.2: write AL, AX or EAX to the port in DX or in the instruction. Hint: insn->opsize is 1, 2 or 4;
	// port_out() reaches the devices.
	(void)insn;
	return lab_todo(v->vm, "1.2",
			"emulate_out() in emulate.c: `out` writes insn->opsize bytes of RAX to a port with port_out()");
}

enum emu emulate_in(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.3: read a port into AL, AX or EAX. Hint: what happens to the rest of RAX depends on the size;
	// gpr_write() knows the rule.
	(void)insn;
	return lab_todo(v->vm, "1.3",
			"emulate_in() in emulate.c: `in` reads a port into AL, AX or EAX with port_in()");
}

enum emu emulate_flags(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.4: cli, sti and hlt change v->rflags and v->halted, never the machine's. Hint: what does `sti; hlt`
	// promise? See v->shadow.
	(void)insn;
	return lab_todo(v->vm, "1.4",
			"emulate_flags() in emulate.c: cli and sti change IF in v->rflags, hlt sets v->halted");
}

enum emu emulate_string_io(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.5: ins and outs move data between a port and memory, one element or RCX of them. Hint: RDI or RSI
	// steps by the element's size, in the direction that DF says; the width of the registers is insn->addrsize.
	(void)insn;
	return lab_todo(v->vm, "1.5",
			"emulate_string_io() in emulate.c: ins and outs, with rep, DF and all three sizes");
}

enum emu emulate_cr(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.6: mov to and from CR0, CR2, CR3, CR4 and CR8, clts, lmsw. Hint: cr_register() finds it,
	// cr_value_valid() knows what the CPU refuses with #GP(0); what the machine must know of a change it learns
	// through trap_special_changed().
	(void)insn;
	return lab_todo(v->vm, "1.6", "emulate_cr() in emulate.c: mov to and from control registers, clts, lmsw");
}

enum emu emulate_dr(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.7: mov to and from debug registers. Hint: DR4 and DR5 are other names unless CR4.DE; dr_value() knows
	// the bits that are fixed.
	(void)insn;
	return lab_todo(v->vm, "1.7", "emulate_dr() in emulate.c: mov to and from debug registers");
}

enum emu emulate_tables(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.8: lgdt, lidt, lldt and ltr load v->gdtr, v->idtr, v->ldtr and v->tr. Hint: system_descriptor_read()
	// finds and checks what lldt and ltr name, but a null selector is not its affair; ltr marks the guest's TSS
	// descriptor busy.
	(void)insn;
	return lab_todo(v->vm, "1.8", "emulate_tables() in emulate.c: lgdt and lidt first, then lldt and ltr");
}

enum emu emulate_msr(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.9: rdmsr, wrmsr and swapgs. Hint: msr_register() finds what the guest's CPU has, anything else is
	// #GP(0), and so is what msr_value_valid() refuses; FS and GS bases reach the machine through
	// trap_special_changed(), and come from it with trap_refresh_segments(), before you read or replace one.
	(void)insn;
	return lab_todo(v->vm, "1.9", "emulate_msr() in emulate.c: rdmsr and wrmsr on v->msr, then swapgs");
}

enum emu emulate_segments(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.10: loads of segment registers and far jumps, calls and returns. Hint: type, privilege, present, in
	// this order; the error code is the selector without its RPL; a load of SS holds interrupts off for one
	// instruction.
	(void)insn;
	return lab_todo(v->vm, "1.10",
			"emulate_segments() in emulate.c: mov to a segment register first, then far transfers");
}

enum emu emulate_syscall(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.17: syscall and sysret change CS, SS, RIP and RFLAGS by STAR, LSTAR and SFMASK. Hint: neither touches
	// RSP, and EFER.SCE must be on.
	(void)insn;
	return lab_todo(v->vm, "1.17",
			"emulate_syscall() in emulate.c: syscall and sysret by STAR, LSTAR and SFMASK");
}
