/*
 * Checkpoint 1.21: which sensitive instructions trap when their program is deprivileged? Each one below is executed between two
 * REP OUTSB, of which the first prints its name and the second "passed". With --trace exits each of the two is a line, and what
 * stands between them is what hv heard of the instruction. Nothing stands there: it ran silently.
 *
 *	sgdt sidt sldt str smsw		tell where the tables are, and what is in CR0
 *	pushf popf			tell and change flags, IF among them
 *	lar lsl verr verw		examine a descriptor
 *	push-seg mov-from-seg		tell a selector, and with it the privilege level
 *	pop-seg mov-to-seg		load a segment register; not with a null selector, which needs no descriptor
 *	call-far jmp-far ret-far	load CS
 *	int iret			use the IDT, and come back
 *	cli sti hlt in out mov-cr	privileged (SDM vol. 3, 5.9; CLI to OUT by IOPL), for comparison
 *
 * Order, number and AL come from params, three bytes for each entry: number of the instruction from 1 on (0 ends the list), how
 * often, and what is in AL. The kernel that counts traps also sees AL, so it can tell whose trap it was. Whatever else may trap
 * here is executed with another AL.
 */
#define CODE 0x10
#define DATA 0x18
#define VEC_INT 0x40
#define VEC_COM1 0x24
#define COM1_IER 0x3f9
#define COM1_SCRATCH 0x3ff		/* a register that does nothing */

/* Begins the code of one instruction under observation. It is called with AL set, and may change RAX, RCX and RDX. */
	.macro	PIECE name
	.section .rodata.names, "a"
7:	.ascii	"\name: "
8:
	.section .rodata.pieces, "a"
	.quad	7b, 8b - 7b, 1f
	.text
1:
	.endm

	.section .rodata.pieces, "a"
pieces:
	PIECE	"sgdt"
	sgdt	scratch
	ret
	PIECE	"sidt"
	sidt	scratch
	ret
	PIECE	"sldt"
	sldt	%ecx
	ret
	PIECE	"str"
	str	%ecx
	ret
	PIECE	"smsw"
	smsw	%ecx
	ret
	PIECE	"pushf"
	pushfq
	pop	%rcx
	ret
	PIECE	"popf"
	push	$2
	popfq
	ret
	PIECE	"lar"
	mov	$DATA, %edx
	lar	%edx, %ecx
	ret
	PIECE	"lsl"
	mov	$DATA, %edx
	lsl	%edx, %ecx
	ret
	PIECE	"verr"
	mov	$DATA, %edx
	verr	%dx
	ret
	PIECE	"verw"
	mov	$DATA, %edx
	verw	%dx
	ret
	PIECE	"push-seg"
	push	%fs
	pop	%rcx
	ret
	PIECE	"mov-from-seg"
	mov	%ds, %ecx
	ret
	PIECE	"pop-seg"
	push	$DATA
	pop	%fs
	ret
	PIECE	"mov-to-seg"
	mov	$DATA, %edx
	mov	%edx, %es
	ret
	PIECE	"call-far"
	lcall	*far_called
	ret
called:	xor	%eax, %eax		/* LRET is another piece's */
	lretl
	PIECE	"jmp-far"
	ljmp	*far_jumped
jumped:	ret
	PIECE	"ret-far"
	push	$CODE
	push	$2f
	lretq
2:	ret
	PIECE	"int"
	int	$VEC_INT
	ret
	PIECE	"iret"
	mov	%rsp, %rcx
	push	$DATA
	push	%rcx
	push	$2			/* flags: interrupts off */
	push	$CODE
	push	$2f
	iretq
2:	ret
	PIECE	"cli"
	cli
	ret
	PIECE	"sti"
	sti
	xor	%eax, %eax
	cli
	ret
	/*
	 * The serial port asks for an interrupt as soon as its transmitter may. STI lets it in only behind the instruction that
	 * follows, so HLT is reached and the interrupt wakes it. That STI has the same AL, which is known to whoever counts.
	 */
	PIECE	"hlt"
	mov	%eax, %ecx
	mov	$COM1_IER, %edx
	mov	$2, %eax
	out	%al, %dx
	mov	%ecx, %eax
	sti
	hlt
	xor	%eax, %eax
	cli
	ret
	PIECE	"in"
	mov	$COM1_SCRATCH, %edx
	in	%dx, %al
	ret
	PIECE	"out"
	mov	$COM1_SCRATCH, %edx
	out	%al, %dx
	ret
	PIECE	"mov-cr"
	mov	%cr3, %rcx
	ret

	.text
on_int:	xor	%eax, %eax		/* IRETQ is another piece's */
	iretq

on_com1:
	mov	$COM1_IER, %edx		/* nothing more to ask for */
	xor	%eax, %eax
	out	%al, %dx
	mov	$0x20, %eax		/* end of interrupt */
	out	%al, $0x20
	xor	%eax, %eax
	iretq

	.macro	GATE vector handler	/* 64-bit interrupt gate; handlers lie below 4 GiB */
	mov	$\handler, %eax
	mov	%ax, idt + 16 * \vector
	movw	$CODE, idt + 16 * \vector + 2
	movw	$0x8e00, idt + 16 * \vector + 4
	shr	$16, %eax
	mov	%ax, idt + 16 * \vector + 6
	.endm

	.macro	OUTB value port
	mov	$\value, %eax
	out	%al, $\port
	.endm

	.globl	guest_main
guest_main:
	GATE	VEC_INT on_int
	GATE	VEC_COM1 on_com1
	lidt	idtr
	OUTB	0x11 0x20		/* 8259: initialise, line 0 is vector 0x20, a slave at line 2, 8086 */
	OUTB	0x20 0x21
	OUTB	0x04 0x21
	OUTB	0x01 0x21
	OUTB	0xef 0x21		/* only line 4, COM1 */

	mov	$params, %r12d
next:	movzbl	(%r12), %ebx
	test	%ebx, %ebx
	jz	done
	dec	%ebx
	imul	$24, %ebx, %ebx
	movzbl	1(%r12), %r13d
again:	mov	pieces(%rbx), %rsi
	mov	pieces + 8(%rbx), %rcx
	call	say
	movzbl	2(%r12), %eax
	call	*pieces + 16(%rbx)
	mov	$passed, %esi
	mov	$passed_end - passed, %ecx
	call	say
	dec	%r13d
	jnz	again
	add	$3, %r12
	jmp	next
done:	xor	%eax, %eax
	ret

say:	mov	$0xe9, %edx		/* debug console */
	xor	%eax, %eax
	rep outsb
	ret

	.section .rodata
passed:	.ascii	"passed\n"
passed_end:
far_called:
	.long	called
	.word	CODE
far_jumped:
	.long	jumped
	.word	CODE
idtr:	.word	idt_end - idt - 1
	.quad	idt

	.section .params, "aw"
	.balign	64
	.globl	params
params:					/* until somebody writes others: each once, in their order */
	.set	n, 1
	.rept	26
	.byte	n, 1, 0
	.set	n, n + 1
	.endr
	.skip	128 - 3 * 26
	.size	params, 128

	.bss
	.balign	16
idt:	.skip	16 * (VEC_INT + 1)
idt_end:
scratch:
	.skip	16

	.section .note.GNU-stack, "", @progbits
