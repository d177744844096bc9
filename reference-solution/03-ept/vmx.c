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
	// SOLUTION 3.8
	/* hv gets the CPU back by an NMI; the guest has its own, with a blocking of its own. */
	int err = vmx_control(s, VMCS_PIN_CONTROLS, PIN_INTERRUPTS | PIN_NMI | PIN_VIRTUAL_NMIS);
	uint32_t proc = PROC_HLT | PROC_RDPMC | PROC_MWAIT | PROC_MONITOR | PROC_CR8_LOAD | PROC_CR8_STORE |
			PROC_IO_BITMAPS | PROC_MSR_BITMAPS | PROC_SECONDARY;
	uint32_t proc2 = PROC2_EPT | PROC2_UNRESTRICTED;
	uint64_t cr0 = CR0_NE | CR0_CD | CR0_NW, cr4 = ~trap_cr4_allowed(&s->h->vm->vcpu);

	if (s->h->shadow) {
		/* The tables are Lab 2's, so hv must see all that says how the guest's are read. */
		proc |= PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG;
		proc2 = 0;
		cr0 |= CR0_WP | CR0_PG | CR0_PE;
		cr4 = ~0ull;
	}
	/* Good to have. (INVD always exits, WBINVD does not.) */
	if (vmx_allows(s, VMCS_PROC2_CONTROLS, PROC2_WBINVD))
		proc2 |= PROC2_WBINVD;
	if (vmx_allows(s, VMCS_PROC2_CONTROLS, PROC2_PAUSE_LOOP))
		proc2 |= PROC2_PAUSE_LOOP;
	if (!err)
		err = vmx_control(s, VMCS_PROC_CONTROLS, proc);
	if (!err)
		err = vmx_control(s, VMCS_PROC2_CONTROLS, proc2);
	if (!err)
		err = vmx_control(s, VMCS_EXIT_CONTROLS, EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_LOAD_EFER);
	if (!err)
		err = vmx_control(s, VMCS_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER);
	vmx_write(s, VMCS_EXCEPTIONS, s->h->shadow ? 1u << VEC_PF : 0);
	if (proc2 & PROC2_PAUSE_LOOP) {
		vmx_write(s, VMCS_PAUSE_GAP, 128);
		vmx_write(s, VMCS_PAUSE_WINDOW, 4096);
	}
	/* Bits of CR0 and CR4 that the guest does not own: it reads what hv says they are, and is left when it wants another value. VMX
	 * needs NE and VMXE set, which the guest does not see. (SDM vol. 3, 24.6.6) */
	vmx_write(s, VMCS_CR0_MASK, cr0);
	vmx_write(s, VMCS_CR4_MASK, cr4);
	vmx_write(s, VMCS_IO_BITMAP_A, s->io_bitmap_ma); /* all bits are set: every port */
	vmx_write(s, VMCS_IO_BITMAP_B, s->io_bitmap_ma + PAGE);
	for (unsigned i = 0; i < sizeof passed / sizeof *passed; i++)
		vmx_msr_pass(s, passed[i]);
	vmx_write(s, VMCS_MSR_BITMAP, s->msr_bitmap_ma);
	if (!s->h->shadow)
		vmx_write(s, VMCS_EPT_POINTER, s->h->nested.format->root(&s->h->nested));
	return err;
	// STARTER 3.8: say what the guest is left for, and where its nested tables are. Hint: vmx_control() for the five fields of
	// controls; HLT, I/O and MSR bitmaps, NMIs; EPT and unrestricted guest in the secondary ones; PAT and EFER are exchanged at
	// entry and exit. CR0's mask: NE, CD, NW; CR4's: all but trap_cr4_allowed(). vmx_msr_pass() for `passed`.
	//	(void)passed;
	//	return lab_todo(s->h->vm, "3.8",
	//			"vmx_controls() in vmx.c: write the VMCS's control fields and the pointer to the EPT tables");
	// END
}

/* VMCS_EXIT_EVENT and VMCS_INTERRUPTED_EVENT have one form. (SDM vol. 3, tables 24-16, 24-17) */
static void decode_interrupted(struct vmx *s, struct hvm_event *e)
{
	// SOLUTION 3.14
	uint64_t info = vmx_read(s, VMCS_INTERRUPTED_EVENT);

	if (!(info & VMX_EVENT_VALID))
		return;
	e->valid = true;
	e->vector = (uint8_t)info;
	e->type = info >> 8 & 7;
	e->has_error = info & VMX_EVENT_ERROR;
	if (e->has_error)
		e->error = (uint32_t)vmx_read(s, VMCS_INTERRUPTED_ERROR);
	e->insn_len = (unsigned)vmx_read(s, VMCS_EXIT_INSN_LEN); /* of an `int n`: it must be said again */
	// STARTER 3.14: say which event was on its way into the guest. Hint: VMCS_INTERRUPTED_EVENT, if VMX_EVENT_VALID is set in it.
	//	if (vmx_read(s, VMCS_INTERRUPTED_EVENT) & VMX_EVENT_VALID)
	//		lab_todo(s->h->vm, "3.14",
	//			 "decode_interrupted() in vmx.c: the exit came while an event was being delivered");
	//	(void)e;
	// END
}

