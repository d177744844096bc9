// sources: i8042.c bus.c state_io.c
/* The keyboard controller and its keyboard, as drivers use them and as they should not. */
#include "i8042.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct i8042 kbc;
static struct bus bus;
static bool line;
static unsigned edges, resets;

static void on_irq(void *opaque, unsigned irq, bool level)
{
	(void)opaque;
	assert_int_equal(irq, 1);
	edges += level && !line;
	line = level;
}

static void on_reset(void *opaque)
{
	(void)opaque;
	resets++;
}

static int setup(void **state)
{
	(void)state;
	line = false;
	edges = resets = 0;
	i8042_init(&kbc, (struct irq_line){ on_irq, NULL, 1 }, on_reset, NULL);
	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, I8042_DATA, 1, &i8042_data_ops, &kbc), 0);
	assert_int_equal(bus_add(&bus, I8042_COMMAND, 1, &i8042_command_ops, &kbc), 0);
	assert_int_equal(bus_add(&bus, PORT_A, 1, &port_a_ops, &kbc), 0);
	return 0;
}

static uint8_t in(uint64_t port)
{
	uint64_t value;
	assert_true(bus_read(&bus, port, 1, &value));
	return (uint8_t)value;
}

static void command(uint8_t value) { bus_write(&bus, I8042_COMMAND, 1, value); }
static void data(uint8_t value) { bus_write(&bus, I8042_DATA, 1, value); }

/* All that comes, without waiting. */
static unsigned drain(uint8_t *out, unsigned max)
{
	unsigned n = 0;
	while (in(I8042_COMMAND) & 1) {
		assert_true(n < max);
		out[n++] = in(I8042_DATA);
	}
	return n;
}

static void comes(const char *expected, unsigned len)
{
	uint8_t got[64];
	assert_int_equal(drain(got, sizeof got), len);
	assert_memory_equal(got, expected, len);
	assert_false(line);
}
#define COMES(bytes) comes(bytes, sizeof(bytes) - 1)

static void begins_as_a_bios_leaves_it(void **state)
{
	(void)state;
	assert_int_equal(in(I8042_COMMAND), 0x14); /* nothing there, nothing to wait for */
	command(0x20);
	COMES("\x65");
	assert_int_equal(edges, 1); /* an answer of the controller's raises the interrupt too */
}

static void controller_commands(void **state)
{
	(void)state;
	command(0xaa);
	assert_int_equal(in(I8042_COMMAND) & 9, 9); /* an answer, to a command */
	COMES("\x55");
	command(0xab);
	COMES(("\x00"));
	command(0xc0);
	COMES("\x80");
	command(0x60);
	data(0x00);
	assert_int_equal(in(I8042_COMMAND) & 8, 0);
	command(0x20);
	edges = 0;
	COMES(("\x00"));
	assert_int_equal(edges, 0); /* interrupts are off */
	command(0xa8);
	command(0xa9); /* a test of the mouse, which does not exist: nothing answers */
	command(0xd3);
	data(0x55);
	command(0xd4);
	data(0xff);
	COMES("");
	command(0xd2);
	data(0x77);
	COMES("\x77");
	assert_int_equal(resets, 0);
}

static void resets_the_machine(void **state)
{
	(void)state;
	command(0xfe);
	assert_int_equal(resets, 1);
	command(0xf0); /* all four lines */
	assert_int_equal(resets, 2);
	command(0xff); /* none of them */
	command(0xfd);
	assert_int_equal(resets, 2);
	command(0xd1);
	data(0xdf);
	assert_int_equal(resets, 2);
	command(0xd1);
	data(0xde);
	assert_int_equal(resets, 3);
	bus_write(&bus, PORT_A, 1, 2);
	assert_int_equal(resets, 3);
	bus_write(&bus, PORT_A, 1, 3);
	assert_int_equal(resets, 4);
}

/* Address line 20: both ways to its gate show the same gate. */
static void gate_a20(void **state)
{
	uint8_t port;
	(void)state;
	assert_int_equal(in(PORT_A), 2);
	command(0xd0);
	assert_int_equal(drain(&port, 1), 1);
	assert_int_equal(port & 3, 3);
	command(0xd1);
	data(0xdd);
	assert_int_equal(in(PORT_A), 0);
	bus_write(&bus, PORT_A, 1, 2);
	command(0xd0);
	assert_int_equal(drain(&port, 1), 1);
	assert_int_equal(port & 3, 3);
}

static void keyboard_commands(void **state)
{
	(void)state;
	data(0xff);
	COMES("\xfa\xaa");
	data(0xee);
	COMES("\xee");
	data(0xf2);
	COMES("\xfa\xab\x41"); /* translated, as on any PC */
	data(0xed);
	COMES("\xfa");
	data(0x07);
	COMES("\xfa");
	data(0xf3);
	data(0x20);
	COMES("\xfa\xfa");
	data(0xf0);
	data(0x00);
	COMES("\xfa\xfa\x41");
	data(0xf0);
	data(0x01);
	COMES("\xfa\xfe"); /* it has one set */
	data(0xed);
	data(0xf4); /* a command in place of the parameter */
	COMES("\xfa\xfa");
	data(0x07); /* is no parameter now */
	COMES("\xfe");
	command(0x60);
	data(0x05); /* no translation */
	data(0xf2);
	COMES("\xfa\xab\x83");
}

