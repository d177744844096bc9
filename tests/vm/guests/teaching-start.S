/*
 * The multiboot header and first instructions of teaching.c. With ADDRESSES the header says itself what is loaded where (flag 16), and the
 * image may be a flat binary.
 */
#define ALIGN_MODULES 1
#define WANT_MEMORY 2
#ifdef ADDRESSES
#define FLAGS (ALIGN_MODULES | WANT_MEMORY | 0x10000)
#else
#define FLAGS (ALIGN_MODULES | WANT_MEMORY)
#endif

	.section .text.start, "ax"
	.globl	_start
	.balign	4
header:
	.long	0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
#ifdef ADDRESSES
	.long	header, image_start, image_data_end, image_end, _start
#endif
_start:
	mov	$stack_top, %esp
	push	%ebx
	push	%eax
	call	teaching_main
1:	jmp	1b

	.bss
	.balign	4096
stack:	.skip	16384
stack_top:

	.section .note.GNU-stack, "", @progbits
