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

// SOLUTION 1.20
/* Leaf 1, EDX: FPU VME DE PSE TSC MSR PAE CX8 SEP- PGE CMOV PAT CLFLUSH MMX FXSR SSE SSE2. No MCE, MTRR, MCA: not virtualized. (The
 * local APIC is the frame's.) */
#define LEAF1_EDX (1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 13 | 1u << 15 | 1u << 16 | 1u << 19 | \
		   1u << 23 | 1u << 24 | 1u << 25 | 1u << 26)
/* Leaf 1, ECX: SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES RDRAND. No MONITOR, VMX, x2APIC, TSC-deadline, XSAVE, AVX;
 * and not bit 31, by which hypervisors announce themselves. */
#define LEAF1_ECX (1u << 0 | 1u << 1 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 23 | 1u << 25 | 1u << 30)
/* Leaf 7, EBX: BMI1 BMI2 ERMS RDSEED ADX SHA. No FSGSBASE, SMEP, SMAP, INVPCID, AVX2. */
#define LEAF7_EBX (1u << 3 | 1u << 8 | 1u << 9 | 1u << 18 | 1u << 19 | 1u << 29)
/* 0x80000001, EDX: the bits of leaf 1 that AMD repeats, SYSCALL, NX, 1 GiB pages are Lab 2's, LM. ECX: LAHF, LZCNT, SSE4A, PREFETCHW. */
#define EXT1_EDX (1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 11 | 1u << 13 | 1u << 15 | 1u << 16 | \
		  1u << 20 | 1u << 23 | 1u << 24 | 1u << 29)
#define EXT1_ECX (1u << 0 | 1u << 5 | 1u << 6 | 1u << 8)
#define MAX_BASIC 7
#define MAX_EXTENDED 0x80000008
// END

struct cpuid_result cpuid_policy(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_result host)
{
	// SOLUTION 1.20
	struct cpuid_result r = { 0 };

	(void)v;
	switch (leaf) {
	case 0: /* vendor: the host's, because code chooses instructions by it */
	case 0x80000000:
		r = host;
		r.eax = leaf ? MAX_EXTENDED : MAX_BASIC;
		return r;
	case 1:
		r.eax = host.eax;
		r.ebx = (host.ebx & 0xff00) | 1 << 16; /* CLFLUSH line size, one logical CPU, APIC id 0 */
		r.ecx = host.ecx & LEAF1_ECX;
		r.edx = host.edx & LEAF1_EDX;
		return r;
	case 7:
		r.ebx = subleaf ? 0 : host.ebx & LEAF7_EBX;
		return r;
	case 0x80000001:
		r.eax = host.eax;
		r.ecx = host.ecx & EXT1_ECX;
		r.edx = host.edx & EXT1_EDX;
		return r;
	case 0x80000002: /* the brand string says what this really is, in three leaves of 16 bytes */
	case 0x80000003:
	case 0x80000004: {
		static const char brand[48] = "Trapdoor virtual CPU";
		memcpy(&r, brand + (leaf - 0x80000002) * 16, 16);
		return r;
	}
	case 0x80000005: /* caches: true of the machine, useful to the guest, and no secret */
	case 0x80000006:
		return host;
	case 0x80000008: /* address widths; no more than one core */
		r.eax = (host.eax & 0xff) | 48 << 8; /* 57-bit addresses would need LA57 */
		return r;
	default: /* everything else does not exist, the hypervisor's own range at 0x40000000 above all */
		return r;
	}
	// STARTER 1.20: ask, analyse, construct, return. Hint: begin with an answer of zeros and let through what the
	// guest's CPU really has;
	// bit 31 of ECX in leaf 1 and the leaves from 0x40000000 on are how a guest finds out that it is one.
	//	(void)leaf, (void)subleaf, (void)host;
	//	lab_todo(v->vm, "1.20", "cpuid_policy() in sensitive.c: decide what the guest may know about its CPU");
	//	return (struct cpuid_result){ 0 };
	// END
}