static void decode_violation(struct vmx *s, struct hvm_exit *x)
{
	// SOLUTION 3.8
	x->kind = HVM_VIOLATION;
	x->len = 0; /* the CPU does not say here */
	x->violation.gpa = vmx_read(s, VMCS_EXIT_GPA);
	/* The CPU's own accesses to the guest's tables read and write at once: they have A and D to set. */
	unsigned access = QUAL_EPT_ACCESS(x->info);
	x->violation.access = access & NESTED_W ? NESTED_W : access & NESTED_X ? NESTED_X : NESTED_R;
	x->violation.allowed = QUAL_EPT_ALLOWED(x->info);
	x->violation.in_walk = (x->info & QUAL_EPT_GVA) && !(x->info & QUAL_EPT_FINAL);
	// STARTER 3.8: where, what was tried, what the tables allow. Hint: the qualification is in x->info; it does not have the address.
	//	(void)x;
	//	lab_todo(s->h->vm, "3.8", "decode_violation() in vmx.c: the qualification of an EPT violation");
	// END
}

/* An exception, or the NMI by which hv wanted the CPU back. */
static void decode_exception(struct vmx *s, struct hvm_exit *x)
{
	// SOLUTION 3.8
	uint64_t info = vmx_read(s, VMCS_EXIT_EVENT);

	if ((info >> 8 & 7) == HVM_NMI) {
		x->kind = HVM_KICK;
		return;
	}
	x->kind = HVM_EXCEPTION;
	if ((info >> 8 & 7) != HVM_SOFT_EXCEPTION)
		x->len = 0; /* a fault: nothing is to be stepped over */
	x->exception.vector = (uint8_t)info;
	x->exception.error = info & VMX_EVENT_ERROR ? (uint32_t)vmx_read(s, VMCS_EXIT_ERROR) : 0;
	x->exception.address = x->info;
	// STARTER 3.8: which exception, or was it the machine's NMI? Hint: type and vector are in VMCS_EXIT_EVENT.
	//	(void)x;
	//	lab_todo(s->h->vm, "3.8", "decode_exception() in vmx.c: tell hv's NMI from an exception of the guest's");
	// END
}

static void decode_io(struct hvm_exit *x)
{
	// SOLUTION 3.8
	x->kind = HVM_IO;
	x->io.port = QUAL_IO_PORT(x->info);
	x->io.size = QUAL_IO_SIZE(x->info);
	x->io.in = x->info & QUAL_IO_IN;
	x->io.string = x->info & QUAL_IO_STRING;
	x->io.rep = x->info & QUAL_IO_REP;
	// STARTER 3.8: port, size and direction. Hint: all of it is in the qualification, x->info.
	//	x->kind = HVM_UNKNOWN;
	// END
}

