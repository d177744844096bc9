/*
 * Lab 3, checkpoints 3.7 and 3.13 to 3.15 on AMD's side: the virtual machine control block.
 *
 * The VMCB says what the guest is left for, and afterwards why it was left. Whatever is not asked for happens without hv: that is the
 * difference to trap and emulate, where everything privileged traps.
 *
 * Reading: AMD APM vol. 2, 15.5 to 15.13, 15.20, 15.21, 15.25, appendices B and C.
 */
#include "lab3.h"
#include "svm.h"

void svm_controls(struct svm *s)
{
	// SOLUTION 3.7
	struct vmcb *b = s->vmcb;
	static const uint32_t own[] = { MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK,
					MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP };

	b->intercept1 = SVM_I1_NMI | SVM_I1_RDPMC | SVM_I1_CPUID | SVM_I1_INVD | SVM_I1_PAUSE | SVM_I1_HLT | SVM_I1_INVLPGA |
			SVM_I1_IOIO | SVM_I1_MSR | SVM_I1_TASK | SVM_I1_SHUTDOWN;
	b->intercept2 = SVM_I2_VMRUN | SVM_I2_VMMCALL | SVM_I2_VMLOAD | SVM_I2_VMSAVE | SVM_I2_STGI | SVM_I2_CLGI | SVM_I2_SKINIT |
			SVM_I2_WBINVD | SVM_I2_MONITOR | SVM_I2_MWAIT | SVM_I2_XSETBV;
	b->pause_threshold = b->pause_count = 3000; /* a spinning guest, not one that waits for a moment */
	b->cr_reads = 1u << 8; /* TPR, of hv's local APIC */
	b->cr_writes = 1u << 4 | 1u << 8;
	b->iopm = s->iopm_ma;
	b->msrpm = s->msrpm_ma;
	for (unsigned i = 0; i < sizeof own / sizeof *own; i++)
		svm_msr_pass(s, own[i]);
	b->asid = 1; /* 0 is the machine's own */
	b->vintr = SVM_V_MASKING;
	if (s->h->shadow) {
		/* The guest's tables are not walked: everything that would change what hv made of them comes to hv. */
		b->cr_reads |= 1u << 0 | 1u << 3;
		b->cr_writes |= 1u << 0 | 1u << 3;
		b->exceptions |= 1u << VEC_PF;
		b->intercept1 |= SVM_I1_INVLPG;
		return;
	}
	b->nested = 1;
	b->ncr3 = s->h->nested.format->root(&s->h->nested);
	// STARTER 3.7: what the guest is left for, and where its memory is. Hint: HLT, CPUID, INVD, ports, MSRs, shutdown, NMI
	// (hv's own kick), and every instruction of SVM; VMRUN must be intercepted or the CPU refuses (APM vol. 2, 15.5.1). Then
	// the bitmaps, svm_msr_pass() for what the guest has for itself, an ASID that is not 0, V_INTR_MASKING, nested paging and
	// its nCR3.
	//	lab_todo(s->h->vm, "3.7", "svm_controls() in svm.c: intercepts, bitmaps, ASID and nested paging in the VMCB");
	// END
}

// SOLUTION 3.7
static void decode_npf(const struct vmcb *b, struct hvm_exit *x)
{
	x->kind = b->exitinfo1 & PF_RSVD ? HVM_MISCONFIG : HVM_VIOLATION;
	x->violation.gpa = b->exitinfo2;
	x->violation.access = b->exitinfo1 & PF_W ? NESTED_W : b->exitinfo1 & PF_I ? NESTED_X : NESTED_R;
	x->violation.in_walk = b->exitinfo1 & SVM_NPF_WALK;
}

static void decode_io(const struct vmcb *b, struct hvm_exit *x)
{
	x->kind = HVM_IO;
	x->io.port = SVM_IO_PORT(b->exitinfo1);
	x->io.size = SVM_IO_SIZE(b->exitinfo1);
	x->io.in = b->exitinfo1 & SVM_IO_IN;
	x->io.string = b->exitinfo1 & SVM_IO_STRING;
	x->io.rep = b->exitinfo1 & SVM_IO_REP;
	x->len = (unsigned)(b->exitinfo2 - b->rip);
}
// END

