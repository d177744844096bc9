#include "devices.h"
#include "state_io.h"

#include <string.h>

#define CASCADE 2 /* the master's line that the slave's INT pin is wired to */

#define ICW1_SELECT 0x10
#define ICW1_SINGLE 0x02
#define ICW1_ICW4 0x01
#define ICW4_SFNM 0x10
#define ICW4_AEOI 0x02
#define OCW3_SELECT 0x08
#define OCW3_POLL 0x04

/* IRQs 0, 1, 2 and 8, 13 are wired to edge-driven devices of the board; chipsets do not let them be level-triggered. */
static const uint8_t elcr_writable[2] = { 0xf8, 0xde };

/* 0 is the highest priority. It goes round: the line after the lowest has the highest (data sheet, "Automatic Rotation"). */
static unsigned rank(const struct pic_chip *c, unsigned line)
{
	return (line - c->lowest_priority - 1u) & 7;
}

/* The line of highest priority among a set, or -1. */
static int highest(const struct pic_chip *c, uint8_t set)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned line = (c->lowest_priority + i) & 7;
		if (set & (1u << line))
			return (int)line;
	}
	return -1;
}

/* The line that the chip asks for service with, or -1 when its INT pin is low. */
static int request(const struct pic_chip *c)
{
	int line = highest(c, c->irr & ~c->imr);
	if (line < 0 || c->icw_step)
		return -1;
	/* In special mask mode, a line that is in service and masked does not hold back those below it. */
	int serving = highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
	if (serving < 0 || rank(c, (unsigned)line) < rank(c, (unsigned)serving))
		return line;
	/* Special fully nested mode is for the master: the slave may interrupt again while its first one is served. The
	 * slave itself knows whether the new one is more urgent. */
	if (c->special_fully_nested && line == serving && line == CASCADE)
		return line;
	return -1;
}

static void set_chip_line(struct pic_chip *c, unsigned line, bool level)
{
	uint8_t bit = (uint8_t)(1u << line);
	bool was = c->lines & bit;

	c->lines = level ? c->lines | bit : c->lines & ~bit;
	if (c->elcr & bit)
		c->irr = level ? c->irr | bit : c->irr & ~bit;
	else if (level && !was)
		c->irr |= bit;
	/* The data sheet wants an edge's line to stay high until INTA, else the request is gone. It is kept here (as in
	 * QEMU and KVM): a vCPU that waits for a host CPU may be later than any real one, and no pulse may get lost. */
}

/* The consequences of any change: the slave's INT pin drives the master's line 2, and the master's INT pin the CPU. */
static void update(struct pic *pic)
{
	set_chip_line(&pic->chip[0], CASCADE, request(&pic->chip[1]) >= 0);

	bool intr = pic_pending(pic);
	bool risen = intr && !pic->intr;
	pic->intr = intr;
	if (risen && pic->notify)
		pic->notify(pic->notify_opaque);
}

bool pic_pending(const struct pic *pic)
{
	return request(&pic->chip[0]) >= 0;
}

void pic_set_line(struct pic *pic, unsigned irq, bool level)
{
	if (irq > 15 || irq == CASCADE)
		return;
	set_chip_line(&pic->chip[irq >> 3], irq & 7, level);
	update(pic);
}

/* INTA, or a poll that counts as one: the request becomes an interrupt in service. */
static void take(struct pic_chip *c, unsigned line)
{
	uint8_t bit = (uint8_t)(1u << line);

	if (!(c->elcr & bit))
		c->irr &= ~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_auto_eoi)
		c->lowest_priority = (uint8_t)line;
}

/* The slave's INT pin falls at its INTA, so that a second request of it is a new edge on the master's line 2. */
static void take_slave(struct pic *pic, unsigned line)
{
	take(&pic->chip[1], line);
	set_chip_line(&pic->chip[0], CASCADE, false);
}

