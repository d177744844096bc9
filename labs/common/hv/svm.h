/*
 * AMD SVM: the virtual machine control block, and the back end's own state (APM vol. 2, chapter 15 and appendix B).
 */
#ifndef HV_SVM_H
#define HV_SVM_H

#include "hvm.h"

#include <stddef.h>

/* A segment register in the VMCB. attr: descriptor bits 40-47 in bits 0-7, 52-55 in bits 8-11 (APM vol. 2, table B-2). */
struct vmcb_segment {
	uint16_t selector, attr;
	uint32_t limit;
	uint64_t base;
};

struct vmcb {
	/* Control area (APM vol. 2, table B-1). */
	uint16_t cr_reads, cr_writes;    /* 000: a bit for each control register */
	uint16_t dr_reads, dr_writes;    /* 004 */
	uint32_t exceptions;             /* 008: a bit for each vector */
	uint32_t intercept1, intercept2; /* 00c: SVM_I1_..., 010: SVM_I2_... */
	uint32_t intercept3;
	uint8_t reserved1[0x24];
	uint16_t pause_threshold, pause_count; /* 03c */
	uint64_t iopm, msrpm;            /* 040: machine addresses of the bitmaps */
	uint64_t tsc_offset;             /* 050 */
	uint32_t asid;                   /* 058: not 0 */
	uint32_t tlb_control;            /* 05c: SVM_TLB_... */
	uint64_t vintr;                  /* 060: SVM_V_... */
	uint64_t shadow;                 /* 068: bit 0: interrupt shadow */
	uint64_t exitcode, exitinfo1, exitinfo2, exitintinfo; /* 070 */
	uint64_t nested;                 /* 090: bit 0: nested paging */
	uint64_t avic, ghcb;
	uint64_t eventinj;               /* 0a8 */
	uint64_t ncr3;                   /* 0b0 */
	uint64_t lbr;
	uint32_t clean, reserved2;       /* 0c0: 0: nothing is remembered from the last entry */
	uint64_t nrip;                   /* 0c8: where the CPU saves it, else 0 */
	uint8_t reserved3[0x330];
	/* State save area (APM vol. 2, table B-2). */
	struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr; /* 400 */
	uint8_t reserved4[0x2b];
	uint8_t cpl;                     /* 4cb */
	uint32_t reserved5;
	uint64_t efer;                   /* 4d0 */
	uint8_t reserved6[0x70];
	uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip; /* 548 */
	uint8_t reserved7[0x58];
	uint64_t rsp;                    /* 5d8 */
	uint8_t reserved8[0x18];
	uint64_t rax;                    /* 5f8 */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip; /* by VMLOAD and VMSAVE only */
	uint64_t cr2;                    /* 640 */
	uint8_t reserved9[0x20];
	uint64_t pat;                    /* 668: with nested paging */
	uint8_t reserved10[0x990];
};
_Static_assert(offsetof(struct vmcb, es) == 0x400 && offsetof(struct vmcb, cpl) == 0x4cb && offsetof(struct vmcb, cr4) == 0x548 &&
	       offsetof(struct vmcb, rsp) == 0x5d8 && offsetof(struct vmcb, cr2) == 0x640 && offsetof(struct vmcb, pat) == 0x668 &&
	       sizeof(struct vmcb) == 0x1000, "the VMCB is laid out by the manual");

/* What the guest is left for: vmcb->intercept1 (offset 00c) and intercept2 (offset 010). */
#define SVM_I1_NMI (1u << 1)
#define SVM_I1_VINTR (1u << 4)
#define SVM_I1_RDPMC (1u << 15)
#define SVM_I1_CPUID (1u << 18)
#define SVM_I1_IRET (1u << 20)
#define SVM_I1_INVD (1u << 22)
#define SVM_I1_PAUSE (1u << 23)
#define SVM_I1_HLT (1u << 24)
#define SVM_I1_INVLPG (1u << 25)
#define SVM_I1_INVLPGA (1u << 26)
#define SVM_I1_IOIO (1u << 27)     /* ports that the I/O permission map names */
#define SVM_I1_MSR (1u << 28)      /* MSRs that the MSR permission map names */
#define SVM_I1_TASK (1u << 29)
#define SVM_I1_SHUTDOWN (1u << 31)
#define SVM_I2_VMRUN (1u << 0)     /* must be set */
#define SVM_I2_VMMCALL (1u << 1)
#define SVM_I2_VMLOAD (1u << 2)
#define SVM_I2_VMSAVE (1u << 3)
#define SVM_I2_STGI (1u << 4)
#define SVM_I2_CLGI (1u << 5)
#define SVM_I2_SKINIT (1u << 6)
#define SVM_I2_WBINVD (1u << 9)
#define SVM_I2_MONITOR (1u << 10)
#define SVM_I2_MWAIT (1u << 11)
#define SVM_I2_XSETBV (1u << 13)

