/* Interrupts off and never an exit again: only the host can end this guest (--timeout, Ctrl-C). */
	.globl	guest_main
guest_main:
	cli
forever:
	jmp	forever

	.section .note.GNU-stack, "", @progbits
