/*
 * The interrupt controllers of a PC as a kernel uses them: the 8259 pair through virtual wire, then the local APIC (IPIs to itself, TPR,
 * timer) and the IOAPIC (edge and level). Prints the same wherever there are such chips, whoever made them: what depends on time is counted
 * or compared before it is printed, and versions are left out.
 *
 * With a parameter that is not 0: NMIs too, which the trap engine does not have.
 */
#include "desc.h"
#include "dbg.h"
#include "io.h"
#include "pic.h"

#include "../../../labs/01-trap-emulate/guests/probe.h"

PARAMS;

#define PIC_BASE 0x20
#define UART_IER 0x3f9
#define UART_IIR 0x3fa
#define IER_THRE 2

#define MSR_APIC_BASE 0x1b
#define APIC_ENABLE (1ull << 11)
#define LAPIC 0xfee00000ull
enum {
	ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100, TMR = 0x180,
	IRR = 0x200, ICR = 0x300, ICR_HIGH = 0x310, TIMER = 0x320, LINT0 = 0x350, ERROR = 0x370, INITIAL = 0x380, CURRENT = 0x390,
	DIVIDE = 0x3e0
};
#define MASKED (1u << 16)
#define PERIODIC (1u << 17)
#define SELF (1u << 18)
#define NMI 0x400
#define EXTINT 0x700
#define LOGICAL 0x800
#define DIVIDE_BY_16 3
#define LONG 0xfffffff0u

#define IOAPIC 0xfec00000ull
#define PIN_TIMER 2
#define PIN_COM1 4
#define LEVEL (1u << 15)
#define REMOTE_IRR (1u << 14)

#define VEC_NMI 2
enum { LOW = 0x41, NESTED = 0x51, SAME_CLASS = 0x55, HIGH = 0x62, TICK = 0x63, UART_EDGE = 0x71, UART_LEVEL = 0x72, PIT = 0x73, ABOVE = 0x81 };

static volatile uint32_t *lapic(unsigned reg)
{
	return (volatile uint32_t *)(LAPIC + reg);
}

static uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)IOAPIC = reg;
	return *(volatile uint32_t *)(IOAPIC + 0x10);
}

static void ioapic_write(unsigned reg, uint32_t value)
{
	*(volatile uint32_t *)IOAPIC = reg;
	*(volatile uint32_t *)(IOAPIC + 0x10) = value;
}

static void route(unsigned pin, uint32_t low)
{
	ioapic_write(0x11 + 2 * pin, *lapic(ID));
	ioapic_write(0x10 + 2 * pin, low);
}

static bool apic_bit(unsigned set, unsigned vector)
{
	return *lapic(set + vector / 32 * 16) >> vector % 32 & 1;
}

/* --- what the handlers saw ---------------------------------------------------------------------------------------------------- */

#define LOG 32
static volatile unsigned logged, nested_depth, ticks, nmis;
static struct {
	uint32_t vector, ppr, depth;
	bool in_service;
} seen[LOG];

static unsigned levels_wanted; /* how often the level-triggered line is to come before its device is served */
static uint32_t level_entry;

static void note(unsigned vector)
{
	if (logged < LOG) {
		seen[logged].vector = vector;
		seen[logged].ppr = *lapic(PPR);
		seen[logged].in_service = apic_bit(ISR, vector);
		seen[logged].depth = nested_depth;
	}
	logged++;
}

static void uart_calm(void)
{
	inb(UART_IIR);
	outb(UART_IER, 0);
}

static void on_interrupt(struct trap_frame *f)
{
	unsigned vector = (unsigned)f->vector;

	note(vector);
	nested_depth++;
	switch (vector) {
	case NESTED: /* a higher class interrupts this handler, the same class waits for its end */
		*lapic(ICR) = SELF | SAME_CLASS;
		sti();
		*lapic(ICR) = SELF | ABOVE;
		asm volatile("nop; nop");
		cli();
		break;
	case UART_LEVEL:
		level_entry = ioapic_read(0x10 + 2 * PIN_COM1);
		if (logged >= levels_wanted)
			uart_calm();
		break;
	case UART_EDGE:
		uart_calm();
		break;
	default:
		break;
	}
	nested_depth--;
	*lapic(EOI) = 0;
}

