/*
 * The VMX monitor: VMREAD, VMWRITE, INVEPT and the entry itself, done in the machine for hv, which leaves its wishes in a mailbox.
 */
#ifndef HV_VMX_MONITOR_H
#define HV_VMX_MONITOR_H

#include "hvm_monitor.h"

#include <stddef.h>

/* Machine addresses. */
#define VMX_MAILBOX_MA HVM_OWN_MA
#define VMX_VMXON_MA (HVM_OWN_MA + 4 * PAGE)
#define VMX_VMCS_MA (HVM_OWN_MA + 5 * PAGE)
#define VMX_MSR_BITMAP_MA (HVM_OWN_MA + 6 * PAGE)
#define VMX_IO_BITMAP_MA (HVM_OWN_MA + 7 * PAGE) /* two pages */

enum vmx_command {
	VMX_ENTER, /* the guest */
	VMX_LOOK   /* only reads */
};
enum vmx_status {
	VMX_BUSY,   /* no answer yet; hv writes it */
	VMX_DONE,   /* VMX_LOOK is done, or the guest was left */
	VMX_KICKED, /* an NMI came before the guest was entered */
	VMX_FAILED  /* an instruction of VMX failed: `flags`, and with ZF VMCS_INSN_ERROR in `error`, `failed` */
};

struct vmx_pair {
	uint64_t field, value;
};
#define VMX_LIST 250

/* Offsets are known to the assembler code: vmx_monitor.c. */
struct vmx_mailbox {
	uint64_t vmxon_ma, vmcs_ma;  /* 00: operands of VMXON, VMCLEAR and VMPTRLD */
	uint64_t command, status;    /* 10: enum vmx_command, enum vmx_status */
	uint64_t flags, error;       /* 20: of what failed */
	uint64_t launched;           /* 30: the guest was entered before: VMRESUME */
	uint64_t cr2;                /* 38: the guest's; the VMCS has no field for it */
	uint64_t nwrites, nreads;    /* 40 */
	uint64_t reads_ma;           /* 50: list of reads to use: exit_reads or look_reads */
	uint64_t invept;             /* 58: wanted before the entry */
	uint64_t invept_operand[2];  /* 60: EPT pointer, 0 */
	uint64_t gpr[16];            /* 70: in the order of enum gpr; RSP is in the VMCS */
	uint64_t failed, unused;     /* f0: RAX when an instruction failed: the field, for VMREAD and VMWRITE */
	struct vmx_pair writes[VMX_LIST];     /* 100 */
	struct vmx_pair exit_reads[VMX_LIST];
	struct vmx_pair look_reads[VMX_LIST];
};
_Static_assert(sizeof(struct vmx_mailbox) <= 4 * PAGE && offsetof(struct vmx_mailbox, launched) == 0x30 &&
	       offsetof(struct vmx_mailbox, gpr) == 0x70 && offsetof(struct vmx_mailbox, writes) == 0x100,
	       "vmx_monitor.c knows where things are");

/* Writes the monitor's code, beside what hvm_monitor_write() wrote. */
void vmx_monitor_write(struct hvm *h);
/* Machine addresses in the code: of the first instruction (VMXON, then an answer), of the loop that waits for commands, and where the CPU
 * goes when the guest is left: VMCS_HOST_RIP. */
extern const uint64_t vmx_monitor_start, vmx_monitor_loop, vmx_monitor_exit;

#endif
