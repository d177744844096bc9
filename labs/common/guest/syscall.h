/*
 * System calls: SYSCALL with the number in RAX and up to two arguments in RDI and RSI; the result, or a negative error, in
 * RAX. RCX and R11 are lost.
 */
#ifndef GUEST_SYSCALL_H
#define GUEST_SYSCALL_H

#define SYS_WRITE 0 /* (addr, len): how much was taken, or -SYS_EFAULT */
#define SYS_GETPID 1
#define SYS_YIELD 2
#define SYS_SLEEP 3 /* (ticks) */
#define SYS_EXIT 4  /* (code): does not return */
#define SYS_TIME 5  /* ticks since the start */
#define SYS_COUNT 6

#define SYS_EFAULT 14
#define SYS_ENOSYS 38

/* Offsets in struct cpu, for assembly. */
#define CPU_USER_RSP 0
#define CPU_KERNEL_RSP 8

#ifndef __ASSEMBLER__

#include <stdint.h>

/* Sets up SYSCALL and SYSRET. */
void syscall_init(void);
/* The kernel stack that the next event from user mode shall use, however it arrives. */
void syscall_set_stack(uint64_t top);

/* The user's side. */
static inline int64_t syscall(uint64_t number, uint64_t a, uint64_t b)
{
	int64_t result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
	return result;
}

#endif
#endif
