// sources: uart.c state_io.c
/* The UART with a console and an interrupt wire that this test plays. */
#include "devices.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

static struct uart uart;
static struct console con;
static char sent[64];
static size_t nsent;
static uint8_t waiting[512];
static size_t nwaiting;
static bool wire;
static unsigned edges;

void console_write(struct console *c, const uint8_t *data, size_t len)
{
	assert_ptr_equal(c, &con);
	assert_true(nsent + len < sizeof(sent));
	memcpy(sent + nsent, data, len);
	nsent += len;
}

void console_kick(struct console *c)
{
	size_t n = nwaiting ? c->receive(c->receive_opaque, waiting, nwaiting) : 0;
	assert_true(n <= nwaiting);
	nwaiting -= n;
	memmove(waiting, waiting + n, nwaiting);
}

void console_state(struct console *c, struct state_io *io)
{
	(void)c, (void)io;
}

static void set_wire(void *opaque, unsigned irq, bool level)
{
	assert_ptr_equal(opaque, &uart);
	assert_int_equal(irq, 4);
	edges += level && !wire;
	wire = level;
}

/* Bytes typed on the host. */
static void type(const char *text, size_t len)
{
	memcpy(waiting + nwaiting, text, len);
	nwaiting += len;
	console_kick(&con);
}

static uint8_t in(unsigned reg)
{
	return (uint8_t)uart_ops.read(&uart, reg, 1);
}

static void out(unsigned reg, uint8_t value)
{
	uart_ops.write(&uart, reg, 1, value);
}

static int setup(void **state)
{
	(void)state;
	nsent = nwaiting = edges = 0;
	wire = false;
	uart_init(&uart, (struct irq_line){ .set = set_wire, .opaque = &uart, .irq = 4 }, &con);
	return 0;
}

static void output_reaches_the_console(void **state)
{
	(void)state;
	assert_int_equal(in(LSR), 0x60);
	out(DATA, 'o');
	uart_ops.write(&uart, DATA, 4, 0x1234566b); /* a wide access counts by its low byte */
	assert_memory_equal(sent, "ok", 2);
	assert_int_equal(nsent, 2);
	assert_int_equal(uart.tx_bytes, 2);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(edges, 0); /* nobody asked for interrupts */
}

static void registers_keep_what_they_have(void **state)
{
	(void)state;
	out(SCR, 0xa5);
	assert_int_equal(in(SCR), 0xa5);
	out(SCR, 0x5a);
	assert_int_equal(in(SCR), 0x5a);
	out(IER, 0xff);
	assert_int_equal(in(IER), 0x0f);
	out(IER, 0);
	out(MCR, 0xef);
	assert_int_equal(in(MCR), 0x0f);
	out(LCR, 0x83); /* DLAB: the divisor hides behind registers 0 and 1 */
	out(DATA, 0x01);
	out(IER, 0x0c);
	assert_int_equal(in(DATA), 0x01);
	assert_int_equal(in(IER), 0x0c);
	assert_int_equal(nsent, 0);
	out(LCR, 0x03);
	assert_int_equal(in(LCR), 0x03);
	assert_int_equal(in(IER), 0);
	out(LSR, 0xff);
	out(MSR, 0xff);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(in(MSR), 0xb0);
}

