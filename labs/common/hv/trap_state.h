/*
 * The trap engine's own state: the machine's side of the world switch. Shared by the engine's files and nobody else.
 */
#ifndef HV_TRAP_STATE_H
#define HV_TRAP_STATE_H

#include "engine.h"
#include "lab1.h"
#include "lab2.h"

/* Where the guest's state is, seen from the machine: how it is put back depends on how it came. */
enum where {
	IN_FRAME,   /* a trap: the stub stands behind its `out`, the frame holds rip, rflags, rsp */
	IN_MONITOR, /* the syscall stub, or anywhere in the monitor: a frame must be made, and the machine put before MON_RESUME */
	IN_REGS     /* a kick found the machine in guest code, or it has not run yet: everything is in registers */
};

struct trap_engine {
	struct machine m;
	uint8_t *mon;           /* the monitor and the page-table pool: one block, machine addresses from 0 */
	enum where where;
	bool under_way;         /* a kick came between an exception and its stub's out: the trap is still to be reported */
	struct special {
		uint64_t cr0, cr4, efer, fs, gs;
	} special; /* what of the special registers follows the guest, as the machine has it */
	uint64_t gpr_in[16];    /* general registers as they came out, to see whether any must go back */
	unsigned cpl;           /* the guest's level when it ran last */
	bool hidden;            /* the last trap was none to the guest: it repeats the instruction */
	bool special_changed, debugregs_changed;
	bool step;              /* the machine's TF is set: for the interrupt shadow or for the debugger */
	uint64_t entry_rip;     /* where the guest was resumed */
	bool debug_step, debug_breakpoints; /* what the debugger asked for */

	/* Of the present trap, for the trace. */
	const char *what;
	uint64_t rip;
	char text[96];
};

static inline struct trap_engine *trap_engine_of(const struct vcpu *v) { return v->vm->engine_state; }

/* trap_switch.c: the world switch. */

/* Makes the machine: memory, tables, registers, with the guest at boot's first instruction. 0 or negative, VM stopped. */
int trap_machine_create(struct trap_engine *e, struct vm *vm, const struct boot_state *boot);
/* Brings the guest's state into the machine; only what changed goes in. 0 or negative, VM stopped. */
int trap_enter(struct vcpu *v, struct trap_engine *e);
/* After a trap: takes the guest's state out; the frame says where the guest was. */
void trap_leave_by_frame(struct vcpu *v, struct trap_engine *e);
/* After the syscall stub, which has no frame. */
void trap_leave_by_syscall(struct vcpu *v, struct trap_engine *e);
/* After a kick. The machine may be in guest code or anywhere in a stub. */
void trap_leave_by_kick(struct vcpu *v, struct trap_engine *e);

/* trap_paging.c: a page fault of the machine, with its error code. Sets e->hidden when the guest only has to repeat the instruction. 0 or
 * negative, VM stopped. */
int trap_page_fault(struct vcpu *v, struct trap_engine *e, uint32_t error);

/* trap_saving.c: hooks of struct engine_ops. */
void trap_cpu_io(struct vm *vm, unsigned cpu, struct state_io *io);
int trap_log_start(struct vm *vm);
int trap_log_fetch(struct vm *vm, uint64_t *bitmap);
void trap_log_stop(struct vm *vm);

#endif
