/* The accesses of edits.c, one instruction each, and the way back from the exception that one may raise. */
#ifndef GUEST_EDITS_H
#define GUEST_EDITS_H

#include "desc.h"

#include <stdbool.h>
#include <stdint.h>

/* mov $NUMBER, %eax; ud2; nop: a function of 8 bytes. The number is in bytes 1 to 4. As an entry of a table it is not present. */
#define CODE_BYTES 0x900b0f00000000b8

/* Kernel code that ends by going back, with RAX. */
extern const char probe_read[], probe_write[], probe_xchg[];
/* Offsets in user_code, a page of code that ends by UD2. */
#define USER_READ 0
#define USER_WRITE 16
#define USER_XCHG 32

/* Both jump to code with gva in RDI and value in RAX, and return RAX as it is in the end. */
uint64_t probe_kernel(uint64_t code, uint64_t gva, uint64_t value, uint64_t rflags);
uint64_t probe_user(uint64_t code, uint64_t gva, uint64_t value);
/* From an exception's handler: makes the probe return rax. */
_Noreturn void probe_leave(uint64_t rax);

#define EDITS_STR(x) #x
#define EDITS_VALUE(x) EDITS_STR(x)

asm(".text\n"
    ".macro enter_probe\n"
    "	push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, probe_stack\n"
    "	mov %rdi, %r8; mov %rsi, %rdi; mov %rdx, %rax\n"
    ".endm\n"
    "probe_kernel:\n"
    "	enter_probe\n"
    "	push %rcx; popfq\n"
    "	jmp *%r8\n"
    "probe_user:\n"
    "	enter_probe\n"
    "	push $" EDITS_VALUE(SEL_UDATA) "; push $0; push $2; push $" EDITS_VALUE(SEL_UCODE) "; push %r8\n"
    "	iretq\n"
    "probe_read:\n"
    "	mov (%rdi), %rax; jmp probe_done\n"
    "probe_write:\n"
    "	mov %rax, (%rdi); jmp probe_done\n"
    "probe_xchg:\n"
    "	xchg %rax, (%rdi); jmp probe_done\n"
    "probe_leave:\n"
    "	mov %rdi, %rax\n"
    "probe_done:\n"
    "	mov probe_stack, %rsp\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
    "	ret\n"
    "	.balign 4096\n"
    "user_code:\n"
    "	mov (%rdi), %rax; ud2\n"
    "	.org user_code + " EDITS_VALUE(USER_WRITE) "\n"
    "	mov %rax, (%rdi); ud2\n"
    "	.org user_code + " EDITS_VALUE(USER_XCHG) "\n"
    "	xchg %rax, (%rdi); ud2\n"
    "	.balign 4096\n"
    "	.local probe_stack\n"
    "	.comm probe_stack, 8, 8\n");

#endif
