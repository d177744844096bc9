/* A handler of the timer's interrupts that lets the interrupted program go on, unless tick() says that this was the last. */
#ifndef GUEST_TICK_H
#define GUEST_TICK_H

#include "event.h"

/* The guest's own. frame: what the CPU pushed. Not 0: the last one. */
uint64_t tick(const uint64_t *frame);

/* Exactly one file of a guest has this. last: assembler text for what follows the last tick, with registers and stack as the CPU left
 * them. */
#define TICK_HANDLER(last)                                        \
	asm(".text\n"                                             \
	    "tick_entry:\n"                                       \
	    ".irp r, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11\n" \
	    "push %\\r\n"                                         \
	    ".endr\n"                                             \
	    "cld\n"                                               \
	    "lea 72(%rsp), %rdi\n"                                \
	    "call tick\n"                                         \
	    "test %eax, %eax\n"                                   \
	    ".irp r, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax\n" \
	    "pop %\\r\n"                                          \
	    ".endr\n"                                             \
	    "jnz 1f\n"                                            \
	    "iretq\n"                                             \
	    "1: " last);

extern const uint8_t tick_entry[];

static inline void tick_gate(unsigned vector)
{
	set_gate_to(vector, tick_entry, GATE_PRESENT | GATE_INTERRUPT, 0);
}

#endif
