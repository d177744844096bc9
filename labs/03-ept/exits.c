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
	// TODO 3.9: the guest asks for leaf EAX, subleaf ECX. Hint: hvm_cpuid() has the answer, for all 64 bits of four
	// registers; then hvm_skip().
	(void)x;
	return lab_todo(v->vm, "3.9", "exit_cpuid() in exits.c: answer, and step over the instruction");
}

int exit_hlt(struct vcpu *v, const struct hvm_exit *x)
{
	// TODO 3.9: the guest waits for an interrupt. Hint: v->halted; when it wakes up it goes on behind the
	// instruction.
	(void)x;
	return lab_todo(v->vm, "3.9", "exit_hlt() in exits.c: the guest waits");
}

int exit_io(struct vcpu *v, const struct hvm_exit *x)
{
	// TODO 3.9: an access to a port. Hint: port_in(), port_out(); `in` changes only so much of RAX as gpr_write()
	// does. For ins and outs fetch the instruction and use Lab 1's emulate_string_io(), behind hvm_fetch().
	(void)x;
	return lab_todo(v->vm, "3.9", "exit_io() in exits.c: in, out, ins, outs");
}

int exit_msr(struct vcpu *v, const struct hvm_exit *x)
{
	// TODO 3.10: an MSR that does not go past hv. Hint: msr_register() finds what the guest's CPU has, anything
	// else is #GP(0), and so is what msr_value_valid() refuses. EFER.LMA is the CPU's own, and the time stamp
	// counter (MSR_TSC) is trap_machine_tsc() and trap_set_tsc().
	(void)x;
	return lab_todo(v->vm, "3.10", "exit_msr() in exits.c: rdmsr and wrmsr");
}

int exit_cr(struct vcpu *v, const struct hvm_exit *x)
{
	// TODO 3.10: a control register that does not go past hv. Hint: the instruction at rip says which general
	// register; cr_register(), cr_value_valid() and hvm_set_cr() know the rest. CLTS, LMSW and SMSW come here too;
	// the operand of the last two may be in memory: operand_read(), operand_write().
	(void)x;
	return lab_todo(v->vm, "3.10", "exit_cr() in exits.c: mov to and from control registers");
}

int exit_violation(struct vcpu *v, const struct hvm_exit *x)
{
	struct hvm *h = hvm_of(v);
	uint64_t gpa = x->violation.gpa;

	// TODO 3.12: an address without memory belongs to a device. Hint: the access is carried out by hv: hvm_fetch(),
	// memory_emulate().
	if (gpa >= v->vm->mem.size)
		return lab_todo(v->vm, "3.12", "exit_violation() in exits.c: an address without memory");
	// TODO 3.16: what the guest may do on a page is the policy's to say. Hint: hvm_rights(), hvm_forbidden().
	unsigned rights = hvm_rights(h, gpa);
	if (!(rights & x->violation.access))
		return lab_todo(v->vm, "3.16", "exit_violation() in exits.c: an access that the policy forbids");
	// TODO 3.19: while the dirty log is on, nothing becomes writable before it is written. Hint: h->dirty->on.
	if (h->dirty->on)
		return lab_todo(v->vm, "3.19", "exit_violation() in exits.c: a violation while the dirty log is on");
	// TODO 3.11: the guest touches this page for the first time: map it; or it is there with fewer rights than it
	// may have. Hint: nested_walk() tells the two apart; hvm_level() says how large a page may be, h->guest_ma is
	// the machine address of gpa 0.
	int err = 0;
	(void)rights;
	return lab_todo(v->vm, "3.11", "exit_violation() in exits.c: memory on demand");
	// TODO 3.19: and the page that is written is dirty. Hint: dirty_fault().
	// TODO 3.11: the pool of tables is bounded. Hint: when there is none left: hvm_out_of_tables().
	return err;
}
