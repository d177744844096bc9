/*
 * The guest's CPU as the guest believes it to be: what the manuals call architectural state, nothing about how it is
 * virtualized. On the trap engine this structure *is* the state; on the kvm engine it is a copy that is fetched from KVM
 * when somebody (the debugger, a trace) asks.
 */
#ifndef HV_VCPU_H
#define HV_VCPU_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

/* General registers in the order of their encoding (SDM vol. 2, table 3-1). */
enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
/* Segment registers in the order of their encoding. */
enum sreg { ES, CS, SS, DS, FS, GS };

/* Exception vectors (SDM vol. 3, table 6-1). */
enum vector {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7, VEC_DF = 8,
	VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17, VEC_XM = 19
};

/* RFLAGS (SDM vol. 1, 3.4.3). */
#define FLAG_CF (1ull << 0)
#define FLAG_FIXED (1ull << 1)
#define FLAG_ZF (1ull << 6)
#define FLAG_TF (1ull << 8)
#define FLAG_IF (1ull << 9)
#define FLAG_DF (1ull << 10)
#define FLAG_OF (1ull << 11)
#define FLAG_IOPL (3ull << 12)
#define FLAG_NT (1ull << 14)
#define FLAG_RF (1ull << 16)
#define FLAG_VM (1ull << 17)
#define FLAG_AC (1ull << 18)
#define FLAG_VIF (1ull << 19)
#define FLAG_VIP (1ull << 20)
#define FLAG_ID (1ull << 21)
#define FLAGS_DEFINED 0x3f7fd7ull /* all bits that exist, the fixed one included */

/* CR0, CR4, EFER (SDM vol. 3, 2.5; APM vol. 2, 3.1). */
#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_AM (1ull << 18)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR4_VME (1ull << 0)
#define CR4_PVI (1ull << 1)
#define CR4_TSD (1ull << 2)
#define CR4_DE (1ull << 3)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)
#define CR4_PCE (1ull << 8)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_UMIP (1ull << 11)
#define CR4_FSGSBASE (1ull << 16)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
/* Debug registers (SDM vol. 3, 17.2.3, 17.2.4). */
#define DR6_BREAKPOINTS 0xfull /* B0-B3 */
#define DR6_BD (1ull << 13)    /* somebody touched the debug registers */
#define DR6_BS (1ull << 14)    /* single step */
#define DR7_GD (1ull << 13)    /* #DB before the next mov to or from a debug register */
#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

/* MSR numbers (SDM vol. 4, APM vol. 2 appendix A). */
#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MISC_ENABLE 0x1a0
#define MSR_PAT 0x277
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

/* A segment register: the visible selector and the hidden part that the CPU keeps (SDM vol. 3, 3.4.3). */
struct segment {
	uint16_t selector;
	uint16_t attr; /* descriptor bits 40-47 in bits 0-7 (type, S, DPL, P), 52-55 in bits 12-15 (AVL, L, D/B, G) */
	uint32_t limit; /* in bytes */
	uint64_t base;
};
#define SEG_TYPE 0x000f
#define SEG_S 0x0010
#define SEG_DPL 0x0060
#define SEG_P 0x0080
#define SEG_L 0x2000
#define SEG_DB 0x4000
#define SEG_G 0x8000

struct dtable {
	uint64_t base;
	uint16_t limit;
};

/* Something to be delivered through the guest's IDT. */
struct event {
	bool pending;
	enum event_kind {
		EVENT_EXCEPTION, /* fault or trap raised by the CPU */
		EVENT_SOFTWARE,  /* int n, int3, into: gate DPL is checked, rip is already behind the instruction */
		EVENT_INTERRUPT  /* from the interrupt controller */
	} kind;
	uint8_t vector;
	bool has_error;
	uint32_t error;
};

struct vcpu {
	struct vm *vm;

	uint64_t gpr[16]; /* indexed by enum gpr */
	uint64_t rip, rflags;
	struct segment seg[6]; /* indexed by enum sreg */
	struct segment ldtr, tr;
	struct dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer;
	uint64_t dr[8]; /* 4 and 5 are not used */
	unsigned cpl;   /* current privilege level, 0-3 */

	struct {
		uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
		uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
		uint64_t pat, apic_base, tsc_aux, misc_enable;
	} msr;

	struct event event;    /* waiting to be delivered, at most one */
	bool shadow;           /* STI or a load of SS: no interrupt before the next instruction has completed */
	bool halted;           /* in HLT, waiting for an interrupt */
};

#endif
