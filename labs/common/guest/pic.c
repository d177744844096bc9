#include "pic.h"

#include "io.h"

/* Each 8259A has a command port and, one above it, the port of its mask. */
#define PIC_MASTER 0x20
#define PIC_SLAVE 0xa0
#define ICW1_INIT 0x11 /* edge triggered, cascaded, ICW4 follows */
#define ICW4_8086 0x01
#define OCW2_EOI 0x20
#define OCW3_READ_ISR 0x0b
#define CASCADE 2 /* the master's line that the slave is on */

#define PIT_HZ 1193182
#define PIT_COUNTER0 0x40
#define PIT_CONTROL 0x43
#define PIT_RATE_GENERATOR 0x34 /* counter 0, low then high byte, mode 2 */

static unsigned pic_of(unsigned irq)
{
	return irq < 8 ? PIC_MASTER : PIC_SLAVE;
}

static void pic_setup(unsigned pic, unsigned base, unsigned wiring)
{
	outb(pic, ICW1_INIT);
	outb(pic + 1, base);
	outb(pic + 1, wiring);
	outb(pic + 1, ICW4_8086);
	outb(pic + 1, 0xff);
}

void pic_init(unsigned base)
{
	pic_setup(PIC_MASTER, base, 1 << CASCADE); /* the master wants a bit mask, */
	pic_setup(PIC_SLAVE, base + 8, CASCADE);   /* the slave a number */
	pic_unmask(CASCADE);
}

void pic_unmask(unsigned irq)
{
	outb(pic_of(irq) + 1, inb(pic_of(irq) + 1) & ~(1 << irq % 8));
}

void pic_mask(unsigned irq)
{
	outb(pic_of(irq) + 1, inb(pic_of(irq) + 1) | 1 << irq % 8);
}

void pic_eoi(unsigned irq)
{
	if (irq >= 8)
		outb(PIC_SLAVE, OCW2_EOI);
	outb(PIC_MASTER, OCW2_EOI);
}

/* A request that vanished before it was acknowledged is reported as the chip's line 7, without its bit in service. */
bool pic_spurious(unsigned irq)
{
	if (irq % 8 != 7)
		return false;
	outb(pic_of(irq), OCW3_READ_ISR);
	if (inb(pic_of(irq)) & 0x80)
		return false;
	if (irq >= 8) /* for the master the cascade line was real */
		outb(PIC_MASTER, OCW2_EOI);
	return true;
}

void pit_start(unsigned hz)
{
	unsigned count = PIT_HZ / hz;

	outb(PIT_CONTROL, PIT_RATE_GENERATOR);
	outb(PIT_COUNTER0, count);
	outb(PIT_COUNTER0, count >> 8);
}
