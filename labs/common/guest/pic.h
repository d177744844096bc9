/* The two chips that make a PC tick: the 8259A interrupt controller pair and the 8254 timer (Intel data sheets). */
#ifndef GUEST_PIC_H
#define GUEST_PIC_H

#include <stdbool.h>

#define IRQ_TIMER 0
#define IRQ_COM1 4

/* Initialises both 8259s: line n becomes vector base + n, all lines masked. base is a multiple of 8, and not below 0x20. */
void pic_init(unsigned base);
void pic_unmask(unsigned irq);
void pic_mask(unsigned irq);
/* End of interrupt for a line that is being handled. */
void pic_eoi(unsigned irq);
/* True when the vector of this line came although the line asked for nothing; then there must be no pic_eoi(). */
bool pic_spurious(unsigned irq);

/* Counter 0 of the timer raises IRQ 0 hz times a second, 19 at least. */
void pit_start(unsigned hz);

#endif