void vmx_decode_exit(struct vmx *s, struct hvm_exit *x)
{
	decode_interrupted(s, &x->interrupted);
	// SOLUTION 3.8
	unsigned reason = x->raw & 0xffff;

	x->len = (unsigned)vmx_read(s, VMCS_EXIT_INSN_LEN);
	switch (reason) {
	case REASON_EXCEPTION: decode_exception(s, x); break;
	case REASON_INTERRUPT: x->kind = HVM_KICK; break;
	case REASON_TRIPLE_FAULT: x->kind = HVM_SHUTDOWN; break;
	case REASON_IRQ_WINDOW: x->kind = HVM_IRQ_WINDOW; break;
	case REASON_NMI_WINDOW: x->kind = HVM_NMI_WINDOW; break;
	case REASON_TASK: x->kind = HVM_TASK; break;
	case REASON_CPUID: x->kind = HVM_CPUID; break;
	case REASON_HLT: x->kind = HVM_HLT; break;
	case REASON_INVD: case REASON_WBINVD: x->kind = HVM_CACHE; break;
	case REASON_INVLPG: x->kind = HVM_INVLPG; break;
	case REASON_VMCALL: x->kind = HVM_HYPERCALL; break;
	case REASON_CR:
		x->kind = HVM_CR;
		x->cr.number = QUAL_CR_TYPE(x->info) < 2 ? QUAL_CR_NUMBER(x->info) : 0; /* clts and lmsw: CR0 */
		x->cr.read = QUAL_CR_TYPE(x->info) == 1;
		break;
	case REASON_DR:
		x->kind = HVM_DR;
		x->cr.number = QUAL_DR_NUMBER(x->info);
		x->cr.read = x->info & QUAL_DR_READ;
		break;
	case REASON_IO: decode_io(x); break;
	case REASON_RDMSR: x->kind = HVM_RDMSR; break;
	case REASON_WRMSR: x->kind = HVM_WRMSR; break;
	case REASON_PAUSE: x->kind = HVM_PAUSE; break;
	case REASON_EPT_VIOLATION: decode_violation(s, x); break;
	case REASON_EPT_MISCONFIG:
		x->kind = HVM_MISCONFIG;
		x->len = 0;
		x->violation.gpa = vmx_read(s, VMCS_EXIT_GPA);
		break;
	case REASON_XSETBV: x->kind = HVM_XSETBV; break;
	case REASON_RDPMC: case REASON_MWAIT: case REASON_MONITOR: /* the guest's CPU has none of these */
	case REASON_INVEPT: case REASON_INVVPID: case REASON_VMFUNC: x->kind = HVM_VIRT; break;
	default: x->kind = reason >= REASON_VMCLEAR && reason <= REASON_VMXON ? HVM_VIRT : HVM_UNKNOWN; break;
	}
	// STARTER 3.8: translate the exit reason, x->raw, into x->kind, and say what belongs to it. Hint: appendix C of the manual;
	// the functions above do the long ones. x->len is VMCS_EXIT_INSN_LEN, and 0 for faults and violations.
	//	(void)decode_violation, (void)decode_exception, (void)decode_io;
	//	lab_todo(s->h->vm, "3.8", "vmx_decode_exit() in vmx.c: say why the guest was left");
	// END
}

void vmx_inject(struct vmx *s, const struct hvm_event *e)
{
	// SOLUTION 3.13
	uint64_t info = 0;

	if (e->valid) {
		info = VMX_EVENT_VALID | (uint64_t)e->type << 8 | e->vector;
		/* In real mode no exception pushes an error code, and the entry fails when one is asked for (SDM vol. 3, 26.2.1.3). */
		if (e->has_error && (vmx_read(s, VMCS_CR0) & CR0_PE)) {
			info |= VMX_EVENT_ERROR;
			vmx_write(s, VMCS_ENTRY_ERROR, e->error);
		}
		if (e->type > HVM_EXCEPTION_HW) /* so that the handler returns behind the instruction */
			vmx_write(s, VMCS_ENTRY_INSN_LEN, e->insn_len);
	}
	vmx_write(s, VMCS_ENTRY_EVENT, info);
	// STARTER 3.13: have the CPU deliver this event to the guest when it is entered. Hint: VMCS_ENTRY_EVENT and what
	// belongs to it; in real mode there are no error codes.
	//	if (e->valid)
	//		lab_todo(s->h->vm, "3.13", "vmx_inject() in vmx.c: an event for the next entry");
	//	vmx_write(s, VMCS_ENTRY_EVENT, 0);
	// END
	// SOLUTION 3.15
	/* An NMI whose delivery was interrupted has begun to block NMIs already; with that the entry fails (SDM vol. 3, 26.3.1.5). */
	if (e->valid && e->type == HVM_NMI)
		vmx_write(s, VMCS_INTERRUPTIBILITY, vmx_read(s, VMCS_INTERRUPTIBILITY) & ~(uint64_t)BLOCKING_NMI);
	// STARTER 3.15: NMIs may not be blocked when one is injected. Hint: VMCS_INTERRUPTIBILITY.
	//	if (e->valid && e->type == HVM_NMI)
	//		lab_todo(s->h->vm, "3.15", "vmx_inject() in vmx.c: an NMI ends the blocking of NMIs first");
	// END
}

void vmx_windows(struct vmx *s, bool irq, bool nmi)
{
	uint64_t controls = vmx_read(s, VMCS_PROC_CONTROLS) & ~(uint64_t)(PROC_IRQ_WINDOW | PROC_NMI_WINDOW);

	// SOLUTION 3.13
	if (irq)
		controls |= PROC_IRQ_WINDOW;
	// STARTER 3.13: be told when the guest takes interrupts. Hint: one bit of the primary processor-based controls.
	//	if (irq)
	//		lab_todo(s->h->vm, "3.13", "vmx_windows() in vmx.c: interrupt-window exiting");
	// END
	// SOLUTION 3.15
	if (nmi)
		controls |= PROC_NMI_WINDOW;
	// STARTER 3.15: be told when the guest takes NMIs.
	//	if (nmi)
	//		lab_todo(s->h->vm, "3.15", "vmx_windows() in vmx.c: NMI-window exiting");
	// END
	vmx_write(s, VMCS_PROC_CONTROLS, controls);
}
