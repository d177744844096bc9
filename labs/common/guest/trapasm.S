/* The kernel's assembly: switching between processes, and the entry for system calls. */
#include "desc.h"
#include "regs.inc"
#include "syscall.h"

	.text
	/*
	 * void context_switch(void **save, void *load)
	 *
	 * For the caller this is a function that takes long to return. RFLAGS needs no saving: interrupts are off on
	 * both sides, and the rest is dead across a call.
	 */
	.globl	context_switch
context_switch:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, (%rdi)
	mov	%rsi, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	/*
	 * SYSCALL brings RIP in RCX, RFLAGS in R11, interrupts off (SFMASK), and the user's stack pointer. The kernel's
	 * is found through GS, which belongs to the kernel between the two SWAPGS only: no code that can fault or be
	 * interrupted ever runs with it, so exceptions and interrupts need not ask whose GS they found.
	 *
	 * A whole trap frame is built, as if the user program had been interrupted.
	 */
	.globl	syscall_entry
syscall_entry:
	swapgs
	mov	%rsp, %gs:CPU_USER_RSP
	mov	%gs:CPU_KERNEL_RSP, %rsp
	push	$SEL_UDATA
	push	%gs:CPU_USER_RSP
	swapgs
	push	%r11
	push	$SEL_UCODE
	push	%rcx
	push	$0			/* error code and vector: none */
	push	$0
	PUSH_REGS
	mov	%rsp, %rdi
	call	syscall_dispatch

	/* RCX and R11 hold RIP and RFLAGS in the frame too. No process has the last page below the hole, so RIP is
	 * canonical, and SYSRET's trap (it faults at CPL 0 with the user's stack on some CPUs) cannot be sprung. */
	POP_REGS
	mov	40(%rsp), %rsp		/* above vector, error, RIP, CS, RFLAGS */
	sysretq

	.section .note.GNU-stack, "", @progbits