/* What Linux's 8250 driver does to find out what it has before it. */
static void linux_autoconfig(void **state)
{
	(void)state;
	out(IER, 0);
	assert_int_equal(in(IER), 0);
	out(IER, 0x0f);
	assert_int_equal(in(IER) & 0x0f, 0x0f);
	out(IER, 0);
	out(MCR, 0x10 | 0x0a);
	assert_int_equal(in(MSR) & 0xf0, 0x90);
	out(MCR, 0);
	out(FCR, 0x01);
	assert_int_equal(in(IIR) >> 6, 3); /* a 16550A */
	out(LCR, 0xbf); /* no enhanced register behind it */
	assert_int_not_equal(in(IIR), 0);
	out(LCR, 0x80);
	out(FCR, 0x21); /* no 64-byte FIFO either */
	assert_int_equal(in(IIR) >> 5, 6);
	out(LCR, 0x03);
	out(FCR, 0x00);
	assert_int_equal(in(IIR) >> 6, 0);

	/* Size of the FIFO: 256 bytes through the loop, how many arrive? */
	out(FCR, 0x07);
	out(MCR, 0x10);
	for (unsigned i = 0; i < 256; i++)
		out(DATA, (uint8_t)i);
	assert_int_equal(in(LSR), 0x63); /* ready, and an overrun */
	assert_int_equal(in(LSR), 0x61);
	unsigned n = 0;
	for (; in(LSR) & 1; n++)
		assert_int_equal(in(DATA), n);
	assert_int_equal(n, 16);
	assert_int_equal(nsent, 0);

	/* Is the transmitter interrupt raised anew when it is enabled again? */
	out(MCR, 0);
	out(IER, 0x02);
	assert_int_equal(in(IIR) & 0x0f, 0x02);
	out(IER, 0);
	out(IER, 0x02);
	assert_int_equal(in(IIR) & 0x0f, 0x02);
	out(IER, 0);
}

static void transmitter_interrupt(void **state)
{
	(void)state;
	out(IER, 0x02);
	assert_true(wire);
	assert_int_equal(in(IIR), 0x02);
	assert_false(wire); /* reading the reason acknowledged it */
	assert_int_equal(in(IIR), 0x01);
	out(DATA, 'a');
	assert_true(wire);
	edges = 0;
	out(DATA, 'b'); /* not acknowledged, but an edge-triggered controller sees a new one */
	assert_int_equal(edges, 1);
	out(IER, 0x00);
	assert_false(wire);
	out(IER, 0x02);
	assert_true(wire);
	out(IER, 0x02); /* was on already: nothing new */
	in(IIR);
	out(IER, 0x02);
	assert_false(wire);
}

static void received_byte_without_fifo(void **state)
{
	(void)state;
	out(IER, 0x01);
	type("xyz", 3);
	assert_int_equal(nwaiting, 2); /* takes one, the others wait on the host */
	assert_true(wire);
	assert_int_equal(in(IIR), 0x04);
	assert_int_equal(in(LSR), 0x61);
	edges = 0;
	assert_int_equal(in(DATA), 'x');
	assert_int_equal(edges, 1); /* the wire fell and rose with the next byte */
	assert_int_equal(in(DATA), 'y');
	assert_int_equal(in(DATA), 'z');
	assert_false(wire);
	assert_int_equal(in(LSR), 0x60);
	assert_int_equal(in(IIR), 0x01);
	assert_int_equal(uart.rx_bytes, 3);
	assert_int_equal(in(DATA), 0);
	assert_int_equal(uart.rx_count, 0);
}

static void fifo_trigger_and_timeout(void **state)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };
	char text[UART_FIFO] = { 0 };
	(void)state;

	for (unsigned i = 0; i < 4; i++) {
		out(FCR, (uint8_t)(i << 6 | 0x03));
		out(IER, 0x01);
		type(text, level[i]);
		assert_int_equal(in(IIR), 0xc4); /* data available */
		in(DATA);
		if (level[i] > 1) {
			assert_int_equal(in(IIR), 0xcc); /* below the trigger level: timeout */
			assert_true(wire);
		} else {
			assert_int_equal(in(IIR), 0xc1);
		}
		out(FCR, 0x03);
		assert_false(wire);
		assert_int_equal(in(LSR), 0x60);
	}
}

static void console_waits_for_room(void **state)
{
	uint8_t text[100];
	(void)state;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)i;
	out(FCR, 0x01);
	type((const char *)text, sizeof(text));
	assert_int_equal(nwaiting, sizeof(text) - UART_FIFO);
	for (unsigned i = 0; i < sizeof(text); i++) {
		assert_int_equal(in(LSR), 0x61); /* never an overrun */
		assert_int_equal(in(DATA), i);
	}
	assert_int_equal(in(LSR), 0x60);

	type((const char *)text, sizeof(text));
	out(FCR, 0x03); /* clearing the FIFO makes room */
	assert_int_equal(nwaiting, sizeof(text) - 2 * UART_FIFO);
	assert_int_equal(in(DATA), 16);
	out(MCR, 0x10); /* in loopback the receiver does not listen to the console */
	size_t before = nwaiting;
	while (in(LSR) & 1)
		in(DATA);
	assert_int_equal(nwaiting, before);
	out(MCR, 0x00);
	assert_int_equal(nwaiting, before - UART_FIFO);
}

