// sources: decode.c
/* What the decoder makes of bytes: the operation, its operands, operand size, address size, length. */
#include "decode.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Bases of FS and GS, in place of gva.c's. */
uint64_t segment_base(struct vcpu *v, unsigned sreg)
{
	return v->seg[sreg].base;
}

#define DECODE_AS(mode, ...) decode_as(mode, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
#define DECODE(...) DECODE_AS(64, __VA_ARGS__)
#define DECODE32(...) DECODE_AS(32, __VA_ARGS__)
#define DECODE16(...) DECODE_AS(16, __VA_ARGS__)

/* Decodes exactly these bytes, with others behind them that do not belong to the instruction. */
static struct insn decode_as(unsigned mode, const uint8_t *code, size_t len)
{
	uint8_t bytes[32];
	struct insn insn;

	memset(bytes, 0x90, sizeof bytes);
	memcpy(bytes, code, len);
	assert_int_equal(insn_decode(bytes, sizeof bytes, mode, &insn), 0);
	assert_int_equal(insn.mode, mode);
	assert_int_equal(insn.len, len);
	assert_memory_equal(insn.bytes, code, len);
	return insn;
}

static struct insn decode(const uint8_t *code, size_t len)
{
	return decode_as(64, code, len);
}

static void assert_gpr(const struct operand *o, unsigned reg, unsigned size)
{
	assert_int_equal(o->kind, OPND_GPR);
	assert_int_equal(o->reg, reg);
	assert_int_equal(o->size, size);
}

static void port_io_has_the_size_of_the_data(void **state)
{
	static const struct {
		uint8_t code[4], len, opsize;
		bool immediate;
	} cases[] = {
		{ { 0xe4, 0x71 }, 2, 1, true }, { { 0x66, 0xe5, 0x71 }, 3, 2, true }, { { 0xe5, 0x71 }, 2, 4, true },
		{ { 0xec }, 1, 1, false }, { { 0x66, 0xed }, 2, 2, false }, { { 0xed }, 1, 4, false },
		{ { 0x48, 0xed }, 2, 4, false }, /* REX.W changes nothing: there is no 64-bit port */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint8_t code[4];
		memcpy(code, cases[i].code, sizeof code);
		struct insn in = decode(code, cases[i].len);
		assert_int_equal(in.op, INSN_IN);
		assert_int_equal(in.opsize, cases[i].opsize);
		assert_gpr(&in.dst, RAX, cases[i].opsize);
		assert_int_equal(in.src.kind, cases[i].immediate ? OPND_IMM : OPND_GPR);

		code[cases[i].immediate ? cases[i].len - 2 : cases[i].len - 1] |= 2; /* the opcodes of OUT are IN's plus two */
		struct insn out = decode(code, cases[i].len);
		assert_int_equal(out.op, INSN_OUT);
		assert_int_equal(out.opsize, cases[i].opsize);
		assert_gpr(&out.src, RAX, cases[i].opsize);
		if (cases[i].immediate)
			assert_int_equal(out.dst.imm, 0x71);
		else
			assert_gpr(&out.dst, RDX, 2);
	}
	assert_int_equal(DECODE(0xe6, 0xe9).dst.imm, 0xe9); /* a port is not sign-extended */
}

static void string_io(void **state)
{
	struct insn insn = DECODE(0xf3, 0x6c);

	(void)state;
	assert_int_equal(insn.op, INSN_INS);
	assert_true(insn.rep);
	assert_int_equal(insn.opsize, 1);
	assert_int_equal(insn.addrsize, 8);
	assert_int_equal(insn.dst.kind, OPND_MEM);
	assert_int_equal(insn.dst.base, RDI);
	insn = DECODE(0x67, 0x66, 0x6f);
	assert_int_equal(insn.op, INSN_OUTS);
	assert_false(insn.rep);
	assert_int_equal(insn.opsize, 2);
	assert_int_equal(insn.addrsize, 4);
	assert_int_equal(insn.src.kind, OPND_MEM);
	assert_int_equal(insn.src.base, RSI);
	assert_int_equal(DECODE(0x6f).opsize, 4);
}

