/*
 * Checkpoints 3.7 and 3.8: the guest is entered, left, and entered again, long before anything is done about what it is left for. So it
 * uses no port: INVD is an exit after which it simply goes on. Its result is in the registers with which it ends by a triple fault.
 */
#include "observe.h"

PARAMS;

enum { SEED, ROUNDS, AREA, END };

#define WORDS 4096 /* of memory, in eight pages */

PROBE(do_invd, "invd");

static uint64_t mixed;

static void mix(uint64_t v)
{
	mixed = (mixed ^ v) * 0x9e3779b97f4a7c15;
}

int guest_main(void)
{
	volatile uint64_t *area = (volatile uint64_t *)params[AREA];
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} idtr;

	random_state = params[SEED];
	for (unsigned round = 0; round < params[ROUNDS]; round++) {
		struct regs in, out;

		fill(&in, params[SEED] + round);
		do_invd(&in, &out);
		for (unsigned i = 0; i < R_FLAGS; i++)
			mix(out.r[i]);
		mix(out.r[R_FLAGS] & FLAGS_ARITHMETIC);
		for (unsigned i = 0; i < 64; i++) {
			uint64_t r = random64();
			area[r % WORDS] += r >> 12;
			mix(area[r >> 52]);
		}
	}
	*(volatile uint16_t *)params[END] = 0x0b0f; /* ud2 */
	idtr.limit = mixed & 0x3f;		    /* no gate for #UD, #DF or #GP */
	mix(1);
	idtr.base = mixed >> 17;
	mix(2);
	uint64_t cr2 = mixed;
	mix(3);
	asm volatile("lidt %0; mov %1, %%cr2; mov %2, %%rsp; jmp *%3"
		     :
		     : "m"(idtr), "r"(cr2), "r"(mixed), "r"(params[END])
		     : "memory");
	__builtin_unreachable();
}
