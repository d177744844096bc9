/*
 * Lab 1, checkpoints 1.11 to 1.16 and 1.18: exceptions and interrupts, through the guest's own tables.
 *
 * The machine's IDT belongs to the monitor; the guest's exists only in its memory. So what the CPU does when an event arrives
 * (find the gate, check it, switch stacks, push a frame, jump) is done here, step by step, and so is iretq, its reverse.
 *
 * Reading: Intel SDM vol. 3, chapter 6, above all 6.12 to 6.15; vol. 2, INT n and IRET.
 */
#include "lab1.h"

/* A gate of the IDT in 64-bit mode (SDM vol. 3, figure 6-8). */
struct gate {
	uint64_t lo, hi;
};
static unsigned gate_type(const struct gate *g) { return g->lo >> 40 & 0x1f; } /* S bit included */
static unsigned gate_dpl(const struct gate *g) { return g->lo >> 45 & 3; }
static bool gate_present(const struct gate *g) { return g->lo >> 47 & 1; }
static unsigned gate_ist(const struct gate *g) { return g->lo >> 32 & 7; }
static uint16_t gate_selector(const struct gate *g) { return (uint16_t)(g->lo >> 16); }
static uint64_t gate_target(const struct gate *g)
{
	return (g->lo & 0xffff) | (g->lo >> 32 & 0xffff0000) | g->hi << 32;
}
#define GATE_INTERRUPT 0xe
#define GATE_TRAP 0xf

/* The EXT bit of an error code: the fault came up while something from outside the program was delivered. (SDM vol. 3, 6.13) */
static uint32_t ext_bit(const struct event *e) { return e->kind == EVENT_SOFTWARE ? 0 : 1; }
#define ERROR_IDT 2

/* A fault leaves RF set in the saved flags, so that an instruction breakpoint does not strike again (SDM vol. 3, 17.3.1.1). */
static bool is_fault(const struct event *e)
{
	return e->kind == EVENT_EXCEPTION && e->vector != VEC_DB && e->vector != VEC_BP && e->vector != VEC_OF &&
	       e->vector != VEC_NMI && e->vector != VEC_DF;
}
/*
 * Delivery in five steps. Each returns false when it raised an exception itself (it is then queued in v->event) or stopped the VM;
 * nothing of the guest's registers has changed then.
 */

/* Step 1: the gate. (SDM vol. 3, 6.10, 6.14.1) */
static bool find_gate(struct vcpu *v, const struct event *e, struct gate *g)
{
	// SOLUTION 1.11
	unsigned error = e->vector * 8 + ERROR_IDT + ext_bit(e);

	if (e->vector * 16 + 15u > v->idtr.limit)
		return raise_error(v, VEC_GP, error);
	if (!gva_read_system(v, v->idtr.base + e->vector * 16, g, 16))
		return false;
	if (gate_type(g) != GATE_INTERRUPT && gate_type(g) != GATE_TRAP)
		return raise_error(v, VEC_GP, error);
	// STARTER 1.11: read the event's gate from the guest's IDT (v->idtr) and check its type. Hint: 16 bytes each in
	// 64-bit mode.
	//	(void)e, (void)g, (void)gate_type;
	//	return lab_todo(v->vm, "1.11",
	//			"find_gate() in deliver.c: read the event's gate from the guest's IDT"), false;
	// END
	// SOLUTION 1.13
	if (e->kind == EVENT_SOFTWARE && gate_dpl(g) < v->cpl) /* or a program could raise any exception by hand */
		return raise_error(v, VEC_GP, e->vector * 8 + ERROR_IDT);
	// STARTER 1.13: may the program use this gate with `int n`? Hint: compare the gate's DPL with the CPL, for
	// software events only.
	//	if (e->kind == EVENT_SOFTWARE && gate_dpl(g) < v->cpl)
	//		return lab_todo(v->vm, "1.13",
	//				"find_gate() in deliver.c: a software interrupt needs a gate with DPL >= CPL"), false;
	// END
	if (!gate_present(g))
		return raise_error(v, VEC_NP, e->vector * 8 + ERROR_IDT + ext_bit(e));
	return true;
}

