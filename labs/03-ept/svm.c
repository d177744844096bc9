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
	// TODO 3.7: what the guest is left for, and where its memory is. Hint: HLT, CPUID, INVD, ports, MSRs, shutdown,
	// NMI (hv's own kick), and every instruction of SVM; VMRUN must be intercepted or the CPU refuses (APM vol. 2,
	// 15.5.1). Then the bitmaps, svm_msr_pass() for what the guest has for itself, an ASID that is not 0,
	// V_INTR_MASKING, nested paging and its nCR3.
	lab_todo(s->h->vm, "3.7", "svm_controls() in svm.c: intercepts, bitmaps, ASID and nested paging in the VMCB");
}

void svm_decode_exit(const struct svm *s, struct hvm_exit *x)
{
	const struct vmcb *b = s->vmcb;

	x->info = b->exitinfo1;
	// TODO 3.14: EXITINTINFO tells of an event whose delivery this exit interrupted. Hint: same layout as EVENTINJ;
	// it is good for x->interrupted. Of INT3 and INTO it says that they are exceptions like others, and h->again
	// must not have them.
	if ((b->exitintinfo & SVM_EVENT_VALID) && b->exitcode != SVM_EXIT_SHUTDOWN)
		lab_todo(s->h->vm, "3.14", "svm_decode_exit() in svm.c: the exit came while an event was being delivered");
	// TODO 3.7: what the exit code means. Hint: x->raw has it; each kind of exit has its part of struct hvm_exit,
	// filled from EXITINFO1 and EXITINFO2. This CPU says no lengths (but for ports: EXITINFO2 is the next rip);
	// with x->len = 0 hvm_skip() decodes. The machine's NMI is HVM_KICK.
	lab_todo(s->h->vm, "3.7", "svm_decode_exit() in svm.c: from the VMCB's exit code to struct hvm_exit");
}

void svm_inject(struct svm *s, const struct hvm_event *e)
{
	s->vmcb->eventinj = 0;
	if (!e->valid)
		return;
	// TODO 3.13: an event for the CPU to deliver at the next VMRUN. Hint: vmcb->eventinj (APM vol. 2, 15.20).
	lab_todo(s->h->vm, "3.13", "svm_inject() in svm.c: EVENTINJ");
}

void svm_windows(struct svm *s, bool irq, bool nmi)
{
	struct vmcb *b = s->vmcb;

	// TODO 3.13: leave the guest as soon as it takes interrupts. Hint: V_IRQ with V_IGN_TPR, and the intercept of
	// virtual interrupts (APM vol. 2, 15.21.4).
	if (irq)
		lab_todo(s->h->vm, "3.13", "svm_windows() in svm.c: the interrupt window");
	// TODO 3.15: leave the guest when its NMI handler ends. Hint: with IRET (APM vol. 2, 15.9); as long as
	// s->h->nmi_blocked, whether another NMI waits or not.
	(void)b;
	if (nmi)
		lab_todo(s->h->vm, "3.15", "svm_windows() in svm.c: the NMI window");
}
