/*
 * Exits are the currency: what was counted, printed line by line (--trace exits) or summed up (--stats json).
 */
#ifndef HV_TRACE_H
#define HV_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct vm;

#define TRACE_KINDS 64
#define VM_CPUS_MAX 8 /* vCPUs of a VM */

struct trace_count {
	const char *name; /* NULL = free slot */
	uint64_t count;
};

/* What each vCPU counts for itself, without a lock. */
struct trace_cpu {
	uint64_t exits;
	/* Host time inside KVM_RUN and outside it, in ticks of the time stamp counter: on some hosts reading a clock costs as much
	 * as a trap. The scale is found at the end, from the clock at start_ns. mark_ticks: the last of the two changes, 0 before. */
	uint64_t guest_ticks, hv_ticks, mark_ticks;
};

/* All vCPUs together. Where there are several, what is not theirs alone is counted with the VM's lock held. */
struct trace {
	bool exits; /* --trace exits */
	FILE *out;  /* stderr */
	struct trace_cpu cpu[VM_CPUS_MAX];
	/* How often an instruction of the guest was not the machine's business alone: it trapped, or KVM carried it out. The kvm engine
	 * hears of the latter only while it single-steps. */
	uint64_t interventions;
	struct trace_count kind[TRACE_KINDS];     /* exits by kind: "io out", "interrupted", ... */
	uint64_t trap[256];                       /* traps by vector: the trap engine's exits */
	struct trace_count mnemonic[TRACE_KINDS]; /* emulated instructions by mnemonic */
	uint64_t delivered[256];                  /* events delivered into the guest, by vector */
	uint64_t start_ticks, start_ns;
	char note[160]; /* with --trace exits: what was done about the present exit (trap_note()) */
	struct {
		bool seen;
		uint8_t vector;
		uint64_t rip, rax;
	} first_trap; /* trap engine */
};

void trace_init(struct trace *t, bool exits, FILE *out);
/* Counts one under a name in a table of TRACE_KINDS; the last slot collects what no longer fits as "other". The string is kept,
 * not copied, and compared by its address first: this runs once or twice per trap. */
void trace_count(struct trace_count *table, const char *name);
/* The short name of an exception vector: "#GP". Static. */
const char *vector_name(uint8_t vector);
/* Bookkeeping of time and exits: call right before and right after KVM_RUN. */
void trace_enter_guest(struct trace_cpu *cpu);
void trace_leave_guest(struct trace_cpu *cpu);
/* Exits of all vCPUs. */
uint64_t trace_total(const struct trace *t);

/* One decoded line, printed only with --trace exits:
 *   exit 12  trap #GP  rip 0x100005  out %al, $0xe9  -> port 0xe9 write 0x48 (debugcon)
 * what: the kind of exit; text: the instruction or NULL; did (printf style): what hv did about it. */
void trace_exit(struct vm *vm, const char *what, uint64_t rip, const char *text, const char *did, ...)
	__attribute__((format(printf, 5, 6)));

/* The whole account as one line of JSON: engine, status, reason, exits by kind, emulated by mnemonic, delivered by vector,
 * unclaimed addresses, and for each vCPU and all of them the time in guest and in hv. */
void trace_json(struct vm *vm, FILE *out);

#endif
