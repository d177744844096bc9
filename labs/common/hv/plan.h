/*
 * --plan FILE: what hv does with a guest's memory when the guest comes to a stage. The guest makes a hypercall that says which stage
 * this is (HVM_CALL_STAGE), and knows nothing else; everything else is in the file, in lines of stage, command and arguments:
 *
 *   N protect GPA LEN RIGHTS   from now on the guest may do only this there (rwx, r-x, r--, --x, ---); more stops the VM. Rights that
 *                              no entry can say are refused (-EOPNOTSUPP)
 *   N watch GPA LEN RIGHTS     the same, but what is more is reported and let through
 *   N allow GPA LEN            everything is allowed again
 *   N unmap GPA LEN            the mapping goes; it comes back on demand
 *   N remap GPA OTHER          the page at GPA shows the memory of the page at OTHER
 *   N split GPA LEVEL          N join GPA LEVEL
 *   N age                      reads and clears accessed and dirty bits
 *   N log start|fetch|stop     the dirty log
 *   N nmi                      an NMI
 *   N irq LINE                 a pulse on an ISA interrupt line
 *   N count                    the counters so far
 *   N dump                     the tables themselves
 *
 * Numbers are decimal or 0x...; # begins a comment. What the commands found is in --stats json.
 */
#ifndef HV_PLAN_H
#define HV_PLAN_H

#include "hvm.h"

#include <stdio.h>

struct plan;

/* Reads the file into h->plan. 0, or negative with the VM stopped (HV_USAGE) and a sentence that names the line. */
int plan_read(struct hvm *h, const char *path);
void plan_free(struct plan *p);
/* The guest has come to this stage. 0 or negative, VM stopped. */
int plan_stage(struct vcpu *v, uint64_t stage);
/* "nested":{...} and, with a plan, "plan":[...] and "watched":[...] of --stats json. Called while the engine is still there. */
void plan_json(struct vm *vm, FILE *out);

#endif
