#include "lapic.h"
#include "state_io.h"

#include <string.h>

/* Registers, at multiples of 16 (SDM vol. 3, table 10-1). */
enum {
	REG_ID = 0x020, REG_VERSION = 0x030, REG_TPR = 0x080, REG_APR = 0x090, REG_PPR = 0x0a0, REG_EOI = 0x0b0, REG_RRD = 0x0c0,
	REG_LDR = 0x0d0, REG_DFR = 0x0e0, REG_SVR = 0x0f0, REG_ISR = 0x100, REG_TMR = 0x180, REG_IRR = 0x200, REG_ESR = 0x280,
	REG_ICR_LOW = 0x300, REG_ICR_HIGH = 0x310, REG_LVT = 0x320, REG_INITIAL = 0x380, REG_CURRENT = 0x390, REG_DIVIDE = 0x3e0
};

#define VERSION (0x14 | (LVT_COUNT - 1) << 16) /* integrated, xAPIC (10.4.8) */
#define FIRST_VECTOR 16 /* those below are the CPU's own exceptions (10.5.2) */
#define SVR_ENABLE (1u << 8)
#define ID_WRITABLE 0xff000000
#define DFR_FIXED 0x0fffffff /* bits that read as 1; above them the model: 15 flat, 0 clusters */

#define DIVIDE_WRITABLE 0xb
#define LVT_MODE(lvt) ((enum apic_mode)((lvt) >> 8 & 7))
#define LVT_MASKED (1u << 16)
#define LVT_PERIODIC (1u << 17)

#define ICR_WRITABLE 0x000ccfff /* bit 12, delivery status, is always 0: a message is delivered at once */
#define ICR_LOGICAL (1u << 11)
#define ICR_SHORTHAND(icr) ((icr) >> 18 & 3)
enum { TO_DEST, TO_SELF, TO_ALL, TO_OTHERS };

/* ESR (figure 10-9). */
#define ERROR_SEND_VECTOR (1u << 5)
#define ERROR_RECEIVE_VECTOR (1u << 6)
#define ERROR_REGISTER (1u << 7)
#define ERROR_ALL (ERROR_SEND_VECTOR | ERROR_RECEIVE_VECTOR | ERROR_REGISTER)

/* Ticks faster than this would keep the host busy for a guest that cannot take them anyway (as MIN_EDGE_NS in pit.c). */
#define MIN_PERIOD_NS 100000

/* What software can set in each LVT register (figure 10-8). */
static const uint32_t lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x300ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff, [LVT_ERROR] = 0x100ff,
};

static void set_bit(uint32_t *set, uint8_t vector, bool on)
{
	uint32_t bit = 1u << vector % 32;

	set[vector / 32] = on ? set[vector / 32] | bit : set[vector / 32] & ~bit;
}

static bool test_bit(const uint32_t *set, uint8_t vector)
{
	return set[vector / 32] >> vector % 32 & 1;
}

/* The highest vector of a set, or -1. */
static int highest(const uint32_t *set)
{
	for (int i = 7; i >= 0; i--)
		if (set[i])
			return i * 32 + 31 - __builtin_clz(set[i]);
	return -1;
}

static bool hardware_enabled(const struct lapic *l)
{
	return l->base & APIC_BASE_ENABLE;
}

static bool software_enabled(const struct lapic *l)
{
	return l->svr & SVR_ENABLE;
}

/* CR8 is the upper half of TPR. A MOV to CR8 goes past this file, and leaves zeros in the lower half (10.8.6.1). */
static uint8_t task_priority(const struct lapic *l)
{
	return *l->cr8 == l->tpr >> 4 ? l->tpr : (uint8_t)(*l->cr8 << 4);
}

static void set_task_priority(struct lapic *l, uint8_t value)
{
	l->tpr = value;
	*l->cr8 = value >> 4;
}

/* PPR (10.8.3.1): the class of what is in service, or TPR, whichever is higher. */
static uint8_t processor_priority(const struct lapic *l)
{
	int serving = highest(l->isr);
	uint8_t tpr = task_priority(l);

	return serving < 0 || tpr >> 4 >= serving >> 4 ? tpr : serving & 0xf0;
}

