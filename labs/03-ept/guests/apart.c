/*
 * Checkpoint 3.21: one of two guests whose memories lie side by side in one machine. It looks for the other's secret in all that it can
 * reach: its own memory before it has written there, what lies right behind it, addresses up to the CPU's physical width. It also writes
 * there, and looks whether somebody did the same to its own memory.
 */
#include "dbg.h"
#include "io.h"

volatile uint64_t params[16] __attribute__((section(".params"), aligned(64))) = { 0 };
#define OWN params[0]   /* the secret, in all pages from FIRST on */
#define OTHER params[1]
#define MEMORY params[2] /* bytes */
#define SEED params[3]

#define PAGE 4096ull
#define LARGE (2ull << 20)
#define FIRST LARGE /* the guest itself lies below */
#define ROUNDS 2
#define FAR 12
#define STEP 8 /* words: each line of the cache has the secret */
#define DEVICES 0xa0000000ull /* and up to 4 GiB: not to be disturbed */
#define WINDOW (4ull << 39) /* through the fifth entry of the root */

static uint64_t pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096)));
static uint64_t state, found, foreign, damaged;

static uint64_t random64(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* An address at which this gpa is seen. */
static inline volatile uint64_t *window(uint64_t gpa)
{
	pd[0] = (gpa & -LARGE) | 0x83; /* present, writable, 2 MiB */
	asm volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
	return (volatile uint64_t *)(WINDOW + (gpa & (LARGE - 1)));
}

/* Where no memory of this guest's is: nothing answers, all bits are ones, and what is written goes nowhere. */
static void outside(uint64_t gpa)
{
	volatile uint64_t *p = window(gpa & ~7ull);
	uint64_t value = *p;

	found += value >> 40 == OTHER >> 40;
	foreign += value != ~0ull;
	if (gpa & 8)
		*p = OWN;
}

static void look_outside(unsigned width)
{
	/* Right behind the memory, to the end of that large page and in the next ones: where the neighbour is. */
	for (uint64_t gpa = MEMORY; gpa < MEMORY + 8 * PAGE; gpa += PAGE)
		outside(gpa + random64() % PAGE);
	for (unsigned i = 0; i < FAR; i++)
		outside(MEMORY + random64() % MEMORY);
	/* Anywhere up to the physical width, and where the machine has the guests' memory: gpa and machine address are
	 * not to be mixed up. */
	for (unsigned i = 0; i < FAR; i++)
		outside((1ull << 32) + random64() % (2 * MEMORY));
	for (unsigned i = 0; i < FAR; i++) {
		uint64_t gpa = random64() >> (64 - width + i % 8);
		if (gpa >= 2 * MEMORY && (gpa < DEVICES || gpa >= 1ull << 32))
			outside(gpa);
	}
}

int guest_main(void);
int guest_main(void)
{
	uint64_t cr3;
	uint32_t eax = 0x80000008, ebx, ecx = 0, edx;
	volatile uint64_t *memory = (volatile uint64_t *)0;

	state = SEED;
	asm volatile("mov %%cr3, %0" : "=r"(cr3));
	pdpt[0] = (uint64_t)pd | 3;
	((volatile uint64_t *)cr3)[4] = (uint64_t)pdpt | 3;
	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));

	/* Memory begins as zeros. */
	for (uint64_t i = FIRST / 8; i < MEMORY / 8; i += STEP) {
		found += memory[i] - i == OTHER;
		damaged += memory[i] != 0;
	}
	for (uint64_t i = FIRST / 8; i < MEMORY / 8; i += STEP)
		memory[i] = OWN + i;
	for (unsigned round = 0; round < ROUNDS; round++) {
		look_outside(eax & 0xff);
		for (uint64_t i = FIRST / 8; i < MEMORY / 8; i += STEP) {
			found += memory[i] - i == OTHER;
			damaged += memory[i] != OWN + i;
		}
	}
	report("found", found);
	report("foreign", foreign);
	report("damaged", damaged);
	report("width", eax & 0xff);
	return 0;
}
