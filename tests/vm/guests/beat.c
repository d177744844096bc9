/*
 * A heart: at each tick of the PIT it changes some of its memory, adds all of it up and prints a line, "NUMBER SUM" in
 * hexadecimal. Whoever sees the lines knows whether it goes on where it was and has the memory that it had (beat.h).
 */
#include "beat.h"
#include "desc.h"
#include "io.h"
#include "pic.h"

#include <stdbool.h>

#define BASE 0x20
#define HZ 20
#define DEBUG_CONSOLE 0xe9

static uint64_t pages[BEAT_PAGES][BEAT_WORDS] __attribute__((aligned(4096)));
static volatile bool ticked;

static void on_tick(struct trap_frame *f)
{
	(void)f;
	ticked = true;
	pic_eoi(IRQ_TIMER);
}

static void change(uint64_t n)
{
	for (unsigned i = 0; i < BEAT_CHANGES; i++)
		for (unsigned w = 0; w < BEAT_WORDS; w++)
			pages[beat_page(n, i)][w] = beat_word(beat_seed(n, i), w);
}

static uint64_t sum(void)
{
	uint64_t all = 0;

	for (unsigned p = 0; p < BEAT_PAGES; p++) {
		uint64_t one = 0;
		for (unsigned w = 0; w < BEAT_WORDS; w++)
			one = beat_add(one, pages[p][w]);
		all = beat_add(all, one);
	}
	return all;
}

static char *hex(char *to, uint64_t v)
{
	unsigned shift = 60;

	while (shift && !(v >> shift))
		shift -= 4;
	for (;; shift -= 4) {
		*to++ = "0123456789abcdef"[v >> shift & 15];
		if (!shift)
			return to;
	}
}

/* All of it with one instruction: an exit for each letter would take longer than the beat. */
static void print(const char *s, uint64_t n)
{
	asm volatile("rep outsb" : "+S"(s), "+c"(n) : "d"(DEBUG_CONSOLE) : "memory");
}

int guest_main(void)
{
	gdt_init();
	idt_init();
	trap_handlers[BASE + IRQ_TIMER] = on_tick;
	pic_init(BASE);
	pic_unmask(IRQ_TIMER);
	pit_start(HZ);
	for (uint64_t n = 1;; n++) {
		char line[40], *end;
		change(n);
		end = hex(line, n);
		*end++ = ' ';
		end = hex(end, sum() >> 32);
		*end++ = '\n';
		print(line, (uint64_t)(end - line));
		while (!ticked)
			sti_hlt();
		cli();
		ticked = false;
	}
}