/* --- accepting ------------------------------------------------------------------------------------------------------------- */

static bool accept_fixed(struct lapic *l, uint8_t vector, bool level);

/* An error is an interrupt of its own, once for each kind until software looks at it (10.5.3). */
static void raise_error_bit(struct lapic *l, uint32_t error)
{
	bool fresh = !(l->errors & error);

	l->errors |= error;
	/* The error entry itself may be what has the bad vector; that ends here, because then the error is not a fresh one. */
	if (fresh && !(l->lvt[LVT_ERROR] & LVT_MASKED))
		accept_fixed(l, (uint8_t)l->lvt[LVT_ERROR], false);
}

/* IRR holds one of each vector; a second one that comes before the first is taken merges with it (10.8.4). */
static bool accept_fixed(struct lapic *l, uint8_t vector, bool level)
{
	if (!software_enabled(l))
		return false;
	if (vector < FIRST_VECTOR) {
		raise_error_bit(l, ERROR_RECEIVE_VECTOR);
		return false;
	}
	set_bit(l->irr, vector, true);
	set_bit(l->tmr, vector, level);
	l->ops->notify(l->opaque);
	return true;
}

/* Is a message's destination this APIC? (10.6.2) */
static bool addressed(const struct lapic *l, const struct apic_message *m)
{
	uint8_t logical = (uint8_t)(l->ldr >> 24);

	if (m->dest == 0xff)
		return true;
	if (!m->logical)
		return m->dest == l->id >> 24;
	if (l->dfr >> 28 == 0xf) /* flat: a bit for each APIC */
		return m->dest & logical;
	return m->dest >> 4 == logical >> 4 && (m->dest & logical & 0xf); /* cluster, and a bit in it */
}

bool lapic_receive(struct lapic *l, const struct apic_message *m)
{
	if (!hardware_enabled(l) || !addressed(l, m))
		return false;
	switch (m->mode) {
	case APIC_FIXED:
	case APIC_LOWEST: /* of one */
		return accept_fixed(l, m->vector, m->level);
	case APIC_NMI: /* also while switched off by software (10.4.7.2) */
		l->ops->nmi(l->opaque);
		return true;
	default:
		/* There is no SMM. INIT and start-up are how other processors are brought up; to restart the only one there are the
		 * platform's own ways. The 8259s are wired to LINT0, not to the IOAPIC, so ExtINT has nothing behind it. */
		return false;
	}
}

void lapic_lint0_risen(struct lapic *l)
{
	uint32_t lvt = l->lvt[LVT_LINT0];

	if (!hardware_enabled(l) || (lvt & LVT_MASKED))
		return;
	if (LVT_MODE(lvt) == APIC_FIXED)
		accept_fixed(l, (uint8_t)lvt, false);
	else if (LVT_MODE(lvt) == APIC_NMI) /* how old kernels made a watchdog of the PC's timer */
		l->ops->nmi(l->opaque);
}

static void send_ipi(struct lapic *l)
{
	struct apic_message m = { .vector = (uint8_t)l->icr_low, .mode = LVT_MODE(l->icr_low), .logical = l->icr_low & ICR_LOGICAL,
				  .dest = (uint8_t)(l->icr_high >> 24) };

	if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < FIRST_VECTOR) {
		raise_error_bit(l, ERROR_SEND_VECTOR);
		return;
	}
	switch (ICR_SHORTHAND(l->icr_low)) {
	case TO_OTHERS:
		return;
	case TO_SELF:
	case TO_ALL:
		m.logical = false;
		m.dest = 0xff;
		break;
	default:
		break;
	}
	lapic_receive(l, &m);
}

/* --- delivering ------------------------------------------------------------------------------------------------------------ */

bool lapic_passes_intr(const struct lapic *l)
{
	uint32_t lvt = l->lvt[LVT_LINT0];

	return !hardware_enabled(l) || (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT);
}

