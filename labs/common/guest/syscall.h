/*
 * System calls: SYSCALL with the number in RAX and up to three arguments in RDI, RSI and RDX; the result, or a negative
 * error, in RAX. RCX and R11 are lost.
 */
#ifndef GUEST_SYSCALL_H
#define GUEST_SYSCALL_H

#define SYS_WRITE 0 /* (addr, len): how much was taken, or -SYS_EFAULT */
#define SYS_GETPID 1
#define SYS_YIELD 2
#define SYS_SLEEP 3 /* (ticks) */
#define SYS_EXIT 4  /* (code): does not return */
#define SYS_TIME 5  /* ticks since the start */
/* The paged kernel only. */
#define SYS_FORK 6     /* pid of the child; in the child 0 */
#define SYS_WAIT 7     /* (pid): how this child has ended, see proc_wait_child() */
#define SYS_SBRK 8     /* (bytes): moves the heap's end by whole pages, returns where it was */
#define SYS_MPROTECT 9 /* (addr, len, access): whole pages; access as for space_protect() */
#define SYS_COUNT 10

#define SYS_ECHILD 10
#define SYS_EAGAIN 11
#define SYS_ENOMEM 12
#define SYS_EFAULT 14
#define SYS_EINVAL 22
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

static inline int64_t syscall3(uint64_t number, uint64_t a, uint64_t b, uint64_t c)
{
	int64_t result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

#endif
#endif
