/*
 * A local APIC with a clock that the test moves, and a loop that runs the one timer there is. A program that includes this
 * has its own clock_ns() and loop_timer_set(), and lapic.c is linked to those.
 */
#ifndef LAPIC_FIXTURE_H
#define LAPIC_FIXTURE_H

#include "lapic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define EPOCH 7000000000ull

enum {
	ID = 0x20, VERSION = 0x30, TPR = 0x80, APR = 0x90, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100,
	TMR = 0x180, IRR = 0x200, ESR = 0x280, CMCI = 0x2f0, ICR = 0x300, ICR_HIGH = 0x310, TIMER = 0x320, LINT0 = 0x350, LINT1 = 0x360,
	ERROR = 0x370, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0
};
#define MASKED 0x10000u
#define PERIODIC 0x20000u
#define SELF 0x40000u
#define ALL 0x80000u
#define OTHERS 0xc0000u
#define NMI 0x400u
#define LOGICAL 0x800u
#define BY_1 0xb /* of the divide configuration */
#define BY_2 0x0
#define BY_128 0xa

static struct lapic l;
static struct loop loop;
static uint64_t now_ns, cr8;
static unsigned kicks, nmis, eois;
static uint8_t last_eoi;

uint64_t clock_ns(void)
{
	return now_ns;
}

void loop_timer_set(struct loop *p, struct loop_timer *timer, uint64_t deadline_ns)
{
	assert_ptr_equal(p, &loop);
	assert_ptr_equal(timer, &l.timer);
	timer->deadline_ns = deadline_ns;
}

static void notify(void *opaque)
{
	assert_ptr_equal(opaque, &l);
	kicks++;
}

static void nmi(void *opaque)
{
	assert_ptr_equal(opaque, &l);
	nmis++;
}

static void eoi(void *opaque, uint8_t vector)
{
	assert_ptr_equal(opaque, &l);
	eois++;
	last_eoi = vector;
}

static const struct lapic_ops ops = { .notify = notify, .nmi = nmi, .eoi = eoi };

/* Lets time pass, with a loop that is always punctual. */
static void run_to(uint64_t ns)
{
	while (l.timer.deadline_ns && l.timer.deadline_ns <= EPOCH + ns) {
		now_ns = l.timer.deadline_ns;
		l.timer.deadline_ns = 0;
		l.timer.fn(l.timer.opaque);
	}
	now_ns = EPOCH + ns;
}

static void out(unsigned reg, uint32_t value)
{
	lapic_mmio_ops.write(&l, reg, 4, value);
}

static uint32_t in(unsigned reg)
{
	return (uint32_t)lapic_mmio_ops.read(&l, reg, 4);
}

static void take(uint8_t vector)
{
	assert_true(lapic_pending(&l));
	assert_int_equal(lapic_acknowledge(&l), vector);
}

static int setup(void **state)
{
	(void)state;
	now_ns = EPOCH;
	cr8 = 0;
	lapic_init(&l, &loop, &cr8, &ops, &l);
	out(SVR, 0x1ff);
	out(DIVIDE, BY_1);
	kicks = nmis = eois = last_eoi = 0;
	return 0;
}

#endif
