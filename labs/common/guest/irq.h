/*
 * Interrupts: which code may be interrupted, who handles which line, and the tick.
 *
 * The kernel never reads RFLAGS.IF and never changes it by POPF: at a lowered privilege POPF leaves IF alone without a word
 * (SDM vol. 2, POPF), so such a kernel cannot be run by trap-and-emulate. Instead one variable follows IF, and sections that
 * must not be interrupted are bracketed:
 *
 *	bool was = irq_save();
 *	...
 *	irq_restore(was);
 */
#ifndef GUEST_IRQ_H
#define GUEST_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#define IRQ_BASE 0x20 /* vector of line 0: the first one that is not reserved for exceptions */
#define IRQ_LINES 16
#define HZ 100

/* Ticks since irq_init(). */
extern volatile uint64_t ticks;

/* Controller and tick are set up; interrupts stay off. */
void irq_init(void);
/* handler will be called with interrupts off whenever the line asks; the line is unmasked. */
void irq_register(unsigned irq, void (*handler)(void));
/* Called by trap(): an interrupt with this line number has arrived. */
void irq_handle(unsigned irq);

/* Turns interrupts off and says whether they were on; turns them on again if they were. */
bool irq_save(void);
void irq_restore(bool was);
/* The CPU has changed IF (a gate, IRETQ, SYSCALL, SYSRET), or is about to. */
void irq_follow(bool on);
/* With interrupts off: lets the CPU rest until one comes, has it handled, and returns with interrupts off. */
void irq_wait(void);

#endif
