// sources: pic.c state_io.c
#include "devices.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct pic pic;
static unsigned notified;

static void notify(void *opaque)
{
	assert_ptr_equal(opaque, &pic);
	notified++;
}

static void out(unsigned port, uint8_t value)
{
	const struct device_ops *ops = port >= 0x4d0 ? &pic_elcr_ops : port >= 0xa0 ? &pic_slave_ops : &pic_master_ops;
	ops->write(&pic, port & 1, 1, value);
}

static uint8_t in(unsigned port)
{
	const struct device_ops *ops = port >= 0x4d0 ? &pic_elcr_ops : port >= 0xa0 ? &pic_slave_ops : &pic_master_ops;
	return (uint8_t)ops->read(&pic, port & 1, 1);
}

static void pulse(unsigned irq)
{
	pic_set_line(&pic, irq, true);
	pic_set_line(&pic, irq, false);
}

static uint8_t isr(unsigned port)
{
	out(port, 0x0b);
	return in(port);
}

static uint8_t irr(unsigned port)
{
	out(port, 0x0a);
	return in(port);
}

/* As Linux does it: vectors 0x30-0x3f. icw4 goes to the master, the slave gets 0x01. */
static void init(uint8_t icw4)
{
	out(0x20, 0x11);
	out(0x21, 0x30);
	out(0x21, 0x04);
	out(0x21, icw4);
	out(0xa0, 0x11);
	out(0xa1, 0x38);
	out(0xa1, 0x02);
	out(0xa1, 0x01);
	out(0x21, 0);
	out(0xa1, 0);
}

static int setup(void **state)
{
	(void)state;
	notified = 0;
	pic_init(&pic, notify, &pic);
	init(0x01);
	return 0;
}

static void silent_before_setup(void **state)
{
	(void)state;
	pic_init(&pic, NULL, NULL);
	pulse(0);
	assert_false(pic_pending(&pic));
	assert_int_equal(in(0x21), 0xff);
	out(0x20, 0x11); /* clears the mask, but the vectors are not known yet */
	pulse(0);
	assert_false(pic_pending(&pic));
	out(0x21, 0x37); /* the low three bits of ICW2 are not kept */
	out(0x21, 0x04);
	out(0x21, 0x01);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x30);
}

static void short_init_sequences(void **state)
{
	(void)state;
	out(0x20, 0x12); /* single, no ICW4 */
	out(0x21, 0x40);
	out(0x21, 0xfe); /* already the mask */
	assert_int_equal(in(0x21), 0xfe);
	out(0x20, 0x10); /* cascaded, no ICW4 */
	out(0x21, 0x40);
	out(0x21, 0x04);
	out(0x21, 0xfd);
	assert_int_equal(in(0x21), 0xfd);
	out(0x20, 0x13); /* single, ICW4 */
	out(0x21, 0x50);
	out(0x21, 0x03);
	out(0x21, 0xfb);
	assert_int_equal(in(0x21), 0xfb);
	assert_true(pic.chip[0].auto_eoi);
}

static void init_forgets(void **state)
{
	(void)state;
	out(0x21, 0xaa);
	pic_set_line(&pic, 6, true);
	out(0x20, 0x68); /* special mask mode */
	out(0x20, 0xc3); /* priority */
	init(0x01);
	assert_int_equal(irr(0x20), 0); /* a line that is high is no edge any more */
	pic_set_line(&pic, 6, true);
	assert_int_equal(irr(0x20), 0);
	pic_set_line(&pic, 6, false);
	pic_set_line(&pic, 6, true);
	pic_set_line(&pic, 3, true);
	assert_int_equal(irr(0x20), 0x48);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	assert_false(pic.chip[0].special_mask);
}

static void edge_request_to_eoi(void **state)
{
	(void)state;
	pic_set_line(&pic, 4, true);
	assert_int_equal(notified, 1);
	pic_set_line(&pic, 4, true); /* the same level again is no edge */
	assert_true(pic_pending(&pic));
	assert_int_equal(irr(0x20), 0x10);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	assert_int_equal(irr(0x20), 0);
	assert_int_equal(isr(0x20), 0x10);
	assert_false(pic_pending(&pic));
	pic_set_line(&pic, 4, false);
	pic_set_line(&pic, 4, true); /* the next one waits for the EOI */
	assert_false(pic_pending(&pic));
	out(0x20, 0x20);
	assert_int_equal(isr(0x20), 0);
	assert_true(pic_pending(&pic));
	assert_int_equal(notified, 2);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	out(0x20, 0x64); /* specific EOI */
	assert_int_equal(isr(0x20), 0);
	assert_false(pic_pending(&pic)); /* the line is still high, but edges count */
}

