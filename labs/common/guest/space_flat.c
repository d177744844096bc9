/* Flat memory: user code could touch everything. What is refused here is a courtesy among programs, not protection. */
#include "space.h"

#include "proc.h"
#include "syscall.h"
#include "user.h"

#define STACKS 15
#define STACK_SIZE 4096

const char space_kind[] = "flat memory, at most 15 processes";
_Static_assert(STACKS == 15, "space_kind says it");

static uint8_t stacks[STACKS][STACK_SIZE] __attribute__((aligned(4096)));
static bool used[STACKS];

void space_init(const struct hvm_start_info *info)
{
	(void)info;
}

const void *space_direct(uint64_t gpa)
{
	return (const void *)gpa;
}

int space_create(struct space *s)
{
	for (int i = 0; i < STACKS; i++)
		if (!used[i]) {
			used[i] = true;
			s->base = (uint64_t)stacks[i];
			return 0;
		}
	return -SYS_ENOMEM;
}

int space_fork(struct space *child)
{
	(void)child;
	return -SYS_ENOSYS; /* the copy of a stack would lie elsewhere, and pointers into it would be wrong */
}

void space_free(struct space *s)
{
	used[(s->base - (uint64_t)stacks) / STACK_SIZE] = false;
	s->base = 0;
}

bool space_all_back(void)
{
	return true;
}

void space_switch(const struct space *s)
{
	(void)s;
}

uint64_t space_stack_top(const struct space *s)
{
	return s->base + STACK_SIZE;
}

static bool within(uint64_t addr, uint64_t len, uint64_t begin, uint64_t end)
{
	return addr >= begin && addr <= end && len <= end - addr;
}

bool space_may_read(uint64_t addr, uint64_t len)
{
	return within(addr, len, current->space.base, current->space.base + STACK_SIZE) ||
	       within(addr, len, (uint64_t)user_image_start, (uint64_t)user_image_end);
}

bool space_fault(uint64_t addr, uint64_t error)
{
	(void)addr, (void)error;
	return false;
}

int64_t space_grow(int64_t bytes)
{
	(void)bytes;
	return -SYS_ENOSYS;
}

int space_protect(uint64_t addr, uint64_t len, unsigned access)
{
	(void)addr, (void)len, (void)access;
	return -SYS_ENOSYS;
}
