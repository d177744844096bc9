/*
 * Lab 3, checkpoints 3.9 to 3.12, 3.16 and 3.19: what is done about an exit.
 *
 * The CPU has left the guest because the control structure asked for it, and struct hvm_exit says why. Whatever is done here, the guest
 * must not be able to tell it from a CPU that did it by itself.
 */
#include "lab1.h"
#include "lab3.h"
#include "memory_access.h"

int exit_cpuid(struct vcpu *v, const struct hvm_exit *x)
{
	// SOLUTION 3.9
	struct cpuid_result r = hvm_cpuid(v, (uint32_t)v->gpr[RAX], (uint32_t)v->gpr[RCX]);

	trap_note(v, "leaf 0x%x.%x", (uint32_t)v->gpr[RAX], (uint32_t)v->gpr[RCX]);
	v->gpr[RAX] = r.eax;
	v->gpr[RBX] = r.ebx;
	v->gpr[RCX] = r.ecx;
	v->gpr[RDX] = r.edx;
	return hvm_skip(v, x);
	// STARTER 3.9: the guest asks for leaf EAX, subleaf ECX. Hint: hvm_cpuid() has the answer, for all 64 bits of four registers; then
	// hvm_skip().
	//	(void)x;
	//	return lab_todo(v->vm, "3.9", "exit_cpuid() in exits.c: answer, and step over the instruction");
	// END
}

int exit_hlt(struct vcpu *v, const struct hvm_exit *x)
{
	// SOLUTION 3.9
	v->halted = true;
	return hvm_skip(v, x);
	// STARTER 3.9: the guest waits for an interrupt. Hint: v->halted; when it wakes up it goes on behind the instruction.
	//	(void)x;
	//	return lab_todo(v->vm, "3.9", "exit_hlt() in exits.c: the guest waits");
	// END
}

// SOLUTION 3.9
/* ins and outs, with or without rep: Lab 1's. */
static int string_io(struct vcpu *v, const struct hvm_exit *x)
{
	struct insn insn;

	if (hvm_fetch(v))
		return -ECANCELED;
	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	switch (emulate_string_io(v, &insn)) {
	case EMU_STOP: return -ECANCELED;
	case EMU_NEXT: return hvm_skip(v, x);
	default: return 0;
	}
}
// END

int exit_io(struct vcpu *v, const struct hvm_exit *x)
{
	// SOLUTION 3.9
	if (x->io.string)
		return string_io(v, x);
	if (x->io.in) {
		uint32_t value = port_in(v, x->io.port, x->io.size);
		gpr_write(v, RAX, x->io.size, value);
		trap_note(v, "port 0x%x read 0x%x", x->io.port, value);
	} else {
		uint32_t value = (uint32_t)gpr_read(v, RAX, x->io.size);
		trap_note(v, "port 0x%x write 0x%x", x->io.port, value);
		port_out(v, x->io.port, x->io.size, value);
	}
	return hvm_skip(v, x);
	// STARTER 3.9: an access to a port. Hint: port_in(), port_out(); `in` changes only so much of RAX as gpr_write() does. For
	// ins and outs fetch the instruction and use Lab 1's emulate_string_io(), behind hvm_fetch().
	//	(void)x;
	//	return lab_todo(v->vm, "3.9", "exit_io() in exits.c: in, out, ins, outs");
	// END
}

int exit_msr(struct vcpu *v, const struct hvm_exit *x)
{
	// SOLUTION 3.10
	uint32_t index = (uint32_t)v->gpr[RCX];
	uint64_t value, *msr = msr_register(v, index);

	trap_note(v, "MSR 0x%x", index);
	if (!msr && index != MSR_TSC) {
		raise_error(v, VEC_GP, 0);
		return 0;
	}
	if (x->kind == HVM_RDMSR) {
		value = msr ? *msr : trap_machine_tsc(v);
		v->gpr[RAX] = (uint32_t)value;
		v->gpr[RDX] = value >> 32;
		return hvm_skip(v, x);
	}
	value = v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX];
	if (!msr_value_valid(v, index, value)) {
		raise_error(v, VEC_GP, 0);
		return 0;
	}
	if (index == MSR_EFER)
		*msr = (value & ~EFER_LMA) | (*msr & EFER_LMA); /* LMA follows CR0.PG, and nothing else */
	else if (msr)
		*msr = value;
	else
		trap_set_tsc(v, value);
	return hvm_skip(v, x);
	// STARTER 3.10: an MSR that does not go past hv. Hint: msr_register() finds what the guest's CPU has, anything else is
	// #GP(0), and so is what msr_value_valid() refuses. EFER.LMA is the CPU's own, and the time stamp counter (MSR_TSC) is
	// trap_machine_tsc() and trap_set_tsc().
	//	(void)x;
	//	return lab_todo(v->vm, "3.10", "exit_msr() in exits.c: rdmsr and wrmsr");
	// END
}