const struct popek_entry popek_report[POPEK_INSNS] = {
	// SOLUTION 1.21
	/* They tell what belongs to the machine, or test the machine's descriptors, and need no privilege. */
	{ "sgdt", POPEK_SILENT }, { "sidt", POPEK_SILENT }, { "sldt", POPEK_SILENT }, { "str", POPEK_SILENT },
	{ "smsw", POPEK_SILENT }, { "pushf", POPEK_SILENT }, { "popf", POPEK_SILENT },
	{ "lar", POPEK_SILENT }, { "lsl", POPEK_SILENT }, { "verr", POPEK_SILENT }, { "verw", POPEK_SILENT },
	{ "push-seg", POPEK_SILENT }, { "mov-from-seg", POPEK_SILENT },
	/* They use the machine's descriptors and gates, and the monitor saw to it that none of the guest's is there. */
	{ "pop-seg", POPEK_TRAPS }, { "mov-to-seg", POPEK_TRAPS }, { "call-far", POPEK_TRAPS },
	{ "jmp-far", POPEK_TRAPS }, { "ret-far", POPEK_TRAPS }, { "int", POPEK_TRAPS }, { "iret", POPEK_TRAPS },
	/* Privileged. */
	{ "cli", POPEK_TRAPS }, { "sti", POPEK_TRAPS }, { "hlt", POPEK_TRAPS },
	{ "in", POPEK_TRAPS }, { "out", POPEK_TRAPS }, { "mov-cr", POPEK_TRAPS },
	// STARTER 1.21: put POPEK_TRAPS or POPEK_SILENT beside each instruction. Hint: run guests/popek.S with --trace
	// exits and look
	// between the two `rep outsb` around it.
	//	{ "sgdt", POPEK_UNKNOWN }, { "sidt", POPEK_UNKNOWN }, { "sldt", POPEK_UNKNOWN }, { "str", POPEK_UNKNOWN },
	//	{ "smsw", POPEK_UNKNOWN }, { "pushf", POPEK_UNKNOWN }, { "popf", POPEK_UNKNOWN },
	//	{ "lar", POPEK_UNKNOWN }, { "lsl", POPEK_UNKNOWN }, { "verr", POPEK_UNKNOWN }, { "verw", POPEK_UNKNOWN },
	//	{ "push-seg", POPEK_UNKNOWN }, { "mov-from-seg", POPEK_UNKNOWN },
	//	{ "pop-seg", POPEK_UNKNOWN }, { "mov-to-seg", POPEK_UNKNOWN }, { "call-far", POPEK_UNKNOWN },
	//	{ "jmp-far", POPEK_UNKNOWN }, { "ret-far", POPEK_UNKNOWN }, { "int", POPEK_UNKNOWN }, { "iret", POPEK_UNKNOWN },
	//	{ "cli", POPEK_UNKNOWN }, { "sti", POPEK_UNKNOWN }, { "hlt", POPEK_UNKNOWN },
	//	{ "in", POPEK_UNKNOWN }, { "out", POPEK_UNKNOWN }, { "mov-cr", POPEK_UNKNOWN },
	// END
};

bool patch_instruction(struct vcpu *v, uint64_t gpa, const struct insn *insn)
{
	// SOLUTION 1.22
	uint8_t opcode;

	switch (insn->op) {
	case INSN_PUSHF: opcode = PATCHED_PUSHF; break;
	case INSN_POPF: opcode = PATCHED_POPF; break;
	default: return false;
	}
	/* Neither has operands in its bytes, so whatever the prefixes are, the opcode comes last. */
	return !guest_write(&v->vm->mem, gpa + insn->len - 1, &opcode, 1);
	// STARTER 1.22: replace the opcode byte of pushf and popf, and touch nothing else. Hint: 0x9d may occur in any
	// instruction,
	// so ask insn->op. Where among insn->len bytes does the opcode lie when there are prefixes?
	//	(void)gpa, (void)insn;
	//	lab_todo(v->vm, "1.22",
	//			"patch_instruction() in sensitive.c: make pushf and popf trap by replacing one byte");
	//	return false;
	// END
}

enum emu emulate_patched(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.22
	unsigned size = insn->opsize;
	uint64_t rsp = v->gpr[RSP], flags = v->rflags;
	/* VM, VIF and VIP stay, RF becomes 0 whatever is popped. (VME and PVI, where they would not, are not offered: CR4.) */
	uint64_t mask = FLAGS_DEFINED & ~(FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP);

	if (insn->op == INSN_PUSHF) {
		if (!stack_write(v, rsp - size, &flags, size))
			return EMU_RAISED;
		v->gpr[RSP] = rsp - size;
	} else {
		flags = 0;
		if (!stack_read(v, rsp, &flags, size))
			return EMU_RAISED;
		/* This silence is architecture, not virtualization: a program without the right to change IF or IOPL gets no exception. */
		if (v->cpl)
			mask &= ~FLAG_IOPL;
		if (v->cpl > (v->rflags & FLAG_IOPL) >> 12)
			mask &= ~FLAG_IF;
		if (size == 2)
			mask &= 0xffff;
		v->rflags = (v->rflags & ~mask) | (flags & mask) | FLAG_FIXED;
		v->gpr[RSP] = rsp + size;
	}
	trap_note(v, "virtual flags 0x%llx", (unsigned long long)v->rflags);
	return EMU_NEXT;
	// STARTER 1.22: carry out pushf or popf on v->rflags. Hint: which bits popf changes depends on v->cpl, on IOPL and on the
	// operand size; the stack may fault, and then nothing has changed.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.22", "emulate_patched() in sensitive.c: pushf and popf on the virtual flags");
	// END
}
