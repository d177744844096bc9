/* The way from the 256 gates to trap_dispatch(), and back by IRETQ. */
#include "regs.inc"

	.text
	.balign	16
	.globl	trap_stubs
trap_stubs:
	VECTOR_STUBS trap_common

trap_common:
	PUSH_REGS
	cld				/* compiled code relies on it, the interrupted program may not */
	mov	%rsp, %rdi
	call	trap_dispatch
	mov	%rsp, %rdi

	.globl	trap_return
trap_return:
	mov	%rdi, %rsp
	POP_REGS
	add	$16, %rsp		/* vector, error */
	iretq

	.section .note.GNU-stack, "", @progbits
