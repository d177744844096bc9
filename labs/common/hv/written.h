/*
 * Guest memory that devices wrote, page by page, until the engine has heard of it.
 *
 * A device writes past the CPU: what a shadow knows of a page table is wrong when one lies there, and a dirty log does not see it.
 * The device may write while the vCPU runs, which the engines cannot take then. So the pages are collected here, and the vCPU's
 * thread hands them over before it does anything about its next exit. That is early enough: a translation that the guest has
 * changed counts for it only from a CR3 load or INVLPG on, and those are exits.
 */
#ifndef HV_WRITTEN_H
#define HV_WRITTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

struct written {
	uint64_t *bitmap; /* a bit per page, NULL before the first write */
	size_t words;
	bool any;
};

/* A device has written [gpa, gpa + len), which lies in guest memory: said behind the write (guest_written()). With the lock
 * held. The engine hears of it where it wants to. */
void written_add(struct vm *vm, uint64_t gpa, uint64_t len);
/* Hands all pages to the engine's memory_written(), and forgets them. On the vCPU's thread, outside the guest, without the lock. */
void written_apply(struct vm *vm);
void written_free(struct vm *vm);

#endif
