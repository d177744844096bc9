#include "rmw.h"
#include "gva.h"
#include "segment.h"

#include <stdlib.h>

/* CF, PF, AF, ZF, SF, OF (SDM vol. 1, 3.4.3.1). */
#define ARITHMETIC_FLAGS 0x8d5ull

/*
 * One instruction on hv's own CPU, which knows its flags best: `a` and `f` are changed, `b` is the source. The stack pointer skips the
 * red zone, the 128 bytes below it that belong to the compiler. LEA and the moves of the stack leave the flags alone.
 */
#define ON_CPU(text)                                                         \
	asm volatile("lea -128(%%rsp), %%rsp\n\tpush %[f]\n\tpopfq\n\t" text \
		     "\n\tpushfq\n\tpop %[f]\n\tlea 128(%%rsp), %%rsp"       \
		     : [a] "+q"(a), [f] "+r"(f)                              \
		     : [b] "c"(b)                                            \
		     : "cc", "memory")

/* The instruction in the form for n bytes; the others are its source operand in each form. */
#define SIZED(insn, src1, src2, src4, src8)                      \
	do {                                                     \
		switch (n) {                                     \
		case 1: ON_CPU(insn "b " src1 "%b[a]"); break;   \
		case 2: ON_CPU(insn "w " src2 "%w[a]"); break;   \
		case 4: ON_CPU(insn "l " src4 "%k[a]"); break;   \
		default: ON_CPU(insn "q " src8 "%q[a]"); break;  \
		}                                                \
	} while (0)
#define BINARY(insn) SIZED(insn, "%b[b], ", "%w[b], ", "%k[b], ", "%q[b], ")
#define UNARY(insn) SIZED(insn, "", "", "", "")
#define SHIFT(insn) SIZED(insn, "%b[b], ", "%b[b], ", "%b[b], ", "%b[b], ") /* the count is CL */

/* What op makes of two values of n bytes and of the flags. Above its n bytes the result means nothing. */
static uint64_t calculate(enum insn_op op, unsigned n, uint64_t a, uint64_t b, uint64_t *rflags)
{
	/* Never the guest's other flags: TF or AC would be hv's then. */
	uint64_t f = *rflags & ARITHMETIC_FLAGS;

	switch (op) {
	case INSN_ADD: BINARY("add"); break;
	case INSN_OR: BINARY("or"); break;
	case INSN_ADC: BINARY("adc"); break;
	case INSN_SBB: BINARY("sbb"); break;
	case INSN_AND: BINARY("and"); break;
	case INSN_SUB: BINARY("sub"); break;
	case INSN_XOR: BINARY("xor"); break;
	case INSN_CMP: BINARY("cmp"); break;
	case INSN_TEST: BINARY("test"); break;
	case INSN_NOT: UNARY("not"); break;
	case INSN_NEG: UNARY("neg"); break;
	case INSN_INC: UNARY("inc"); break;
	case INSN_DEC: UNARY("dec"); break;
	case INSN_SHL: SHIFT("shl"); break;
	case INSN_SHR: SHIFT("shr"); break;
	case INSN_SAR: SHIFT("sar"); break;
	/* The bit is inside the operand here, so that the widest form serves all. */
	case INSN_BT: ON_CPU("btq %q[b], %q[a]"); break;
	case INSN_BTS: ON_CPU("btsq %q[b], %q[a]"); break;
	case INSN_BTR: ON_CPU("btrq %q[b], %q[a]"); break;
	case INSN_BTC: ON_CPU("btcq %q[b], %q[a]"); break;
	default: abort(); /* not an operation of two values */
	}
	*rflags = (*rflags & ~ARITHMETIC_FLAGS) | (f & ARITHMETIC_FLAGS);
	return a;
}

/* Reads an operand that is written next. */
static bool read_to_write(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned n, uint64_t *value)
{
	return operand_writable(v, insn, o, n) && operand_read(v, insn, o, n, value);
}

/*
 * Operations with a result in the destination, or with flags only. A bit offset in a register is a signed number and reaches beyond the
 * operand: it chooses the word of n bytes, relative to the operand's address, and the bit in it. One in the instruction is cut to the
 * operand. (SDM vol. 2, BT; vol. 2, 3.1.1.9)
 */
static bool arithmetic(struct vcpu *v, const struct insn *insn)
{
	bool bit = insn->op >= INSN_BT && insn->op <= INSN_BTC;
	bool unary = insn->op >= INSN_NOT && insn->op <= INSN_DEC;
	bool writes = insn->op != INSN_CMP && insn->op != INSN_TEST && insn->op != INSN_BT;
	unsigned n = insn->opsize;
	struct operand dst = insn->dst;
	uint64_t a, b = 0, rflags = v->rflags;

	if (!unary && !operand_read(v, insn, &insn->src, insn->src.size, &b))
		return false;
	if (bit) {
		int64_t offset = sign_extend(b, n);
		b %= 8 * n;
		if (dst.kind == OPND_MEM && insn->src.kind == OPND_GPR)
			dst.disp += (offset - (int64_t)b) / 8; /* to the start of its word, also from a negative offset */
	}
	if ((writes && !operand_writable(v, insn, &dst, n)) || !operand_read(v, insn, &dst, n, &a))
		return false;
	a = calculate(insn->op, n, a, b, &rflags);
	if (writes && !operand_write(v, insn, &dst, n, a))
		return false;
	v->rflags = rflags;
	return true;
}

