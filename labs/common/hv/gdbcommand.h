/*
 * What a debugger asks for and what it gets (GDB manual, appendix E.2 on): one packet in, one answer out. Runs on the
 * vCPU thread while the guest stands still, without the VM's lock; the connection is gdbstub.c's.
 */
#ifndef HV_GDBCOMMAND_H
#define HV_GDBCOMMAND_H

#include "gdbpacket.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

#define GDB_BREAKPOINTS 64

/* While the guest runs an int3 lies at gpa; while it stands still its memory holds what it would hold without debugger. */
struct gdb_breakpoint {
	uint64_t gva, gpa;
	uint8_t original;
	bool inserted;
};

/* What lives as long as one debugger's connection. */
struct gdb_session {
	struct vm *vm;
	bool no_ack;      /* neither side acknowledges packets */
	bool swbreak;     /* the debugger wants to be told that a stop was a breakpoint */
	bool single;      /* the guest was started for one instruction */
	bool interrupted; /* it stopped because somebody asked */
	struct gdb_breakpoint breakpoint[GDB_BREAKPOINTS];
	unsigned nbreakpoints;
	char reply[GDB_PACKET_MAX];
	size_t reply_len;
};

/* What the connection does after a command. */
enum gdb_next {
	GDB_STAY,   /* send the reply and wait for the next packet */
	GDB_RESUME, /* no reply; let the guest run */
	GDB_DETACH, /* send the reply, close the connection, let the guest run */
	GDB_KILL    /* end the VM */
};

void gdb_session_init(struct gdb_session *s, struct vm *vm);

/* Acts on one packet (a string; a 0 in the middle ends it) and fills in the reply. */
enum gdb_next gdb_command(struct gdb_session *s, const char *packet);

/* Takes the breakpoints out of guest memory: the guest has stopped. */
void gdb_session_stopped(struct gdb_session *s, bool interrupted);
/* Puts them in and tells the engine how to go on. 0, or a negative errno after vm_stop(). */
int gdb_session_resume(struct gdb_session *s);

/* Fills in the reply that says why the guest stopped, or that the VM has ended and how. */
void gdb_session_stop_reply(struct gdb_session *s);
void gdb_session_exit_reply(struct gdb_session *s);

bool gdb_session_has_breakpoint(const struct gdb_session *s, uint64_t gva);

#endif
