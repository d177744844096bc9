/*
 * The first instructions of every guest that runs where it lies in memory.
 *
 * hv enters at _start: 64-bit mode, low 4 GiB mapped one to one, RBX = struct hvm_start_info. QEMU's -kernel arrives here by
 * way of pvh.S.
 *
 * From _start to guest_main() no instruction is privileged: what a trap-and-emulate hypervisor sees first is what the
 * guest itself wanted.
 */
	.section .text.start, "ax"
	.code64
	.globl	_start
_start:
	mov	$stack_top, %rsp
	xor	%ebp, %ebp		/* where a debugger's backtrace ends */
	mov	%rbx, %rdi
	call	guest_main		/* int guest_main(const struct hvm_start_info *) */
	mov	%eax, %edi
	call	guest_exit

	.bss
	.balign	4096
stack:	.skip	16384
stack_top:

	.section .note.GNU-stack, "", @progbits
