/*
 * Checkpoint 1.1: one privileged instruction, at an address and with a value in RAX that only the grader knows.
 * Nothing before it is privileged, so it is the first trap, and where it happened is the whole answer.
 */
#include "probe.h"
#include "string.h"

PARAMS;

enum { ADDRESS, VALUE, CODE };

int guest_main(void)
{
	/* For hypervisors that get past it: xor %eax,%eax; out %eax,$0xf4; 1: jmp 1b */
	static const uint8_t tail[] = { 0x31, 0xc0, 0xe7, 0xf4, 0xeb, 0xfe };
	uint8_t *at = (uint8_t *)params[ADDRESS];
	uint64_t code = params[CODE];

	memcpy(at, &code, sizeof code);
	memcpy(at + sizeof code, tail, sizeof tail);
	/* The jump is what makes the CPU see instructions that were just written (SDM vol. 3, 9.1.3). */
	asm volatile("jmp *%0" : : "r"(at), "a"(params[VALUE]) : "memory");
	return 1;
}
