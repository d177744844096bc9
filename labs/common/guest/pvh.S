/*
 * The way in for QEMU's -kernel, which follows the PVH boot protocol (Xen, docs/misc/pvh.pandoc): 32-bit protected mode,
 * paging off, EBX = struct hvm_start_info. The machine is brought into the state that hv starts a guest in (64-bit mode, low
 * 4 GiB mapped one to one, the same RBX), and _start goes on.
 */
#include "desc.h"

#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)

#define PTE_TABLE 0x07		/* present, writable, user: who may go where is decided later, not at boot */
#define PTE_2MIB 0x87		/* the same, and a leaf (SDM vol. 3, table 4-18) */

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define TRAPDOOR_NOTE_LONG_ENTRY 1

	.section .note.pvh, "a", @note
	.align	4
	.long	4, 8, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.quad	_start32
	/* To hv: the ELF entry _start is for 64-bit mode, take that (loader.h). Nobody else knows this note. */
	.long	9, 0, TRAPDOOR_NOTE_LONG_ENTRY
	.asciz	"Trapdoor"
	.balign	4

	.section .text.start, "ax"
	.code32
	.globl	_start32
_start32:
	/* Four page directories, one after the other, are 2048 entries that map 4 GiB. */
	mov	$page_dirs, %edi
	mov	$PTE_2MIB, %eax
1:	mov	%eax, (%edi)
	add	$8, %edi
	add	$0x200000, %eax		/* wraps to 0 behind the last one */
	jnc	1b

	movl	$page_dirs + 0x0000 + PTE_TABLE, pdpt
	movl	$page_dirs + 0x1000 + PTE_TABLE, pdpt + 8
	movl	$page_dirs + 0x2000 + PTE_TABLE, pdpt + 16
	movl	$page_dirs + 0x3000 + PTE_TABLE, pdpt + 24
	movl	$pdpt + PTE_TABLE, pml4

	/* The order is prescribed: PAE, CR3, LME, PG (SDM vol. 3, 10.8.5). */
	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	or	$CR0_PG, %eax
	mov	%eax, %cr0

	/* Now in compatibility mode; a code segment with L = 1 makes it 64-bit mode. */
	lgdt	boot_gdtr
	mov	$SEL_KDATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%eax, %fs
	mov	%eax, %gs
	ljmp	$SEL_KCODE, $1f
	.code64
1:	mov	%ebx, %ebx		/* the upper half is undefined after the switch */
	jmp	_start

	.section .rodata
	.align	8
boot_gdt:
	.quad	0, 0
	.quad	DESC_KCODE, DESC_KDATA
boot_gdtr:
	.word	. - boot_gdt - 1
	.long	boot_gdt

	.bss
	.balign	4096
pml4:	.skip	4096
pdpt:	.skip	4096
page_dirs:
	.skip	4 * 4096

	.section .note.GNU-stack, "", @progbits
