#include "irq.h"

#include "io.h"
#include "pic.h"
#include "proc.h"

volatile uint64_t ticks;

static bool irqs_on; /* follows RFLAGS.IF */
static void (*handlers[IRQ_LINES])(void);

bool irq_save(void)
{
	bool was = irqs_on;

	cli();
	irqs_on = false;
	return was;
}

void irq_restore(bool was)
{
	if (!was)
		return;
	irqs_on = true;
	sti();
}

void irq_follow(bool on)
{
	irqs_on = on;
}

void irq_wait(void)
{
	irqs_on = true;
	sti_hlt();
	irq_save();
}

void irq_register(unsigned irq, void (*handler)(void))
{
	handlers[irq] = handler;
	pic_unmask(irq);
}

/* The line is acknowledged first, because a handler may end in another process and come back much later. */
void irq_handle(unsigned irq)
{
	if (pic_spurious(irq))
		return;
	pic_eoi(irq);
	if (handlers[irq])
		handlers[irq]();
}

static void tick(void)
{
	ticks++;
	proc_wakeup((void *)&ticks);
	proc_slice_over();
}

void irq_init(void)
{
	pic_init(IRQ_BASE);
	pit_start(HZ);
	irq_register(IRQ_TIMER, tick);
}
