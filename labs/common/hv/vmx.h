/*
 * Intel VMX: the virtual-machine control structure, and the back end's own state (SDM vol. 3, chapters 24 to 27, appendices A to C).
 *
 * A VMCS is no structure in memory: its fields have numbers and are read and written by VMREAD and VMWRITE, which only ring 0 may
 * execute. So hv keeps what it knows of the fields in struct vmx, and the monitor (vmx_monitor.c) carries lists of them back and forth.
 */
#ifndef HV_VMX_H
#define HV_VMX_H

#include "hvm.h"

/* Fields (SDM vol. 3, appendix B). */
enum vmcs_field {
	/* Of the guest's segments, in the order of enum sreg, then LDTR and TR: VMCS_..._ES + 2 * n. */
	VMCS_SELECTOR_ES = 0x0800, VMCS_LIMIT_ES = 0x4800, VMCS_ACCESS_ES = 0x4814, VMCS_BASE_ES = 0x6806,
	VMCS_ACCESS_CS = 0x4816, VMCS_ACCESS_SS = 0x4818,
	/* The guest's other state. */
	VMCS_LINK_POINTER = 0x2800, VMCS_DEBUGCTL = 0x2802, VMCS_PAT = 0x2804, VMCS_EFER = 0x2806,
	VMCS_GDTR_LIMIT = 0x4810, VMCS_IDTR_LIMIT = 0x4812, VMCS_INTERRUPTIBILITY = 0x4824, VMCS_ACTIVITY = 0x4826,
	VMCS_SYSENTER_CS = 0x482a, VMCS_CR0 = 0x6800, VMCS_CR3 = 0x6802, VMCS_CR4 = 0x6804, VMCS_GDTR_BASE = 0x6816,
	VMCS_IDTR_BASE = 0x6818, VMCS_DR7 = 0x681a, VMCS_RSP = 0x681c, VMCS_RIP = 0x681e, VMCS_RFLAGS = 0x6820,
	VMCS_PENDING_DEBUG = 0x6822, VMCS_SYSENTER_ESP = 0x6824, VMCS_SYSENTER_EIP = 0x6826,
	/* Controls. */
	VMCS_IO_BITMAP_A = 0x2000, VMCS_IO_BITMAP_B = 0x2002, VMCS_MSR_BITMAP = 0x2004, VMCS_EPT_POINTER = 0x201a,
	VMCS_PIN_CONTROLS = 0x4000, VMCS_PROC_CONTROLS = 0x4002, VMCS_EXCEPTIONS = 0x4004, VMCS_PF_ERROR_MASK = 0x4006,
	VMCS_PF_ERROR_MATCH = 0x4008, VMCS_CR3_TARGETS = 0x400a, VMCS_EXIT_CONTROLS = 0x400c, VMCS_EXIT_MSR_STORES = 0x400e,
	VMCS_EXIT_MSR_LOADS = 0x4010, VMCS_ENTRY_CONTROLS = 0x4012, VMCS_ENTRY_MSR_LOADS = 0x4014, VMCS_ENTRY_EVENT = 0x4016,
	VMCS_ENTRY_ERROR = 0x4018, VMCS_ENTRY_INSN_LEN = 0x401a, VMCS_PROC2_CONTROLS = 0x401e, VMCS_PAUSE_GAP = 0x4020,
	VMCS_PAUSE_WINDOW = 0x4022, VMCS_CR0_MASK = 0x6000, VMCS_CR4_MASK = 0x6002, VMCS_CR0_SHADOW = 0x6004,
	VMCS_CR4_SHADOW = 0x6006,
	/* What the CPU says of an exit. */
	VMCS_EXIT_GPA = 0x2400, VMCS_INSN_ERROR = 0x4400, VMCS_EXIT_REASON = 0x4402, VMCS_EXIT_EVENT = 0x4404,
	VMCS_EXIT_ERROR = 0x4406, VMCS_INTERRUPTED_EVENT = 0x4408, VMCS_INTERRUPTED_ERROR = 0x440a, VMCS_EXIT_INSN_LEN = 0x440c,
	VMCS_EXIT_QUALIFICATION = 0x6400, VMCS_EXIT_GVA = 0x640a,
	/* The machine's state behind an exit. */
	VMCS_HOST_ES = 0x0c00, VMCS_HOST_CS = 0x0c02, VMCS_HOST_SS = 0x0c04, VMCS_HOST_DS = 0x0c06, VMCS_HOST_FS = 0x0c08,
	VMCS_HOST_GS = 0x0c0a, VMCS_HOST_TR = 0x0c0c, VMCS_HOST_PAT = 0x2c00, VMCS_HOST_EFER = 0x2c02, VMCS_HOST_SYSENTER_CS = 0x4c00,
	VMCS_HOST_CR0 = 0x6c00, VMCS_HOST_CR3 = 0x6c02, VMCS_HOST_CR4 = 0x6c04, VMCS_HOST_FS_BASE = 0x6c06,
	VMCS_HOST_GS_BASE = 0x6c08, VMCS_HOST_TR_BASE = 0x6c0a, VMCS_HOST_GDTR_BASE = 0x6c0c, VMCS_HOST_IDTR_BASE = 0x6c0e,
	VMCS_HOST_SYSENTER_ESP = 0x6c10, VMCS_HOST_SYSENTER_EIP = 0x6c12, VMCS_HOST_RSP = 0x6c14, VMCS_HOST_RIP = 0x6c16
};

