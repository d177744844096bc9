/*
 * The timer with a clock that the test moves, and a loop that runs the one timer there is. A program that includes this has its own
 * clock_ns() and loop_timer_set(), and pit.c is linked to those.
 */
#ifndef PIT_FIXTURE_H
#define PIT_FIXTURE_H

#include "devices.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define EPOCH 5000000000ull

static struct pit pit;
static struct loop loop;
static uint64_t now_ns;
static bool wire;
static unsigned edges;

uint64_t clock_ns(void)
{
	return now_ns;
}

void loop_timer_set(struct loop *l, struct loop_timer *timer, uint64_t deadline_ns)
{
	assert_ptr_equal(l, &loop);
	assert_ptr_equal(timer, &pit.timer);
	timer->deadline_ns = deadline_ns;
}

static void set_wire(void *opaque, unsigned irq, bool level)
{
	assert_ptr_equal(opaque, &pit);
	assert_int_equal(irq, 0);
	edges += level && !wire;
	wire = level;
}

/* The nanosecond at which a tick begins, by plain 128-bit arithmetic. */
static uint64_t tick_ns(uint64_t tick)
{
	return EPOCH + (uint64_t)(((unsigned __int128)tick * 1000000000 + PIT_HZ - 1) / PIT_HZ);
}

/* Lets time pass, with a loop that is always punctual. */
static void run_to(uint64_t tick)
{
	while (pit.timer.deadline_ns && pit.timer.deadline_ns <= tick_ns(tick)) {
		now_ns = pit.timer.deadline_ns;
		pit.timer.deadline_ns = 0;
		pit.timer.fn(pit.timer.opaque);
	}
	now_ns = tick_ns(tick);
}

static void out(unsigned port, uint8_t value)
{
	if (port == 0x61)
		port61_ops.write(&pit, 0, 1, value);
	else
		pit_ops.write(&pit, port - 0x40, 1, value);
}

static uint8_t in(unsigned port)
{
	return (uint8_t)(port == 0x61 ? port61_ops.read(&pit, 0, 1) : pit_ops.read(&pit, port - 0x40, 1));
}

static void load(unsigned counter, uint8_t control, unsigned count)
{
	out(0x43, (uint8_t)(counter << 6 | 0x30 | control));
	out(0x40 + counter, (uint8_t)count);
	out(0x40 + counter, (uint8_t)(count >> 8));
}

static int setup(void **state)
{
	(void)state;
	now_ns = EPOCH;
	wire = false;
	edges = 0;
	pit_init(&pit, &loop, (struct irq_line){ .set = set_wire, .opaque = &pit });
	return 0;
}

#endif