/* XCHG and XADD: the register gets what was in memory. */
static bool exchange(struct vcpu *v, const struct insn *insn)
{
	unsigned n = insn->opsize;
	uint64_t old, value, rflags = v->rflags;

	if (!operand_read(v, insn, &insn->src, n, &value) || !read_to_write(v, insn, &insn->dst, n, &old))
		return false;
	if (insn->op == INSN_XADD)
		value = calculate(INSN_ADD, n, old, value, &rflags);
	if (!operand_write(v, insn, &insn->dst, n, value))
		return false;
	v->rflags = rflags;
	return operand_write(v, insn, &insn->src, n, old);
}

/* CMPXCHG. When the values differ the old one is written again: to the CPU it is a store in any case. (SDM vol. 2, CMPXCHG) */
static bool compare_exchange(struct vcpu *v, const struct insn *insn)
{
	unsigned n = insn->opsize;
	uint64_t old, value, rflags = v->rflags;

	if (!operand_read(v, insn, &insn->src, n, &value) || !read_to_write(v, insn, &insn->dst, n, &old))
		return false;
	calculate(INSN_CMP, n, gpr_read(v, RAX, n), old, &rflags);
	if (!operand_write(v, insn, &insn->dst, n, rflags & FLAG_ZF ? value : old))
		return false;
	if (!(rflags & FLAG_ZF))
		gpr_write(v, RAX, n, old);
	v->rflags = rflags;
	return true;
}

/* CMPXCHG8B and CMPXCHG16B compare with RDX and RAX, and store RCX and RBX, halves of 4 or 8 bytes. Of the flags only ZF changes. Both
 * halves are stored at once: the first may be the very entry that maps the second. (SDM vol. 2, CMPXCHG8B) */
static bool compare_exchange_pair(struct vcpu *v, const struct insn *insn)
{
	bool wide = insn->op == INSN_CMPXCHG16B;
	struct operand low = insn->dst, high = insn->dst;
	uint64_t old[2] = { 0 }, expected[2] = { v->gpr[RAX], v->gpr[RDX] }, value[2] = { v->gpr[RBX], v->gpr[RCX] };

	high.disp += 8;
	if (!wide) {
		expected[0] = (uint32_t)expected[0] | expected[1] << 32;
		value[0] = (uint32_t)value[0] | value[1] << 32;
	}
	if (wide && operand_gva(v, insn, &low) % 16)
		return raise_error(v, VEC_GP, 0);
	if (!operand_writable(v, insn, &low, wide ? 16 : 8) || !operand_read(v, insn, &low, 8, &old[0]) ||
	    (wide && !operand_read(v, insn, &high, 8, &old[1])))
		return false;
	bool equal = old[0] == expected[0] && (!wide || old[1] == expected[1]);
	const uint64_t *stored = equal ? value : old;
	if (!gva_write(v, operand_gva(v, insn, &low), stored, wide ? 16 : 8)) /* segment and pages were asked above */
		return false;
	if (!equal) {
		gpr_write(v, RAX, wide ? 8 : 4, old[0]);
		gpr_write(v, RDX, wide ? 8 : 4, wide ? old[1] : old[0] >> 32);
	}
	v->rflags = (v->rflags & ~FLAG_ZF) | (equal ? FLAG_ZF : 0);
	return true;
}

/* The offset in SS that is delta bytes from the top of the stack. */
static uint64_t stack_offset(const struct vcpu *v, int delta)
{
	uint64_t offset = v->gpr[RSP] + (uint64_t)(int64_t)delta;

	switch (stack_width(v)) {
	case 8: return offset;
	case 4: return (uint32_t)offset;
	default: return (uint16_t)offset;
	}
}

static bool push(struct vcpu *v, const struct insn *insn)
{
	unsigned n = insn->opsize;
	uint64_t value;

	if (!operand_read(v, insn, &insn->src, n, &value) || !stack_write(v, stack_offset(v, -(int)n), &value, n))
		return false;
	gpr_write(v, RSP, stack_width(v), stack_offset(v, -(int)n));
	return true;
}

/* An address that depends on RSP is the one with RSP behind the pop. (SDM vol. 2, POP) */
static bool pop(struct vcpu *v, const struct insn *insn)
{
	unsigned n = insn->opsize;
	uint64_t value = 0, before = v->gpr[RSP];

	if (!stack_read(v, stack_offset(v, 0), &value, n))
		return false;
	gpr_write(v, RSP, stack_width(v), stack_offset(v, (int)n));
	if (operand_write(v, insn, &insn->dst, n, value))
		return true;
	v->gpr[RSP] = before;
	return false;
}

bool rmw_emulate(struct vcpu *v, const struct insn *insn)
{
	switch (insn->op) {
	case INSN_XCHG:
	case INSN_XADD: return exchange(v, insn);
	case INSN_CMPXCHG: return compare_exchange(v, insn);
	case INSN_CMPXCHG8B:
	case INSN_CMPXCHG16B: return compare_exchange_pair(v, insn);
	case INSN_PUSH: return push(v, insn);
	case INSN_POP: return pop(v, insn);
	default: return arithmetic(v, insn);
	}
}