/* Step 2: the code segment that the gate names, and the level that the handler runs at. (SDM vol. 3, 6.12.1) */
static bool handler_segment(struct vcpu *v, const struct event *e, const struct gate *g, struct descriptor *d, unsigned *new_cpl)
{
	// SOLUTION 1.11
	uint16_t selector = gate_selector(g) & 0xfffc;

	if (!selector)
		return raise_error(v, VEC_GP, ext_bit(e));
	if (!descriptor_read(v, selector, false, VEC_GP, d)) {
		v->event.error |= v->event.vector == VEC_GP ? ext_bit(e) : 0;
		return false;
	}
	unsigned attr = descriptor_attr(d), dpl = (attr & SEG_DPL) >> 5;
	if (!(attr & SEG_S) || !(attr & 8) || dpl > v->cpl || !(attr & SEG_L) || (attr & SEG_DB))
		return raise_error(v, VEC_GP, selector | ext_bit(e));
	if (!(attr & SEG_P))
		return raise_error(v, VEC_NP, selector | ext_bit(e));
	*new_cpl = (attr & 4) ? v->cpl : dpl; /* a conforming segment keeps the level */
	return true;
	// STARTER 1.11: find the gate's code segment in the guest's GDT with descriptor_read(). Hint: its DPL is the
	// handler's level; descriptor_read() raises its exception without the EXT bit (1.12).
	//	(void)e, (void)g, (void)d, (void)new_cpl, (void)gate_selector;
	//	return lab_todo(v->vm, "1.11",
	//			"handler_segment() in deliver.c: the code segment that the gate names"), false;
	// END
}

/* Step 3: the stack that the handler runs on, before anything is pushed. (SDM vol. 3, 6.14.2, 6.14.5, figure 7-11) */
static bool handler_stack(struct vcpu *v, const struct event *e, const struct gate *g, unsigned new_cpl, uint64_t *rsp)
{
	unsigned offset = 0; /* of the stack pointer in the TSS; 0 stands for the present stack */

	*rsp = v->gpr[RSP];
	// SOLUTION 1.14
	if (new_cpl < v->cpl)
		offset = 4 + 8 * new_cpl;
	// STARTER 1.14: a handler at a more privileged level runs on that level's stack from the TSS. Hint: RSP0 lies at
	// offset 4.
	//	if (new_cpl < v->cpl)
	//		return lab_todo(v->vm, "1.14",
	//				"handler_stack() in deliver.c: an event at CPL 3 switches to RSP0 of the TSS"), false;
	// END
	// SOLUTION 1.15
	if (gate_ist(g))
		offset = 0x24 + 8 * (gate_ist(g) - 1);
	// STARTER 1.15: a gate can ask for a stack of the TSS's interrupt stack table. Hint: number 1 lies at offset
	// 0x24, and it always wins.
	//	if (gate_ist(g))
	//		return lab_todo(v->vm, "1.15",
	//				"handler_stack() in deliver.c: a gate with an IST number switches to that stack"), false;
	// END
	if (offset) {
		if (offset + 7 > v->tr.limit)
			return raise_error(v, VEC_TS, (v->tr.selector & 0xfffc) | ext_bit(e));
		if (!gva_read_system(v, v->tr.base + offset, rsp, 8))
			return false;
	}
	return canonical((*rsp & ~15ull) - 8) || raise_error(v, VEC_SS, ext_bit(e));
}

/* Step 4: the frame, from a stack aligned to 16 bytes: ss, rsp, rflags, cs, rip and perhaps an error code. (SDM vol. 3, 6.14.2) */
static bool push_frame(struct vcpu *v, const struct event *e, uint64_t *rsp)
{
	// SOLUTION 1.11
	uint64_t rflags = v->rflags | (is_fault(e) ? FLAG_RF : 0);
	uint64_t frame[6] = { 0, v->rip, v->seg[CS].selector, rflags, v->gpr[RSP], v->seg[SS].selector };
	unsigned first = 1; /* of the six, the first that is pushed: 0 with an error code */
	// STARTER 1.11: write ss, rsp, rflags, cs and rip below *rsp. Hint: the CPU clears the low four bits of RSP
	// before it pushes.
	//	(void)rsp, (void)is_fault;
	//	return lab_todo(v->vm, "1.11",
	//			"push_frame() in deliver.c: write the five words of the frame below *rsp"), false;
	// END
	// SOLUTION 1.12
	if (e->has_error) {
		frame[0] = e->error;
		first = 0;
	}
	// STARTER 1.12: some exceptions push an error code last. Hint: it takes 8 bytes like everything else on the stack.
	//	if (e->has_error)
	//		return lab_todo(v->vm, "1.12",
	//				"push_frame() in deliver.c: an exception with an error code pushes it below rip"), false;
	// END
	// SOLUTION 1.11
	*rsp = (*rsp & ~15ull) - (6 - first) * 8;
	for (unsigned i = 6; i-- > first;) /* SS comes first: that decides which address is said to have faulted */
		if (!gva_write_system(v, *rsp + (i - first) * 8, &frame[i], 8))
			return false;
	return true;
	// STARTER 1.11: put the frame into guest memory. Hint: gva_write_system() writes as the CPU itself does.
	//	return false;
	// END
}

