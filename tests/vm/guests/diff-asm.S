/*
 * Into a step and out of it. Unlike the runtime's stubs these leave the interrupted stack at once: what lies on it is compared,
 * so no C function may run there.
 */
#include "regs.inc"

	.text
	.globl	enter
enter:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, runner_rsp
	jmp	trap_return

	.balign	16
	.globl	stubs
stubs:
	VECTOR_STUBS common

common:
	PUSH_REGS
	cld
	mov	%rsp, %rdi
	mov	runner_rsp, %rsp
	pushfq				/* what the gate made of the flags; all but DF are still as it left them */
	pop	%rsi
	cli				/* a trap gate leaves interrupts on */
	call	on_event
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	.bss
	.balign	8
runner_rsp:
	.skip	8

	.section .note.GNU-stack, "", @progbits