static void overrun_without_fifo_keeps_the_last(void **state)
{
	(void)state;
	out(MCR, 0x10);
	out(IER, 0x04);
	out(DATA, 'a');
	assert_false(wire);
	out(DATA, 'b');
	assert_true(wire);
	assert_int_equal(in(IIR), 0x06);
	assert_int_equal(in(LSR), 0x63);
	assert_false(wire);
	assert_int_equal(in(DATA), 'b');
	assert_int_equal(in(LSR), 0x60);
}

static void modem_lines(void **state)
{
	(void)state;
	assert_int_equal(in(MSR), 0xb0); /* somebody is there, and nothing has changed */
	out(IER, 0x08);
	out(MCR, 0x1f);
	assert_false(wire);
	assert_int_equal(in(IIR), 0x01);
	assert_int_equal(in(MSR), 0xf0); /* ring went on: no delta; the others were on before */
	out(MCR, 0x10);
	assert_true(wire);
	assert_int_equal(in(IIR), 0x00);
	assert_int_equal(in(MSR), 0x0f);
	assert_false(wire);
	assert_int_equal(in(MSR), 0x00);
	out(MCR, 0x11);
	assert_int_equal(in(MSR), 0x22);
	out(MCR, 0x12);
	assert_int_equal(in(MSR), 0x13);
	out(MCR, 0x00);
	assert_int_equal(in(MSR), 0xba);
}

static void priorities(void **state)
{
	(void)state;
	out(FCR, 0x01);
	out(MCR, 0x10);
	for (unsigned i = 0; i < 17; i++)
		out(DATA, 0);
	out(IER, 0x0f);
	assert_int_equal(in(IIR), 0xc6);
	in(LSR);
	assert_int_equal(in(IIR), 0xc4);
	for (unsigned i = 0; i < 16; i++)
		in(DATA);
	assert_int_equal(in(IIR), 0xc2);
	assert_true(wire);
	assert_int_equal(in(IIR), 0xc0);
	in(MSR);
	assert_int_equal(in(IIR), 0xc1);
	assert_false(wire);
}

/* Whatever a guest writes, the state stays inside its arrays (the sanitizers watch). */
static void any_sequence_is_safe(void **state)
{
	uint32_t random = 12345;
	(void)state;
	for (unsigned i = 0; i < 200000; i++) {
		random = random * 1664525 + 1013904223;
		unsigned reg = random >> 29;
		nsent = 0;
		if (random & 0x100)
			out(reg, (uint8_t)(random >> 16));
		else
			in(reg);
		if (nwaiting < 400)
			type("abcdefg", random >> 9 & 7);
		assert_true(uart.rx_count <= UART_FIFO);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(output_reaches_the_console, setup),
		cmocka_unit_test_setup(registers_keep_what_they_have, setup),
		cmocka_unit_test_setup(linux_autoconfig, setup),
		cmocka_unit_test_setup(transmitter_interrupt, setup),
		cmocka_unit_test_setup(received_byte_without_fifo, setup),
		cmocka_unit_test_setup(fifo_trigger_and_timeout, setup),
		cmocka_unit_test_setup(console_waits_for_room, setup),
		cmocka_unit_test_setup(overrun_without_fifo_keeps_the_last, setup),
		cmocka_unit_test_setup(modem_lines, setup),
		cmocka_unit_test_setup(priorities, setup),
		cmocka_unit_test_setup(any_sequence_is_safe, setup),
	};
	return cmocka_run_group_tests_name("uart", tests, NULL, NULL);
}
