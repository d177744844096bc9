/* The guest of `make bench`: traps and does nothing else. */
#define TRAPS 20000

	.globl	guest_main
guest_main:
	mov	$TRAPS, %ecx
again:	cli
	dec	%ecx
	jnz	again
	xor	%eax, %eax
	ret

	.section .note.GNU-stack, "", @progbits
