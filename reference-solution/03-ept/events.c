/*
 * Lab 3, checkpoints 3.13 to 3.15: what is injected, and when.
 *
 * The CPU delivers events into the guest by itself: it walks the guest's IDT, switches stacks, pushes the frame. hv only says which
 * event, at the moment of the entry. One event fits into one entry, and an external interrupt may only go in when the guest takes it.
 *
 * Reading: APM vol. 2, 15.20, 15.21; SDM vol. 3, 26.6, 27.2.4.
 */
#include "lab3.h"

void events_interrupted(struct vcpu *v, const struct hvm_exit *x)
{
	struct hvm *h = hvm_of(v);

	// SOLUTION 3.14
	/* rip is still at an INT n, INT3 or INTO: the guest executes it again by itself. */
	if (x->interrupted.valid && x->interrupted.type != HVM_SOFT_INTR && x->interrupted.type != HVM_SOFT_EXCEPTION)
		h->again = x->interrupted;
	// STARTER 3.14: the exit came while an event was being delivered, and the guest has not got it. Hint: keep it in h->again; not
	// what an instruction raised at which rip still stands.
	//	(void)h;
	//	if (x->interrupted.valid)
	//		lab_todo(v->vm, "3.14", "events_interrupted() in events.c: an event whose delivery was interrupted");
	// END
}

/* The next event in the order of urgency; false when none can go in now. */
static bool take_event(struct vcpu *v, struct hvm *h, struct hvm_event *e)
{
	// SOLUTION 3.14
	if (h->again.valid && !v->event.pending && (h->again.type != HVM_EXT_INTR || (v->rflags & FLAG_IF))) {
		*e = h->again;
		h->again.valid = false;
		return true;
	}
	// STARTER 3.14: what was interrupted comes first. Hint: h->again.
	// END
	// SOLUTION 3.13
	if (v->event.pending) {
		*e = (struct hvm_event){ .valid = true, .type = HVM_EXCEPTION_HW, .vector = v->event.vector,
					 .has_error = v->event.has_error, .error = v->event.error };
		v->event.pending = false;
		return true;
	}
	// STARTER 3.13: an exception that hv raised (v->event). Hint: struct hvm_event is the same thing for the CPU.
	//	if (v->event.pending || irqchip_pending(v->vm)) {
	//		lab_todo(v->vm, "3.13", "events.c: choose what to inject: an exception, an interrupt");
	//		return false;
	//	}
	// END
	// SOLUTION 3.15
	if (h->nmi_pending && !h->nmi_blocked && !v->shadow) {
		*e = (struct hvm_event){ .valid = true, .type = HVM_NMI, .vector = VEC_NMI };
		h->nmi_pending = false;
		h->nmi_blocked = true;
		return true;
	}
	// STARTER 3.15: an NMI, unless the guest is in its handler. Hint: h->nmi_pending, h->nmi_blocked; MOV SS and STI hold NMIs off too.
	//	if (h->nmi_pending)
	//		lab_todo(v->vm, "3.15", "events_next() in events.c: an NMI");
	// END
	// SOLUTION 3.13
	if (!irqchip_pending(v->vm) || !(v->rflags & FLAG_IF) || v->shadow)
		return false;
	*e = (struct hvm_event){ .valid = true, .type = HVM_EXT_INTR, .vector = irqchip_acknowledge(v->vm) };
	return true;
	// STARTER 3.13: then an interrupt that waits at the interrupt controllers, if the guest takes it now. Hint: irqchip_pending(),
	// irqchip_acknowledge(); RFLAGS.IF and v->shadow decide.
	//	(void)h, (void)e;
	//	return false;
	// END
}

void events_next(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);

	h->inject.valid = false;
	take_event(v, h, &h->inject);
	// SOLUTION 3.13
	h->irq_window = irqchip_pending(v->vm) || h->again.valid;
	// STARTER 3.13: what could not go in now needs the interrupt window. Hint: h->irq_window.
	// END
	// SOLUTION 3.15
	h->nmi_window = h->nmi_pending;
	// STARTER 3.15: an NMI that cannot go in now needs a window of its own. Hint: h->nmi_window.
	// END
}
