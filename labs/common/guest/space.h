/*
 * A process' memory. There are two kernels: space_flat.c has no page tables and gives each process a stack, that is all
 * (Lab 1); space_paged.c gives each an address space of its own (Lab 2).
 */
#ifndef GUEST_SPACE_H
#define GUEST_SPACE_H

#include "start_info.h"

#include <stdbool.h>
#include <stdint.h>

struct space {
	uint64_t base;	   /* flat: the user stack; paged: gpa of the root of the page tables. 0: no user memory */
	uint64_t heap_end; /* paged only */
};

/* What user memory is and how many processes there can be, for people. */
extern const char space_kind[];

void space_init(const struct hvm_start_info *info);
/* Where a gpa that the loader has passed can be read. */
const void *space_direct(uint64_t gpa);

/* These three return 0 or a negative error. New memory: the programs and an empty stack. */
int space_create(struct space *s);
/* A copy of the current process' memory. */
int space_fork(struct space *child);
/* Gives back all user memory, also of the current process, which can then only be in the kernel. */
void space_free(struct space *s);
/* With all processes gone: prints whether their memory is back. False when it is not. */
bool space_all_back(void);

/* From here on user addresses mean this memory. */
void space_switch(const struct space *s);
/* The user stack's end; it grows downwards from there. */
uint64_t space_stack_top(const struct space *s);

/* The rest is about the current process. True when the range is user memory that the kernel may read. */
bool space_may_read(uint64_t addr, uint64_t len);
/* A page fault at addr with that error code (SDM vol. 3, 4.7). True when the access will succeed if it is tried again. */
bool space_fault(uint64_t addr, uint64_t error);
/* Moves the end of the heap by a multiple of the page size. Returns where it was, or a negative error. */
int64_t space_grow(int64_t bytes);
/* Changes what may be done with whole pages; access is the sum of SPACE_READ etc. 0 or a negative error. */
int space_protect(uint64_t addr, uint64_t len, unsigned access);
#define SPACE_READ 1
#define SPACE_WRITE 2
#define SPACE_EXEC 4

#endif
