/*
 * One instruction under observation that the CPU refuses: which exception came, with which error code, from which address and
 * with which stack pointer. Uses exception delivery and IRETQ, and nothing else of later steps.
 */
#ifndef GUEST_FAULT_H
#define GUEST_FAULT_H

#include "desc.h"
#include "probe.h"

/* Of the last fault. vector is NO_FAULT when none came. */
struct fault {
	uint64_t vector, error, rip, rsp;
};
#define NO_FAULT 0xffff
extern struct fault fault;
extern uint64_t fault_sp, fault_next; /* RSP in front of the instruction, and where to go on behind it */

/*
 * Like PROBE, with instructions in front of the one that faults (at the label name_at) and behind it. What is in front must leave
 * RSP where the instructions behind expect it, because after a fault RSP is what it was at name_at.
 */
#define FAULT_PROBE_AROUND(name, front, insn, behind)                                          \
	extern const uint8_t name##_at[];                                                      \
	PROBE(name, front "\nmov %rsp, fault_sp(%rip); movq $" #name "_next, fault_next(%rip)\n" \
	      #name "_at: " insn "\n" #name "_next:\n" behind)
#define FAULT_PROBE(name, insn) FAULT_PROBE_AROUND(name, "", insn, "")

static inline void catch_fault(struct trap_frame *f)
{
	fault = (struct fault){ f->vector, f->error, f->rip, f->rsp };
	f->rip = fault_next;
}

/* The IDT, with a handler for the exceptions that are expected here. */
static inline void fault_init(void)
{
	static const uint8_t vectors[] = { 1, 6, 7, 11, 12, 13, 14 };

	idt_init();
	for (unsigned i = 0; i < sizeof(vectors); i++)
		trap_handlers[vectors[i]] = catch_fault;
}

/* Runs a probe and reports what the fault looked like and, when anything changed, the registers behind it. */
static inline void fault_run(const char *name, void (*run)(const struct regs *, struct regs *), const uint8_t *at, const struct regs *in)
{
	struct regs out;

	fault.vector = NO_FAULT;
	run(in, &out);
	dputs(name);
	report(".vector", fault.vector);
	if (fault.vector != NO_FAULT) {
		dputs(name);
		report(".error", fault.error);
		dputs(name);
		report(".rip", fault.rip - (uint64_t)at);
		dputs(name);
		report(".rsp", fault.rsp - fault_sp);
	}
	report_regs(name, in, &out);
}
/* PROBE and FAULT_PROBE by their name. */
#define FAULT_RUN(name, probe, in) fault_run(name, probe, probe##_at, in)

/* Exactly one file of a guest has these. */
#define FAULT_STATE               \
	struct fault fault;       \
	uint64_t fault_sp, fault_next

#endif
