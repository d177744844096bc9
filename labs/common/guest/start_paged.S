/*
 * The first instructions of the paged kernel. As in start.S, hv enters at _start, in 64-bit mode with the low 4 GiB mapped
 * one to one, and pvh.S leads here as well. This is linked where it lies; the rest of the kernel is in the upper half.
 */
#include "layout.h"

	.section .text.start, "ax"
	.code64
	.globl	_start
_start:
	mov	$boot_stack_top, %esp
	call	boot_paging
	movabs	$upper_half, %rax
	jmp	*%rax

	.text
upper_half:
	mov	$stack_top, %rsp
	xor	%ebp, %ebp		/* where a debugger's backtrace ends */
	movabs	$DIRECT_MAP, %rdi
	add	%rbx, %rdi
	call	guest_main		/* int guest_main(const struct hvm_start_info *) */
	mov	%eax, %edi
	call	guest_exit

	.section .bss.start, "aw", @nobits
	.balign	16
	.skip	1024
boot_stack_top:

	.bss
	.balign	4096
	.skip	16384
stack_top:

	.section .note.GNU-stack, "", @progbits
