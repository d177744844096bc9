#include "decode.h"
#include "gva.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <Zydis/Zydis.h>

static ZydisDecoder decoder64, decoder32, decoder16;
static ZydisFormatter formatter;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init(void)
{
	ZydisDecoderInit(&decoder64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&decoder32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	/* Real mode and 16-bit segments of protected mode alike: what the former refuses, the CPU has refused before hv sees it. */
	ZydisDecoderInit(&decoder16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
}

static const ZydisDecoder *decoder_of(unsigned mode)
{
	return mode == 64 ? &decoder64 : mode == 32 ? &decoder32 : &decoder16;
}

static enum insn_op op_of(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	static const struct {
		ZydisMnemonic m;
		enum insn_op op;
	} map[] = {
		{ ZYDIS_MNEMONIC_CLI, INSN_CLI }, { ZYDIS_MNEMONIC_STI, INSN_STI }, { ZYDIS_MNEMONIC_HLT, INSN_HLT },
		{ ZYDIS_MNEMONIC_IN, INSN_IN }, { ZYDIS_MNEMONIC_OUT, INSN_OUT },
		{ ZYDIS_MNEMONIC_INSB, INSN_INS }, { ZYDIS_MNEMONIC_INSW, INSN_INS }, { ZYDIS_MNEMONIC_INSD, INSN_INS },
		{ ZYDIS_MNEMONIC_OUTSB, INSN_OUTS }, { ZYDIS_MNEMONIC_OUTSW, INSN_OUTS }, { ZYDIS_MNEMONIC_OUTSD, INSN_OUTS },
		{ ZYDIS_MNEMONIC_CLTS, INSN_CLTS }, { ZYDIS_MNEMONIC_LMSW, INSN_LMSW }, { ZYDIS_MNEMONIC_SMSW, INSN_SMSW },
		{ ZYDIS_MNEMONIC_LGDT, INSN_LGDT }, { ZYDIS_MNEMONIC_LIDT, INSN_LIDT }, { ZYDIS_MNEMONIC_LLDT, INSN_LLDT },
		{ ZYDIS_MNEMONIC_LTR, INSN_LTR }, { ZYDIS_MNEMONIC_SGDT, INSN_SGDT }, { ZYDIS_MNEMONIC_SIDT, INSN_SIDT },
		{ ZYDIS_MNEMONIC_SLDT, INSN_SLDT }, { ZYDIS_MNEMONIC_STR, INSN_STR },
		{ ZYDIS_MNEMONIC_RDMSR, INSN_RDMSR }, { ZYDIS_MNEMONIC_WRMSR, INSN_WRMSR }, { ZYDIS_MNEMONIC_SWAPGS, INSN_SWAPGS },
		{ ZYDIS_MNEMONIC_RDTSC, INSN_RDTSC }, { ZYDIS_MNEMONIC_RDTSCP, INSN_RDTSCP }, { ZYDIS_MNEMONIC_RDPMC, INSN_RDPMC },
		{ ZYDIS_MNEMONIC_STAC, INSN_STAC }, { ZYDIS_MNEMONIC_CLAC, INSN_CLAC }, { ZYDIS_MNEMONIC_INVLPG, INSN_INVLPG },
	        { ZYDIS_MNEMONIC_INVD, INSN_INVD }, { ZYDIS_MNEMONIC_WBINVD, INSN_WBINVD },
		{ ZYDIS_MNEMONIC_XSETBV, INSN_XSETBV }, { ZYDIS_MNEMONIC_CPUID, INSN_CPUID },
		{ ZYDIS_MNEMONIC_LSS, INSN_LOAD_FAR_POINTER }, { ZYDIS_MNEMONIC_LFS, INSN_LOAD_FAR_POINTER },
		{ ZYDIS_MNEMONIC_LGS, INSN_LOAD_FAR_POINTER },
		{ ZYDIS_MNEMONIC_IRET, INSN_IRET }, { ZYDIS_MNEMONIC_IRETD, INSN_IRET }, { ZYDIS_MNEMONIC_IRETQ, INSN_IRET },
		{ ZYDIS_MNEMONIC_INT, INSN_INT }, { ZYDIS_MNEMONIC_INT3, INSN_INT3 }, { ZYDIS_MNEMONIC_INT1, INSN_INT1 },
		{ ZYDIS_MNEMONIC_SYSCALL, INSN_SYSCALL }, { ZYDIS_MNEMONIC_SYSRET, INSN_SYSRET },
		{ ZYDIS_MNEMONIC_SYSENTER, INSN_SYSENTER }, { ZYDIS_MNEMONIC_SYSEXIT, INSN_SYSEXIT },
		{ ZYDIS_MNEMONIC_MOVZX, INSN_MOVZX }, { ZYDIS_MNEMONIC_MOVSX, INSN_MOVSX }, { ZYDIS_MNEMONIC_MOVSXD, INSN_MOVSX },
		{ ZYDIS_MNEMONIC_STOSB, INSN_STOS }, { ZYDIS_MNEMONIC_STOSW, INSN_STOS }, { ZYDIS_MNEMONIC_STOSD, INSN_STOS },
		{ ZYDIS_MNEMONIC_STOSQ, INSN_STOS }, { ZYDIS_MNEMONIC_LODSB, INSN_LODS }, { ZYDIS_MNEMONIC_LODSW, INSN_LODS },
		{ ZYDIS_MNEMONIC_LODSD, INSN_LODS }, { ZYDIS_MNEMONIC_LODSQ, INSN_LODS }, { ZYDIS_MNEMONIC_MOVSB, INSN_MOVS },
		{ ZYDIS_MNEMONIC_MOVSW, INSN_MOVS }, { ZYDIS_MNEMONIC_MOVSQ, INSN_MOVS },
		{ ZYDIS_MNEMONIC_MOVNTI, INSN_MOV }, /* only a hint to the caches is different */
		{ ZYDIS_MNEMONIC_ADD, INSN_ADD }, { ZYDIS_MNEMONIC_OR, INSN_OR }, { ZYDIS_MNEMONIC_ADC, INSN_ADC },
		{ ZYDIS_MNEMONIC_SBB, INSN_SBB }, { ZYDIS_MNEMONIC_AND, INSN_AND }, { ZYDIS_MNEMONIC_SUB, INSN_SUB },
		{ ZYDIS_MNEMONIC_XOR, INSN_XOR }, { ZYDIS_MNEMONIC_CMP, INSN_CMP }, { ZYDIS_MNEMONIC_TEST, INSN_TEST },
		{ ZYDIS_MNEMONIC_NOT, INSN_NOT }, { ZYDIS_MNEMONIC_NEG, INSN_NEG }, { ZYDIS_MNEMONIC_INC, INSN_INC },
		{ ZYDIS_MNEMONIC_DEC, INSN_DEC }, { ZYDIS_MNEMONIC_SHL, INSN_SHL }, { ZYDIS_MNEMONIC_SHR, INSN_SHR },
		{ ZYDIS_MNEMONIC_SAR, INSN_SAR }, { ZYDIS_MNEMONIC_BT, INSN_BT }, { ZYDIS_MNEMONIC_BTS, INSN_BTS },
		{ ZYDIS_MNEMONIC_BTR, INSN_BTR }, { ZYDIS_MNEMONIC_BTC, INSN_BTC }, { ZYDIS_MNEMONIC_XCHG, INSN_XCHG },
		{ ZYDIS_MNEMONIC_XADD, INSN_XADD }, { ZYDIS_MNEMONIC_CMPXCHG, INSN_CMPXCHG },
		{ ZYDIS_MNEMONIC_CMPXCHG8B, INSN_CMPXCHG8B }, { ZYDIS_MNEMONIC_CMPXCHG16B, INSN_CMPXCHG16B },
		{ ZYDIS_MNEMONIC_PUSHF, INSN_PUSHF }, { ZYDIS_MNEMONIC_PUSHFQ, INSN_PUSHF }, /* 16 and 64 bits; there is no 32 */
		{ ZYDIS_MNEMONIC_POPF, INSN_POPF }, { ZYDIS_MNEMONIC_POPFQ, INSN_POPF },
	};

	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			switch (ZydisRegisterGetClass(ops[0].reg.value)) {
			case ZYDIS_REGCLASS_SEGMENT: return INSN_MOV_TO_SREG;
			case ZYDIS_REGCLASS_CONTROL: return INSN_MOV_TO_CR;
			case ZYDIS_REGCLASS_DEBUG: return INSN_MOV_TO_DR;
			default: break;
			}
		}
		if (ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			switch (ZydisRegisterGetClass(ops[1].reg.value)) {
			case ZYDIS_REGCLASS_SEGMENT: return INSN_OTHER; /* does not trap: a sensitive, unprivileged instruction */
			case ZYDIS_REGCLASS_CONTROL: return INSN_MOV_FROM_CR;
			case ZYDIS_REGCLASS_DEBUG: return INSN_MOV_FROM_DR;
			default: break;
			}
		}
		return INSN_MOV;
	case ZYDIS_MNEMONIC_PUSH:
		return ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY ? INSN_PUSH : INSN_OTHER;
	case ZYDIS_MNEMONIC_POP:
		if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return INSN_POP;
		return ZydisRegisterGetClass(ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT ? INSN_POP_SREG : INSN_OTHER;
	case ZYDIS_MNEMONIC_MOVSD: /* also an SSE2 instruction */
		return z->meta.category == ZYDIS_CATEGORY_STRINGOP ? INSN_MOVS : INSN_OTHER;
	case ZYDIS_MNEMONIC_JMP:
		return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? INSN_FAR_JMP : INSN_OTHER;
	case ZYDIS_MNEMONIC_CALL:
		return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? INSN_FAR_CALL : INSN_OTHER;
	case ZYDIS_MNEMONIC_RET:
		return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? INSN_FAR_RET : INSN_OTHER;
	default:
		break;
	}
	for (size_t i = 0; i < sizeof map / sizeof *map; i++)
		if (map[i].m == z->mnemonic)
			return map[i].op;
	return INSN_OTHER;
}

static int8_t gpr_number(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return -1;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return OPND_RIP;
	return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

static struct operand operand_of(const ZydisDecodedOperand *z)
{
	struct operand o = { .kind = OPND_NONE, .base = -1, .index = -1, .segment = DS };

	o.size = z->size / 8;
	switch (z->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		switch (ZydisRegisterGetClass(z->reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT:
			o.kind = OPND_SREG;
			o.reg = ZydisRegisterGetId(z->reg.value);
			break;
		case ZYDIS_REGCLASS_CONTROL:
			o.kind = OPND_CR;
			o.reg = ZydisRegisterGetId(z->reg.value);
			break;
		case ZYDIS_REGCLASS_DEBUG:
			o.kind = OPND_DR;
			o.reg = ZydisRegisterGetId(z->reg.value);
			break;
		case ZYDIS_REGCLASS_GPR8:
			o.high8 = z->reg.value >= ZYDIS_REGISTER_AH && z->reg.value <= ZYDIS_REGISTER_BH;
			/* fall through */
		case ZYDIS_REGCLASS_GPR16:
		case ZYDIS_REGCLASS_GPR32:
		case ZYDIS_REGCLASS_GPR64:
			o.kind = OPND_GPR;
			o.reg = gpr_number(z->reg.value);
			break;
		default:
			break;
		}
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		o.kind = OPND_MEM;
		o.base = gpr_number(z->mem.base);
		o.index = gpr_number(z->mem.index);
		o.scale = z->mem.scale;
		o.disp = z->mem.disp.has_displacement ? z->mem.disp.value : 0;
		o.segment = ZydisRegisterGetId(z->mem.segment);
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		o.kind = OPND_IMM;
		o.imm = z->imm.value.u;
		break;
	default:
		break;
	}
	return o;
}

int insn_decode(const uint8_t *bytes, size_t avail, unsigned mode, struct insn *insn)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	pthread_once(&once, init);
	ZyanStatus st = ZydisDecoderDecodeFull(decoder_of(mode), bytes, avail < INSN_MAX ? avail : INSN_MAX, &z, ops);
	if (st == ZYDIS_STATUS_NO_MORE_DATA)
		return avail < INSN_MAX ? -E2BIG : -EINVAL;
	if (ZYAN_FAILED(st))
		return -EINVAL;

	memset(insn, 0, sizeof *insn);
	insn->op = op_of(&z, ops);
	insn->len = z.length;
	insn->mode = mode;
	insn->mnemonic = ZydisMnemonicGetString(z.mnemonic);
	insn->opsize = z.operand_width / 8;
	insn->addrsize = z.address_width / 8;
	insn->rep = z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
	if (z.operand_count > 0)
		insn->dst = operand_of(&ops[0]);
	insn->src = z.operand_count_visible > 1 || insn->op == INSN_INS || insn->op == INSN_OUTS || insn->op == INSN_STOS ||
			insn->op == INSN_LODS || insn->op == INSN_MOVS
		    ? operand_of(&ops[1])
		    : insn->dst;
	memcpy(insn->bytes, bytes, z.length);
	insn->sreg = z.mnemonic == ZYDIS_MNEMONIC_LSS ? SS : z.mnemonic == ZYDIS_MNEMONIC_LFS ? FS : GS;
	/* For port I/O the manuals' "operand size" is the width of the data, not of the (implicit) port register. */
	if (insn->op == INSN_IN || insn->op == INSN_INS)
		insn->opsize = insn->dst.size;
	else if (insn->op == INSN_OUT || insn->op == INSN_OUTS)
		insn->opsize = insn->src.size;
	return 0;
}

uint64_t operand_offset(const struct vcpu *v, const struct insn *insn, const struct operand *o)
{
	uint64_t a = (uint64_t)o->disp;

	if (o->base == OPND_RIP)
		a += v->rip + insn->len;
	else if (o->base >= 0)
		a += v->gpr[o->base];
	if (o->index >= 0)
		a += v->gpr[o->index] * o->scale;
	return insn->addrsize == 8 ? a : insn->addrsize == 4 ? (uint32_t)a : (uint16_t)a;
}

uint64_t operand_gva(struct vcpu *v, const struct insn *insn, const struct operand *o)
{
	uint64_t a = operand_offset(v, insn, o);

	if (insn->mode != 64)
		return (uint32_t)(a + v->seg[o->segment].base);
	return o->segment == FS || o->segment == GS ? a + segment_base(v, o->segment) : a;
}

void insn_text(const struct insn *insn, uint64_t rip, char *buf, size_t len)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	buf[0] = 0;
	pthread_once(&once, init);
	if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder_of(insn->mode), insn->bytes, insn->len, &z, ops)))
		ZydisFormatterFormatInstruction(&formatter, &z, ops, z.operand_count_visible, buf, len, rip, NULL);
}