/* Pin-based controls (SDM vol. 3, table 24-5). */
#define PIN_INTERRUPTS (1u << 0)   /* an interrupt of the machine's ends the guest */
#define PIN_NMI (1u << 3)          /* so does an NMI */
#define PIN_VIRTUAL_NMIS (1u << 5) /* the guest's NMIs and their blocking are its own */

/* Primary processor-based controls (table 24-6). */
#define PROC_IRQ_WINDOW (1u << 2)
#define PROC_HLT (1u << 7)
#define PROC_INVLPG (1u << 9)
#define PROC_MWAIT (1u << 10)
#define PROC_RDPMC (1u << 11)
#define PROC_CR3_LOAD (1u << 15)
#define PROC_CR3_STORE (1u << 16)
#define PROC_CR8_LOAD (1u << 19)
#define PROC_CR8_STORE (1u << 20)
#define PROC_NMI_WINDOW (1u << 22)
#define PROC_IO_BITMAPS (1u << 25)
#define PROC_TRAP_FLAG (1u << 27) /* monitor trap flag */
#define PROC_MSR_BITMAPS (1u << 28)
#define PROC_MONITOR (1u << 29)
#define PROC_SECONDARY (1u << 31)

/* Secondary processor-based controls (table 24-7). */
#define PROC2_EPT (1u << 1)
#define PROC2_RDTSCP (1u << 3)
#define PROC2_WBINVD (1u << 6)
#define PROC2_UNRESTRICTED (1u << 7) /* the guest may run without paging, and without protection */
#define PROC2_PAUSE_LOOP (1u << 10)
#define PROC2_INVPCID (1u << 12)

/* VM-exit and VM-entry controls (tables 24-11, 24-13). */
#define EXIT_SAVE_DEBUG (1u << 2)
#define EXIT_HOST_64 (1u << 9)
#define EXIT_SAVE_PAT (1u << 18)
#define EXIT_LOAD_PAT (1u << 19)
#define EXIT_SAVE_EFER (1u << 20)
#define EXIT_LOAD_EFER (1u << 21)
#define ENTRY_LOAD_DEBUG (1u << 2)
#define ENTRY_LONG_MODE (1u << 9) /* the frame sets and clears it: it must be what EFER.LMA is */
#define ENTRY_LOAD_PAT (1u << 14)
#define ENTRY_LOAD_EFER (1u << 15)

/* VMCS_ENTRY_EVENT, VMCS_EXIT_EVENT, VMCS_INTERRUPTED_EVENT: vector in bits 7:0, type in 10:8 as in struct hvm_event (24.8.3). */
#define VMX_EVENT_ERROR (1u << 11)      /* there is an error code */
#define VMX_EVENT_UNBLOCKED (1u << 12)  /* VMCS_EXIT_EVENT: an IRET had just ended the blocking of NMIs */
#define VMX_EVENT_VALID (1u << 31)

/* VMCS_INTERRUPTIBILITY (table 24-3), VMCS_PENDING_DEBUG (table 24-4), a segment's access rights (table 24-2). */
#define BLOCKING_STI (1u << 0)
#define BLOCKING_MOV_SS (1u << 1)
#define BLOCKING_NMI (1u << 3)
#define PENDING_BS (1ull << 14)
#define ACCESS_UNUSABLE (1u << 16)

/* VMCS_EXIT_REASON: bits 15:0 (appendix C). */
#define REASON_FAILED_ENTRY (1u << 31)
enum vmx_exit_reason {
	REASON_EXCEPTION = 0, /* or an NMI: VMCS_EXIT_EVENT says which */
	REASON_INTERRUPT = 1, REASON_TRIPLE_FAULT = 2, REASON_IRQ_WINDOW = 7, REASON_NMI_WINDOW = 8, REASON_TASK = 9,
	REASON_CPUID = 10, REASON_HLT = 12, REASON_INVD = 13, REASON_INVLPG = 14, REASON_RDPMC = 15, REASON_VMCALL = 18,
	REASON_VMCLEAR = 19, REASON_VMXON = 27, /* and between them the other instructions of VMX */
	REASON_CR = 28, REASON_DR = 29, REASON_IO = 30, REASON_RDMSR = 31, REASON_WRMSR = 32, REASON_BAD_STATE = 33,
	REASON_BAD_MSR = 34, REASON_MWAIT = 36, REASON_TRAP_FLAG = 37, REASON_MONITOR = 39, REASON_PAUSE = 40, REASON_EPT_VIOLATION = 48,
	REASON_EPT_MISCONFIG = 49, REASON_INVEPT = 50, REASON_INVVPID = 53, REASON_WBINVD = 54, REASON_XSETBV = 55,
	REASON_VMFUNC = 59
};

