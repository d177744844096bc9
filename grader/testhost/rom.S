/*
 * The boot ROM of the Bochs test host: all the firmware it has. 64 KiB that end at 4 GiB, where the processor begins
 * (SDM vol. 3A, 10.1.4 "First Instruction Executed": 0xfffffff0). Bochs has put the kernel and its initramfs into memory;
 * the ROM goes to 64-bit mode and jumps to the kernel's 64-bit entry point (Linux, boot.rst, "64-bit Boot Protocol"). The
 * numbers at the beginning are filled in when a machine is made (grader/lib/bochs.py).
 */
#define BLOCK 0x20000	/* Bochs hands out memory in blocks of this size */
#define BOOT_CS 0x10	/* the selectors that Linux wants: __BOOT_CS and __BOOT_DS */
#define BOOT_DS 0x18
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_EFER 0xc0000080

	.text
	.globl _start
_start:
rom:
image:		.long 0		/* the image that Bochs loaded: where it begins, */
image_end:	.long 0		/* and where it ends */
boot_cr3:	.long 0		/* tables in it that map the first 4 GiB to themselves */
boot_params:	.long 0		/* Linux' struct boot_params, in it too */
entry:		.long 0		/* the kernel's 64-bit entry point */
boot_gdtr:	.word 0		/* a GDT in memory, because the kernel's tables do not map the ROM */
		.long 0

	.code32
protected:
	mov $BOOT_DS, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	/*
	 * Bochs 2.7 gives a block of memory its place when it is first touched, the next free place, and yet reads an image from
	 * its file in one piece. So nothing is touched before the image has been, block by block and from below.
	 */
	mov image, %esi
1:	mov (%esi), %al
	add $BLOCK, %esi
	cmp image_end, %esi
	jb 1b
	lgdt boot_gdtr

	/* Long mode (SDM vol. 3A, 10.8.5 "Initializing IA-32e Mode"). */
	mov $0x20, %eax			/* PAE */
	mov %eax, %cr4
	mov boot_cr3, %eax
	mov %eax, %cr3
	mov $MSR_EFER, %ecx
	rdmsr
	or $0x100, %eax			/* LME */
	wrmsr
	/* Firmware decides whether VMX may be used, and locks that (SDM vol. 3C, 24.7 "Enabling and Entering VMX Operation"). */
	mov $MSR_FEATURE_CONTROL, %ecx
	mov $5, %eax			/* locked; VMXON outside SMX */
	xor %edx, %edx
	wrmsr
	mov $0x80000033, %eax		/* PG, NE, ET, MP, PE */
	mov %eax, %cr0
	ljmp $BOOT_CS, $long

	.code64
long:
	mov boot_params(%rip), %esi
	mov entry(%rip), %eax
	jmp *%rax

	.balign 16
gdt:	.quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff	/* flat 32-bit code and data */
gdtr:	.word . - gdt - 1
	.long gdt

	.code16
	.org 0xff00
start:
	cli
	lgdtl %cs:gdtr - rom
	mov $0x11, %eax			/* ET, PE */
	mov %eax, %cr0
	ljmpl $BOOT_CS, $protected

	.org 0xfff0			/* CS:IP is f000:fff0 with a base of 0xffff0000 */
	jmp start
	.org 0x10000
