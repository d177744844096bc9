/*
 * The page of --dump-html: one picture of the guest's tables, their shadows and the machine's memory, in which the way of an address
 * is drawn and others can be followed. Nothing outside the page is needed; nothing of the guest's is in it but numbers.
 */
#ifndef HV_DUMP_HTML_H
#define HV_DUMP_HTML_H

#include "dump_walk.h"

/* gva: whose way is shown first. */
void dump_html(struct dump *d, uint64_t gva, FILE *out);

#endif
