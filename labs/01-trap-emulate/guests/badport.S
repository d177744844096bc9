/*
 * Asks where nobody answers: ports without a device, and an address behind the end of RAM (3 GiB at most) and below 4 GiB.
 * Reads give all ones, writes are lost, and hv reports the addresses at the end.
 */
#define EMPTY_PORT 0x1234
#define EMPTY_ADDRESS 0xd0000000

	.globl	guest_main
guest_main:
	mov	$EMPTY_PORT, %edx
	in	(%dx), %al
	in	(%dx), %ax
	in	(%dx), %eax
	out	%al, (%dx)
	in	$0x99, %al

	mov	$EMPTY_ADDRESS, %ebx
	mov	(%rbx), %eax
	movl	$1, (%rbx)

	xor	%eax, %eax
	ret				/* exit code 0 */

	.section .note.GNU-stack, "", @progbits
