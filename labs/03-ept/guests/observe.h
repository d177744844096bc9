/*
 * For the guests of checkpoints 3.7 to 3.15: what they saw is kept in a buffer and goes out with one REP OUTSB, because each exit of the
 * guest takes as long as a thousand instructions. What it should have been is known to the grader alone.
 */
#ifndef GUEST_OBSERVE_H
#define GUEST_OBSERVE_H

#include "../../01-trap-emulate/guests/probe.h"
#include "io.h"
#include "random.h"

#define PAGE 4096ull

extern volatile uint64_t params[16];

/* --- output: lines `nameNUMBER.field=value`; without the dot where field is empty --------------------------------------------- */

static char output[8192], *output_end = output;

/* Writes out what was said so far. */
static inline void flush(void)
{
	const char *from = output;
	uint64_t count = output_end - output;

	asm volatile("cld; rep outsb" : "+S"(from), "+c"(count) : "d"(0xe9) : "memory", "cc");
	output_end = output;
}

static inline void put_text(const char *s)
{
	while (*s)
		*output_end++ = *s++;
}

static inline void put_hex(uint64_t v)
{
	if (v >> 4)
		put_hex(v >> 4);
	*output_end++ = "0123456789abcdef"[v & 15];
}

static inline void say(const char *name, uint64_t number, const char *field, uint64_t value)
{
	if (output_end > output + sizeof output - 80)
		flush();
	put_text(name);
	put_hex(number);
	if (*field)
		*output_end++ = '.';
	put_text(field);
	*output_end++ = '=';
	put_hex(value);
	*output_end++ = '\n';
}

/* The registers that an instruction changed, and which they are as a set of bits: what report_regs() prints. */
static inline void say_regs(const char *name, uint64_t number, const struct regs *in, const struct regs *out)
{
	static const char *const names[R_COUNT] = { "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8",
						    "r9",  "r10", "r11", "r12", "r13", "r14", "r15", "flags" };
	uint64_t changed = 0;

	for (unsigned i = 0; i < R_COUNT; i++) {
		uint64_t mask = i == R_FLAGS ? FLAGS_ARITHMETIC | FLAGS_DF : ~0ull;
		if (!((in->r[i] ^ out->r[i]) & mask))
			continue;
		changed |= 1ull << i;
		say(name, number, names[i], out->r[i] & mask);
	}
	say(name, number, "changed", changed);
}

#endif
