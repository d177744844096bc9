/*
 * An exception without a handler: the IDT is empty, so #UD cannot be delivered, nor can the resulting #GP, nor the double
 * fault. The CPU shuts down (SDM vol. 3, 6.15, interrupt 8).
 */
	.globl	guest_main
guest_main:
	lidt	empty
	ud2

	.section .rodata
empty:	.word	0			/* limit 0: not even one whole gate */
	.quad	0

	.section .note.GNU-stack, "", @progbits
