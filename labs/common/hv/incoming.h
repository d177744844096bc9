/*
 * A VM that comes out of a file (hv restore) or from another hv (hv run --incoming).
 */
#ifndef HV_INCOMING_H
#define HV_INCOMING_H

#include "migration.h"

/* hv restore: what the file says about the machine goes into *o, before the command line is read: engine, memory, vCPUs. The devices are
 * in *config. An exit status of hv after a sentence on stderr, or 0. */
int restore_options(const char *file, struct vm_options *o, struct config *config);

/*
 * On vCPU 0's thread, before it runs for the first time: waits for the VM, loads it and takes it over. 0: it may run. Negative with the VM
 * stopped, HV_USAGE for a file that cannot be used, HV_HOST when a migration failed. Without the lock.
 */
int incoming_take(struct vm *vm);
/* The VM ends: threads that still served the migration are waited for. Without the lock. */
void incoming_destroy(struct vm *vm);

/* If the next section is memory that can be mapped instead of read (lazy.c), that is done: 1, and its pages' bits in seen are
 * set. 0: it has to be read; or -errno with s->err. */
int lazy_next(struct vm *vm, struct stream *s, uint64_t *seen);

#endif