/* The vector to deliver, or -1: only a higher class than PPR's interrupts (10.8.3). */
static int deliverable(const struct lapic *l)
{
	int vector = highest(l->irr);

	return vector >= 0 && vector >> 4 > processor_priority(l) >> 4 ? vector : -1;
}

bool lapic_pending(const struct lapic *l)
{
	return hardware_enabled(l) && deliverable(l) >= 0;
}

uint8_t lapic_acknowledge(struct lapic *l)
{
	int vector = deliverable(l);

	if (vector < 0)
		return (uint8_t)l->svr;
	set_bit(l->irr, (uint8_t)vector, false);
	set_bit(l->isr, (uint8_t)vector, true);
	return (uint8_t)vector;
}

static void end_of_interrupt(struct lapic *l)
{
	int vector = highest(l->isr);

	if (vector < 0)
		return;
	set_bit(l->isr, (uint8_t)vector, false);
	if (test_bit(l->tmr, (uint8_t)vector))
		l->ops->eoi(l->opaque, (uint8_t)vector);
}

/* --- timer (10.5.4) --------------------------------------------------------------------------------------------------------- */

/* Bits 3, 1 and 0 of the divide configuration: 0 is 2, 1 is 4, ..., 6 is 128, 7 is 1 (figure 10-10). */
static uint64_t divisor(const struct lapic *l)
{
	unsigned code = (l->divide >> 1 & 4) | (l->divide & 3);

	return code == 7 ? 1 : 2ull << code;
}

static bool periodic(const struct lapic *l)
{
	return l->lvt[LVT_TIMER] & LVT_PERIODIC;
}

/* A full count takes less than 2^32 * 128 ns, so nothing here comes near 64 bits. */
static uint64_t period_ns(const struct lapic *l)
{
	return l->initial * divisor(l);
}

static uint32_t current_count(const struct lapic *l)
{
	uint64_t elapsed = clock_ns() - l->start_ns;

	if (!l->initial || l->run_down)
		return 0;
	if (periodic(l))
		elapsed %= period_ns(l);
	return elapsed >= period_ns(l) ? 0 : l->initial - (uint32_t)(elapsed / divisor(l));
}

/* Arms the host's timer for the first interrupt after `after`, if one will come. */
static void schedule(struct lapic *l, uint64_t after)
{
	uint64_t elapsed = after - l->start_ns, due = l->start_ns + period_ns(l);

	if (l->initial && periodic(l)) {
		due = l->start_ns + (elapsed / period_ns(l) + 1) * period_ns(l);
		if (due < after + MIN_PERIOD_NS)
			due = after + MIN_PERIOD_NS;
	}
	l->due_ns = due;
	/* As a difference: a count that was started on another host may have begun before this one's clock. */
	if (!l->initial || l->run_down || (int64_t)(due - after) <= 0 || (l->lvt[LVT_TIMER] & LVT_MASKED))
		due = 0;
	loop_timer_set(l->loop, &l->timer, due);
}

/* Late ticks are not made up for: IRR has one bit for them all, and a real processor with interrupts off loses them as well. */
static void timer_due(void *opaque)
{
	struct lapic *l = opaque;
	uint64_t now = clock_ns();

	accept_fixed(l, (uint8_t)l->lvt[LVT_TIMER], false);
	schedule(l, now > l->due_ns ? now : l->due_ns);
}

/* A count that has run down has struck, whether the loop's thread has come to it or not: what the guest now reads or changes is
 * behind it. */
static void settle(struct lapic *l)
{
	if (l->timer.deadline_ns && clock_ns() >= l->timer.deadline_ns)
		timer_due(l);
}

/* The count goes on from where it is when the divider or the mode changes. The manual leaves open what happens. One that has
 * run down stays at 0, also when the timer is periodic from now on: only a new initial count starts it again. */
static void timer_restart(struct lapic *l, uint32_t count)
{
	uint64_t now = clock_ns();

	l->run_down = !count;
	if (count)
		l->start_ns = now - (l->initial - count) * divisor(l);
	schedule(l, now);
}

/* --- registers --------------------------------------------------------------------------------------------------------------- */

