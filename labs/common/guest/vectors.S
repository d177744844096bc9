/*
 * One stub for each of the 256 vectors. A stub makes the stack look the same for all of them (error code, then vector) and
 * goes on in trap_common. Stubs are 16 bytes apart, so the IDT can be filled by arithmetic.
 */
#include "regs.inc"

	.text
	.balign	16
	.globl	trap_stubs
trap_stubs:
	.set	vector, 0
	.rept	256
	.balign	16
	/* For #DF, #TS to #PF, #AC, #CP, #VC and #SX the CPU pushes one (SDM vol. 3, table 6-1; APM vol. 2, 8.2). */
	.if	vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
	.else
	push	$0
	.endif
	push	$vector
	jmp	trap_common
	.set	vector, vector + 1
	.endr

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
