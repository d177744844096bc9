/*
 * Lab 3, checkpoints 3.8, 3.13 to 3.15: Intel's half of hardware-assisted virtualization. What the guest is left for is said in fields of
 * the VMCS before it is entered, and why it was left in others behind that. The fields and their bits are in vmx.h.
 *
 * Reading: Intel SDM vol. 3, 24.6 to 24.8 (controls), 24.9 and 27.2 (what an exit says), 26.6 (injection); appendix C (exit reasons).
 */
#include "lab1.h"
#include "lab3.h"
#include "vmx.h"

/* MSRs that the guest may use without being left: the machine's own do for it, or the VMCS has a place for them. */
static const uint32_t passed[] = {
	MSR_FS_BASE,	 MSR_GS_BASE,	   MSR_KERNEL_GS_BASE, MSR_STAR,	MSR_LSTAR, MSR_CSTAR, MSR_SFMASK,
	MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
};

int vmx_controls(struct vmx *s)
{
	// TODO 3.8: say what the guest is left for, and where its nested tables are. Hint: vmx_control() for the five
	// fields of controls; HLT, I/O and MSR bitmaps, NMIs; EPT and unrestricted guest in the secondary ones; PAT and
	// EFER are exchanged at entry and exit. CR0's mask: NE, CD, NW; CR4's: all but trap_cr4_allowed().
	// vmx_msr_pass() for `passed`.
	(void)passed;
	return lab_todo(s->h->vm, "3.8",
			"vmx_controls() in vmx.c: write the VMCS's control fields and the pointer to the EPT tables");
}

/* VMCS_EXIT_EVENT and VMCS_INTERRUPTED_EVENT have one form. (SDM vol. 3, tables 24-16, 24-17) */
static void decode_interrupted(struct vmx *s, struct hvm_event *e)
{
	// TODO 3.14: say which event was on its way into the guest. Hint: VMCS_INTERRUPTED_EVENT, if VMX_EVENT_VALID is
	// set in it.
	if (vmx_read(s, VMCS_INTERRUPTED_EVENT) & VMX_EVENT_VALID)
		lab_todo(s->h->vm, "3.14",
			 "decode_interrupted() in vmx.c: the exit came while an event was being delivered");
	(void)e;
}

static void decode_violation(struct vmx *s, struct hvm_exit *x)
{
	// TODO 3.8: where, what was tried, what the tables allow. Hint: the qualification is in x->info; it does not
	// have the address.
	(void)x;
	lab_todo(s->h->vm, "3.8", "decode_violation() in vmx.c: the qualification of an EPT violation");
}

/* An exception, or the NMI by which hv wanted the CPU back. */
static void decode_exception(struct vmx *s, struct hvm_exit *x)
{
	// TODO 3.8: which exception, or was it the machine's NMI? Hint: type and vector are in VMCS_EXIT_EVENT.
	(void)x;
	lab_todo(s->h->vm, "3.8", "decode_exception() in vmx.c: tell hv's NMI from an exception of the guest's");
}

static void decode_io(struct hvm_exit *x)
{
	// TODO 3.8: port, size and direction. Hint: all of it is in the qualification, x->info.
	x->kind = HVM_UNKNOWN;
}

void vmx_decode_exit(struct vmx *s, struct hvm_exit *x)
{
	decode_interrupted(s, &x->interrupted);
	// TODO 3.8: translate the exit reason, x->raw, into x->kind, and say what belongs to it. Hint: appendix C of
	// the manual; the functions above do the long ones. x->len is VMCS_EXIT_INSN_LEN, and 0 for faults and
	// violations.
	(void)decode_violation, (void)decode_exception, (void)decode_io;
	lab_todo(s->h->vm, "3.8", "vmx_decode_exit() in vmx.c: say why the guest was left");
}

void vmx_inject(struct vmx *s, const struct hvm_event *e)
{
	// TODO 3.13: have the CPU deliver this event to the guest when it is entered. Hint: VMCS_ENTRY_EVENT and what
	// belongs to it; in real mode there are no error codes.
	if (e->valid)
		lab_todo(s->h->vm, "3.13", "vmx_inject() in vmx.c: an event for the next entry");
	vmx_write(s, VMCS_ENTRY_EVENT, 0);
	// TODO 3.15: NMIs may not be blocked when one is injected. Hint: VMCS_INTERRUPTIBILITY.
	if (e->valid && e->type == HVM_NMI)
		lab_todo(s->h->vm, "3.15", "vmx_inject() in vmx.c: an NMI ends the blocking of NMIs first");
}

void vmx_windows(struct vmx *s, bool irq, bool nmi)
{
	uint64_t controls = vmx_read(s, VMCS_PROC_CONTROLS) & ~(uint64_t)(PROC_IRQ_WINDOW | PROC_NMI_WINDOW);

	// TODO 3.13: be told when the guest takes interrupts. Hint: one bit of the primary processor-based controls.
	if (irq)
		lab_todo(s->h->vm, "3.13", "vmx_windows() in vmx.c: interrupt-window exiting");
	// TODO 3.15: be told when the guest takes NMIs.
	if (nmi)
		lab_todo(s->h->vm, "3.15", "vmx_windows() in vmx.c: NMI-window exiting");
	vmx_write(s, VMCS_PROC_CONTROLS, controls);
}