static void on_tick(struct trap_frame *f)
{
	(void)f;
	ticks++;
	*lapic(EOI) = 0;
}

static void on_pic(struct trap_frame *f)
{
	seen[logged++ % LOG].vector = (uint32_t)f->vector;
	uart_calm();
	pic_eoi(IRQ_COM1);
}

static void on_nmi(struct trap_frame *f)
{
	(void)f;
	nmis++;
}

/* The moment at which what waits is taken. */
static void open(void)
{
	sti();
	asm volatile("nop; nop");
	cli();
}

static void show(const char *name)
{
	dputs(name), report(".count", logged);
	for (unsigned i = 0; i < logged && i < LOG; i++) {
		dputs(name), report(".vector", seen[i].vector);
		dputs(name), report(".ppr", seen[i].ppr);
		dputs(name), report(".service", seen[i].in_service);
		dputs(name), report(".depth", seen[i].depth);
	}
	logged = 0;
}

/* --- the parts ------------------------------------------------------------------------------------------------------------------ */

static uint32_t cpuid_1(bool edx)
{
	uint32_t a = 1, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return edx ? d : b;
}

static void pair_interrupt(const char *name)
{
	logged = 0;
	outb(UART_IER, IER_THRE);
	open();
	dputs(name), report(".count", logged);
	dputs(name), report(".vector", logged ? seen[0].vector : 0);
	uart_calm();
	logged = 0;
}

static void identity(void)
{
	report("cpuid.apic", cpuid_1(true) >> 9 & 1);
	report("cpuid.id", cpuid_1(false) >> 24);
	report("base", rdmsr(MSR_APIC_BASE));
	report("id", *lapic(ID));
	report("integrated", *lapic(VERSION) >> 4 & 0xf);
	report("pins", ioapic_read(1) >> 16 & 0xff);
}

static void ipis(void)
{
	static const uint8_t vectors[] = { LOW, NESTED, HIGH, LOW };

	for (unsigned i = 0; i < sizeof vectors; i++)
		*lapic(ICR) = SELF | vectors[i];
	report("ipi.irr", apic_bit(IRR, LOW) | apic_bit(IRR, NESTED) << 1 | apic_bit(IRR, HIGH) << 2 | apic_bit(IRR, ABOVE) << 3);
	report("ipi.tmr", apic_bit(TMR, LOW) | apic_bit(TMR, HIGH));
	open();
	show("ipi");
	report("ipi.isr", apic_bit(ISR, LOW) | apic_bit(ISR, NESTED) | apic_bit(ISR, HIGH));

	*lapic(ICR_HIGH) = *lapic(ID);
	*lapic(ICR) = LOW; /* to its own id */
	*lapic(ICR_HIGH) = 0x07000000;
	*lapic(ICR) = HIGH; /* to nobody */
	open();
	show("physical");
	*lapic(DFR) = 0xffffffff;
	*lapic(LDR) = 0x04000000;
	report("ldr", *lapic(LDR));
	*lapic(ICR_HIGH) = 0x06000000;
	*lapic(ICR) = LOGICAL | LOW;
	*lapic(ICR_HIGH) = 0x03000000;
	*lapic(ICR) = LOGICAL | HIGH;
	open();
	show("logical");
}

/* CR8 is written only with nothing pending: the outer QEMU of the test host may not survive the other (docs/design.md). */
static void task_priority(void)
{
	uint64_t cr8;

	*lapic(TPR) = 0x60;
	asm volatile("mov %%cr8, %0" : "=r"(cr8));
	report("tpr.cr8", cr8);
	report("tpr.ppr", *lapic(PPR));
	*lapic(ICR) = SELF | HIGH; /* of this class: waits */
	open();
	report("tpr.held", logged);
	*lapic(ICR) = SELF | UART_EDGE;
	open();
	report("tpr.above", logged);
	*lapic(TPR) = 0x5f;
	open();
	show("tpr");
	asm volatile("mov %0, %%cr8" : : "r"(4ull));
	report("tpr.low", *lapic(TPR));
	asm volatile("mov %0, %%cr8" : : "r"(0ull));
	report("tpr.zero", *lapic(TPR));
}