static void pushf_and_popf(void **state)
{
	struct insn insn = DECODE(0x9d);

	(void)state;
	assert_int_equal(insn.op, INSN_POPF);
	assert_int_equal(insn.opsize, 8);
	assert_string_equal(insn.mnemonic, "popfq");
	insn = DECODE(0x66, 0x9d);
	assert_int_equal(insn.op, INSN_POPF);
	assert_int_equal(insn.opsize, 2);
	assert_int_equal(DECODE(0x48, 0x9d).op, INSN_POPF);
	assert_int_equal(DECODE(0x48, 0x9d).opsize, 8);
	assert_int_equal(DECODE(0x9c).op, INSN_PUSHF);
	assert_int_equal(DECODE(0x9c).opsize, 8);
	assert_int_equal(DECODE(0x66, 0x9c).op, INSN_PUSHF);
	assert_int_equal(DECODE(0x66, 0x9c).opsize, 2);
	/* No CPU refuses them at CPL 3, so whoever asks for what can trap (anything before INSN_MOV) must not find them. */
	assert_true(INSN_PUSHF > INSN_MOV && INSN_POPF > INSN_MOV);

	/* The same bytes elsewhere in an instruction: immediate, ModRM, second opcode byte. */
	assert_int_equal(DECODE(0xb8, 0x9d, 0x9c, 0x9d, 0x9c).op, INSN_MOV);
	assert_int_equal(DECODE(0x8d, 0x9d, 0x9d, 0x9c, 0x9d, 0x9c).op, INSN_OTHER); /* lea disp32(%rbp),%ebx */
	assert_int_equal(DECODE(0x0f, 0x9d, 0xc0).op, INSN_OTHER);                   /* setge %al */
	assert_int_equal(DECODE(0x0f, 0x9c, 0xc0).op, INSN_OTHER);                   /* setl %al */
}

static void control_and_debug_registers(void **state)
{
	struct insn insn = DECODE(0x0f, 0x22, 0xdf); /* mov %rdi,%cr3 */

	(void)state;
	assert_int_equal(insn.op, INSN_MOV_TO_CR);
	assert_int_equal(insn.dst.kind, OPND_CR);
	assert_int_equal(insn.dst.reg, 3);
	assert_gpr(&insn.src, RDI, 8);
	insn = DECODE(0x45, 0x0f, 0x20, 0xc7); /* mov %cr8,%r15 */
	assert_int_equal(insn.op, INSN_MOV_FROM_CR);
	assert_int_equal(insn.src.reg, 8);
	assert_gpr(&insn.dst, R15, 8);
	insn = DECODE(0x0f, 0x23, 0xf8); /* mov %rax,%db7 */
	assert_int_equal(insn.op, INSN_MOV_TO_DR);
	assert_int_equal(insn.dst.kind, OPND_DR);
	assert_int_equal(insn.dst.reg, 7);
	insn = DECODE(0x0f, 0x21, 0xf2); /* mov %db6,%rdx */
	assert_int_equal(insn.op, INSN_MOV_FROM_DR);
	assert_int_equal(insn.src.reg, 6);
	assert_gpr(&insn.dst, RDX, 8);
}

static void segment_registers(void **state)
{
	struct insn insn = DECODE(0x8e, 0xd0); /* mov %ax,%ss */

	(void)state;
	assert_int_equal(insn.op, INSN_MOV_TO_SREG);
	assert_int_equal(insn.dst.kind, OPND_SREG);
	assert_int_equal(insn.dst.reg, SS);
	assert_int_equal(insn.src.reg, RAX);
	assert_int_equal(DECODE(0x8c, 0xd8).op, INSN_OTHER); /* mov %ds,%eax: sensitive, and silent */
	insn = DECODE(0x0f, 0xa9);                           /* pop %gs */
	assert_int_equal(insn.op, INSN_POP_SREG);
	assert_int_equal(insn.dst.reg, GS);
	assert_int_equal(insn.opsize, 8);
	assert_int_equal(DECODE(0x58).op, INSN_OTHER);
}

