/*
 * A boot sector: 512 bytes that go the way of every PC, from real mode over 32-bit protected mode to 64-bit mode, and calculate
 * something in each that goes wrong if segments, the interrupt vectors or the switch are not right. Started by a BIOS or by hv alike.
 *
 * Four 64-bit parameters p0..p3 lie before the signature, at bytes 478 to 509 of the file. (x:31 is the low half of x)
 *	real=		p1:31 ^ p2:31; stored and loaded through two segments that overlap, at a distance that p0 decides, and
 *			then changed by a handler of INT 0x60
 *	protected=	p1:31 * p2:31 + p3:31; p1:31 once more, through a segment whose base is not 0
 *	long=		(protected * p3) ^ p0
 * The last line goes to the serial port, the others to the debug console.
 */
#define ORIGIN 0x7c00
#define PARAMS (ORIGIN + 478)
#define P(n) (PARAMS + 8 * (n))
#define TABLES 0x2000		/* PML4, PDPT, page directory */
#define WINDOW 0x10000		/* what the segments begin at */
#define VECTOR 0x60		/* 0x60 to 0x67 are the user's on a PC */

#define SEL_CODE32 0x08
#define SEL_DATA 0x10
#define SEL_WINDOW 0x18
#define SEL_CODE64 0x20

#define CR0_PE 1
#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)

	.text
	.code16
	.globl	_start
_start:
	cli
	cld
	ljmp	$0, $1f			/* some BIOSes come here by 0x7c0:0 */
1:	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %ss
	mov	$ORIGIN, %sp
	movw	$handler, VECTOR * 4
	mov	%ax, VECTOR * 4 + 2

	/* (0x1000 + w):0x10 and 0x1001:(w * 16) are the same address. */
	mov	P(0), %di
	and	$0x0fff, %di		/* w */
	mov	P(1), %eax
	lea	WINDOW >> 4(%di), %bx
	mov	%bx, %es
	mov	%eax, %es:0x10
	shl	$4, %di
	mov	$(WINDOW >> 4) + 1, %bx
	mov	%bx, %fs
	xor	%eax, %eax
	mov	%fs:(%di), %eax
	int	$VECTOR
	mov	%eax, value

	/* For `line`, in all modes. */
	xor	%ecx, %ecx
	mov	$digits, %ebx
	mov	$value + 7, %edi
	mov	$0xe9, %edx
	mov	$real, %si
	call	line

	lgdtl	gdtr
	mov	%cr0, %eax
	or	$CR0_PE, %al
	mov	%eax, %cr0
	ljmpl	$SEL_CODE32, $protected

	/* SS and SP are the interrupted program's, CS:IP come from the vector table. (SDM vol. 3, 20.1.4) */
handler:
	xor	P(2), %eax
	iret

	/*
	 * Prints the string at SI, and the 8 bytes that end at DI as a number, to port DX; BX = digits, CX < 256. In 16-, 32- and 64-bit
	 * mode alike: these bytes mean the same, but for the width of the addresses and of the stack. No instruction here has an operand
	 * whose size the mode decides.
	 */
line:
	lodsb
	test	%al, %al
	jz	2f
	out	%al, (%dx)
	jmp	line
2:	push	%di
	pop	%si
	mov	$8, %cl
	std				/* the highest digits are in the last byte */
3:	lodsb
	push	%ax
	shr	$4, %al
	xlat
	out	%al, (%dx)
	pop	%ax
	and	$15, %al
	xlat
	out	%al, (%dx)
	loop	3b
	cld
	mov	$'\n', %al
	out	%al, (%dx)
	ret

	.code32
protected:
	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	movzwl	%sp, %esp
	mov	$SEL_WINDOW, %al
	mov	%eax, %fs

	/* The same number as before, by an offset in the window. */
	movzwl	P(0), %eax
	and	$0x0fff, %eax
	shl	$4, %eax
	mov	%fs:0x10(%eax), %eax
	mull	P(2)
	add	P(3), %eax
	adc	$0, %edx
	mov	%eax, value
	mov	%edx, value + 4
	mov	$0xe9, %edx
	mov	$protected_is, %esi
	call	line

	/* 2 MiB, one to one. Memory is not zero where a BIOS was. */
	push	%edi
	mov	$TABLES, %edi
	mov	%edi, %cr3
	mov	$3 * 1024, %ecx
	xor	%eax, %eax
	rep stosl
	pop	%edi
	movw	$TABLES + 0x1003, TABLES
	movw	$TABLES + 0x2003, TABLES + 0x1000
	movb	$0x83, TABLES + 0x2000

	/* The order is prescribed: PAE, CR3, LME, PG. (SDM vol. 3, 9.8.5) */
	mov	$CR4_PAE, %al
	mov	%eax, %cr4
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME >> 8, %ah
	wrmsr
	mov	%cr0, %eax
	or	$CR0_PG, %eax
	mov	%eax, %cr0
	ljmp	$SEL_CODE64, $long

	.code64
long:
	/* The upper halves are undefined behind the switch. (SDM vol. 1, 3.4.1.1) */
	mov	%ebx, %ebx
	mov	%edi, %edi
	mov	%esp, %esp
	xor	%ecx, %ecx
	mov	value, %rax
	imul	P(3), %rax
	xor	P(0), %rax
	mov	%rax, value
	mov	$0x3f8, %edx
	mov	$long_is, %esi
	call	line
	xor	%eax, %eax
	out	%al, $0xf4		/* exit code 0 */
	hlt

real:		.asciz	"real="
protected_is:	.asciz	"protected="
long_is:	.asciz	"long="
digits:		.ascii	"0123456789abcdef"

	/* Descriptors: SDM vol. 3, 3.4.5. Accessed bits are set, so that no CPU has to write them. */
	.balign	4
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* code, 32 bits, flat */
	.quad	0x00cf93000000ffff	/* data, flat */
	.quad	0x004193010000ffff	/* data, from WINDOW on, 128 KiB */
	.quad	0x00209b0000000000	/* code, 64 bits */
gdtr:	.word	. - gdt - 1
	.long	gdt
value:	.skip	8

	.org	PARAMS - ORIGIN		/* an error here says that the code is too long */
	.quad	0, 0, 0, 0
	.org	510
	.byte	0x55, 0xaa

	.section .note.GNU-stack, "", @progbits
