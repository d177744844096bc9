// sources: lapic.c state_io.c
/* The local APIC's registers, interrupts from arrival to EOI, IPIs and LINT0; test_lapic_timer.c has its timer. */
#include "lapic_fixture.h"

static bool bit(unsigned set, unsigned vector)
{
	return in(set + vector / 32 * 16) >> vector % 32 & 1;
}

static bool receive(uint8_t vector, bool level)
{
	struct apic_message m = { .vector = vector, .mode = APIC_FIXED, .level = level };
	return lapic_receive(&l, &m);
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
		cmocka_unit_test_setup(switched_off_by_software, setup),
		cmocka_unit_test_setup(virtual_wire, setup),
		cmocka_unit_test_setup(apic_base, setup),
	};
	return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