static void far_pointers(void **state)
{
	struct insn insn = DECODE(0x0f, 0xb2, 0x33); /* lss (%rbx),%esi: m16:32 */

	(void)state;
	assert_int_equal(insn.op, INSN_LOAD_FAR_POINTER);
	assert_int_equal(insn.sreg, SS);
	assert_int_equal(insn.opsize, 4);
	assert_gpr(&insn.dst, RSI, 4);
	assert_int_equal(insn.src.kind, OPND_MEM);
	assert_int_equal(insn.src.base, RBX);
	assert_int_equal(DECODE(0x0f, 0xb4, 0x33).sreg, FS);
	assert_int_equal(DECODE(0x0f, 0xb5, 0x33).sreg, GS);

	insn = DECODE(0xff, 0x2c, 0x25, 0x10, 0x20, 0x30, 0x00); /* ljmp *0x302010 */
	assert_int_equal(insn.op, INSN_FAR_JMP);
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(insn.src.kind, OPND_MEM);
	assert_int_equal(insn.src.base, -1);
	assert_int_equal(insn.src.disp, 0x302010);
	insn = DECODE(0x66, 0xff, 0x18); /* lcallw *(%rax): m16:16 */
	assert_int_equal(insn.op, INSN_FAR_CALL);
	assert_int_equal(insn.opsize, 2);
	insn = DECODE(0x48, 0xcb);
	assert_int_equal(insn.op, INSN_FAR_RET);
	assert_int_equal(insn.opsize, 8);
	insn = DECODE(0xca, 0x08, 0x00); /* lret $8 */
	assert_int_equal(insn.op, INSN_FAR_RET);
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(insn.src.kind, OPND_IMM);
	assert_int_equal(insn.src.imm, 8);
	/* The near forms need nobody's help. */
	assert_int_equal(DECODE(0xff, 0x20).op, INSN_OTHER);
	assert_int_equal(DECODE(0xff, 0x10).op, INSN_OTHER);
	assert_int_equal(DECODE(0xc3).op, INSN_OTHER);
}

static void interrupts(void **state)
{
	(void)state;
	assert_int_equal(DECODE(0xcd, 0x80).op, INSN_INT);
	assert_int_equal(DECODE(0xcd, 0x80).src.imm, 0x80);
	assert_int_equal(DECODE(0xcc).op, INSN_INT3);
	assert_int_equal(DECODE(0xf1).op, INSN_INT1);
	assert_int_equal(DECODE(0x48, 0xcf).op, INSN_IRET);
	assert_int_equal(DECODE(0x48, 0xcf).opsize, 8);
	assert_int_equal(DECODE(0xcf).opsize, 4);
	assert_int_equal(DECODE(0x48, 0x0f, 0x07).op, INSN_SYSRET);
	assert_int_equal(DECODE(0x48, 0x0f, 0x07).opsize, 8);
}

static void registers_of_one_byte(void **state)
{
	struct insn insn = DECODE(0x88, 0x23); /* mov %ah,(%rbx) */

	(void)state;
	assert_gpr(&insn.src, RAX, 1);
	assert_true(insn.src.high8);
	insn = DECODE(0x40, 0x88, 0x23); /* with a REX prefix: mov %spl,(%rbx) */
	assert_gpr(&insn.src, RSP, 1);
	assert_false(insn.src.high8);
}

