/* Exceptions and interrupts, as the kernel sees them. */
#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H

#define EXIT_PANIC 2 /* the VM's exit code then */

/* Own GDT, TSS and IDT; from here on a mistake is reported instead of resetting the machine. */
void trap_init(void);
/* The kernel itself is wrong and cannot go on. */
_Noreturn void panic(const char *why);

#endif
