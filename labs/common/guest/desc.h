/*
 * Descriptor tables, and what happens between an event and the C function that handles it.
 *
 * The selectors are in the order that SYSCALL and SYSRET compute with (SDM vol. 3, 5.8.8): kernel data behind kernel code;
 * user data, then user code behind the base that is in STAR. Kernel code and data are where the loaders' GDT has them.
 */
#ifndef GUEST_DESC_H
#define GUEST_DESC_H

#define SEL_KCODE 0x10
#define SEL_KDATA 0x18
#define SEL_USER_BASE 0x23 /* goes into STAR; SYSRET adds 8 for SS and 16 for CS */
#define SEL_UDATA 0x2b
#define SEL_UCODE 0x33
#define SEL_TSS 0x38 /* 16 bytes (SDM vol. 3, figure 8-4) */

/* Flat descriptors, with the accessed bit already set, so that no load needs to write to the table. */
#define DESC_KCODE 0x00af9b000000ffff
#define DESC_KDATA 0x00cf93000000ffff
#define DESC_UDATA 0x00cff3000000ffff
#define DESC_UCODE 0x00affb000000ffff

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stdint.h>

/* The interrupted program: the stub's pushes, then the CPU's (SDM vol. 3, figure 6-9). */
struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error; /* error is 0 for events without an error code */
	uint64_t rip, cs, rflags, rsp, ss;
};

#define RFLAGS_FIXED (1u << 1)
#define RFLAGS_TF (1u << 8)
#define RFLAGS_IF (1u << 9)
#define RFLAGS_DF (1u << 10)
#define RFLAGS_NT (1u << 14)
#define RFLAGS_AC (1u << 18)

static inline bool from_user(const struct trap_frame *f)
{
	return f->cs & 3;
}

/* Handlers by vector. A vector without one prints itself on the debug console and ends the guest with UNHANDLED_TRAP. */
typedef void (*trap_handler)(struct trap_frame *f);
extern trap_handler trap_handlers[256];
#define UNHANDLED_TRAP 0xee

/* Own GDT and TSS instead of the loader's; all segment registers reloaded. Data segments get SEL_UDATA, see desc.c. */
void gdt_init(void);
/* 256 interrupt gates (they clear IF), DPL 0, no IST; every one leads to trap_handlers[]. */
void idt_init(void);
/* Changes one gate: the lowest privilege that may use it by `int n`, and its IST slot (1-7, 0 = none). */
void idt_gate(unsigned vector, unsigned dpl, unsigned ist);
/* Where the CPU puts its stack pointer when an event takes it from user to kernel mode (TSS.RSP0). */
void tss_set_rsp0(uint64_t top);
/* The stack that gates with this IST number switch to, 1-7. */
void tss_set_ist(unsigned ist, uint64_t top);

/* A frame that trap_return() would start as a user program: interrupts on, registers 0. */
void user_frame(struct trap_frame *f, uint64_t rip, uint64_t rsp);
/* Loads all registers from the frame and resumes it with iretq. */
_Noreturn void trap_return(struct trap_frame *f);

#endif
#endif
