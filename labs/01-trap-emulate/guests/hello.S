/*
 * The smallest guest worth watching: each instruction below that touches a port or the interrupt flag is privileged, so on
 * the trap engine each of them leaves the guest. `hv run --trace exits hello.elf` lists them one by one.
 */
	.globl	guest_main
guest_main:
	cli
	mov	$message, %rsi
next:	lodsb
	test	%al, %al
	jz	done
	out	%al, $0xe9		/* debug console */
	jmp	next
done:	sti				/* takes effect behind the next instruction (SDM vol. 2, STI): */
	cli				/* so no interrupt comes, and none has a handler */
	xor	%eax, %eax
	out	%al, $0xf4		/* end of the VM, exit code 0 */

message:
	.asciz	"Hello from ring 0\n"

	.section .note.GNU-stack, "", @progbits
