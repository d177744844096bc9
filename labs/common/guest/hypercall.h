/* Calls to the hypervisor (labs/common/hv/hvm.h, HVM_CALL_...). Each vendor has an instruction of its own for them. */
#ifndef GUEST_HYPERCALL_H
#define GUEST_HYPERCALL_H

#include <stdint.h>

#define HYPERCALL_STAGE 1 /* the argument: which stage of the hypervisor's plan this is */

static inline uint64_t hypercall(uint64_t number, uint64_t argument)
{
	uint32_t eax = 0, ebx, ecx, edx;

	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
	if (ebx == 0x756e6547) /* "Genu": Intel */
		asm volatile("vmcall" : "+a"(number) : "b"(argument) : "memory");
	else
		asm volatile("vmmcall" : "+a"(number) : "b"(argument) : "memory");
	return number;
}

static inline uint64_t stage(uint64_t number)
{
	return hypercall(HYPERCALL_STAGE, number);
}

#endif
