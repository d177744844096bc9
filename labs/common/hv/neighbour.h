/*
 * Two VMs on one machine: a second hv, with an image of its own, whose guest's memory lies in the same machine as the first one's and right
 * behind it. Each of the two processes has a CPU of its own in that machine. Nothing but their nested tables keeps the guests apart.
 */
#ifndef HV_NEIGHBOUR_H
#define HV_NEIGHBOUR_H

#include "vm.h"

/* Makes the memory of both and the second process. Called before anything else of the VM is there. In the second process vm->opt names the
 * neighbour's image when this returns. 0, or an exit status after a sentence. */
int neighbour_start(struct vm *vm);
/* The VM has ended with this status. Waits for the other process; in the second one does nothing. Returns the exit status for both: the
 * first VM's, or when that ended well, the second's. */
int neighbour_end(struct vm *vm, int status);

#endif