uint8_t pic_acknowledge(struct pic *pic)
{
	struct pic_chip *master = &pic->chip[0], *slave = &pic->chip[1];
	int line = request(master);
	uint8_t vector;

	/* A request that went away between INT and INTA (masked, or a level that fell) is answered with line 7's vector,
	 * but without a bit in ISR: that is how a handler tells it from a real one. When the slave's went away, the
	 * master's bit 2 is set all the same, and the handler owes the master an EOI. */
	if (line < 0) {
		vector = master->vector_base + 7;
	} else {
		take(master, (unsigned)line);
		vector = master->vector_base + (uint8_t)line;
		if (line == CASCADE) {
			int slave_line = request(slave);
			if (slave_line >= 0)
				take_slave(pic, (unsigned)slave_line);
			vector = slave->vector_base + (uint8_t)(slave_line < 0 ? 7 : slave_line);
		}
	}
	pic->intr = false; /* INTA ends the request; what else is waiting is announced anew */
	update(pic);
	return vector;
}

static void write_icw1(struct pic_chip *c, uint8_t value)
{
	/* Edge memory, mask, priorities and modes are cleared; line 7 has the lowest priority (data sheet, ICW1). A line
	 * that is high must fall and rise to count as an edge. The level bit (0x08) is ELCR's on a PC and ignored. */
	c->irr = c->lines & c->elcr;
	c->imr = c->isr = 0;
	c->lowest_priority = 7;
	c->read_isr = c->special_mask = c->poll = false;
	c->auto_eoi = c->rotate_auto_eoi = c->special_fully_nested = false;
	c->single = value & ICW1_SINGLE;
	c->icw4_needed = value & ICW1_ICW4;
	c->icw_step = 2;
}

/* ICW2, ICW3, ICW4: which of them come was said in ICW1. */
static void write_next_icw(struct pic_chip *c, uint8_t value)
{
	unsigned step = c->icw_step;

	if (step == 2)
		c->vector_base = value & 0xf8;
	else if (step == 4) {
		c->auto_eoi = value & ICW4_AEOI;
		c->special_fully_nested = value & ICW4_SFNM;
	} /* 3 says how the chips are wired together, which is fixed here */

	if (step == 2 && !c->single)
		c->icw_step = 3;
	else
		c->icw_step = step < 4 && c->icw4_needed ? 4 : 0;
}

/* End of interrupt and rotation (data sheet, OCW2). Bits: 7 rotate, 6 specific, 5 EOI. */
static void write_ocw2(struct pic_chip *c, uint8_t value)
{
	unsigned command = value >> 5, level = value & 7;
	int line;

	switch (command) {
	case 0:
	case 4:
		c->rotate_auto_eoi = command == 4;
		break;
	case 1: /* non-specific: the highest in service; special mask mode protects the masked ones */
	case 5:
		line = highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
		if (line < 0)
			break;
		c->isr &= ~(1u << line);
		if (command == 5)
			c->lowest_priority = (uint8_t)line;
		break;
	case 3:
	case 7:
		c->isr &= ~(1u << level);
		if (command == 7)
			c->lowest_priority = (uint8_t)level;
		break;
	case 6:
		c->lowest_priority = (uint8_t)level;
		break;
	default: /* 2: no operation */
		break;
	}
}

static void write_ocw3(struct pic_chip *c, uint8_t value)
{
	if ((value & 0x60) == 0x60)
		c->special_mask = true;
	else if ((value & 0x60) == 0x40)
		c->special_mask = false;
	if (value & OCW3_POLL)
		c->poll = true; /* overrides the choice of a register for one read */
	else if ((value & 0x03) == 0x02)
		c->read_isr = false;
	else if ((value & 0x03) == 0x03)
		c->read_isr = true;
}

static void chip_write(struct pic *pic, struct pic_chip *c, uint64_t offset, uint8_t value)
{
	if (offset == 1 && c->icw_step)
		write_next_icw(c, value);
	else if (offset == 1)
		c->imr = value;
	else if (value & ICW1_SELECT)
		write_icw1(c, value);
	else if (value & OCW3_SELECT)
		write_ocw3(c, value);
	else
		write_ocw2(c, value);
	update(pic);
}

