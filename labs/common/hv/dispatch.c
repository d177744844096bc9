/*
 * Which of the lab's functions emulates which instruction, and the few instructions that have nothing to teach.
 */
#include "irqchip.h"
#include "lab1.h"
#include "lab2.h"

/* What shadow paging can do and flat memory could not: pages of 1 GiB, SMEP, SMAP. The policy knows nothing of them. */
static void add_paging_features(struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_result *r)
{
	struct cpuid_result host = trap_host_cpuid(v, leaf, subleaf);

	if (leaf == 7 && !subleaf)
		r->ebx |= host.ebx & (CPUID7_SMEP | CPUID7_SMAP);
	if (leaf == 0x80000001)
		r->edx |= host.edx & CPUID81_1GIB;
}

/* CPUID, when the machine lets it trap: ask the policy what this guest may know. */
static enum emu emulate_cpuid(struct vcpu *v)
{
	uint32_t leaf = (uint32_t)v->gpr[RAX], subleaf = (uint32_t)v->gpr[RCX];
	struct cpuid_result r = cpuid_policy(v, leaf, subleaf, trap_host_cpuid(v, leaf, subleaf));

	if (v->vm->stopping)
		return EMU_STOP;
	if (v->vm->shadow)
		add_paging_features(v, leaf, subleaf, &r);
	irqchip_cpuid(v, leaf, &r);
	v->gpr[RAX] = r.eax;
	v->gpr[RBX] = r.ebx;
	v->gpr[RCX] = r.ecx;
	v->gpr[RDX] = r.edx;
	trap_note(v, "leaf 0x%x.%x -> %08x %08x %08x %08x", leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
	return EMU_NEXT;
}

/* Stores of the tables' registers trap only on a machine with UMIP. Without it they read the machine's own: behaviour-sensitive,
 * and not repaired here. */
static enum emu emulate_stores(struct vcpu *v, const struct insn *insn)
{
	const struct dtable *table = insn->op == INSN_SGDT ? &v->gdtr : &v->idtr;
	uint8_t stored[10];
	uint64_t value;

	switch (insn->op) {
	case INSN_SGDT:
	case INSN_SIDT:
		memcpy(stored, &table->limit, 2);
		memcpy(stored + 2, &table->base, 8);
		return gva_write(v, operand_gva(v, insn, &insn->dst), stored, sizeof stored) ? EMU_NEXT : EMU_RAISED;
	default: /* SLDT, STR, SMSW */
		value = insn->op == INSN_SLDT ? v->ldtr.selector : insn->op == INSN_STR ? v->tr.selector : v->cr0;
		return operand_write(v, insn, &insn->dst, insn->dst.kind == OPND_MEM ? 2 : insn->dst.size, value) ? EMU_NEXT
														     : EMU_RAISED;
	}
}

/* The rest: instructions with nothing to do, or with one line. */
static enum emu emulate_simple(struct vcpu *v, const struct insn *insn)
{
	uint64_t tsc;

	switch (insn->op) {
	case INSN_RDTSC:
	case INSN_RDTSCP:
		/* Traps only under CR4.TSD, which means CPL 3 of the guest; the machine cannot tell the guest's levels apart. */
		if (v->cpl && (v->cr4 & CR4_TSD))
			break;
		tsc = trap_machine_tsc(v);
		v->gpr[RAX] = (uint32_t)tsc;
		v->gpr[RDX] = tsc >> 32;
		if (insn->op == INSN_RDTSCP)
			v->gpr[RCX] = (uint32_t)v->msr.tsc_aux;
		return EMU_NEXT;
	case INSN_INVLPG:
		if (v->cpl)
			break;
		if (v->vm->shadow && canonical(operand_gva(v, insn, &insn->dst)))
			shadow_invlpg(v, operand_gva(v, insn, &insn->dst));
		return EMU_NEXT;
	case INSN_STAC:
	case INSN_CLAC: /* the next root follows the flag: shadow_mode_role() in Lab 2 */
		if (v->cpl || !(trap_cr4_allowed(v) & CR4_SMAP))
			return raise_ud(v);
		v->rflags = insn->op == INSN_STAC ? v->rflags | FLAG_AC : v->rflags & ~FLAG_AC;
		return EMU_NEXT;
	case INSN_INVD:
	case INSN_WBINVD: /* the caches are the machine's */
		if (v->cpl)
			break;
		return EMU_NEXT;
	case INSN_XSETBV: /* no XSAVE is offered, so it does not exist */
	case INSN_SYSENTER:
	case INSN_SYSEXIT:
		return raise_ud(v);
	default:
		break;
	}
	return raise_gp(v, 0);
}

static enum emu by_family(struct vcpu *v, const struct insn *insn)
{
	switch (insn->op) {
	case INSN_OUT: return emulate_out(v, insn);
	case INSN_IN: return emulate_in(v, insn);
	case INSN_CLI: case INSN_STI: return emulate_flags(v, insn);
	case INSN_HLT:
		if (v->cpl)
			break;
		return emulate_flags(v, insn);
	case INSN_INS: case INSN_OUTS: return emulate_string_io(v, insn);
	case INSN_MOV_FROM_CR: case INSN_MOV_TO_CR: case INSN_CLTS: case INSN_LMSW: return emulate_cr(v, insn);
	case INSN_MOV_FROM_DR: case INSN_MOV_TO_DR: return emulate_dr(v, insn);
	case INSN_LGDT: case INSN_LIDT: case INSN_LLDT: case INSN_LTR:
		return emulate_tables(v, insn);
	case INSN_SGDT: case INSN_SIDT: case INSN_SLDT: case INSN_STR: case INSN_SMSW: return emulate_stores(v, insn);
	case INSN_RDMSR: case INSN_WRMSR: case INSN_SWAPGS: return emulate_msr(v, insn);
	case INSN_MOV_TO_SREG: case INSN_POP_SREG: case INSN_LOAD_FAR_POINTER:
	case INSN_FAR_JMP: case INSN_FAR_CALL: case INSN_FAR_RET: return emulate_segments(v, insn);
	case INSN_INT: case INSN_INT3: case INSN_INT1: return emulate_int(v, insn);
	case INSN_IRET: return emulate_iret(v, insn);
	case INSN_SYSCALL: case INSN_SYSRET: return emulate_syscall(v, insn);
	case INSN_CPUID: return emulate_cpuid(v);
	case INSN_PUSHF: case INSN_POPF: return emulate_patched(v, insn);
	default: return emulate_simple(v, insn);
	}
	return raise_gp(v, 0);
}

enum emu dispatch(struct vcpu *v, const struct insn *insn)
{
	uint64_t cr4 = v->cr4, efer = v->efer;
	enum emu done = by_family(v, insn);

	if (insn->op == INSN_WRMSR)
		irqchip_msr_written(v);
	if (!v->vm->shadow || (done != EMU_NEXT && done != EMU_JUMPED))
		return done;
	/* What a CPU's TLB would notice. */
	if (insn->op == INSN_MOV_TO_CR && insn->dst.reg == 3)
		shadow_cr3_written(v);
	if (v->cr4 != cr4 || v->efer != efer)
		shadow_control_changed(v, v->cr4 ^ cr4, v->efer ^ efer);
	return v->vm->stopping ? EMU_STOP : done;
}