void svm_decode_exit(const struct svm *s, struct hvm_exit *x)
{
	const struct vmcb *b = s->vmcb;

	x->info = b->exitinfo1;
	// SOLUTION 3.14
	if (b->exitintinfo & SVM_EVENT_VALID)
		x->interrupted = (struct hvm_event){
			.valid = true, .vector = (uint8_t)b->exitintinfo, .type = b->exitintinfo >> 8 & 7,
			.has_error = b->exitintinfo & SVM_EVENT_ERROR, .error = (uint32_t)(b->exitintinfo >> 32)
		};
	/* AMD calls the exceptions of INT3 and INTO what it calls all others. */
	if (x->interrupted.type == HVM_EXCEPTION_HW && (x->interrupted.vector == VEC_BP || x->interrupted.vector == VEC_OF))
		x->interrupted.type = HVM_SOFT_EXCEPTION;
	// STARTER 3.14: EXITINTINFO tells of an event whose delivery this exit interrupted. Hint: same layout as EVENTINJ; it is good for
	// x->interrupted. Of INT3 and INTO it says that they are exceptions like others, and h->again must not have them.
	//	if ((b->exitintinfo & SVM_EVENT_VALID) && b->exitcode != SVM_EXIT_SHUTDOWN)
	//		lab_todo(s->h->vm, "3.14", "svm_decode_exit() in svm.c: the exit came while an event was being delivered");
	// END
	// SOLUTION 3.7
	switch ((uint32_t)b->exitcode) {
	case SVM_EXIT_READ_CR0 ... SVM_EXIT_READ_CR0 + 15:
		x->kind = HVM_CR;
		x->cr.number = (unsigned)(b->exitcode - SVM_EXIT_READ_CR0);
		x->cr.read = true;
		break;
	case SVM_EXIT_WRITE_CR0 ... SVM_EXIT_WRITE_CR0 + 15:
		x->kind = HVM_CR;
		x->cr.number = (unsigned)(b->exitcode - SVM_EXIT_WRITE_CR0);
		break;
	case SVM_EXIT_EXCEPTION ... SVM_EXIT_EXCEPTION + 31:
		x->kind = HVM_EXCEPTION;
		x->exception.vector = (uint8_t)(b->exitcode - SVM_EXIT_EXCEPTION);
		x->exception.error = (uint32_t)b->exitinfo1;
		x->exception.address = b->exitinfo2;
		break;
	case SVM_EXIT_NMI: x->kind = HVM_KICK; break;
	case SVM_EXIT_VINTR: x->kind = HVM_IRQ_WINDOW; break;
	case SVM_EXIT_IRET: x->kind = HVM_NMI_WINDOW; break;
	case SVM_EXIT_CPUID: x->kind = HVM_CPUID; x->len = 2; break;
	case SVM_EXIT_PAUSE: x->kind = HVM_PAUSE; x->len = 2; break;
	case SVM_EXIT_HLT: x->kind = HVM_HLT; x->len = 1; break;
	case SVM_EXIT_INVLPG: x->kind = HVM_INVLPG; break;
	case SVM_EXIT_IOIO: decode_io(b, x); break;
	case SVM_EXIT_MSR: x->kind = b->exitinfo1 ? HVM_WRMSR : HVM_RDMSR; x->len = 2; break;
	case SVM_EXIT_TASK: x->kind = HVM_TASK; break;
	case SVM_EXIT_SHUTDOWN: x->kind = HVM_SHUTDOWN; break;
	case SVM_EXIT_VMMCALL: x->kind = HVM_HYPERCALL; x->len = 3; break;
	case SVM_EXIT_RDPMC: case SVM_EXIT_MONITOR: case SVM_EXIT_MWAIT: case SVM_EXIT_INVLPGA: case SVM_EXIT_VMRUN:
	case SVM_EXIT_VMLOAD ... SVM_EXIT_SKINIT: x->kind = HVM_VIRT; break;
	case SVM_EXIT_INVD: case SVM_EXIT_WBINVD: x->kind = HVM_CACHE; x->len = 2; break;
	case SVM_EXIT_XSETBV: x->kind = HVM_XSETBV; x->len = 3; break;
	case SVM_EXIT_NPF: decode_npf(b, x); break;
	case SVM_EXIT_INVALID: x->kind = HVM_REFUSED; break;
	default: x->kind = HVM_UNKNOWN; break;
	}
	// STARTER 3.7: what the exit code means. Hint: x->raw has it; each kind of exit has its part of struct hvm_exit, filled from
	// EXITINFO1 and EXITINFO2. This CPU says no lengths (but for ports: EXITINFO2 is the next rip); with x->len = 0 hvm_skip() decodes.
	// The machine's NMI is HVM_KICK.
	//	lab_todo(s->h->vm, "3.7", "svm_decode_exit() in svm.c: from the VMCB's exit code to struct hvm_exit");
	// END
}

void svm_inject(struct svm *s, const struct hvm_event *e)
{
	s->vmcb->eventinj = 0;
	if (!e->valid)
		return;
	// SOLUTION 3.13
	s->vmcb->eventinj = e->vector | (uint64_t)e->type << 8 | SVM_EVENT_VALID;
	if (e->has_error)
		s->vmcb->eventinj |= SVM_EVENT_ERROR | (uint64_t)e->error << 32;
	// STARTER 3.13: an event for the CPU to deliver at the next VMRUN. Hint: vmcb->eventinj (APM vol. 2, 15.20).
	//	lab_todo(s->h->vm, "3.13", "svm_inject() in svm.c: EVENTINJ");
	// END
}

void svm_windows(struct svm *s, bool irq, bool nmi)
{
	struct vmcb *b = s->vmcb;

	// SOLUTION 3.13
	/* A virtual interrupt that is never taken: the CPU leaves the guest at the moment at which it would be. */
	b->vintr = SVM_V_MASKING | (irq ? SVM_V_IRQ | SVM_V_IGN_TPR : 0);
	b->intercept1 = (b->intercept1 & ~SVM_I1_VINTR) | (irq ? SVM_I1_VINTR : 0);
	// STARTER 3.13: leave the guest as soon as it takes interrupts. Hint: V_IRQ with V_IGN_TPR, and the intercept of virtual
	// interrupts (APM vol. 2, 15.21.4).
	//	if (irq)
	//		lab_todo(s->h->vm, "3.13", "svm_windows() in svm.c: the interrupt window");
	// END
	// SOLUTION 3.15
	/* An NMI handler ends with IRET, and nobody but hv remembers that the guest is in one. */
	b->intercept1 = (b->intercept1 & ~SVM_I1_IRET) | (nmi || s->h->nmi_blocked ? SVM_I1_IRET : 0);
	// STARTER 3.15: leave the guest when its NMI handler ends. Hint: with IRET (APM vol. 2, 15.9); as long as s->h->nmi_blocked,
	// whether another NMI waits or not.
	//	(void)b;
	//	if (nmi)
	//		lab_todo(s->h->vm, "3.15", "svm_windows() in svm.c: the NMI window");
	// END
}
