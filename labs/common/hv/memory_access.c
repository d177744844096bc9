#include "memory_access.h"
#include "lab1.h"
#include "rmw.h"
#include "segment.h"

#include <errno.h>

/* The next element of a string instruction. (SDM vol. 1, 7.3.9.1) */
static void advance(struct vcpu *v, const struct insn *insn, unsigned reg, unsigned size)
{
	uint64_t step = v->rflags & FLAG_DF ? -(uint64_t)size : size;
	gpr_write(v, reg, insn->addrsize, v->gpr[reg] + step);
}

/* One element of stos, lods or movs. false when it faulted. */
static bool string_element(struct vcpu *v, const struct insn *insn)
{
	uint64_t value;
	unsigned n = insn->opsize;

	if (!operand_read(v, insn, &insn->src, n, &value) || !operand_write(v, insn, &insn->dst, n, value))
		return false;
	if (insn->op != INSN_LODS)
		advance(v, insn, RDI, n);
	if (insn->op != INSN_STOS)
		advance(v, insn, RSI, n);
	return true;
}

static int string_move(struct vcpu *v, const struct insn *insn)
{
	if (!insn->rep) {
		if (string_element(v, insn))
			v->rip = insn_next(v, insn);
		return 0;
	}
	/* One element per call: the guest stays interruptible, and comes back here by itself for the next one. */
	if (gpr_read(v, RCX, insn->addrsize)) {
		if (!string_element(v, insn))
			return 0;
		gpr_write(v, RCX, insn->addrsize, v->gpr[RCX] - 1);
	}
	if (!gpr_read(v, RCX, insn->addrsize))
		v->rip = insn_next(v, insn);
	return 0;
}

static int not_emulated(struct vcpu *v, const struct insn *insn)
{
	char text[96];

	insn_text(insn, v->rip, text, sizeof text);
	return vm_stop(v->vm, HV_STOPPED,
		       "at rip 0x%llx `%s` accesses a device or a page that hv protects, and hv does not emulate this instruction",
		       (unsigned long long)v->rip, text);
}

int memory_emulate(struct vcpu *v)
{
	struct insn insn;
	uint64_t value;

	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	trace_count(v->vm->trace.mnemonic, insn.mnemonic);
	switch (insn.op) {
	case INSN_MOV:
		if (!operand_read(v, &insn, &insn.src, insn.opsize, &value) || !operand_write(v, &insn, &insn.dst, insn.opsize, value))
			return 0;
		break;
	case INSN_MOVZX:
	case INSN_MOVSX:
		if (!operand_read(v, &insn, &insn.src, insn.src.size, &value))
			return 0;
		if (insn.op == INSN_MOVSX)
			value = (uint64_t)sign_extend(value, insn.src.size);
		if (!operand_write(v, &insn, &insn.dst, insn.dst.size, value))
			return 0;
		break;
	case INSN_STOS:
	case INSN_LODS:
	case INSN_MOVS:
		return string_move(v, &insn);
	default:
		if (!memory_can_emulate(&insn))
			return not_emulated(v, &insn);
		if (!rmw_emulate(v, &insn))
			return 0;
	}
	v->rip = insn_next(v, &insn);
	return 0;
}