static void reset(struct lapic *l)
{
	l->ldr = l->icr_low = l->icr_high = l->esr = l->errors = l->divide = l->initial = 0;
	l->id = 0;
	l->run_down = false;
	set_task_priority(l, 0);
	l->dfr = UINT32_MAX;
	l->svr = 0xff;
	memset(l->irr, 0, sizeof l->irr);
	memset(l->isr, 0, sizeof l->isr);
	memset(l->tmr, 0, sizeof l->tmr);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	loop_timer_set(l->loop, &l->timer, 0);
}

static void write_lvt(struct lapic *l, unsigned i, uint32_t value)
{
	uint32_t count = current_count(l), changed = l->lvt[i] ^ value;

	l->lvt[i] = value & lvt_writable[i];
	if (!software_enabled(l)) /* (10.4.7.2) */
		l->lvt[i] |= LVT_MASKED;
	if (i == LVT_TIMER && (changed & LVT_PERIODIC))
		timer_restart(l, count);
	else if (i == LVT_TIMER)
		schedule(l, clock_ns());
}

static void write_svr(struct lapic *l, uint32_t value)
{
	l->svr = value & (SVR_ENABLE | 0xff); /* no focus processor checking, no suppression of EOI broadcasts */
	if (software_enabled(l))
		return;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		write_lvt(l, i, l->lvt[i] | LVT_MASKED);
}

static void lapic_write(void *dev, uint64_t offset, unsigned size, uint64_t wide)
{
	struct lapic *l = dev;
	uint32_t value = (uint32_t)wide, count;

	/* Registers are written whole; the manual defines nothing else (10.4.1). */
	if (!hardware_enabled(l) || size < 4 || offset % 16)
		return;
	settle(l);
	switch (offset) {
	case REG_ID: l->id = value & ID_WRITABLE; break;
	case REG_TPR: set_task_priority(l, (uint8_t)value); break;
	case REG_EOI: end_of_interrupt(l); break;
	case REG_LDR: l->ldr = value & ID_WRITABLE; break;
	case REG_DFR: l->dfr = value | DFR_FIXED; break;
	case REG_SVR: write_svr(l, value); break;
	case REG_ESR: /* any value: what has happened so far becomes readable (10.5.3) */
		l->esr = l->errors;
		l->errors = 0;
		break;
	case REG_ICR_LOW:
		l->icr_low = value & ICR_WRITABLE;
		send_ipi(l);
		break;
	case REG_ICR_HIGH: l->icr_high = value & ID_WRITABLE; break;
	case REG_LVT ... REG_LVT + 16 * (LVT_COUNT - 1): write_lvt(l, (unsigned)(offset - REG_LVT) / 16, value); break;
	case REG_INITIAL: /* starts the count, 0 stops it */
		l->initial = value;
		timer_restart(l, value);
		break;
	case REG_DIVIDE:
		count = current_count(l);
		l->divide = value & DIVIDE_WRITABLE;
		timer_restart(l, count);
		break;
	case REG_VERSION: case REG_APR: case REG_PPR: case REG_RRD: case REG_CURRENT: case REG_ISR ... REG_ESR - 16: break;
	default: raise_error_bit(l, ERROR_REGISTER);
	}
}

static uint32_t read_register(struct lapic *l, uint64_t offset)
{
	switch (offset) {
	case REG_ID: return l->id;
	case REG_VERSION: return VERSION;
	case REG_TPR: return task_priority(l);
	case REG_PPR: return processor_priority(l);
	case REG_LDR: return l->ldr;
	case REG_DFR: return l->dfr;
	case REG_SVR: return l->svr;
	case REG_ISR ... REG_ISR + 0x70: return l->isr[(offset - REG_ISR) / 16];
	case REG_TMR ... REG_TMR + 0x70: return l->tmr[(offset - REG_TMR) / 16];
	case REG_IRR ... REG_IRR + 0x70: return l->irr[(offset - REG_IRR) / 16];
	case REG_ESR: return l->esr;
	case REG_ICR_LOW: return l->icr_low;
	case REG_ICR_HIGH: return l->icr_high;
	case REG_LVT ... REG_LVT + 16 * (LVT_COUNT - 1): return l->lvt[(offset - REG_LVT) / 16];
	case REG_INITIAL: return l->initial;
	case REG_CURRENT: return current_count(l);
	case REG_DIVIDE: return l->divide;
	case REG_APR: case REG_RRD: case REG_EOI: return 0; /* of older APICs; EOI is for writing */
	default:
		raise_error_bit(l, ERROR_REGISTER);
		return 0;
	}
}

