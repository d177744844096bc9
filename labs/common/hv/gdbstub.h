/*
 * GDB remote serial protocol on a TCP port of the loopback address: registers, memory by guest virtual address, software
 * breakpoints, single step, continue, interrupt, detach, kill. The guest waits for the debugger before its first
 * instruction.
 */
#ifndef HV_GDBSTUB_H
#define HV_GDBSTUB_H

#include <stdbool.h>
#include <stdint.h>

struct vm;
struct gdbstub;

/* Listens on 127.0.0.1:port. 0, or a negative errno after vm_stop() said why. */
int gdbstub_create(struct vm *vm, int port);
void gdbstub_destroy(struct vm *vm);

/* Called by the vCPU thread, without the lock, while the guest does not run: before the first instruction (first = true) and
 * whenever run() returned RUN_DEBUG. Serves the debugger until it says continue or step (then returns true) or the VM is to
 * stop (false). */
bool gdbstub_serve(struct vm *vm, bool first);

/* True when the debugger sent its interrupt byte (Ctrl-C) and run() should return RUN_DEBUG; clears the request. */
bool gdbstub_take_interrupt(struct vm *vm);
/* True when the stub has a breakpoint at that gva: a #BP there is the debugger's, not the guest's. */
bool gdbstub_has_breakpoint(struct vm *vm, uint64_t gva);

#endif