static void interrupts(void **state)
{
	(void)state;
	data(0xf2);
	assert_true(line);
	assert_int_equal(edges, 1);
	in(I8042_DATA);
	assert_int_equal(edges, 2); /* one for each byte, with the line low in between */
	in(I8042_DATA);
	in(I8042_DATA);
	assert_int_equal(edges, 3);
	assert_false(line);
	/* Switched on while a byte waits. */
	command(0x60);
	data(0x44);
	data(0xee);
	assert_false(line);
	command(0x60);
	data(0x45);
	assert_true(line);
	assert_int_equal(in(I8042_DATA), 0xee);
}

static void keyboard_off_at_the_controller(void **state)
{
	(void)state;
	command(0xad);
	assert_int_equal(i8042_type(&kbc, "a"), 0);
	COMES("");
	command(0x20); /* the controller itself answers */
	COMES("\x75");
	command(0xae);
	COMES("\x1e\x9e");
	command(0xad);
	data(0xee); /* who talks to it wants an answer */
	COMES("\xee");
}

static void typing(void **state)
{
	(void)state;
	assert_int_equal(i8042_type(&kbc, "aA1!\\n\\\\|"), 0);
	COMES("\x1e\x9e\x2a\x1e\x9e\xaa\x02\x82\x2a\x02\x82\xaa\x1c\x9c\x2b\xab\x2a\x2b\xab\xaa");
	command(0x60);
	data(0x05); /* what a keyboard sends by itself: set 2 */
	assert_int_equal(i8042_type(&kbc, "a, "), 0);
	COMES("\x1c\xf0\x1c\x41\xf0\x41\x29\xf0\x29");

	assert_int_equal(i8042_type(&kbc, "a\x01"), -EINVAL);
	assert_int_equal(i8042_type(&kbc, "a\\q"), -EINVAL);
	assert_int_equal(i8042_type(&kbc, "a\\"), -EINVAL);
	assert_int_equal(i8042_type(&kbc, "\xc3\xa4"), -EINVAL);
	COMES(""); /* nothing of it */
	data(0xf5);
	COMES("\xfa");
	assert_int_equal(i8042_type(&kbc, "a"), -EIO);
	data(0xf4);
	COMES("\xfa");
	assert_int_equal(i8042_type(&kbc, "a"), 0);
	COMES("\x1c\xf0\x1c");
}

/* Every key that has a character: pressed and released, and the same number in both sets. */
static void every_character(void **state)
{
	(void)state;
	for (unsigned c = 0x20; c < 0x7f; c++) {
		char text[3] = { (char)c };
		uint8_t one[8], two[8];
		if (c == '\\')
			text[1] = (char)c;
		setup(NULL);
		assert_int_equal(i8042_type(&kbc, text), 0);
		unsigned n = drain(one, sizeof one);
		bool shift = n == 4;
		assert_int_equal(n, shift ? 4 : 2);
		assert_int_equal(one[shift] | 0x80, one[shift + 1]);
		command(0x60);
		data(0x05);
		assert_int_equal(i8042_type(&kbc, text), 0);
		assert_int_equal(drain(two, sizeof two), shift ? 6 : 3);
		assert_int_equal(two[shift], two[shift + 2]);
		assert_int_equal(two[shift + 1], 0xf0);
	}
}

/* More than the guest reads: what is kept is bounded, and what was accepted comes whole. */
static void too_much(void **state)
{
	char text[101];
	uint8_t got[4 * KEYBOARD_TEXT];
	unsigned accepted = 0;
	(void)state;

	memset(text, 'x', 100);
	text[100] = 0;
	while (!i8042_type(&kbc, text))
		accepted += 100;
	assert_int_equal(i8042_type(&kbc, text), -ENOSPC);
	assert_in_range(accepted, KEYBOARD_TEXT - 100, KEYBOARD_TEXT + 100);
	assert_int_equal(drain(got, sizeof got), 2 * accepted);
	/* A driver that never reads its answers. */
	for (unsigned i = 0; i < 1000; i++) {
		data(0xf2);
		command(0x20);
	}
	assert_true(kbc.count <= KEYBOARD_QUEUE);
	drain(got, sizeof got);
}

/* Every command with every byte behind it, in any state: it ends, and the controller still works afterwards. */
static void anything(void **state)
{
	uint32_t x = 1;
	uint8_t got[64];
	(void)state;

	for (unsigned i = 0; i < 200000; i++) {
		x = x * 1664525 + 1013904223;
		uint8_t byte = (uint8_t)(x >> 24);
		switch (x >> 22 & 3) {
		case 0: command(byte); break;
		case 1: data(byte); break;
		case 2: in(I8042_DATA); break;
		default: i8042_type(&kbc, "aB"); break;
		}
		assert_true(kbc.count <= KEYBOARD_QUEUE && kbc.head < KEYBOARD_QUEUE);
		assert_true(kbc.typed <= kbc.ntext && kbc.ntext <= KEYBOARD_TEXT);
	}
	command(0x60);
	data(0x45);
	data(0xff);
	for (unsigned i = 0; i < 4 && in(I8042_COMMAND) & 1; i++)
		in(I8042_DATA);
	data(0xee);
	assert_true(drain(got, sizeof got) >= 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, setup)
	const struct CMUnitTest tests[] = {
		TEST(begins_as_a_bios_leaves_it), TEST(controller_commands), TEST(resets_the_machine), TEST(gate_a20),
		TEST(keyboard_commands), TEST(interrupts), TEST(keyboard_off_at_the_controller), TEST(typing),
		TEST(every_character), TEST(too_much), TEST(anything),
	};
	return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