static uint64_t lapic_read(void *dev, uint64_t offset, unsigned size)
{
	struct lapic *l = dev;
	(void)size;

	if (!hardware_enabled(l)) /* nothing answers there */
		return UINT64_MAX;
	if (offset % 16 >= 4)
		return 0; /* the rest of a register's 16 bytes */
	settle(l);
	return read_register(l, offset & ~15ull) >> 8 * (offset % 16);
}

const struct device_ops lapic_mmio_ops = { .name = "local apic", .read = lapic_read, .write = lapic_write };

void lapic_set_base(struct lapic *l, uint64_t value)
{
	bool was = hardware_enabled(l);

	l->base = value;
	if (was != hardware_enabled(l))
		reset(l);
}

void lapic_init(struct lapic *l, struct loop *loop, uint64_t *cr8, const struct lapic_ops *ops, void *opaque)
{
	memset(l, 0, sizeof *l);
	l->ops = ops;
	l->opaque = opaque;
	l->loop = loop;
	l->cr8 = cr8;
	l->timer.fn = timer_due;
	l->timer.opaque = l;
	l->base = LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP;
	reset(l);
	/* Without this a guest that knows nothing of APICs would never see the 8259s. QEMU and KVM do the same. */
	l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
}

static void vectors_state(uint32_t *set, struct state_io *io)
{
	state_bytes(io, set, 8 * sizeof *set);
	state_check(io, !(set[0] & ((1u << FIRST_VECTOR) - 1)), "an interrupt has the vector of an exception");
}

static void timer_state(struct lapic *l, struct state_io *io)
{
	uint64_t due = l->timer.deadline_ns;

	STATE(io, l->divide);
	STATE(io, l->initial);
	STATE(io, l->run_down);
	state_instant(io, &l->start_ns);
	state_time(io, &due);
	state_check(io, !(l->divide & ~DIVIDE_WRITABLE), "bits are set that do not exist");
	state_check(io, !due || (l->initial && !l->run_down && !(l->lvt[LVT_TIMER] & LVT_MASKED)), "a timer runs that is off");
	if (!io->loading)
		return;
	l->due_ns = due;
	loop_timer_set(l->loop, &l->timer, state_failed(io) ? 0 : due);
}

void lapic_state(struct lapic *l, struct state_io *io)
{
	STATE(io, l->base);
	STATE(io, l->id);
	STATE(io, l->ldr);
	STATE(io, l->dfr);
	STATE(io, l->svr);
	STATE(io, l->icr_low);
	STATE(io, l->icr_high);
	STATE(io, l->tpr);
	STATE(io, l->esr);
	STATE(io, l->errors);
	state_check(io, lapic_base_valid(l->base), "it cannot lie at 0x%llx", (unsigned long long)l->base);
	state_check(io, !((l->id | l->ldr | l->icr_high) & ~ID_WRITABLE) && (l->dfr & DFR_FIXED) == DFR_FIXED &&
		    !(l->svr & ~(SVR_ENABLE | 0xff)) && !(l->icr_low & ~ICR_WRITABLE) && !((l->esr | l->errors) & ~ERROR_ALL),
		    "bits are set that do not exist");
	for (unsigned i = 0; i < LVT_COUNT; i++) {
		STATE(io, l->lvt[i]);
		state_check(io, !(l->lvt[i] & ~lvt_writable[i]), "entry %u of its vector table has bits that do not exist", i);
	}
	vectors_state(l->irr, io);
	vectors_state(l->isr, io);
	vectors_state(l->tmr, io);
	timer_state(l, io);
	state_check(io, hardware_enabled(l) || (highest(l->irr) < 0 && highest(l->isr) < 0 && !l->initial), "it works although it is off");
}
