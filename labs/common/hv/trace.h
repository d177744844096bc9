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
#define TRACE_NAME 24

struct trace_count {
	char name[TRACE_NAME];
	uint64_t count;
};

struct trace {
	bool exits; /* --trace exits */
	FILE *out;  /* stderr */
	uint64_t total;
	struct trace_count kind[TRACE_KINDS];     /* exits by kind: "trap #GP", "io out", "interrupted", ... */
	struct trace_count mnemonic[TRACE_KINDS]; /* emulated instructions by mnemonic */
	uint64_t delivered[256];                  /* events delivered into the guest, by vector */
	uint64_t guest_ns, hv_ns, mark_ns;        /* host time inside KVM_RUN and outside it */
	struct {
		bool seen;
		uint8_t vector;
		uint64_t rip, rax;
	} first_trap; /* trap engine */
};

void trace_init(struct trace *t, bool exits, FILE *out);
/* Counts one under a name in a table of TRACE_KINDS; the last slot collects what no longer fits as "other". */
void trace_count(struct trace_count *table, const char *name);
/* Bookkeeping of time: call right before and right after KVM_RUN. */
void trace_enter_guest(struct trace *t);
void trace_leave_guest(struct trace *t);

/* One decoded line, printed only with --trace exits:
 *   exit 12  trap #GP  rip 0x100005  out %al, $0xe9  -> port 0xe9 write 0x48 (debugcon)
 * what: the kind of exit; text: the instruction or NULL; did (printf style): what hv did about it. */
void trace_exit(struct vm *vm, const char *what, uint64_t rip, const char *text, const char *did, ...)
	__attribute__((format(printf, 5, 6)));

/* The whole account as one line of JSON: engine, status, reason, exits by kind, emulated by mnemonic, delivered by vector,
 * unclaimed addresses, time in guest and in hv. */
void trace_json(struct vm *vm, FILE *out);

#endif
