/*
 * --dump-tables: when the VM has ended, the guest's tables, their shadows and the machine's memory side by side.
 */
#ifndef HV_DUMP_TABLES_H
#define HV_DUMP_TABLES_H

#include "dump_walk.h"

/* Prints what vm->opt asks for; html NULL: no page. On the vCPU's thread, with the engine still there and the devices stopped. Says so
 * in a sentence where something cannot be shown, and never changes how the run ended. */
void dump_tables(struct vm *vm, FILE *out, FILE *html);

/* The way of one address, in words. */
void dump_print_way(struct dump *d, uint64_t gva, FILE *out);

#endif