static uint8_t chip_read(struct pic *pic, struct pic_chip *c, uint64_t offset)
{
	if (c->poll) { /* the read that follows a poll command takes the place of INTA */
		int line = request(c);
		c->poll = false;
		if (line < 0)
			return 0;
		if (c == &pic->chip[1])
			take_slave(pic, (unsigned)line);
		else
			take(c, (unsigned)line);
		update(pic);
		return 0x80 | (uint8_t)line;
	}
	if (offset == 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static uint64_t master_read(void *dev, uint64_t offset, unsigned size)
{
	struct pic *pic = dev;
	(void)size;
	return chip_read(pic, &pic->chip[0], offset);
}

static void master_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pic *pic = dev;
	(void)size;
	chip_write(pic, &pic->chip[0], offset, (uint8_t)value);
}

static uint64_t slave_read(void *dev, uint64_t offset, unsigned size)
{
	struct pic *pic = dev;
	(void)size;
	return chip_read(pic, &pic->chip[1], offset);
}

static void slave_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pic *pic = dev;
	(void)size;
	chip_write(pic, &pic->chip[1], offset, (uint8_t)value);
}

static uint64_t elcr_read(void *dev, uint64_t offset, unsigned size)
{
	const struct pic *pic = dev;
	(void)size;
	return pic->chip[offset & 1].elcr;
}

static void elcr_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pic *pic = dev;
	struct pic_chip *c = &pic->chip[offset & 1];
	(void)size;
	c->elcr = (uint8_t)value & elcr_writable[offset & 1];
	/* A level-triggered request is the line itself; what was latched before means nothing. */
	c->irr = (c->irr & ~c->elcr) | (c->lines & c->elcr);
	update(pic);
}

const struct device_ops pic_master_ops = { .name = "pic master", .read = master_read, .write = master_write };
const struct device_ops pic_slave_ops = { .name = "pic slave", .read = slave_read, .write = slave_write };
const struct device_ops pic_elcr_ops = { .name = "pic elcr", .read = elcr_read, .write = elcr_write };

void pic_init(struct pic *pic, void (*notify)(void *opaque), void *opaque)
{
	memset(pic, 0, sizeof(*pic));
	pic->notify = notify;
	pic->notify_opaque = opaque;
	/* What firmware leaves behind: the old vectors, and everything masked. A guest that enables interrupts without
	 * having set up the chips would otherwise get the timer as vector 8, which looks like a double fault. */
	pic->chip[0].vector_base = 0x08;
	pic->chip[1].vector_base = 0x70;
	for (unsigned i = 0; i < 2; i++) {
		pic->chip[i].imr = 0xff;
		pic->chip[i].lowest_priority = 7;
	}
}

static void chip_state(struct pic_chip *c, uint8_t may_be_level, struct state_io *io)
{
	STATE(io, c->irr);
	STATE(io, c->imr);
	STATE(io, c->isr);
	STATE(io, c->vector_base);
	STATE(io, c->elcr);
	STATE(io, c->lines);
	STATE(io, c->icw_step);
	STATE(io, c->single);
	STATE(io, c->read_isr);
	STATE(io, c->auto_eoi);
	STATE(io, c->rotate_auto_eoi);
	STATE(io, c->special_mask);
	STATE(io, c->icw4_needed);
	STATE(io, c->special_fully_nested);
	STATE(io, c->poll);
	STATE(io, c->lowest_priority);
	state_check(io, !(c->vector_base & 7), "its vectors begin at 0x%x", c->vector_base);
	state_check(io, !(c->elcr & ~may_be_level), "a line is level-triggered that cannot be");
	state_check(io, !((c->irr ^ c->lines) & c->elcr), "a level-triggered request is not what its line says");
	state_check(io, !c->icw_step || c->icw_step == 2 || (c->icw_step == 3 && !c->single) || (c->icw_step == 4 && c->icw4_needed),
		    "it waits for a command word that does not come");
	state_check(io, c->lowest_priority < 8, "it has no line %u", c->lowest_priority);
}

void pic_state(struct pic *pic, struct state_io *io)
{
	chip_state(&pic->chip[0], elcr_writable[0], io);
	chip_state(&pic->chip[1], elcr_writable[1], io);
	state_check(io, (pic->chip[0].lines >> CASCADE & 1) == (request(&pic->chip[1]) >= 0),
		    "the second chip's request is not on the wire");
	/* Not announced again: whoever had to hear of the edge has it in its own state. */
	if (io->loading)
		pic->intr = pic_pending(pic);
}
