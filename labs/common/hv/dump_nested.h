/*
 * --dump-tables on the hvm engine: the guest's tables, the nested tables that translate each of their addresses, and what the two
 * allow together. All of it is read by the lab's own functions (guest_walk(), nested_walk(), twodim_walk()).
 */
#ifndef HV_DUMP_NESTED_H
#define HV_DUMP_NESTED_H

#include "dump_walk.h"

/* The way of one address, dimension by dimension, and the CPU's references in order. */
void dump_nested_way(struct dump *d, uint64_t gva, FILE *out);
/* Everything that the nested tables map: ranges of gpa with the same rights, size of page and distance to ma. */
void dump_nested_all(struct dump *d, FILE *out);

#endif