// SOLUTION 3.10
/* clts, lmsw and mov to a control register: the new value, or false when memory faulted (lmsw). */
static bool new_value(struct vcpu *v, const struct insn *insn, uint64_t *value)
{
	switch (insn->op) {
	case INSN_CLTS:
		*value = v->cr0 & ~CR0_TS;
		return true;
	case INSN_LMSW: /* the low four bits, and PE cannot be cleared (SDM vol. 2, LMSW) */
		if (!operand_read(v, insn, &insn->src, 2, value))
			return false;
		*value = (v->cr0 & ~0xeull) | (*value & 0xf);
		return true;
	default:
		*value = v->gpr[insn->src.reg];
		return true;
	}
}
// END

int exit_cr(struct vcpu *v, const struct hvm_exit *x)
{
	// SOLUTION 3.10
	uint64_t *cr = cr_register(v, x->cr.number), value;
	struct insn insn;

	if (hvm_fetch(v))
		return -ECANCELED;
	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	trap_note(v, "CR%u %s", x->cr.number, x->cr.read ? "read" : "write");
	if (!cr) {
		raise_exception(v, VEC_UD);
		return 0;
	}
	if (x->cr.read) /* mov, or smsw, which stores two bytes to memory */
		return operand_write(v, &insn, &insn.dst, insn.dst.kind == OPND_MEM ? 2 : insn.dst.size, *cr) ? hvm_skip(v, x)
			: v->vm->stopping ? -ECANCELED : 0;
	if (!new_value(v, &insn, &value))
		return 0;
	if (!cr_value_valid(v, x->cr.number, value)) {
		raise_error(v, VEC_GP, 0);
		return 0;
	}
	if (hvm_set_cr(v, x->cr.number, value))
		return -ECANCELED;
	return hvm_skip(v, x);
	// STARTER 3.10: a control register that does not go past hv. Hint: the instruction at rip says which general register;
	// cr_register(), cr_value_valid() and hvm_set_cr() know the rest. CLTS, LMSW and SMSW come here too; the operand of the
	// last two may be in memory: operand_read(), operand_write().
	//	(void)x;
	//	return lab_todo(v->vm, "3.10", "exit_cr() in exits.c: mov to and from control registers");
	// END
}

int exit_violation(struct vcpu *v, const struct hvm_exit *x)
{
	struct hvm *h = hvm_of(v);
	uint64_t gpa = x->violation.gpa;

	// SOLUTION 3.12
	if (gpa >= v->vm->mem.size) /* a device's address, or nobody's */
		return hvm_fetch(v) ? -ECANCELED : memory_emulate(v);
	// STARTER 3.12: an address without memory belongs to a device. Hint: the access is carried out by hv:
	// hvm_fetch(), memory_emulate().
	//	if (gpa >= v->vm->mem.size)
	//		return lab_todo(v->vm, "3.12", "exit_violation() in exits.c: an address without memory");
	// END
	// SOLUTION 3.16
	unsigned rights = hvm_rights(h, gpa);
	if (!(rights & x->violation.access))
		return hvm_forbidden(v, x);
	// STARTER 3.16: what the guest may do on a page is the policy's to say. Hint: hvm_rights(), hvm_forbidden().
	//	unsigned rights = hvm_rights(h, gpa);
	//	if (!(rights & x->violation.access))
	//		return lab_todo(v->vm, "3.16", "exit_violation() in exits.c: an access that the policy forbids");
	// END
	// SOLUTION 3.19
	if (h->dirty->on)
		rights &= ~NESTED_W; /* the first write is to be seen */
	// STARTER 3.19: while the dirty log is on, nothing becomes writable before it is written. Hint: h->dirty->on.
	//	if (h->dirty->on)
	//		return lab_todo(v->vm, "3.19", "exit_violation() in exits.c: a violation while the dirty log is on");
	// END
	// SOLUTION 3.11
	uint64_t base = gpa & ~(PAGE - 1);
	unsigned level = 1;
	struct nested_walk w;
	int err;

	nested_walk(&h->nested, gpa, 0, &w);
	if (w.end == WALK_ABSENT) {
		level = hvm_level(h, gpa);
		base = gpa & ~(level_size(level) - 1);
		err = nested_map(&h->nested, base, h->guest_ma + base, level_size(level), rights, TYPE_WB, level);
	} else {
		err = nested_protect(&h->nested, base, PAGE, rights);
	}
	// STARTER 3.11: the guest touches this page for the first time: map it; or it is there with fewer rights than it may have. Hint:
	// nested_walk() tells the two apart; hvm_level() says how large a page may be, h->guest_ma is the machine address of gpa 0.
	//	int err = 0;
	//	(void)rights;
	//	return lab_todo(v->vm, "3.11", "exit_violation() in exits.c: memory on demand");
	// END
	// SOLUTION 3.19
	if (!err && h->dirty->on && x->violation.access == NESTED_W)
		err = dirty_fault(&h->nested, h->dirty, gpa);
	// STARTER 3.19: and the page that is written is dirty. Hint: dirty_fault().
	// END
	// SOLUTION 3.11
	return err ? hvm_out_of_tables(v) : 0;
	// STARTER 3.11: the pool of tables is bounded. Hint: when there is none left: hvm_out_of_tables().
	//	return err;
	// END
}
