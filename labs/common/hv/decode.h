/*
 * Instruction decoding. Zydis reads the bytes; this file turns its answer into the few facts that an emulator needs. What an
 * instruction means is not decided here.
 */
#ifndef HV_DECODE_H
#define HV_DECODE_H

#include "vcpu.h"

#include <stddef.h>

/* The instructions that hv ever emulates; everything else is INSN_OTHER. */
enum insn_op {
	INSN_OTHER,
	INSN_CLI, INSN_STI, INSN_HLT,
	INSN_IN, INSN_OUT, INSN_INS, INSN_OUTS,
	INSN_MOV_FROM_CR, INSN_MOV_TO_CR, INSN_CLTS, INSN_LMSW, INSN_SMSW,
	INSN_MOV_FROM_DR, INSN_MOV_TO_DR,
	INSN_LGDT, INSN_LIDT, INSN_LLDT, INSN_LTR, INSN_SGDT, INSN_SIDT, INSN_SLDT, INSN_STR,
	INSN_RDMSR, INSN_WRMSR, INSN_SWAPGS, INSN_RDTSC, INSN_RDTSCP, INSN_RDPMC,
	INSN_INVLPG, INSN_STAC, INSN_CLAC, INSN_INVD, INSN_WBINVD, INSN_XSETBV, INSN_CPUID,
	INSN_MOV_TO_SREG, INSN_POP_SREG, INSN_LOAD_FAR_POINTER, /* mov %ax,%ds; pop %fs; lss, lfs, lgs */
	INSN_FAR_JMP, INSN_FAR_CALL, INSN_FAR_RET, INSN_IRET,
	INSN_INT, INSN_INT3, INSN_INT1,
	INSN_SYSCALL, INSN_SYSRET, INSN_SYSENTER, INSN_SYSEXIT,
	/* Only for accesses to memory that hv must do for the guest (memory_access.h): */
	INSN_MOV, INSN_MOVZX, INSN_MOVSX, INSN_STOS, INSN_LODS, INSN_MOVS,
	/* and those that calculate (rmw.h), from INSN_ADD to INSN_POP. PUSH and POP with a memory operand only. */
	INSN_ADD, INSN_OR, INSN_ADC, INSN_SBB, INSN_AND, INSN_SUB, INSN_XOR, INSN_CMP, INSN_TEST,
	INSN_NOT, INSN_NEG, INSN_INC, INSN_DEC, INSN_SHL, INSN_SHR, INSN_SAR,
	INSN_BT, INSN_BTS, INSN_BTR, INSN_BTC,
	INSN_XCHG, INSN_XADD, INSN_CMPXCHG, INSN_CMPXCHG8B, INSN_CMPXCHG16B, INSN_PUSH, INSN_POP,
	/* Only to be patched (patch.h): sensitive, and no machine refuses them at CPL 3. A trap at one of them is about its stack. */
	INSN_PUSHF, INSN_POPF
};

struct operand {
	enum { OPND_NONE, OPND_GPR, OPND_MEM, OPND_IMM, OPND_SREG, OPND_CR, OPND_DR } kind;
	uint8_t size;  /* bytes */
	uint8_t reg;   /* OPND_GPR: enum gpr; OPND_SREG: enum sreg; OPND_CR, OPND_DR: number */
	bool high8;    /* OPND_GPR of size 1: AH, CH, DH or BH */
	uint64_t imm;  /* OPND_IMM, not sign-extended */
	/* OPND_MEM; the address depends on registers: operand_gva() */
	int8_t base, index; /* enum gpr, -1 = none, OPND_RIP = relative to the next instruction */
	uint8_t scale, segment;
	int64_t disp;
};
#define OPND_RIP 16 /* 64-bit code only */

#define INSN_MAX 15

struct insn {
	enum insn_op op;
	uint8_t len;       /* bytes */
	uint8_t opsize;    /* operand size in bytes: 1 (only in/out/ins/outs and accesses to memory), 2, 4, 8 */
	uint8_t addrsize;  /* address size in bytes: 2, 4 or 8 */
	uint8_t mode;      /* what it was decoded as: 16, 32 or 64 */
	bool rep;          /* any of the repeat prefixes */
	uint8_t sreg;      /* INSN_LOAD_FAR_POINTER: which segment register */
	struct operand dst, src; /* as in the manuals: destination first. One operand only: dst and src are the same */
	uint8_t bytes[INSN_MAX];
	const char *mnemonic; /* for counting; the string lives for ever */
};

/* Decodes code at bytes; mode says which: 16, 32 or 64 (insn_mode() in segment.h). 0, -EINVAL (no instruction), -E2BIG (avail bytes are
 * not enough). */
int insn_decode(const uint8_t *bytes, size_t avail, unsigned mode, struct insn *insn);

/* The offset of a memory operand in its segment, cut to the address size. */
uint64_t operand_offset(const struct vcpu *v, const struct insn *insn, const struct operand *opnd);
/* Its linear address: with the segment's base, which 64-bit mode has for FS and GS only. No limit is checked (segment.h). */
uint64_t operand_gva(struct vcpu *v, const struct insn *insn, const struct operand *opnd);

/* The instruction in AT&T syntax. Always terminated. */
void insn_text(const struct insn *insn, uint64_t rip, char *buf, size_t len);

#endif
