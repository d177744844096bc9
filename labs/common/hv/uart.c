#include "devices.h"
#include "state_io.h"

#include <string.h>

/* Registers (PC16550D data sheet, table II); 0 and 1 are the divisor latch while LCR has DLAB set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IER_ALL 0x0f
#define IIR_NONE 0x01
#define IIR_LINE 0x06
#define IIR_RX 0x04
#define IIR_TIMEOUT 0x0c
#define IIR_THRE 0x02
#define IIR_MODEM 0x00
#define IIR_FIFO 0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_KEPT 0xc9 /* enable, DMA mode, trigger level; the two clear bits do their work and are gone */
#define LCR_DLAB 0x80
#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_ALL 0x1f
#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_ERRORS 0x1e
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define MSR_TERI 0x04
#define MSR_DELTAS 0x0f
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

static unsigned capacity(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static unsigned trigger_level(const struct uart *u)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };
	return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/*
 * The interrupt with the highest priority (data sheet, table IV). The character timeout is due four character times after
 * the last byte; input comes in whole pieces here, so a FIFO below its trigger level has always waited long enough.
 */
static uint8_t interrupt_id(const struct uart *u)
{
	if ((u->ier & IER_LINE) && (u->lsr & LSR_ERRORS))
		return IIR_LINE;
	if ((u->ier & IER_RX) && u->rx_count)
		return u->rx_count >= trigger_level(u) ? IIR_RX : IIR_TIMEOUT;
	if ((u->ier & IER_THRE) && u->thr_irq)
		return IIR_THRE;
	if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

/*
 * The one place that drives the interrupt wire. On a PC, MCR's OUT2 gates it; here it does not, as on QEMU, because small
 * kernels (xv6 is one) never set OUT2 and do get interrupts there.
 */
static void update_irq(struct uart *u)
{
	irq_set(&u->irq, interrupt_id(u) != IIR_NONE);
}

/* One byte reaches the receiver. When it is full the byte is lost: the FIFO keeps the old ones, a 16450 the new one. */
static void receive_byte(struct uart *u, uint8_t byte)
{
	if (u->rx_count < capacity(u)) {
		u->rx[(u->rx_head + u->rx_count++) % UART_FIFO] = byte;
		return;
	}
	u->lsr |= LSR_OE;
	if (!(u->fcr & FCR_ENABLE))
		u->rx[u->rx_head] = byte;
}

/* The console has input. What does not fit stays there until room() asks for it. */
static size_t receive(void *opaque, const uint8_t *data, size_t len)
{
	struct uart *u = opaque;

	if (u->mcr & MCR_LOOP) /* the receiver listens to our own transmitter, not to the wire */
		return 0;
	size_t n = capacity(u) - u->rx_count;
	if (n > len)
		n = len;
	for (size_t i = 0; i < n; i++)
		receive_byte(u, data[i]);
	u->rx_bytes += n;
	update_irq(u);
	return n;
}

/*
 * The receiver may have room now. The wire is updated before the next byte comes: without a FIFO it must fall between two
 * bytes, or an edge-triggered 8259 (and a guest that takes one byte for each interrupt) would miss the second.
 */
static void room(struct uart *u)
{
	update_irq(u);
	console_kick(u->con);
}

/* The modem's lines. In loop mode the four outputs are wired to the four inputs, which is how Linux finds a real UART; else the
 * other end is always there and ready. */
static uint8_t modem_lines(uint8_t mcr)
{
	if (!(mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
	       (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

/* The lines with what changed since MSR was read: the low four bits (data sheet, Modem Status Register). */
static void set_modem_lines(struct uart *u, uint8_t lines)
{
	uint8_t changed = (u->msr ^ lines) & 0xf0;
	uint8_t delta = (changed & ~MSR_RI) >> 4;
	if ((changed & MSR_RI) && !(lines & MSR_RI))
		delta |= MSR_TERI; /* the ring indicator counts only when it ends */
	u->msr = lines | (u->msr & MSR_DELTAS) | delta;
}

static void write_mcr(struct uart *u, uint8_t value)
{
	bool was_loop = u->mcr & MCR_LOOP;
	u->mcr = value & MCR_ALL;
	set_modem_lines(u, modem_lines(u->mcr));
	update_irq(u);
	if (was_loop && !(u->mcr & MCR_LOOP))
		room(u);
}

static void write_fcr(struct uart *u, uint8_t value)
{
	bool toggled = (u->fcr ^ value) & FCR_ENABLE;
	/* The other bits are programmed only together with the enable bit; switching modes empties the FIFOs. */
	u->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	if (toggled || (value & FCR_CLEAR_RX)) {
		u->rx_head = u->rx_count = 0;
		room(u);
	}
	update_irq(u); /* the trigger level may have changed */
}

static void transmit(struct uart *u, uint8_t byte)
{
	/* The byte empties THR at once, but the wire must show that it was full in between: see room(). */
	u->thr_irq = false;
	update_irq(u);
	if (u->mcr & MCR_LOOP) {
		receive_byte(u, byte);
	} else {
		u->tx_bytes++;
		console_write(u->con, &byte, 1); /* may let receive() in meanwhile, which does not touch the transmitter */
	}
	u->thr_irq = true;
	update_irq(u);
}

static uint8_t read_data(struct uart *u)
{
	if (!u->rx_count)
		return 0;
	uint8_t byte = u->rx[u->rx_head];
	u->rx_head = (u->rx_head + 1) % UART_FIFO;
	u->rx_count--;
	room(u);
	return byte;
}

static uint64_t uart_read(void *dev, uint64_t offset, unsigned size)
{
	struct uart *u = dev;
	bool dlab = u->lcr & LCR_DLAB;
	uint8_t value;

	(void)size;
	switch (offset) {
	case REG_DATA:
		return dlab ? u->dll : read_data(u);
	case REG_IER:
		return dlab ? u->dlm : u->ier;
	case REG_IIR_FCR:
		value = interrupt_id(u);
		if (value == IIR_THRE) { /* reading the reason is what acknowledges this one (table IV) */
			u->thr_irq = false;
			update_irq(u);
		}
		return value | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
	case REG_LCR:
		return u->lcr;
	case REG_MCR:
		return u->mcr;
	case REG_LSR:
		value = u->lsr | LSR_THRE | LSR_TEMT | (u->rx_count ? LSR_DR : 0);
		u->lsr = 0;
		update_irq(u);
		return value;
	case REG_MSR:
		value = u->msr;
		u->msr &= ~MSR_DELTAS;
		update_irq(u);
		return value;
	default:
		return u->scr;
	}
}

static void uart_write(void *dev, uint64_t offset, unsigned size, uint64_t wide)
{
	struct uart *u = dev;
	bool dlab = u->lcr & LCR_DLAB;
	uint8_t value = (uint8_t)wide;

	(void)size;
	switch (offset) {
	case REG_DATA:
		if (dlab)
			u->dll = value; /* the speed does not matter, but a driver reads it back */
		else
			transmit(u, value);
		break;
	case REG_IER:
		if (dlab) {
			u->dlm = value;
			break;
		}
		/* THR is empty, so switching the interrupt on raises it: drivers start to send that way. */
		if (value & ~u->ier & IER_THRE)
			u->thr_irq = true;
		u->ier = value & IER_ALL;
		update_irq(u);
		break;
	case REG_IIR_FCR:
		write_fcr(u, value);
		break;
	case REG_LCR:
		u->lcr = value;
		break;
	case REG_MCR:
		write_mcr(u, value);
		break;
	case REG_SCR:
		u->scr = value;
		break;
	default: /* LSR and MSR are read-only; writing them is for factory tests */
		break;
	}
}

const struct device_ops uart_ops = { .name = "uart", .read = uart_read, .write = uart_write };

void uart_init(struct uart *uart, struct irq_line irq, struct console *con)
{
	memset(uart, 0, sizeof(*uart));
	uart->irq = irq;
	uart->con = con;
	uart->dll = 12; /* 9600 baud, what a PC's firmware leaves behind */
	uart->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	con->receive_opaque = uart;
	con->receive = receive;
}

void uart_state(struct uart *u, struct state_io *io)
{
	STATE(io, u->ier);
	STATE(io, u->lcr);
	STATE(io, u->mcr);
	STATE(io, u->msr);
	STATE(io, u->scr);
	STATE(io, u->fcr);
	STATE(io, u->dll);
	STATE(io, u->dlm);
	STATE(io, u->lsr);
	STATE(io, u->thr_irq);
	state_bytes(io, u->rx, sizeof u->rx);
	STATE(io, u->rx_head);
	STATE(io, u->rx_count);
	state_check(io, !(u->ier & ~IER_ALL) && !(u->mcr & ~MCR_ALL) && !(u->lsr & ~LSR_OE), "bits are set that do not exist");
	state_check(io, u->fcr & FCR_ENABLE ? !(u->fcr & ~FCR_KEPT) : !u->fcr, "FIFOs that are off have options");
	state_check(io, (u->msr & ~MSR_DELTAS) == modem_lines(u->mcr), "the modem's lines are not what they are wired to");
	if (!state_check(io, u->rx_head < UART_FIFO && u->rx_count <= capacity(u), "it holds more than it has room for"))
		u->rx_head = u->rx_count = 0;
	console_state(u->con, io);
}
