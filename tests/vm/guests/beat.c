/*
 * A heart: at each tick of the PIT it changes some of its memory, adds all of it up and prints a line, "NUMBER SUM" in hexadecimal. Whoever
 * sees the lines knows whether it goes on where it was and has the memory that it had (beat.h).
 */
#include "beat.h"
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"

#include <stdbool.h>

#define BASE 0x20
#define HZ 30

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

int guest_main(void)
{
	gdt_init();
	idt_init();
	trap_handlers[BASE + IRQ_TIMER] = on_tick;
	pic_init(BASE);
	pic_unmask(IRQ_TIMER);
	pit_start(HZ);
	for (uint64_t n = 1;; n++) {
		change(n);
		dprint_hex(n);
		dputc(' ');
		dprint_hex(sum() >> 32);
		dputc('\n');
		while (!ticked)
			sti_hlt();
		cli();
		ticked = false;
	}
}
