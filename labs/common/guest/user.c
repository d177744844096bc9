#include "user.h"

#include "user_lib.h"

/* compute goes on for this long, so that the timer strikes while it runs however fast the machine is. */
#define COMPUTE_TICKS 20

void user_start(int (*program)(uint64_t), uint64_t arg)
{
	syscall(SYS_EXIT, program(arg), 0);
	__builtin_unreachable();
}

static uint64_t count_primes(uint64_t limit)
{
	uint64_t count = 0;

	for (uint64_t n = 2; n < limit; n++) {
		uint64_t d = 2;

		while (d * d <= n && n % d)
			d++;
		count += d * d > n;
	}
	return count;
}

/* How many rounds fit depends on the machine and is not told; that all agree shows that no switch lost a register. */
int user_compute(uint64_t limit)
{
	uint64_t begin = syscall(SYS_TIME, 0, 0), first = count_primes(limit);

	do {
		if (count_primes(limit) != first) {
			print("two rounds gave different counts\n");
			return 1;
		}
	} while (syscall(SYS_TIME, 0, 0) - begin < COMPUTE_TICKS);
	print_number(first);
	print(" primes below ");
	print_number(limit);
	print(", the same in every round\n");
	return 0;
}

int user_writer(uint64_t lines)
{
	for (uint64_t i = 1; i <= lines; i++) {
		print("line ");
		print_number(i);
		print(" of process ");
		print_number(syscall(SYS_GETPID, 0, 0));
		print("\n");
		syscall(SYS_YIELD, 0, 0);
	}
	return 0;
}

int user_rogue(uint64_t unused)
{
	(void)unused;
	print("about to turn interrupts off\n");
	asm volatile("cli");
	print("still here\n");
	return 1;
}

int user_divide(uint64_t divisor)
{
	print("about to divide by ");
	print_number(divisor);
	print("\n");
	asm volatile("xor %%edx, %%edx; div %0" : : "r"(divisor), "a"(1ul) : "rdx", "cc"); /* in C this would be undefined */
	print("still here\n");
	return 1;
}

int user_sleeper(uint64_t ticks)
{
	uint64_t begin = syscall(SYS_TIME, 0, 0);

	syscall(SYS_SLEEP, ticks, 0);
	if ((uint64_t)syscall(SYS_TIME, 0, 0) - begin < ticks) {
		print("woken too early\n");
		return 1;
	}
	print("slept ");
	print_number(ticks);
	print(" ticks at least\n");
	return 0;
}
