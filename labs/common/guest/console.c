#include "console.h"

#include "fmt.h"
#include "io.h"
#include "irq.h"
#include "pic.h"
#include "proc.h"

#define COM1 0x3f8
#define UART_DATA (COM1 + 0) /* with DLAB set: low byte of the divisor */
#define UART_IER (COM1 + 1)  /* with DLAB set: high byte */
#define UART_LCR (COM1 + 3)
#define UART_MCR (COM1 + 4)
#define UART_LSR (COM1 + 5)

#define IER_RX 0x01
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_DTR_RTS_OUT2 0x0b /* on a PC, OUT2 connects the chip to the interrupt controller */
#define LSR_RX_READY 0x01
#define LSR_TX_EMPTY 0x20

/* Received and not yet read. head and tail only ever grow; their difference is the number of characters. */
static struct {
	char data[128];
	unsigned head, tail;
} rx;

/*
 * Takes over what the chip has, as long as there is room. What has none stays in the chip, where it makes the sender wait;
 * no new interrupt will tell of it (the controller is edge triggered), so readers call this too.
 */
static void rx_drain(void)
{
	while (rx.head - rx.tail < sizeof(rx.data) && inb(UART_LSR) & LSR_RX_READY)
		rx.data[rx.head++ % sizeof(rx.data)] = inb(UART_DATA);
}

static void rx_interrupt(void)
{
	rx_drain();
	proc_wakeup(&rx);
}

static char rx_get(void)
{
	bool was = irq_save();
	char c;

	while (rx_drain(), rx.head == rx.tail)
		proc_sleep_on(&rx);
	c = rx.data[rx.tail++ % sizeof(rx.data)];
	irq_restore(was);
	return c;
}

/* The FIFO stays off, as after reset: switching it on clears it, and with it what was sent before the kernel was there. */
void console_init(void)
{
	outb(UART_LCR, LCR_DLAB | LCR_8N1);
	outb(UART_DATA, 1); /* divisor 1: 115200 baud */
	outb(UART_IER, 0);
	outb(UART_LCR, LCR_8N1);
	outb(UART_MCR, MCR_DTR_RTS_OUT2);
	outb(UART_IER, IER_RX);
	irq_register(IRQ_COM1, rx_interrupt);
}

static void tx(char c)
{
	while (!(inb(UART_LSR) & LSR_TX_EMPTY))
		;
	outb(UART_DATA, c);
}

void console_write(const char *s, size_t len)
{
	for (; len; len--, s++) {
		if (*s == '\n')
			tx('\r');
		tx(*s);
	}
}

void kprintf(const char *fmt, ...)
{
	char buf[256];
	va_list args;
	size_t len;

	va_start(args, fmt);
	len = format(buf, sizeof(buf), fmt, args);
	va_end(args);
	console_write(buf, len);
}

size_t console_read_line(char *buf, size_t size)
{
	size_t len = 0;
	char c;

	while (c = rx_get(), c != '\r' && c != '\n') {
		if (c == '\b' || c == 0x7f) {
			if (len) {
				len--;
				console_write("\b \b", 3);
			}
		} else if (len + 1 < size) {
			buf[len++] = c;
			console_write(&c, 1);
		}
	}
	console_write("\n", 1);
	buf[len] = 0;
	return len;
}
