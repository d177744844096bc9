/*
 * Lab 1, checkpoints 1.20 to 1.22: sensitive instructions, the ones that tell or change what a guest must not see or reach.
 *
 * CPUID is sensitive, and this machine lets it trap. The guest asks (leaf in EAX, subleaf in ECX); the policy looks at what the
 * host would say, decides what this guest may know, constructs an answer, and hv injects it into the guest's registers.
 * popf, pushf and a dozen others are sensitive and do not trap: that is why x86 could not be virtualized this way for so long.
 *
 * Reading: Intel SDM vol. 2, CPUID, POPF; Popek and Goldberg, 1974; Robin and Irvine, 2000.
 */
#include "lab1.h"

struct cpuid_result cpuid_policy(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_result host)
{
	// TODO 1.20: ask, analyse, construct, return. Hint: begin with an answer of zeros and let through what the
	// guest's CPU really has; bit 31 of ECX in leaf 1 and the leaves from 0x40000000 on are how a guest finds out
	// that it is one.
	(void)leaf, (void)subleaf, (void)host;
	lab_todo(v->vm, "1.20", "cpuid_policy() in sensitive.c: decide what the guest may know about its CPU");
	return (struct cpuid_result){ 0 };
}

const struct popek_entry popek_report[POPEK_INSNS] = {
	// TODO 1.21: put POPEK_TRAPS or POPEK_SILENT beside each instruction. Hint: run guests/popek.S with --trace
	// exits and look between the two `rep outsb` around it.
	{ "sgdt", POPEK_UNKNOWN }, { "sidt", POPEK_UNKNOWN }, { "sldt", POPEK_UNKNOWN }, { "str", POPEK_UNKNOWN },
	{ "smsw", POPEK_UNKNOWN }, { "pushf", POPEK_UNKNOWN }, { "popf", POPEK_UNKNOWN },
	{ "lar", POPEK_UNKNOWN }, { "lsl", POPEK_UNKNOWN }, { "verr", POPEK_UNKNOWN }, { "verw", POPEK_UNKNOWN },
	{ "push-seg", POPEK_UNKNOWN }, { "mov-from-seg", POPEK_UNKNOWN },
	{ "pop-seg", POPEK_UNKNOWN }, { "mov-to-seg", POPEK_UNKNOWN }, { "call-far", POPEK_UNKNOWN },
	{ "jmp-far", POPEK_UNKNOWN }, { "ret-far", POPEK_UNKNOWN }, { "int", POPEK_UNKNOWN }, { "iret", POPEK_UNKNOWN },
	{ "cli", POPEK_UNKNOWN }, { "sti", POPEK_UNKNOWN }, { "hlt", POPEK_UNKNOWN },
	{ "in", POPEK_UNKNOWN }, { "out", POPEK_UNKNOWN }, { "mov-cr", POPEK_UNKNOWN },
};

bool patch_instruction(struct vcpu *v, uint64_t gpa, const struct insn *insn)
{
	// TODO 1.22: replace the opcode byte of pushf and popf, and touch nothing else. Hint: 0x9d may occur in any
	// instruction, so ask insn->op. Where among insn->len bytes does the opcode lie when there are prefixes?
	(void)gpa, (void)insn;
	lab_todo(v->vm, "1.22",
			"patch_instruction() in sensitive.c: make pushf and popf trap by replacing one byte");
	return false;
}

enum emu emulate_patched(struct vcpu *v, const struct insn *insn)
{
	// TODO 1.22: carry out pushf or popf on v->rflags. Hint: which bits popf changes depends on v->cpl, on IOPL and
	// on the operand size; the stack may fault, and then nothing has changed.
	(void)insn;
	return lab_todo(v->vm, "1.22", "emulate_patched() in sensitive.c: pushf and popf on the virtual flags");
}