static void mask_holds_back(void **state)
{
	(void)state;
	out(0x21, 0x10);
	pulse(4);
	assert_false(pic_pending(&pic));
	assert_int_equal(irr(0x20), 0x10); /* but is remembered */
	assert_int_equal(in(0x21), 0x10);
	out(0x21, 0);
	assert_true(pic_pending(&pic));
	assert_int_equal(notified, 1);
}

static void priorities_nest(void **state)
{
	(void)state;
	pulse(5);
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	pulse(6);
	pulse(5);
	assert_false(pic_pending(&pic)); /* lower, and the same: not now */
	pulse(1);
	assert_int_equal(pic_acknowledge(&pic), 0x31); /* higher interrupts the handler */
	assert_int_equal(isr(0x20), 0x22);
	out(0x20, 0x20); /* ends the higher one */
	assert_int_equal(isr(0x20), 0x20);
	out(0x20, 0x20);
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	out(0x20, 0x20);
	assert_int_equal(pic_acknowledge(&pic), 0x36);
}

static void level_request(void **state)
{
	(void)state;
	out(0x4d0, 0xff);
	out(0x4d1, 0xff);
	assert_int_equal(in(0x4d0), 0xf8); /* the board's own lines stay edge-triggered */
	assert_int_equal(in(0x4d1), 0xde);
	pic_set_line(&pic, 5, true);
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	out(0x20, 0x20);
	assert_true(pic_pending(&pic)); /* as long as the line is high */
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	pic_set_line(&pic, 5, false);
	out(0x20, 0x20);
	assert_false(pic_pending(&pic));
	pulse(5);
	assert_false(pic_pending(&pic)); /* not remembered */
	pic_set_line(&pic, 6, true);
	out(0x4d0, 0);
	pic_set_line(&pic, 6, false);
	assert_int_equal(irr(0x20), 0x40); /* edge-triggered from here on: latched */
}

static void cascade(void **state)
{
	(void)state;
	pulse(12);
	assert_int_equal(irr(0x20), 0x04);
	assert_int_equal(irr(0xa0), 0x10);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	assert_int_equal(isr(0x20), 0x04);
	assert_int_equal(isr(0xa0), 0x10);
	pulse(9); /* higher on the slave, but the master holds line 2 back */
	assert_false(pic_pending(&pic));
	pulse(0);
	assert_int_equal(pic_acknowledge(&pic), 0x30);
	out(0x20, 0x20);
	out(0xa0, 0x20);
	out(0x20, 0x62);
	assert_int_equal(pic_acknowledge(&pic), 0x39);
	pulse(14);
	out(0xa0, 0x20);
	out(0x20, 0x20);
	assert_int_equal(pic_acknowledge(&pic), 0x3e);
	out(0xa0, 0x66);
	out(0x20, 0x62);
	assert_false(pic_pending(&pic));
	assert_int_equal(isr(0x20) | isr(0xa0), 0);
	/* All sixteen, in the order of priority: the slave's come in the place of line 2. */
	static const uint8_t order[] = { 0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7 };
	for (unsigned irq = 0; irq < 16; irq++)
		pulse(irq);
	for (unsigned i = 0; i < sizeof(order); i++) {
		assert_true(pic_pending(&pic));
		assert_int_equal(pic_acknowledge(&pic), 0x30 + order[i]);
		if (order[i] >= 8)
			out(0xa0, 0x20);
		out(0x20, 0x20);
	}
	assert_false(pic_pending(&pic));
}

static void special_fully_nested(void **state)
{
	(void)state;
	init(0x11);
	pulse(12);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	pulse(14);
	assert_false(pic_pending(&pic)); /* lower than 12 */
	pulse(3);
	assert_false(pic_pending(&pic)); /* lower than the slave */
	pulse(9);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x39);
	assert_int_equal(isr(0xa0), 0x12);
}

static void spurious(void **state)
{
	(void)state;
	assert_int_equal(pic_acknowledge(&pic), 0x37);
	assert_int_equal(isr(0x20), 0); /* nothing in service */
	out(0x4d0, 0x20);
	pic_set_line(&pic, 5, true);
	pic_set_line(&pic, 5, false);
	assert_int_equal(pic_acknowledge(&pic), 0x37);
	/* The slave's request goes away when the master has already latched it. */
	pulse(12);
	out(0xa1, 0x10);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x3f);
	assert_int_equal(isr(0xa0), 0);
	assert_int_equal(isr(0x20), 0x04); /* the master is owed an EOI */
	out(0x20, 0x20);
	out(0xa1, 0);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
}

