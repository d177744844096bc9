/*
 * Patching: pushf and popf are sensitive, but at CPL 3 they do not trap, they lie. So each one in the guest's code is replaced
 * by an instruction of the same length that does trap: a one-byte opcode that 64-bit mode no longer has, which raises #UD.
 *
 * Which instruction it was is said by the replacement itself and not by a list of addresses, so a guest may copy patched code
 * and run the copy. What it may not do is look at its own code: a checksum, or a debugger, sees the replacement.
 */
#ifndef HV_PATCH_H
#define HV_PATCH_H

#include "decode.h"
#include "loader.h"

#include <stdbool.h>

/* Undefined in 64-bit mode (SDM vol. 2, table A-2); once push %ss and pop %ss. */
#define PATCHED_PUSHF 0x16
#define PATCHED_POPF 0x17

/* Shows each instruction of the image's executable segments to the lab's patch_instruction(). 0, or negative with the VM stopped:
 * the image has no such segments (a bzImage, whose code is still packed), or the lab's step is not written. */
int patch_image(struct vcpu *v, const struct boot_state *boot);

/* True when a patched instruction lies at rip and patching is on; *insn is then the instruction that it replaces. */
bool patch_fetch(struct vcpu *v, uint64_t rip, struct insn *insn);

#endif
