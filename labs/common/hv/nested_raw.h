/*
 * Nested tables as somebody sees them who knows nothing of the lab's code: the CPU, which marks what it uses, and an observer, who prints
 * them. What is known here of an entry is what both formats share: the address in bits 51:12, and bit 7 for a large page.
 */
#ifndef HV_NESTED_RAW_H
#define HV_NESTED_RAW_H

#include "nested.h"

struct nested_raw {
	struct nested *n;
	uint64_t *seen; /* the pool as the CPU saw it at the last flush, and what was stored without hv since */
};

/* 0 or -ENOMEM. *n is new. */
int raw_create(struct nested_raw *r, struct nested *n);
void raw_destroy(struct nested_raw *r);

/* The entry of `level` that gpa uses, or NULL where none is reached. */
uint64_t *raw_slot(const struct nested_raw *r, uint64_t gpa, unsigned level);
/* Stores without nested_set(): damage, or the CPU's bits. */
void raw_store(struct nested_raw *r, uint64_t *slot, uint64_t entry);
/* A guest uses gpa, whatever the rights are: A in each entry on the way, D in the one that maps the page if it writes, where n->caps says
 * that the CPU does so. Returns the page's level, 0 when there is none. */
unsigned raw_touch(struct nested_raw *r, uint64_t gpa, bool write);

/* Prints the entries that are not 0: table, index, entry. Those that differ by the same number, one from the next, share a line, which
 * ends with how many they are and the difference. */
void raw_print(const struct nested_raw *r);

/* Prints each entry that said something at the last flush, says something else now, and was not stored by nested_set(). */
void raw_print_unnoted(const struct nested_raw *r);
/* From now on the CPU knows what is there. */
void raw_flushed(struct nested_raw *r);

#endif