static void auto_eoi_and_rotation(void **state)
{
	(void)state;
	init(0x03);
	pulse(3);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	assert_int_equal(isr(0x20), 0);
	out(0x20, 0x80); /* rotate in automatic EOI */
	pulse(3);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	pulse(3);
	pulse(4);
	assert_int_equal(pic_acknowledge(&pic), 0x34); /* 3 is now the lowest */
	out(0x20, 0x00);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	pulse(5);
	pulse(4);
	assert_int_equal(pic_acknowledge(&pic), 0x35); /* 4 is the lowest, and 3 did not become it */

	init(0x01);
	pulse(3);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	out(0x20, 0xa0); /* rotate on non-specific EOI */
	pulse(3);
	pulse(7);
	assert_int_equal(pic_acknowledge(&pic), 0x37);
	out(0x20, 0xe7); /* rotate on specific EOI */
	assert_int_equal(isr(0x20), 0);
	pulse(0);
	assert_int_equal(pic_acknowledge(&pic), 0x30);
	out(0x20, 0x20);
	out(0x20, 0xc2); /* set priority: 2 is the lowest, 3 the highest */
	pulse(1);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	out(0x20, 0x40); /* no operation */
	assert_int_equal(isr(0x20), 0x08);
}

/* When a request is taken and another is ready at once, the wire to the next stage must show two edges. */
static void ready_again_at_once(void **state)
{
	(void)state;
	init(0x03);
	pulse(4);
	pulse(5);
	assert_int_equal(notified, 1);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	assert_int_equal(notified, 2);
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	assert_int_equal(notified, 2);

	out(0xa0, 0x11);
	out(0xa1, 0x38);
	out(0xa1, 0x02);
	out(0xa1, 0x03); /* the slave ends its interrupts itself, too */
	pulse(9);
	pulse(12);
	assert_int_equal(pic_acknowledge(&pic), 0x39);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	assert_false(pic_pending(&pic));
}

static void special_mask_mode(void **state)
{
	(void)state;
	pulse(1);
	assert_int_equal(pic_acknowledge(&pic), 0x31);
	pulse(6);
	assert_false(pic_pending(&pic));
	out(0x21, 0x02);
	assert_false(pic_pending(&pic)); /* masking alone does not let lower ones through */
	out(0x20, 0x68);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x36);
	out(0x20, 0x20);
	assert_int_equal(isr(0x20), 0x02); /* the masked one is safe from a non-specific EOI */
	out(0x20, 0x20);
	assert_int_equal(isr(0x20), 0x02);
	out(0x20, 0x48);
	out(0x20, 0x20);
	assert_int_equal(isr(0x20), 0);
}

static void polling(void **state)
{
	(void)state;
	pulse(4);
	pulse(10);
	out(0x20, 0x0c);
	assert_int_equal(in(0x20), 0x82);
	out(0xa0, 0x0c);
	assert_int_equal(in(0xa1), 0x82); /* either address answers a poll */
	out(0xa0, 0x20);
	out(0x20, 0x20);
	out(0x20, 0x0c);
	assert_int_equal(in(0x20), 0x84);
	assert_int_equal(isr(0x20), 0x10);
	out(0x20, 0x20);
	out(0x20, 0x0c);
	assert_int_equal(in(0x20), 0x00);
	assert_false(pic_pending(&pic));
	out(0x20, 0x0b);
	out(0x20, 0x08); /* OCW3 that chooses nothing leaves the choice alone */
	pulse(3);
	assert_int_equal(in(0x20), 0);
}

static void numbers_out_of_range(void **state)
{
	struct pic before = pic;
	(void)state;
	pic_set_line(&pic, 16, true);
	pic_set_line(&pic, 0xffffffff, true);
	pic_set_line(&pic, 2, true);
	assert_memory_equal(&before, &pic, sizeof(pic));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(silent_before_setup, setup),
		cmocka_unit_test_setup(short_init_sequences, setup),
		cmocka_unit_test_setup(init_forgets, setup),
		cmocka_unit_test_setup(edge_request_to_eoi, setup),
		cmocka_unit_test_setup(mask_holds_back, setup),
		cmocka_unit_test_setup(priorities_nest, setup),
		cmocka_unit_test_setup(level_request, setup),
		cmocka_unit_test_setup(cascade, setup),
		cmocka_unit_test_setup(special_fully_nested, setup),
		cmocka_unit_test_setup(spurious, setup),
		cmocka_unit_test_setup(auto_eoi_and_rotation, setup),
		cmocka_unit_test_setup(ready_again_at_once, setup),
		cmocka_unit_test_setup(special_mask_mode, setup),
		cmocka_unit_test_setup(polling, setup),
		cmocka_unit_test_setup(numbers_out_of_range, setup),
	};
	return cmocka_run_group_tests_name("pic", tests, NULL, NULL);
}