/* Step 5: the jump. From here on nothing can fail. */
static void enter_handler(struct vcpu *v, const struct gate *g, const struct descriptor *d, unsigned new_cpl, uint64_t rsp)
{
	// SOLUTION 1.11
	if (new_cpl != v->cpl)
		v->seg[SS] = (struct segment){ .selector = (uint16_t)new_cpl }; /* a null selector with the new level (6.14.4) */
	segment_from_descriptor(&v->seg[CS], (gate_selector(g) & 0xfffc) | new_cpl, d);
	v->cpl = new_cpl;
	v->gpr[RSP] = rsp;
	v->rip = gate_target(g);
	v->rflags &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (gate_type(g) == GATE_INTERRUPT ? FLAG_IF : 0));
	v->shadow = false;
	// STARTER 1.11: the guest stands at the handler's first instruction: CS, CPL, SS, RSP, RIP, RFLAGS. Hint: which
	// gate clears IF?
	//	(void)g, (void)d, (void)new_cpl, (void)rsp, (void)gate_target;
	//	lab_todo(v->vm, "1.11", "enter_handler() in deliver.c: cs, rip, rsp, rflags of the handler");
	// END
}

static bool try_deliver(struct vcpu *v, const struct event *e)
{
	struct descriptor d;
	struct gate g;
	unsigned new_cpl = 0;
	uint64_t rsp = 0;

	if (!find_gate(v, e, &g) || !handler_segment(v, e, &g, &d, &new_cpl) || !handler_stack(v, e, &g, new_cpl, &rsp) ||
	    !push_frame(v, e, &rsp) || !mark_accessed(v, &d))
		return false;
	enter_handler(v, &g, &d, new_cpl, rsp);
	return true;
}

