/*
 * A boot sector that goes wrong, in real mode or in protected mode: the byte at VARIANT says how. It has no handlers, so whatever faults is
 * mostly the end.
 */
#define ORIGIN 0x7c00
#define VARIANT (ORIGIN + 509)
#define TSS 0x3000
#define IDT 0x3800
#define NOISE 0x4000
#define DIRECTORY 0x5000
#define NO_MEMORY 0xd0000000
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS 0x18
#define SEL_OTHER 0x20
#define TASK_GATE 0x85

	.text
	.code16
	.globl	_start
_start:
	cli
	cld
	ljmp	$0, $1f
1:	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$ORIGIN, %sp
	movzbw	VARIANT, %bx
	cmp	$8, %bx
	jae	protected
	add	%bx, %bx
	jmp	*real(%bx)
real:	.word	triple, above, nowhere, wrap, noise, storm, sleep, far

triple:	lidt	empty			/* no vector: #GP, #DF, shutdown */
	int3
above:	ljmp	$0xffff, $0xffff	/* the last byte that an address of real mode can have */
nowhere: ljmp	$0xf000, $0xfff0	/* where a PC has its BIOS */
wrap:	mov	$1, %sp			/* a push that does not fit */
	push	%ax
	jmp	wrap
noise:	mov	$NOISE, %di
	mov	$0x800, %cx
	mov	%edi, %eax
1:	imul	$1103515245, %eax, %eax
	add	$12345, %eax
	mov	%eax, %edx
	shr	$16, %edx
	mov	%dl, (%di)
	inc	%di
	loop	1b
	jmp	NOISE
storm:	mov	$0x100, %cx		/* exceptions, whose handler is the loader's IRET: the same again */
1:	int	$3
	int	$0x80
	into
	loop	1b
	ud2
sleep:	hlt
far:	lcall	*%cs:0xfffe		/* a far pointer that wraps */

protected:
	lgdt	gdtr
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmp	$SEL_CODE, $1f
	.code32
1:	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$ORIGIN, %esp
	sub	$8, %ebx
	cmp	$10, %ebx
	jae	end
	jmp	*modes(, %ebx, 4)
modes:	.long	triple32, jump32, task, gate, tables, stack, idt, paging, beyond, descriptor

triple32: lidt	empty
end:	ud2
jump32:	mov	$NO_MEMORY, %eax
	jmp	*%eax
task:	call	tr			/* a far jump to a task */
	ljmp	$SEL_OTHER, $0
gate:	call	tr			/* an exception that is a task */
	movl	$SEL_OTHER << 16, IDT + 6 * 8
	movl	$TASK_GATE << 8, IDT + 6 * 8 + 4
	lidt	idtr
	ud2
tables:	mov	$NO_MEMORY, %eax	/* 32-bit tables that are a device's */
	jmp	1f
paging:	mov	$DIRECTORY, %eax	/* ... and those that map themselves and nothing else */
	movl	$DIRECTORY + 3, (%eax)
1:	mov	%eax, %cr3
	mov	%cr0, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr0
	jmp	end
stack:	mov	$NO_MEMORY, %esp
	push	%eax
	jmp	end
idt:	movl	$NO_MEMORY, idtr + 2	/* an exception is delivered through a device */
	lidt	idtr
	ud2
beyond:	mov	$0xfffffffc, %eax	/* the last bytes of the address space, and the first */
	mov	2(%eax), %ebx
	mov	%ebx, 2(%eax)
	jmp	end
descriptor:
	movl	$NO_MEMORY, gdtr + 2	/* the next descriptor comes from a device */
	lgdt	gdtr
	mov	%eax, %fs
	jmp	end
tr:	mov	$SEL_TSS, %eax
	ltr	%ax
	ret

	.balign	8
gdt:	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff
	.quad	0x0000890000000067 | TSS << 16, 0x0000890000000067 | (TSS + 0x100) << 16
gdtr:	.word	39
	.long	gdt
idtr:	.word	0x7ff
	.long	IDT
empty:	.word	0
	.long	0
	.org	510
	.word	0xaa55
