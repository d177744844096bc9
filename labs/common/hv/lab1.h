/*
 * Lab 1, trap and emulate: what the frame calls and the lab's files provide. (machine.c: see machine.h.)
 *
 * The guest runs at CPL 3 whatever it believes. Whenever it does something privileged the machine faults, the monitor turns
 * the fault into an exit, and the frame calls handle_trap() with the guest's whole state in *v. When handle_trap()
 * returns, the frame delivers what is queued in v->event and resumes the guest at v->rip.
 */
#ifndef HV_LAB1_H
#define HV_LAB1_H

#include "decode.h"
#include "gva.h"
#include "machine.h"
#include "patch.h"
#include "protect.h"
#include "registers.h"
#include "trapengine.h"
#include "vcpu.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

/* What became of an instruction. */
enum emu {
	EMU_STOP = -ECANCELED, /* the VM is stopped (vm_stop() was called) */
	EMU_NEXT = 0,          /* done: the guest goes on behind it */
	EMU_JUMPED,            /* done: v->rip is already where the guest goes on */
	EMU_RAISED             /* it caused an exception, which is queued in v->event; v->rip still points at it */
};

/* #GP, the exception for nearly everything that is not allowed. */
static inline enum emu raise_gp(struct vcpu *v, uint32_t error)
{
	raise_error(v, VEC_GP, error);
	return EMU_RAISED;
}

/* The same for #UD, which has no error code. */
static inline enum emu raise_ud(struct vcpu *v)
{
	raise_exception(v, VEC_UD);
	return EMU_RAISED;
}
/* For a helper that returned false: an exception is queued, or the VM is stopped. */
static inline enum emu raised(const struct vcpu *v) { return v->vm->stopping ? EMU_STOP : EMU_RAISED; }

/* --- emulate.c ---------------------------------------------------------------------------------------------------- */

/*
 * The machine raised exception `vector` (with `error` where that vector has one) while the guest was at v->rip. Either the
 * instruction there is one that hv must emulate, or the exception is the guest's own and is queued for it.
 * 0, or negative when the VM is stopped. The error code is a hint only: hosts differ, the instruction decides.
 */
int handle_trap(struct vcpu *v, uint8_t vector, uint32_t error);

/* Emulates one decoded instruction at v->rip and steps over it. 0, or negative when the VM is stopped. */
int emulate(struct vcpu *v, const struct insn *insn);

/* Finds the function for an instruction and calls it (dispatch.c, part of the frame). */
enum emu dispatch(struct vcpu *v, const struct insn *insn);

/* One function for each family. v->rip is at the instruction. */
enum emu emulate_out(struct vcpu *v, const struct insn *insn);
enum emu emulate_in(struct vcpu *v, const struct insn *insn);
enum emu emulate_flags(struct vcpu *v, const struct insn *insn);     /* cli, sti, hlt */
enum emu emulate_string_io(struct vcpu *v, const struct insn *insn); /* ins, outs */
enum emu emulate_cr(struct vcpu *v, const struct insn *insn);        /* mov to and from CR, clts, lmsw */
enum emu emulate_dr(struct vcpu *v, const struct insn *insn);
enum emu emulate_tables(struct vcpu *v, const struct insn *insn);    /* lgdt, lidt, lldt, ltr */
enum emu emulate_msr(struct vcpu *v, const struct insn *insn);       /* rdmsr, wrmsr, swapgs */
enum emu emulate_segments(struct vcpu *v, const struct insn *insn);  /* mov to a segment register, pop, lss, lfs, lgs, far transfers */
/* syscall (which arrives through LSTAR, not as a fault) and sysret. */
enum emu emulate_syscall(struct vcpu *v, const struct insn *insn);

/* --- deliver.c ----------------------------------------------------------------------------------------------------- */

/* Delivers v->event through the guest's IDT: gate checks, stack switch, frame, error code; a fault on the way becomes a double
 * fault, a third one stops the VM. 0 or negative when the VM is stopped. (SDM vol. 3, 6.12-6.14) */
int deliver_event(struct vcpu *v);

/* True when the guest would take an interrupt now: IF is set and no interrupt shadow. (SDM vol. 3, 6.8.1-6.8.3) */
bool interrupt_window_open(const struct vcpu *v);

/* iretq. (SDM vol. 2, IRET; vol. 3, 6.14.3) */
enum emu emulate_iret(struct vcpu *v, const struct insn *insn);
/* int n, int3, int1. */
enum emu emulate_int(struct vcpu *v, const struct insn *insn);

/* --- sensitive.c --------------------------------------------------------------------------------------------------- */

struct cpuid_result {
	uint32_t eax, ebx, ecx, edx;
};

/*
 * What the guest may know. The question is (leaf, subleaf); host is what KVM would answer (all zero when it has no such
 * leaf). The answer must be true of the virtual CPU of the trap engine: no feature that is not virtualized, no trace
 * of the hypervisor, and the bits that mirror control registers follow the guest's own. (SDM vol. 2, CPUID)
 */
struct cpuid_result cpuid_policy(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_result host);

/* What a sensitive instruction did when a guest at virtual CPL 0 executed it on the trap engine: did hv hear of it? */
enum popek_answer { POPEK_UNKNOWN, POPEK_TRAPS, POPEK_SILENT };

#define POPEK_INSNS 26
/* The report on guests/popek.S, which says what stands behind each name. `hv report` prints it. */
extern const struct popek_entry {
	const char *insn;
	enum popek_answer answer;
} popek_report[POPEK_INSNS];

/*
 * --patch on: called once for each instruction that was found in the image, before the guest runs. When it is one that lies
 * instead of trapping (INSN_PUSHF, INSN_POPF), the opcode byte at gpa and on is replaced by PATCHED_PUSHF or PATCHED_POPF;
 * prefixes stay, and so does the length. True when something was replaced.
 */
bool patch_instruction(struct vcpu *v, uint64_t gpa, const struct insn *insn);

/*
 * The guest came to a patched instruction, and the machine raised #UD. insn is the instruction as it was before the patch:
 * INSN_PUSHF or INSN_POPF with an operand size of 2 or 8. It is carried out on the virtual flags. (SDM vol. 2, PUSHF, POPF)
 */
enum emu emulate_patched(struct vcpu *v, const struct insn *insn);

#endif
