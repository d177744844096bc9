/*
 * Guests that mean harm, or are wrong in every way a guest can be. The command line names one attack, `mem=MIB` says how much
 * memory there is, `n=NUMBER` chooses a variant, `seed=N` seeds those that are random.
 *
 * Wherever an attack can go on after a fault it does, and counts: an exception inside attempt() ends the attempt.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <stdbool.h>
#include <stdint.h>

#define MONITOR 0xffffffffffe00000ull /* trapengine.h; the guest is not supposed to know */
#define MONITOR_STUBS (MONITOR + 0x5000)
#define MONITOR_SYSCALL (MONITOR + 0x7000)
#define NO_MEMORY 0xd0000000ull /* below 4 GiB, no RAM: a device's, if there were one */
#define ABOVE_4G 0x100000000ull
#define NON_CANONICAL 0x0000900000000000ull

extern uint64_t memory, variant; /* bytes of RAM; n= */
uint64_t random64(void);

/* Calls fn(arg) with the stack pointer rsp (0: the present one). False when an exception ended it. */
bool attempt_on(void (*fn)(uint64_t), uint64_t arg, uint64_t rsp);
static inline bool attempt(void (*fn)(uint64_t), uint64_t arg) { return attempt_on(fn, arg, 0); }
/* How often each vector ended an attempt. */
extern uint64_t faults[256];
/* Prints those that are not 0, as vector_N=count, and how many attempts were not ended. */
void report_faults(void);

/* A 64-bit interrupt gate in a table of the attack's own. */
void gate_set(uint64_t (*idt)[2], unsigned vector, uint64_t target, unsigned ist);
void load_idt(uint64_t base, uint16_t limit);
void load_gdt(uint64_t base, uint16_t limit);

struct attack {
	const char *name;
	void (*run)(void);
};
extern const struct attack memory_attacks[], state_attacks[], paging_attacks[], hvm_attacks[]; /* the last has no name */

#endif
