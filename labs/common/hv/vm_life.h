/*
 * Making and ending a VM.
 */
#ifndef HV_VM_LIFE_H
#define HV_VM_LIFE_H

#include "decode.h"
#include "vm.h"

#include <signal.h>

/* The signal that takes a vCPU thread out of KVM_RUN. Its handler does nothing: arriving is the message. */
#define VM_KICK_SIGNAL SIGUSR1

/* Makes the lock, the trace and the engine that vm->opt, which is filled, names; everything else in *vm is zero. */
void vm_init(struct vm *vm);

/* Puts the platform devices on the buses. 0 or -EINVAL (two devices on one port: a bug of ours). */
int vm_create_devices(struct vm *vm);

/* The instruction that *v, the vCPU's state of now, is at: for people, and for counting. false when there is none to be seen. */
bool vm_insn_at(struct vm *vm, const struct vcpu *v, struct insn *insn);

/* Loads the guest, runs it to its end and tears everything down. vm->opt is filled. Returns the exit status of hv; the
 * reason has been printed. */
int vm_main(struct vm *vm);

/* Ends the program where a thread cannot be brought to its end; why is a sentence. From any thread, with or without the lock. The status is
 * for a VM that was not stopped yet. */
void vm_abandon(struct vm *vm, int status, const char *why) __attribute__((noreturn));

#endif
