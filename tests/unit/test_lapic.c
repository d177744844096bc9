// sources: lapic.c
/* The local APIC with a clock that this test moves, and a loop that runs the one timer there is. */
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

static bool bit(unsigned set, unsigned vector)
{
	return in(set + vector / 32 * 16) >> vector % 32 & 1;
}

static bool receive(uint8_t vector, bool level)
{
	struct apic_message m = { .vector = vector, .mode = APIC_FIXED, .level = level };
	return lapic_receive(&l, &m);
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

static void after_reset(void **state)
{
	(void)state;
	lapic_init(&l, &loop, &cr8, &ops, &l);
	assert_int_equal(in(ID), 0);
	assert_int_equal(in(VERSION), 0x50014);
	assert_int_equal(in(SVR), 0xff);
	assert_int_equal(in(DFR), 0xffffffff);
	assert_int_equal(in(LDR), 0);
	assert_int_equal(in(TIMER), MASKED);
	assert_int_equal(in(LINT1), MASKED);
	assert_int_equal(in(ERROR), MASKED);
	assert_int_equal(in(LINT0), 0x700); /* virtual wire */
	assert_true(lapic_passes_intr(&l));
	assert_false(receive(0x40, false)); /* switched off by software */
	assert_false(lapic_pending(&l));
	assert_int_equal(kicks, 0);
}

static void registers_keep_what_they_can(void **state)
{
	static const struct {
		unsigned reg;
		uint32_t keeps, always;
	} regs[] = {
		{ ID, 0xff000000, 0 }, { LDR, 0xff000000, 0 }, { DFR, 0xf0000000, 0x0fffffff },
		{ TIMER, 0x300ff, 0 }, { LINT0, 0x1a7ff, 0 },
		{ LINT1, 0x1a7ff, 0 }, { ERROR, 0x100ff, 0 }, { 0x330, 0x107ff, 0 }, { 0x340, 0x107ff, 0 }, { ICR_HIGH, 0xff000000, 0 },
		{ TPR, 0xff, 0 }, { DIVIDE, 0xb, 0 }, { VERSION, 0, 0x50014 }, { APR, 0, 0 }, { ISR, 0, 0 }, { IRR, 0, 0 }, { TMR, 0, 0 },
	};
	(void)state;
	for (unsigned i = 0; i < sizeof regs / sizeof *regs; i++) {
		out(regs[i].reg, 0xffffffff);
		assert_int_equal(in(regs[i].reg), regs[i].keeps | regs[i].always);
		out(regs[i].reg, 0x10000); /* masked, if it is an LVT entry */
		assert_int_equal(in(regs[i].reg), (regs[i].keeps & 0x10000) | regs[i].always);
	}
	out(ICR, 0xffffffff & ~0x700u); /* mode fixed, to others */
	assert_int_equal(in(ICR), 0xcc8ff); /* delivery status (bit 12) is idle */
	out(ESR, 0);
	assert_int_equal(in(ESR), 0);
}

static void priorities(void **state)
{
	(void)state;
	assert_true(receive(0x51, false));
	assert_true(receive(0x52, false));
	assert_true(receive(0x41, false));
	assert_int_equal(kicks, 3);
	assert_true(bit(IRR, 0x51) && bit(IRR, 0x52) && bit(IRR, 0x41));
	take(0x52);
	assert_true(bit(ISR, 0x52) && !bit(IRR, 0x52));
	assert_int_equal(in(PPR), 0x50);
	assert_false(lapic_pending(&l)); /* 0x51 is of the same class */
	assert_true(receive(0x60, false));
	take(0x60); /* a higher one interrupts the handler */
	assert_int_equal(in(PPR), 0x60);
	out(EOI, 0);
	assert_false(bit(ISR, 0x60));
	assert_true(bit(ISR, 0x52));
	assert_false(lapic_pending(&l));
	out(EOI, 0);
	take(0x51);
	out(EOI, 0);
	take(0x41);
	out(EOI, 0);
	out(EOI, 0); /* of nothing */
	assert_int_equal(eois, 0); /* edges are nobody's business */
	assert_int_equal(in(PPR), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(in(ISR + 16 * i) | in(IRR + 16 * i), 0);
}

static void same_vector_merges_in_irr(void **state)
{
	(void)state;
	receive(0x80, false);
	receive(0x80, false);
	take(0x80);
	receive(0x80, false); /* one in service, one that waits */
	assert_false(lapic_pending(&l));
	out(EOI, 0);
	take(0x80);
	out(EOI, 0);
	assert_false(lapic_pending(&l));
}

static void tpr(void **state)
{
	(void)state;
	receive(0x4f, false);
	out(TPR, 0x40);
	assert_int_equal(in(PPR), 0x40);
	assert_false(lapic_pending(&l));
	out(TPR, 0x3f); /* the lower half does not count */
	assert_int_equal(in(PPR), 0x3f);
	take(0x4f);
	assert_int_equal(in(PPR), 0x40); /* the higher class of the two; of ISR only the class */
	out(TPR, 0x45);
	assert_int_equal(in(PPR), 0x45);
	out(TPR, 0xff);
	out(EOI, 0);
	receive(0xff, false);
	assert_false(lapic_pending(&l));
	assert_int_equal(lapic_acknowledge(&l), 0xff); /* that is the spurious vector, */
	assert_false(bit(ISR, 0xff));		       /* which is not in service */
	assert_true(bit(IRR, 0xff));
	out(SVR, 0x1e5);
	assert_int_equal(lapic_acknowledge(&l), 0xe5);
}

static void cr8_is_tpr(void **state)
{
	(void)state;
	out(TPR, 0x73);
	assert_int_equal(cr8, 7);
	assert_int_equal(in(TPR), 0x73);
	receive(0x81, false);
	cr8 = 8; /* the vCPU's MOV */
	assert_int_equal(in(TPR), 0x80);
	assert_false(lapic_pending(&l));
	cr8 = 7;
	assert_true(lapic_pending(&l));
}

static void self_ipi(void **state)
{
	(void)state;
	out(ICR, SELF | 0x61);
	take(0x61);
	out(ICR, ALL | 0x71);
	take(0x71);
	out(ICR, OTHERS | 0x81);
	assert_false(lapic_pending(&l));
	assert_int_equal(in(ICR) & 0x1000, 0); /* nothing is ever on its way */
	out(ICR, SELF | 0x4000 | 0x91);
	take(0x91);
	assert_false(bit(TMR, 0x91));
}

static bool reaches(uint8_t dest, uint32_t low)
{
	bool pending;

	out(ICR_HIGH, (uint32_t)dest << 24);
	out(ICR, low | 0x61);
	pending = lapic_pending(&l);
	if (pending) {
		take(0x61);
		out(EOI, 0);
	}
	return pending;
}

static void destinations(void **state)
{
	(void)state;
	assert_true(reaches(0, 0));
	assert_true(reaches(0xff, 0));
	assert_false(reaches(1, 0));
	out(ID, 5u << 24);
	assert_true(reaches(5, 0));
	assert_false(reaches(0, 0));
	assert_false(reaches(1, LOGICAL)); /* LDR is 0 */
	assert_true(reaches(0xff, LOGICAL));
	out(LDR, 0x12u << 24); /* flat: any common bit */
	assert_true(reaches(0x02, LOGICAL));
	assert_true(reaches(0x90, LOGICAL));
	assert_false(reaches(0x2d, LOGICAL));
	out(DFR, 0); /* clusters: number 1, member 2 */
	assert_true(reaches(0x13, LOGICAL));
	assert_false(reaches(0x11, LOGICAL));
	assert_false(reaches(0x22, LOGICAL));
	assert_true(reaches(0x12, LOGICAL | 0x100)); /* lowest priority, of one */
}

static void other_modes(void **state)
{
	(void)state;
	out(ICR, SELF | NMI);
	assert_int_equal(nmis, 1);
	out(SVR, 0xff); /* switched off by software it still takes NMIs */
	out(ICR, SELF | NMI);
	assert_int_equal(nmis, 2);
	out(SVR, 0x1ff);
	for (unsigned mode = 0x200; mode <= 0x700; mode += 0x100) /* SMI, reserved, INIT, start-up, ExtINT */
		if (mode != NMI)
			out(ICR, ALL | mode | 0x33);
	assert_int_equal(nmis, 2);
	assert_false(lapic_pending(&l));
	assert_int_equal(kicks, 0);
}

static void level_interrupts_tell_their_end(void **state)
{
	(void)state;
	assert_true(receive(0x50, true));
	assert_true(receive(0x60, true));
	assert_true(receive(0x70, false));
	assert_true(bit(TMR, 0x50) && bit(TMR, 0x60) && !bit(TMR, 0x70));
	take(0x70);
	out(EOI, 0);
	assert_int_equal(eois, 0);
	take(0x60);
	out(EOI, 0);
	assert_int_equal(eois, 1);
	assert_int_equal(last_eoi, 0x60);
	take(0x50);
	out(EOI, 0);
	assert_int_equal(eois, 2);
	assert_int_equal(last_eoi, 0x50);
	receive(0x50, false); /* the last one decides */
	assert_false(bit(TMR, 0x50));
}

static void errors(void **state)
{
	(void)state;
	assert_int_equal(in(CMCI), 0); /* not there: its error shows after a write to ESR */
	assert_int_equal(in(ESR), 0);
	out(ESR, 0);
	assert_int_equal(in(ESR), 0x80);
	assert_int_equal(in(ESR), 0x80);
	out(ESR, 0);
	assert_int_equal(in(ESR), 0);

	out(ICR, SELF | 0x0f); /* no vector for an interrupt */
	assert_false(receive(0x0f, false));
	out(ESR, 0);
	assert_int_equal(in(ESR), 0x60); /* sent; received */
	assert_false(lapic_pending(&l));
	out(ICR, SELF | NMI | 0x02); /* its vector does not count */
	out(ESR, 0);
	assert_int_equal(in(ESR), 0);

	out(ERROR, 0x9a);
	out(0x40, 0);
	take(0x9a);
	out(EOI, 0);
	out(0x40, 0); /* once, until ESR is written */
	assert_false(lapic_pending(&l));
	out(ESR, 0);
	out(0x3f0, 0);
	take(0x9a);
	out(EOI, 0);
	out(ERROR, 0x05); /* the error entry itself has a bad vector */
	out(ESR, 0);
	in(0);
	out(ESR, 0);
	assert_int_equal(in(ESR), 0xc0);
	assert_false(lapic_pending(&l));
}

static void no_access_breaks_it(void **state)
{
	static const unsigned sizes[] = { 1, 2, 4, 8 };
	(void)state;
	for (unsigned offset = 0; offset < LAPIC_LEN; offset++)
		for (unsigned i = 0; i < 4; i++) {
			if (offset / 16 * 16 != SVR)
				lapic_mmio_ops.write(&l, offset, sizes[i], 0xa5a5a5a5a5a5a5a5ull);
			lapic_mmio_ops.read(&l, offset, sizes[i]);
		}
	assert_int_equal(lapic_mmio_ops.read(&l, SVR, 1) & 0xff, 0xff);
	assert_int_equal(lapic_mmio_ops.read(&l, SVR + 1, 1), 0x01);
	assert_int_equal(lapic_mmio_ops.read(&l, VERSION + 2, 2), 0x05);
	assert_int_equal(lapic_mmio_ops.read(&l, VERSION + 4, 4), 0);
	out(TPR, 0x30);
	lapic_mmio_ops.write(&l, TPR, 1, 0x70);	    /* not a whole register */
	lapic_mmio_ops.write(&l, TPR + 4, 4, 0x70); /* not at its address */
	assert_int_equal(in(TPR), 0x30);
}

static void one_shot(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	assert_int_equal(in(CURRENT), 1000);
	run_to(400);
	assert_int_equal(in(CURRENT), 600);
	run_to(999);
	assert_int_equal(in(CURRENT), 1);
	assert_false(lapic_pending(&l));
	run_to(1000);
	take(0x40);
	out(EOI, 0);
	assert_int_equal(in(CURRENT), 0);
	assert_int_equal(in(INITIAL), 1000);
	run_to(1000000);
	assert_int_equal(in(CURRENT), 0);
	assert_false(lapic_pending(&l));
	assert_int_equal(l.timer.deadline_ns, 0);
	out(INITIAL, 10); /* only this starts it again */
	run_to(1000009);
	assert_false(lapic_pending(&l));
	run_to(1000010);
	take(0x40);
}

static void stopped_by_zero(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	run_to(10);
	out(INITIAL, 0);
	assert_int_equal(in(CURRENT), 0);
	run_to(100000);
	assert_false(lapic_pending(&l));
	out(TIMER, PERIODIC | 0x40);
	run_to(200000);
	assert_false(lapic_pending(&l));
	assert_int_equal(in(CURRENT), 0);
}

static void periodic(void **state)
{
	(void)state;
	out(TIMER, PERIODIC | 0x40);
	out(INITIAL, 1000000);
	for (unsigned i = 1; i <= 5; i++) {
		run_to(i * 1000000 - 1);
		assert_int_equal(in(CURRENT), 1);
		assert_false(lapic_pending(&l));
		run_to(i * 1000000);
		assert_int_equal(in(CURRENT), 1000000);
		take(0x40);
		out(EOI, 0);
	}
	/* A loop that is late does not shift the grid, and what it missed is one interrupt. */
	now_ns = EPOCH + 8300000;
	l.timer.deadline_ns = 0;
	l.timer.fn(l.timer.opaque);
	take(0x40);
	out(EOI, 0);
	assert_false(lapic_pending(&l));
	run_to(8999999);
	assert_false(lapic_pending(&l));
	run_to(9000000);
	take(0x40);
}

static void a_short_period_spares_the_host(void **state)
{
	(void)state;
	out(TIMER, PERIODIC | 0x40);
	out(INITIAL, 1);
	run_to(10000000);
	assert_in_range(kicks, 50, 101);
	assert_int_equal(in(CURRENT), 1);
}

static void divide(void **state)
{
	static const struct {
		uint32_t code, by;
	} codes[] = { { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };
	uint64_t start = 0;
	(void)state;
	out(TIMER, 0x40);
	for (unsigned i = 0; i < 8; i++) {
		out(DIVIDE, codes[i].code | 0x4); /* bit 2 is nothing */
		assert_int_equal(in(DIVIDE), codes[i].code);
		out(INITIAL, 100);
		run_to(start + 40 * codes[i].by);
		assert_int_equal(in(CURRENT), 60);
		run_to(start + 100 * codes[i].by - 1);
		assert_false(lapic_pending(&l));
		start += 100 * codes[i].by;
		run_to(start);
		take(0x40);
		out(EOI, 0);
	}
}

static void divider_changes_under_way(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	run_to(600);
	out(DIVIDE, BY_2);
	assert_int_equal(in(CURRENT), 400);
	run_to(600 + 799);
	assert_false(lapic_pending(&l));
	run_to(600 + 800);
	take(0x40);
	out(EOI, 0);
	out(DIVIDE, BY_128); /* what has run down stays so */
	assert_int_equal(in(CURRENT), 0);
	run_to(10000000);
	assert_false(lapic_pending(&l));
}

static void mode_changes_under_way(void **state)
{
	(void)state;
	out(TIMER, PERIODIC | 0x40);
	out(INITIAL, 1000000);
	run_to(2400000);
	take(0x40);
	out(EOI, 0);
	out(TIMER, 0x40);
	assert_int_equal(in(CURRENT), 600000);
	run_to(3000000);
	take(0x40);
	out(EOI, 0);
	run_to(9000000);
	assert_false(lapic_pending(&l));
}

static void longest_count(void **state)
{
	uint64_t all = 0xffffffffull * 128;
	(void)state;
	out(TIMER, 0x40);
	out(DIVIDE, BY_128);
	out(INITIAL, 0xffffffff);
	run_to(all - 1);
	assert_int_equal(in(CURRENT), 1);
	assert_false(lapic_pending(&l));
	run_to(all);
	take(0x40);
}

static void masked_timer(void **state)
{
	(void)state;
	out(TIMER, MASKED | 0x40);
	out(INITIAL, 1000);
	assert_int_equal(l.timer.deadline_ns, 0);
	run_to(500);
	assert_int_equal(in(CURRENT), 500); /* it counts all the same */
	out(TIMER, 0x41);
	run_to(1000);
	take(0x41);
	out(EOI, 0);
	out(TIMER, MASKED | 0x41);
	out(INITIAL, 1000);
	run_to(5000);
	out(TIMER, 0x41); /* too late: nothing is remembered */
	run_to(100000);
	assert_false(lapic_pending(&l));
	out(SVR, 0xff); /* masks all of the LVT, and it cannot be unmasked */
	assert_int_equal(in(TIMER), MASKED | 0x41);
	out(TIMER, 0x41);
	assert_int_equal(in(TIMER), MASKED | 0x41);
	out(SVR, 0x1ff);
	assert_int_equal(in(TIMER), MASKED | 0x41);
}

static void due_but_not_yet_told(void **state)
{
	(void)state;
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	now_ns = EPOCH + 1500; /* the loop's thread has not run */
	out(TIMER, MASKED | 0x40);
	take(0x40);
	assert_int_equal(l.timer.deadline_ns, 0);
}

static void switched_off_by_software(void **state)
{
	(void)state;
	receive(0x50, false);
	out(SVR, 0xff);
	take(0x50); /* what was accepted before is kept (10.4.7.2) */
	out(EOI, 0);
	assert_false(receive(0x51, false));
	out(ICR, SELF | 0x52);
	assert_false(lapic_pending(&l));
}

static void virtual_wire(void **state)
{
	(void)state;
	out(LINT0, MASKED | 0x700);
	assert_false(lapic_passes_intr(&l));
	out(LINT0, 0x700);
	assert_true(lapic_passes_intr(&l));
	lapic_lint0_risen(&l);
	assert_false(lapic_pending(&l)); /* the vCPU asks the 8259s for the vector */
	out(LINT0, 0x045); /* fixed: its edge is an interrupt like others */
	assert_false(lapic_passes_intr(&l));
	lapic_lint0_risen(&l);
	take(0x45);
	out(LINT0, NMI);
	lapic_lint0_risen(&l);
	assert_int_equal(nmis, 1);
	out(LINT0, MASKED | NMI);
	lapic_lint0_risen(&l);
	assert_int_equal(nmis, 1);
	out(LINT0, 0x700);
	out(SVR, 0xff);
	assert_false(lapic_passes_intr(&l)); /* switched off, the LVT is masked */
}

static void apic_base(void **state)
{
	(void)state;
	assert_true(lapic_base_valid(0xfee00900));
	assert_true(lapic_base_valid(0xfee00100));
	assert_false(lapic_base_valid(0xfee00d00));	/* x2APIC */
	assert_false(lapic_base_valid(0xfee01900));	/* somewhere else */
	assert_false(lapic_base_valid(0x1fee00900ull));
	assert_false(lapic_base_valid(0xfee00901));	/* reserved */
	assert_false(lapic_base_valid(0));

	receive(0x50, false);
	out(LINT0, MASKED);
	out(TPR, 0x20);
	out(TIMER, 0x40);
	out(INITIAL, 1000);
	lapic_set_base(&l, LAPIC_BASE);
	assert_false(lapic_pending(&l));
	assert_true(lapic_passes_intr(&l)); /* INTR goes past it */
	assert_int_equal(lapic_mmio_ops.read(&l, VERSION, 8), UINT64_MAX);
	out(SVR, 0x1ff);
	assert_false(receive(0x50, false));
	run_to(5000);
	lapic_set_base(&l, LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP);
	assert_int_equal(in(SVR), 0xff);
	assert_int_equal(in(TPR), 0);
	assert_int_equal(in(LINT0), MASKED);
	assert_int_equal(in(INITIAL), 0);
	assert_false(lapic_pending(&l));
	assert_false(lapic_passes_intr(&l));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(after_reset, setup),
		cmocka_unit_test_setup(registers_keep_what_they_can, setup),
		cmocka_unit_test_setup(priorities, setup),
		cmocka_unit_test_setup(same_vector_merges_in_irr, setup),
		cmocka_unit_test_setup(tpr, setup),
		cmocka_unit_test_setup(cr8_is_tpr, setup),
		cmocka_unit_test_setup(self_ipi, setup),
		cmocka_unit_test_setup(destinations, setup),
		cmocka_unit_test_setup(other_modes, setup),
		cmocka_unit_test_setup(level_interrupts_tell_their_end, setup),
		cmocka_unit_test_setup(errors, setup),
		cmocka_unit_test_setup(no_access_breaks_it, setup),
		cmocka_unit_test_setup(one_shot, setup),
		cmocka_unit_test_setup(stopped_by_zero, setup),
		cmocka_unit_test_setup(periodic, setup),
		cmocka_unit_test_setup(a_short_period_spares_the_host, setup),
		cmocka_unit_test_setup(divide, setup),
		cmocka_unit_test_setup(divider_changes_under_way, setup),
		cmocka_unit_test_setup(mode_changes_under_way, setup),
		cmocka_unit_test_setup(longest_count, setup),
		cmocka_unit_test_setup(masked_timer, setup),
		cmocka_unit_test_setup(due_but_not_yet_told, setup),
		cmocka_unit_test_setup(switched_off_by_software, setup),
		cmocka_unit_test_setup(virtual_wire, setup),
		cmocka_unit_test_setup(apic_base, setup),
	};
	return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