/* VMCS_EXIT_QUALIFICATION of an EPT violation (table 27-7). Bits 2:0 and 5:3 are NESTED_R, W, X: of the access, and allowed there. */
#define QUAL_EPT_ACCESS(q) ((unsigned)(q) & 7)
#define QUAL_EPT_ALLOWED(q) ((unsigned)((q) >> 3) & 7)
#define QUAL_EPT_GVA (1u << 7)       /* the access had a linear address */
#define QUAL_EPT_FINAL (1u << 8)     /* with QUAL_EPT_GVA: and was to that, not to an entry of the guest's page tables */
#define QUAL_EPT_UNBLOCKED (1u << 12) /* as VMX_EVENT_UNBLOCKED */
/* Of an I/O instruction (table 27-5). */
#define QUAL_IO_SIZE(q) ((unsigned)((q) & 7) + 1)
#define QUAL_IO_IN (1u << 3)
#define QUAL_IO_STRING (1u << 4)
#define QUAL_IO_REP (1u << 5)
#define QUAL_IO_PORT(q) ((uint16_t)((q) >> 16))
/* Of an access to a control register (table 27-3): type 1 is a mov from it. Of a debug register (table 27-4). */
#define QUAL_CR_NUMBER(q) ((unsigned)(q) & 15)
#define QUAL_CR_TYPE(q) ((unsigned)((q) >> 4) & 3)
#define QUAL_DR_NUMBER(q) ((unsigned)(q) & 7)
#define QUAL_DR_READ (1u << 4)

#define CR4_VMXE (1ull << 13)

struct vmx_mailbox;

/* Encodings have the field's number in bits 9:1, its kind in 11:10 and its width in 14:13: 64 numbers of each are more than there are. */
#define VMCS_SLOTS 1024
static inline unsigned vmcs_slot(enum vmcs_field f) { return (f >> 13 & 3) << 8 | (f >> 10 & 3) << 6 | (f >> 1 & 63); }

struct vmx {
	struct hvm *h;
	struct vmx_mailbox *box;            /* in the machine's memory: vmx_monitor.h */
	uint8_t *io_bitmap;                 /* two pages, for ports from 0 and from 0x8000; a set bit: the guest is left */
	uint8_t *msr_bitmap;                /* all bits of both are set when vmx_controls() is called */
	uint64_t io_bitmap_ma, msr_bitmap_ma;

	/* The fields as the VMCS has them, or will when the guest is entered. Not known: what an exit may have changed. */
	uint64_t value[VMCS_SLOTS];
	uint8_t known[VMCS_SLOTS];
	uint16_t pending[VMCS_SLOTS];       /* place in the mailbox's list of writes, from 1; 0: not in it */

	bool trap_flag;                     /* the CPU has the monitor trap flag; else hv's own single step is RFLAGS.TF */
	uint32_t exceptions;                /* what vmx_controls() wants to be left for; that step may come on top */
	bool guest_tf, tf;                  /* RFLAGS.TF as the guest has it, as it runs with */
	struct vcpu before;                 /* the guest as it was left: what differs now is brought in */
	bool first;                         /* all of it is brought in */
	bool at_start;                      /* the machine's CPU is elsewhere, and must be put before the monitor's loop */
};

/* Writes a field, with the next entry; nothing is done when it holds the value already. */
void vmx_write(struct vmx *s, enum vmcs_field f, uint64_t value);
/* What a field holds. One that is not known is read from the VMCS first, which costs a run of the machine; of those that change with
 * an exit, the exit brings the ones that nearly all exits need (exit_fields in vmx_machine.c). */
uint64_t vmx_read(struct vmx *s, enum vmcs_field f);

/* Writes one of the five fields of controls: these bits, and those that this CPU wants set. 0, or negative with the VM stopped when it
 * does not allow one of them. (SDM vol. 3, A.2 to A.5) */
int vmx_control(struct vmx *s, enum vmcs_field f, uint32_t bits);
/* Does this CPU allow all these bits in that field? */
bool vmx_allows(struct vmx *s, enum vmcs_field f, uint32_t bits);

/* Clears an MSR's bits in the MSR bitmap: the guest reads and writes it without being left. (SDM vol. 3, 24.6.9) */
void vmx_msr_pass(struct vmx *s, uint32_t index);

#endif