// SOLUTION 1.16
/* Exceptions that together make a double fault (SDM vol. 3, table 6-5). */
static bool contributory(uint8_t vector)
{
	return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

static bool makes_double_fault(const struct event *first, const struct event *second)
{
	if (first->kind != EVENT_EXCEPTION)
		return false;
	if (first->vector == VEC_PF)
		return second->vector == VEC_PF || contributory(second->vector);
	return contributory(first->vector) && contributory(second->vector);
}
// END

int deliver_event(struct vcpu *v)
{
	struct event e = v->event;

	for (unsigned faults = 1;; faults++) {
		v->event.pending = false;
		if (try_deliver(v, &e))
			return v->vm->stopping ? -ECANCELED : 0;
		if (v->vm->stopping)
			return -ECANCELED;
		/* Delivering e raised another exception, which is now in v->event. */
		// SOLUTION 1.16
		if (e.kind == EVENT_EXCEPTION && e.vector == VEC_DF)
			return vm_stop(v->vm, HV_STOPPED,
				       "triple fault at rip 0x%llx: delivering the double fault (#DF) raised %s (error 0x%x); "
				       "IDT base 0x%llx limit 0x%x, rsp 0x%llx",
				       (unsigned long long)v->rip, vector_name(v->event.vector), v->event.error,
				       (unsigned long long)v->idtr.base, v->idtr.limit, (unsigned long long)v->gpr[RSP]);
		if (makes_double_fault(&e, &v->event))
			raise_error(v, VEC_DF, 0);
		// STARTER 1.16: so far it is simply delivered in e's place. Which pairs make a double fault instead? Hint: SDM vol. 3,
		// table 6-5; and what follows when the double fault cannot be delivered either?
		//	if (faults == 2)
		//		return lab_todo(v->vm, "1.16",
		//				"deliver_event() in deliver.c: faults while an exception is delivered");
		// END
		e = v->event;
	}
}

bool interrupt_window_open(const struct vcpu *v)
{
	// SOLUTION 1.18
	return (v->rflags & FLAG_IF) && !v->shadow;
	// STARTER 1.18: would the guest take an interrupt now? Hint: two things can forbid it.
	//	lab_todo(v->vm, "1.18", "interrupt_window_open() in deliver.c: when does the guest take an interrupt?");
	//	return false;
	// END
}

enum emu emulate_int(struct vcpu *v, const struct insn *insn)
{
	// SOLUTION 1.13
	struct event e = { .pending = true, .kind = EVENT_SOFTWARE };

	switch (insn->op) {
	case INSN_INT3:
		e.vector = VEC_BP;
		break;
	case INSN_INT1: /* an exception that needs no privilege (SDM vol. 2, INT1) */
		e.vector = VEC_DB;
		e.kind = EVENT_EXCEPTION;
		break;
	default:
		e.vector = (uint8_t)insn->src.imm;
	}
	/* The frame holds the address behind the instruction, but if delivery faults the instruction has not happened: the
	 * fault's frame must point at it. */
	uint64_t here = v->rip;
	v->rip += insn->len;
	v->event = e;
	if (try_deliver(v, &e)) {
		v->event.pending = false;
		return EMU_JUMPED;
	}
	v->rip = here;
	return raised(v);
	// STARTER 1.13: int n, int3 and int1 go through the IDT like exceptions. Hint: what is in the frame, the
	// instruction's address or
	// the next one's? And which of the two when the gate refuses? try_deliver() delivers at once, so that you can step back.
	//	(void)insn;
	//	return lab_todo(v->vm, "1.13",
	//			"emulate_int() in deliver.c: int n and int3 are delivered with rip behind the instruction");
	// END
}

enum emu emulate_iret(struct vcpu *v, const struct insn *insn)
{
	uint64_t f[5], mask = FLAGS_DEFINED & ~(FLAG_VM | FLAG_VIF | FLAG_VIP); /* f: rip, cs, rflags, rsp, ss */

	// SOLUTION 1.11
	if (insn->opsize != 8)
		return vm_stop(v->vm, HV_STOPPED, "iret with a 16- or 32-bit frame at rip 0x%llx: the trap engine runs 64-bit code only",
			       (unsigned long long)v->rip);
	if (v->rflags & FLAG_NT) /* task returns do not exist in 64-bit mode */
		return raise_gp(v, 0);
	if (!stack_read(v, v->gpr[RSP], f, sizeof f))
		return EMU_RAISED;
	// STARTER 1.11: undo what delivery did, step one: read the five words at RSP. Hint: stack_read() raises what the stack raises.
	//	(void)insn, (void)f, (void)mask;
	//	return lab_todo(v->vm, "1.11", "emulate_iret() in deliver.c: pop rip, cs, rflags, rsp and ss");
	// END
	// SOLUTION 1.14
	/* What a program may not change with it: IOPL unless at CPL 0, IF unless CPL <= IOPL (SDM vol. 2, IRET). */
	if (v->cpl)
		mask &= ~FLAG_IOPL;
	if (v->cpl > (v->rflags & FLAG_IOPL) >> 12)
		mask &= ~FLAG_IF;
	// STARTER 1.14: iretq of a program changes fewer flags than iretq of the kernel. Hint: which ones the program may not touch depends
	// on the CPL and on IOPL, as they are before the return.
	//	if (v->cpl)
	//		return lab_todo(v->vm, "1.14", "emulate_iret() in deliver.c: which flags may iretq change at CPL 3?");
	// END
	// SOLUTION 1.11
	uint16_t ss = (uint16_t)f[4];
	if (!return_to(v, (uint16_t)f[1], f[0], &ss)) /* in 64-bit mode SS comes back also when the level stays */
		return raised(v);
	v->rflags = (v->rflags & ~mask) | (f[2] & mask) | FLAG_FIXED;
	v->gpr[RSP] = f[3];
	trap_note(v, "to 0x%llx at CPL %u", (unsigned long long)v->rip, v->cpl);
	return EMU_JUMPED;
	// STARTER 1.11: step two: return_to() checks and loads CS, rip and SS; then RFLAGS and RSP. Hint: when it refuses, nothing
	// of the guest may have changed.
	//	return lab_todo(v->vm, "1.11", "emulate_iret() in deliver.c: return_to(), then rflags and rsp");
	// END
}