static void wait_ticks(unsigned n)
{
	while (ticks < n)
		sti_hlt();
	cli();
}

static void timer(void)
{
	uint32_t first, second;

	*lapic(DIVIDE) = DIVIDE_BY_16;
	*lapic(TIMER) = TICK;
	*lapic(INITIAL) = LONG; /* seconds: nothing that keeps the machine busy makes it run down meanwhile */
	first = *lapic(CURRENT);
	second = *lapic(CURRENT);
	report("timer.counts", first <= LONG && second < first && second);
	*lapic(INITIAL) = 100000;
	wait_ticks(1);
	report("timer.over", *lapic(CURRENT));
	report("timer.initial", *lapic(INITIAL));
	for (unsigned i = 0; i < 1000; i++) /* nothing more comes */
		open();
	report("timer.once", ticks);

	ticks = 0;
	*lapic(TIMER) = PERIODIC | TICK;
	*lapic(INITIAL) = 200000;
	wait_ticks(5);
	report("timer.goes_on", *lapic(CURRENT) > 0);
	*lapic(TIMER) = MASKED | TICK;
	*lapic(INITIAL) = 0;
	open();
	report("timer.ticks", ticks >= 5);

	ticks = 0;
	*lapic(INITIAL) = 1000;
	while (*lapic(CURRENT))
		;
	open();
	report("timer.masked", ticks);
	report("timer.entry", *lapic(TIMER));
}

static void lines(void)
{
	route(PIN_COM1, UART_EDGE);
	outb(UART_IER, IER_THRE);
	open();
	show("edge");
	ioapic_write(0x10 + 2 * PIN_COM1, MASKED | UART_EDGE);
	outb(UART_IER, IER_THRE);
	ioapic_write(0x10 + 2 * PIN_COM1, UART_EDGE);
	open();
	show("lost");
	uart_calm();
	outb(UART_IER, IER_THRE);
	open();
	show("again");

	levels_wanted = 3;
	route(PIN_COM1, LEVEL | UART_LEVEL);
	outb(UART_IER, IER_THRE);
	open();
	for (unsigned i = 0; i < 3; i++)
		open();
	show("level");
	report("level.tmr", apic_bit(TMR, UART_LEVEL));
	report("level.entry", level_entry);
	report("level.after", ioapic_read(0x10 + 2 * PIN_COM1));
	route(PIN_COM1, MASKED);

	route(PIN_TIMER, PIT);
	pit_start(100);
	while (logged < 3)
		sti_hlt();
	cli();
	route(PIN_TIMER, MASKED);
	report("pit.vector", seen[0].vector);
	logged = 0;
}

int guest_main(void)
{
	gdt_init();
	idt_init();
	for (unsigned v = 0x40; v < 0x90; v++)
		trap_handlers[v] = on_interrupt;
	trap_handlers[TICK] = on_tick;
	trap_handlers[PIC_BASE + IRQ_COM1] = on_pic;
	trap_handlers[VEC_NMI] = on_nmi;

	pic_init(PIC_BASE);
	pic_unmask(IRQ_COM1);
	pair_interrupt("wire");
	identity();
	*lapic(SVR) = 0x1ff;
	pair_interrupt("enabled");
	*lapic(LINT0) = MASKED;
	pair_interrupt("unwired");
	pic_init(PIC_BASE); /* what waits there is forgotten */

	ipis();
	task_priority();
	timer();
	lines();
	if (params[0]) {
		*lapic(ICR) = SELF | NMI;
		open(); /* QEMU looks between blocks of code only */
		report("nmi", nmis);
	}
	/* Switched off it is not there, and the pair interrupts the CPU itself. (QEMU wants LINT0 open all the same.) */
	*lapic(LINT0) = EXTINT;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~APIC_ENABLE);
	report("off.base", rdmsr(MSR_APIC_BASE));
	report("off.cpuid", cpuid_1(true) >> 9 & 1);
	pic_unmask(IRQ_COM1);
	pair_interrupt("off");
	return 0;
}
