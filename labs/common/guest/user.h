/*
 * The user programs. They are linked into the kernel's image but use nothing of it: system calls are their only way in.
 * Each returns its exit code.
 */
#ifndef GUEST_USER_H
#define GUEST_USER_H

#include <stdint.h>

/* Where every process begins: calls the program and exits with what it returns. */
_Noreturn void user_start(int (*program)(uint64_t), uint64_t arg);

int user_compute(uint64_t limit); /* counts primes below limit, over and over; never yields */
int user_writer(uint64_t lines);  /* writes, yields, writes */
int user_rogue(uint64_t unused);  /* tries to turn interrupts off */
int user_divide(uint64_t divisor);
int user_sleeper(uint64_t ticks);

/* guest.ld: the pages that hold all of this. */
extern const char user_image_start[], user_image_end[];

#endif
