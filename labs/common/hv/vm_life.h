/*
 * Making and ending a VM; used by main.c only.
 */
#ifndef HV_VM_LIFE_H
#define HV_VM_LIFE_H

#include "vm.h"

#include <signal.h>

/* The signal that takes a vCPU thread out of KVM_RUN. Its handler does nothing: arriving is the message. */
#define VM_KICK_SIGNAL SIGUSR1

/* Puts the platform devices on the buses. 0 or -EINVAL (two devices on one port: a bug of ours). */
int vm_create_devices(struct vm *vm);

/* Loads the guest, runs it to its end and tears everything down. vm->opt is filled. Returns the exit status of hv; the
 * reason has been printed. */
int vm_main(struct vm *vm);

#endif
