/*
 * One instruction under observation: all general registers and flags are set, the instruction runs, all are stored again.
 * What is reported are raw values; what they should have been is known to the grader alone, which chose the parameters.
 */
#ifndef GUEST_PROBE_H
#define GUEST_PROBE_H

#include "dbg.h"

#include <stdint.h>

/* Chosen by the grader and written into this array in a copy of the guest's file. */
#define PARAMS volatile uint64_t params[16] __attribute__((section(".params"), aligned(64))) = { 0 }

/* RSP is not among them: nothing could be stored afterwards. */
enum { R_AX, R_CX, R_DX, R_BX, R_BP, R_SI, R_DI, R_8, R_9, R_10, R_11, R_12, R_13, R_14, R_15, R_FLAGS, R_COUNT };

struct regs {
	uint64_t r[R_COUNT];
};

/*
 * Defines void name(const struct regs *in, struct regs *out), which runs insn between the two. DF may be among the flags,
 * IF not: a deprivileged POPF cannot change it.
 */
#define PROBE(name, insn)                                                                      \
	void name(const struct regs *in, struct regs *out);                                    \
	asm(".text\n" #name ":\n"                                                              \
	    "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; push %rsi\n"    \
	    "push 120(%rdi); popfq\n"                                                          \
	    "mov (%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"    \
	    "mov 32(%rdi), %rbp; mov 40(%rdi), %rsi\n"                                         \
	    "mov 56(%rdi), %r8; mov 64(%rdi), %r9; mov 72(%rdi), %r10; mov 80(%rdi), %r11\n"   \
	    "mov 88(%rdi), %r12; mov 96(%rdi), %r13; mov 104(%rdi), %r14; mov 112(%rdi), %r15\n" \
	    "mov 48(%rdi), %rdi\n" insn "\n"                                                   \
	    "pushfq; push %r15; push %r14; push %r13; push %r12; push %r11; push %r10\n"       \
	    "push %r9; push %r8; push %rdi; push %rsi; push %rbp; push %rbx; push %rdx\n"      \
	    "push %rcx; push %rax\n"                                                           \
	    "cld; mov 128(%rsp), %rdi; mov %rsp, %rsi; mov $16, %ecx; rep movsq\n"             \
	    "lea 136(%rsp), %rsp\n"                                                            \
	    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n")

#define FLAGS_ARITHMETIC 0x8d5ull /* CF PF AF ZF SF OF */
#define FLAGS_IF 0x200ull
#define FLAGS_DF 0x400ull

/* Every register different, no two seeds alike. The grader computes the same. */
static inline void fill(struct regs *in, uint64_t seed)
{
	for (unsigned i = 0; i < R_FLAGS; i++)
		in->r[i] = seed * (2 * i + 3);
	in->r[R_FLAGS] = (seed & FLAGS_ARITHMETIC) | 2;
}

/*
 * What the instruction changed, as lines like `imm.rax=1234`, and which registers those are as a set of bits, `imm.changed=1`.
 * Not all 16 registers: each character costs a trap.
 */
static inline void report_regs(const char *what, const struct regs *in, const struct regs *out)
{
	static const char *const names[R_COUNT] = { "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10",
						     "r11", "r12", "r13", "r14", "r15", "flags" };
	uint64_t changed = 0;

	for (unsigned i = 0; i < R_COUNT; i++) {
		uint64_t mask = i == R_FLAGS ? FLAGS_ARITHMETIC | FLAGS_DF : ~0ull;

		if (!((in->r[i] ^ out->r[i]) & mask))
			continue;
		changed |= 1ull << i;
		dputs(what);
		dputc('.');
		report(names[i], out->r[i] & mask);
	}
	dputs(what);
	dputc('.');
	report("changed", changed);
}

#endif