static void addresses(void **state)
{
	struct vcpu v = { .rip = 0x100000, .gpr = { [RBX] = 0x1000, [R9] = 0x20, [RAX] = 0xffffffff00000004 }, .seg[GS].base = 0x700000 };
	struct insn insn = DECODE(0x42, 0x8b, 0x44, 0xcb, 0xf8); /* mov -8(%rbx,%r9,8),%eax */

	(void)state;
	assert_int_equal(insn.op, INSN_MOV);
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x1000 + 0x20 * 8 - 8);
	insn = DECODE(0x8b, 0x05, 0xf0, 0xff, 0xff, 0xff); /* mov -16(%rip),%eax: from the next instruction on */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x100000 + 6 - 16);
	insn = DECODE(0x65, 0x8b, 0x03); /* mov %gs:(%rbx),%eax */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x701000);
	insn = DECODE(0x3e, 0x8b, 0x03); /* other segments have no base in 64-bit mode */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x1000);
	insn = DECODE(0x67, 0x8b, 0x40, 0xfc); /* mov -4(%eax),%eax */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0);
	insn = DECODE(0xa0, 1, 2, 3, 4, 5, 6, 7, 8); /* movabs 0x807060504030201,%al */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x0807060504030201);
}

/* The same bytes are other instructions, or have other sizes, in the modes before 64-bit mode. (SDM vol. 1, table 3-4) */
static void sizes_in_16_and_32_bit_code(void **state)
{
	struct insn insn = DECODE16(0xb8, 0x34, 0x12); /* mov $0x1234,%ax */

	(void)state;
	assert_int_equal(insn.opsize, 2);
	assert_gpr(&insn.dst, RAX, 2);
	insn = DECODE16(0x66, 0xb8, 0x78, 0x56, 0x34, 0x12);
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(insn.src.imm, 0x12345678);
	insn = DECODE32(0xb8, 0x78, 0x56, 0x34, 0x12);
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(DECODE32(0x66, 0xb8, 0x34, 0x12).opsize, 2);

	/* No REX: inc and dec. */
	insn = DECODE32(0x48);
	assert_int_equal(insn.op, INSN_DEC);
	assert_gpr(&insn.dst, RAX, 4);
	insn = DECODE16(0x47);
	assert_int_equal(insn.op, INSN_INC);
	assert_gpr(&insn.dst, RDI, 2);

	/* Ports: the data's size is the operand size, and 0xed is a word in 16-bit code. */
	assert_int_equal(DECODE16(0xed).opsize, 2);
	assert_int_equal(DECODE16(0x66, 0xed).opsize, 4);
	assert_int_equal(DECODE32(0xed).opsize, 4);
	assert_int_equal(DECODE32(0xec).opsize, 1);
	insn = DECODE16(0xf3, 0x6e); /* rep outsb */
	assert_int_equal(insn.op, INSN_OUTS);
	assert_true(insn.rep);
	assert_int_equal(insn.opsize, 1);
	assert_int_equal(insn.addrsize, 2);
	assert_int_equal(insn.src.segment, DS);
	insn = DECODE32(0x65, 0x67, 0x6f); /* outsl %gs:(%si) */
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(insn.addrsize, 2);
	assert_int_equal(insn.src.segment, GS);
	insn = DECODE16(0x66, 0x6d); /* insl: always to ES */
	assert_int_equal(insn.op, INSN_INS);
	assert_int_equal(insn.opsize, 4);
	assert_int_equal(insn.dst.segment, ES);
	insn = DECODE16(0x2e, 0xa5); /* movsw %cs:(%si),%es:(%di) */
	assert_int_equal(insn.op, INSN_MOVS);
	assert_int_equal(insn.opsize, 2);
	assert_int_equal(insn.src.segment, CS);
	assert_int_equal(insn.dst.segment, ES);

	/* Always 32 bits wide (SDM vol. 2, MOV - Move to/from Control Registers). */
	insn = DECODE16(0x0f, 0x22, 0xc0); /* mov %eax,%cr0 */
	assert_int_equal(insn.op, INSN_MOV_TO_CR);
	assert_gpr(&insn.src, RAX, 4);
	insn = DECODE32(0x0f, 0x20, 0xe3); /* mov %cr4,%ebx */
	assert_gpr(&insn.dst, RBX, 4);
	assert_int_equal(DECODE16(0x0f, 0x01, 0xf0).op, INSN_LMSW);
	assert_int_equal(DECODE16(0x0f, 0x01, 0x16, 0x00, 0x7c).op, INSN_LGDT);
	assert_int_equal(DECODE16(0x0f, 0xa2).op, INSN_CPUID);
	assert_int_equal(DECODE16(0x0f, 0x32).op, INSN_RDMSR);
	assert_int_equal(DECODE32(0x0f, 0x01, 0x38).op, INSN_INVLPG);

	/* Far transfers with the pointer in the instruction, which 64-bit code lacks. */
	assert_int_equal(DECODE16(0xea, 0x00, 0x7c, 0x00, 0x00).op, INSN_FAR_JMP);
	assert_int_equal(DECODE16(0x66, 0xea, 0x00, 0x7c, 0x00, 0x00, 0x08, 0x00).op, INSN_FAR_JMP);
	assert_int_equal(DECODE32(0x9a, 0, 0, 0, 0, 8, 0).op, INSN_FAR_CALL);
	assert_int_equal(DECODE16(0xcf).opsize, 2); /* iret */
	assert_int_equal(DECODE16(0x66, 0xcf).opsize, 4);
	assert_int_equal(DECODE16(0x1f).op, INSN_POP_SREG); /* pop %ds */
	assert_int_equal(DECODE16(0xff, 0x36, 0x00, 0x10).op, INSN_PUSH); /* push 0x1000 */
	assert_int_equal(DECODE16(0xff, 0x36, 0x00, 0x10).opsize, 2);
	assert_int_equal(DECODE32(0x8f, 0x00).opsize, 4); /* pop (%eax) */
}

