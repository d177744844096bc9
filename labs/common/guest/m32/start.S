/*
 * The first instructions of a guest that begins in 32-bit protected mode: hv starts an ELF32 image here, and QEMU's -kernel follows the
 * same PVH note (Xen, docs/misc/pvh.pandoc). Flat segments, paging off, EBX = struct hvm_start_info; no stack is promised.
 */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

	.section .note.pvh, "a", @note
	.align	4
	.long	4, 4, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.long	_start32

	.section .text.start, "ax"
	.globl	_start, _start32
_start:
_start32:
	mov	$stack_top, %esp
	xor	%ebp, %ebp		/* where a debugger's backtrace ends */
	push	%ebx
	call	guest_main		/* int guest_main(const struct hvm_start_info *) */
	push	%eax
	call	guest_exit

	.bss
	.balign	4096
stack:	.skip	16384
stack_top:

	.section .note.GNU-stack, "", @progbits
