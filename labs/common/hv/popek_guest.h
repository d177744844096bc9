/*
 * The guest of `hv popek`: what is in memory and in the CPU when a probe begins, and what is looked at afterwards.
 */
#ifndef HV_POPEK_GUEST_H
#define HV_POPEK_GUEST_H

#include "loader.h"
#include "popek.h"

#define POPEK_MEM MEM_MIN

/* How a trial ends. The code behind the probe and the one that it jumps to store into a device's memory, which every level may do;
 * each vector's handler is `out` to the port of its number, and so is where LSTAR points. */
#define POPEK_DEVICE 0x3f000000ull /* gva and gpa; 2 bytes */
#define POPEK_BEHIND 0
#define POPEK_JUMPED 1
#define POPEK_PORT_SYSCALL 0xe2

/* Writes page tables, both places' descriptor tables, handlers, operands and the probe's code into memory of POPEK_MEM bytes, and
 * zeros where an earlier probe may have written. *boot then says where the code lies. */
void popek_guest_write(struct guest_mem *mem, const struct popek_probe *probe, struct boot_state *boot);

/* The CPU at the probe: at a level, with the privileged state of the home or of the moved place. v->vm stays. */
void popek_guest_cpu(const struct popek_probe *probe, bool moved, unsigned cpl, struct vcpu *v);

/* Reads all fields. What is not in struct vcpu or memory: what the devices saw. */
void popek_guest_look(const struct vcpu *v, const struct guest_mem *mem, uint64_t device, uint64_t field[POPEK_FIELDS_MAX]);

#endif