static void addresses_in_16_and_32_bit_code(void **state)
{
	struct vcpu v = {
		.gpr = { [RBX] = 0xdead1000, [RSI] = 0xf234, [RBP] = 0x8000, [RDI] = 0x10, [RAX] = 0xfffffffc, [RDX] = 4 },
		.seg = { [ES].base = 0xb8000, [CS].base = 0x7c00, [SS].base = 0x20000, [DS].base = 0xffff0, [FS].base = 0x80000000 }
	};
	struct insn insn = DECODE16(0x8b, 0x40, 0x02); /* mov 2(%bx,%si),%ax */

	(void)state;
	assert_int_equal(insn.addrsize, 2);
	assert_int_equal(insn.src.segment, DS);
	assert_int_equal(operand_offset(&v, &insn, &insn.src), 0x0236); /* 0x1000 + 0xf234 + 2, in 16 bits */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0xffff0 + 0x0236); /* above 1 MiB: no wrap, as with A20 on */
	insn = DECODE16(0x8b, 0x43, 0xfe); /* mov -2(%bp,%di),%ax: the stack's */
	assert_int_equal(insn.src.segment, SS);
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x20000 + 0x800e);
	insn = DECODE16(0x26, 0x8b, 0x43, 0xfe); /* and with a prefix not */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0xb8000 + 0x800e);
	insn = DECODE16(0xa1, 0xff, 0xff); /* mov 0xffff,%ax: not -1 */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0xffff0 + 0xffff);
	insn = DECODE16(0x67, 0x64, 0x8b, 0x00); /* mov %fs:(%eax),%ax */
	assert_int_equal(insn.addrsize, 4);
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x7ffffffc); /* linear addresses have 32 bits */
	insn = DECODE32(0x2e, 0x8b, 0x44, 0x90, 0x08); /* mov %cs:8(%eax,%edx,4),%eax */
	assert_int_equal(operand_offset(&v, &insn, &insn.src), 0x14); /* 0xfffffffc + 16 + 8 */
	assert_int_equal(operand_gva(&v, &insn, &insn.src), 0x7c14);
	insn = DECODE32(0x8b, 0x45, 0x00); /* mov (%ebp),%eax */
	assert_int_equal(insn.src.segment, SS);
	insn = DECODE32(0xab); /* stosl: ES, whatever the prefix says */
	assert_int_equal(insn.op, INSN_STOS);
	assert_int_equal(operand_gva(&v, &insn, &insn.dst), 0xb8010);
	insn = DECODE32(0x8b, 0x05, 0x78, 0x56, 0x34, 0x12); /* in 64-bit code this one is relative to RIP */
	assert_int_equal(insn.src.base, -1);
	assert_int_equal(operand_offset(&v, &insn, &insn.src), 0x12345678);
}

