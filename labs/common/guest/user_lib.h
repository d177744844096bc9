/* What the user programs share. Every file of them has its own copy: there is nothing else that they are linked with. */
#ifndef GUEST_USER_LIB_H
#define GUEST_USER_LIB_H

#include "syscall.h"

static inline void print(const char *s)
{
	uint64_t len = 0;

	while (s[len])
		len++;
	syscall(SYS_WRITE, (uint64_t)s, len);
}

static inline void print_number(uint64_t v)
{
	char digits[21], *p = digits + sizeof(digits) - 1;

	*p = 0;
	do {
		*--p = '0' + v % 10;
		v /= 10;
	} while (v);
	print(p);
}

#endif