#define SVM_TLB_FLUSH_ALL 1u

#define SVM_V_IRQ (1ull << 8)
#define SVM_V_IGN_TPR (1ull << 20)
#define SVM_V_MASKING (1ull << 24) /* RFLAGS.IF of the guest says nothing about the machine's interrupts */

/* Exit codes (APM vol. 2, appendix C). */
enum svm_exit_code {
	SVM_EXIT_READ_CR0 = 0x00, SVM_EXIT_WRITE_CR0 = 0x10, SVM_EXIT_READ_DR0 = 0x20, SVM_EXIT_WRITE_DR0 = 0x30,
	SVM_EXIT_EXCEPTION = 0x40, SVM_EXIT_INTR = 0x60, SVM_EXIT_NMI = 0x61, SVM_EXIT_VINTR = 0x64, SVM_EXIT_RDPMC = 0x6f,
	SVM_EXIT_CPUID = 0x72, SVM_EXIT_IRET = 0x74, SVM_EXIT_INVD = 0x76, SVM_EXIT_PAUSE = 0x77, SVM_EXIT_HLT = 0x78,
	SVM_EXIT_INVLPG = 0x79, SVM_EXIT_INVLPGA = 0x7a, SVM_EXIT_IOIO = 0x7b, SVM_EXIT_MSR = 0x7c, SVM_EXIT_TASK = 0x7d,
	SVM_EXIT_SHUTDOWN = 0x7f, SVM_EXIT_VMRUN = 0x80, SVM_EXIT_VMMCALL = 0x81, SVM_EXIT_VMLOAD = 0x82, SVM_EXIT_SKINIT = 0x86,
	SVM_EXIT_WBINVD = 0x89, SVM_EXIT_MONITOR = 0x8a, SVM_EXIT_MWAIT = 0x8b, SVM_EXIT_XSETBV = 0x8d, SVM_EXIT_NPF = 0x400
};
#define SVM_EXIT_INVALID (~0u) /* KVM leaves the upper half 0 */

/* EXITINFO1 of SVM_EXIT_IOIO (APM vol. 2, 15.10.2). */
#define SVM_IO_IN (1u << 0)
#define SVM_IO_STRING (1u << 2)
#define SVM_IO_REP (1u << 3)
#define SVM_IO_SIZE(info) ((unsigned)((info) >> 4 & 7)) /* one bit each for 1, 2 and 4 bytes: the size itself */
#define SVM_IO_PORT(info) ((uint16_t)((info) >> 16))

/* EXITINFO1 of SVM_EXIT_NPF: as a page fault's error code, and what the CPU was translating (APM vol. 2, 15.25.6). */
#define SVM_NPF_WALK (1ull << 33)  /* an entry of the guest's page tables */

/* EVENTINJ and EXITINTINFO (APM vol. 2, 15.20): vector in bits 7:0, type in 10:8 (as in struct hvm_event), error code in 63:32. */
#define SVM_EVENT_ERROR (1ull << 11)
#define SVM_EVENT_VALID (1ull << 31)

/* The bitmaps (APM vol. 2, 15.10.1 and 15.11). A set bit: the guest is left. */
#define SVM_IOPM_SIZE (3 * PAGE)
#define SVM_MSRPM_SIZE (2 * PAGE)

struct svm {
	struct hvm *h;
	struct vmcb *vmcb;
	uint8_t *iopm, *msrpm;     /* all bits are set when svm_controls() is called */
	uint64_t iopm_ma, msrpm_ma;
	bool unblocking;           /* the guest is stepped over the IRET that ends its NMI handler */
	bool guest_tf;             /* the guest itself single-steps */
	bool at_start;             /* the machine's CPU must be put before the monitor's first instruction */
	uint64_t gpr_in[16];       /* general registers as they came out, to see whether any must go back */
};

/* Clears both bits of an MSR in the MSR permission map: the guest reads and writes it without leaving. (APM vol. 2, 15.11) */
void svm_msr_pass(struct svm *s, uint32_t index);

#endif