static void text_of_16_and_32_bit_code(void **state)
{
	struct insn insn = DECODE16(0x8b, 0x40, 0x02);
	char text[96];

	(void)state;
	insn_text(&insn, 0x7c00, text, sizeof text);
	assert_non_null(strstr(text, "(%bx,%si"));
	insn = DECODE32(0x8b, 0x40, 0x02);
	insn_text(&insn, 0x100000, text, sizeof text);
	assert_non_null(strstr(text, "(%eax)"));
}

static void lengths_and_errors(void **state)
{
	uint8_t bytes[INSN_MAX + 1];
	struct insn insn;

	(void)state;
	/* Prefixes count: up to 15 bytes in all, and not one more (SDM vol. 2, 2.3.11). */
	memset(bytes, 0x66, sizeof bytes);
	bytes[14] = 0xed;
	assert_int_equal(insn_decode(bytes, sizeof bytes, 64, &insn), 0);
	assert_int_equal(insn.len, 15);
	assert_int_equal(insn.opsize, 2);
	bytes[14] = 0x66, bytes[15] = 0xed;
	assert_int_equal(insn_decode(bytes, sizeof bytes, 64, &insn), -EINVAL);

	/* The end of memory is not the end of the instruction. */
	const uint8_t mov_cr[3] = { 0x0f, 0x20, 0xc0 };
	assert_int_equal(insn_decode(mov_cr, 2, 64, &insn), -E2BIG);
	assert_int_equal(insn_decode(mov_cr, 0, 64, &insn), -E2BIG);
	assert_int_equal(insn_decode(mov_cr, 3, 64, &insn), 0);

	/* Opcodes that 64-bit mode no longer has; two of them are what a patch puts into the code. */
	const uint8_t gone[] = { 0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0xce, 0xd6 };
	for (unsigned i = 0; i < sizeof gone; i++) {
		const uint8_t code[2] = { gone[i], 0x90 };
		assert_int_equal(insn_decode(code, sizeof code, 64, &insn), -EINVAL);
	}
	const uint8_t pusha[] = { 0x60 };
	assert_int_equal(insn_decode(pusha, 1, 32, &insn), 0);
	assert_int_equal(insn_decode(pusha, 1, 16, &insn), 0);
	const uint8_t mov_imm[] = { 0xb8, 0x34, 0x12 }; /* whole in one mode, cut off in the others */
	assert_int_equal(insn_decode(mov_imm, 3, 16, &insn), 0);
	assert_int_equal(insn_decode(mov_imm, 3, 32, &insn), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(port_io_has_the_size_of_the_data),
		cmocka_unit_test(string_io),
		cmocka_unit_test(pushf_and_popf),
		cmocka_unit_test(control_and_debug_registers),
		cmocka_unit_test(segment_registers),
		cmocka_unit_test(far_pointers),
		cmocka_unit_test(interrupts),
		cmocka_unit_test(registers_of_one_byte),
		cmocka_unit_test(addresses),
		cmocka_unit_test(sizes_in_16_and_32_bit_code),
		cmocka_unit_test(addresses_in_16_and_32_bit_code),
		cmocka_unit_test(text_of_16_and_32_bit_code),
		cmocka_unit_test(lengths_and_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
