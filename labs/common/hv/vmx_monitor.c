#include "vmx_monitor.h"

#include <string.h>

/*
 * The code runs at HVM_CODE_MA, in 64-bit mode, with interrupts off, in memory that is mapped one to one below 2 GiB, so that absolute
 * addresses serve. hv copies it there.
 *
 * An NMI by which hv wants the CPU back may come at any time. In the guest it is an exit. Here it must not get lost before the guest is
 * entered: its handler then goes to `kicked` instead of back. Behind an exit there is nothing to do, because hv is told of that anyway. An
 * exit by NMI leaves NMIs blocked until the next IRET (SDM vol. 3, 27.5.5), so there is one on the way to each answer.
 */
#define STR2(x) #x
#define STR(x) STR2(x)

asm(".pushsection .rodata\n"
    ".set .Lcode, " STR(HVM_CODE_MA) "\n"
    ".set .Lbox, " STR(HVM_OWN_MA) "\n"
    ".set .Lgpr, .Lbox + 0x70\n"
    ".global vmx_code, vmx_code_size, vmx_monitor_start, vmx_monitor_loop, vmx_monitor_exit, vmx_monitor_nmi\n"
    "vmx_code:\n"
    "	vmxon .Lbox + 0x00\n"
    "	jbe .Lfailed\n" /* CF: no VMCS is current; ZF: the VMCS has an error number (SDM vol. 3, 30.2) */
    "	vmclear .Lbox + 0x08\n"
    "	jbe .Lfailed\n"
    "	vmptrld .Lbox + 0x08\n"
    "	jbe .Lfailed\n"
    "	jmp .Ldone\n"

    ".Lloop:\n"
    "	mov $.Lbox + 0x100, %esi\n"
    "	mov .Lbox + 0x40, %ecx\n"
    "1:	jecxz 2f\n"
    "	mov (%rsi), %rax\n"
    "	vmwrite 8(%rsi), %rax\n"
    "	jbe .Lfailed\n"
    "	add $16, %esi\n"
    "	dec %ecx\n"
    "	jmp 1b\n"
    "2:	cmpl $0, .Lbox + 0x58\n"
    "	je 3f\n"
    "	mov $1, %eax\n" /* single context: what comes from this EPT pointer */
    "	invept .Lbox + 0x60, %rax\n"
    "	jbe .Lfailed\n"
    "3:	cmpl $0, .Lbox + 0x10\n"
    "	jne .Lread\n"
    "	mov .Lbox + 0x38, %rax\n"
    "	mov %rax, %cr2\n"
    "	mov .Lgpr + 0x00, %rax\n"
    "	mov .Lgpr + 0x08, %rcx\n"
    "	mov .Lgpr + 0x10, %rdx\n"
    "	mov .Lgpr + 0x18, %rbx\n"
    "	mov .Lgpr + 0x28, %rbp\n"
    "	mov .Lgpr + 0x30, %rsi\n"
    "	mov .Lgpr + 0x38, %rdi\n"
    "	mov .Lgpr + 0x40, %r8\n"
    "	mov .Lgpr + 0x48, %r9\n"
    "	mov .Lgpr + 0x50, %r10\n"
    "	mov .Lgpr + 0x58, %r11\n"
    "	mov .Lgpr + 0x60, %r12\n"
    "	mov .Lgpr + 0x68, %r13\n"
    "	mov .Lgpr + 0x70, %r14\n"
    "	mov .Lgpr + 0x78, %r15\n"
    "	cmpl $0, .Lbox + 0x30\n"
    "	jne 4f\n"
    "	vmlaunch\n"
    "	jmp .Lfailed\n"
    "4:	vmresume\n"
    ".Lentered:\n"
    ".Lfailed:\n" /* the guest's general registers are still in the mailbox */
    "	pushf\n"
    "	pop .Lbox + 0x20\n"
    "	mov %rax, .Lbox + 0xf0\n"
    "	jc 1f\n" /* nothing is current that VMREAD could read */
    "	mov $0x4400, %eax\n"
    "	vmread %rax, .Lbox + 0x28\n"
    "1:	movl $3, .Lbox + 0x18\n"
    "	jmp .Lanswer\n"

    ".Lexit:\n"
    "	mov %rax, .Lgpr + 0x00\n"
    "	mov %rcx, .Lgpr + 0x08\n"
    "	mov %rdx, .Lgpr + 0x10\n"
    "	mov %rbx, .Lgpr + 0x18\n"
    "	mov %rbp, .Lgpr + 0x28\n"
    "	mov %rsi, .Lgpr + 0x30\n"
    "	mov %rdi, .Lgpr + 0x38\n"
    "	mov %r8, .Lgpr + 0x40\n"
    "	mov %r9, .Lgpr + 0x48\n"
    "	mov %r10, .Lgpr + 0x50\n"
    "	mov %r11, .Lgpr + 0x58\n"
    "	mov %r12, .Lgpr + 0x60\n"
    "	mov %r13, .Lgpr + 0x68\n"
    "	mov %r14, .Lgpr + 0x70\n"
    "	mov %r15, .Lgpr + 0x78\n"
    "	mov %cr2, %rax\n"
    "	mov %rax, .Lbox + 0x38\n"
    ".Lread:\n"
    "	mov .Lbox + 0x50, %rsi\n"
    "	mov .Lbox + 0x48, %ecx\n"
    "1:	jecxz .Ldone\n"
    "	mov (%rsi), %rax\n"
    "	vmread %rax, 8(%rsi)\n"
    "	jbe .Lfailed\n"
    "	add $16, %esi\n"
    "	dec %ecx\n"
    "	jmp 1b\n"
    ".Ldone:\n"
    "	movl $1, .Lbox + 0x18\n"
    ".Lanswer:\n"
    "	mov %rsp, %rax\n"
    "	push $" STR(HVM_DS) "\n"
    "	push %rax\n"
    "	push $2\n"
    "	push $" STR(HVM_CS) "\n"
    "	push $.Lcode + 1f - vmx_code\n"
    "	iretq\n"
    "1:	out %al, $" STR(HVM_PORT_EXIT) "\n"
    "	jmp .Lloop\n"

    ".Lnmi:\n"
    "	push %rax\n"
    "	mov 8(%rsp), %rax\n"
    "	sub $.Lcode + .Lloop - vmx_code, %rax\n"
    "	cmp $.Lentered - .Lloop, %rax\n"
    "	jae 1f\n"
    "	movq $.Lcode + .Lkicked - vmx_code, 8(%rsp)\n"
    "1:	pop %rax\n"
    "	iretq\n"
    ".Lkicked:\n"
    "	movl $2, .Lbox + 0x18\n"
    "	jmp .Lanswer\n"
    ".balign 8\n"
    "vmx_code_size: .quad . - vmx_code\n"
    "vmx_monitor_start: .quad .Lcode\n"
    "vmx_monitor_loop: .quad .Lcode + .Lloop - vmx_code\n"
    "vmx_monitor_exit: .quad .Lcode + .Lexit - vmx_code\n"
    "vmx_monitor_nmi: .quad .Lcode + .Lnmi - vmx_code\n"
    ".popsection");
_Static_assert(VMX_LOOK == 1 && VMX_DONE == 1 && VMX_KICKED == 2 && VMX_FAILED == 3, "the code above has them as numbers");

extern const uint8_t vmx_code[];
extern const uint64_t vmx_code_size, vmx_monitor_nmi;

void vmx_monitor_write(struct hvm *h)
{
	uint64_t *idt = (uint64_t *)(h->mon + HVM_IDT_MA), nmi = vmx_monitor_nmi;

	memcpy(h->mon + HVM_CODE_MA, vmx_code, vmx_code_size);
	idt[2 * VEC_NMI] = (nmi & 0xffff) | (uint64_t)HVM_CS << 16 | 0x8eull << 40 | (nmi >> 16 & 0xffff) << 48;
}
