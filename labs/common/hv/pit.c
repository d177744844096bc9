#include "devices.h"
#include "state_io.h"

#include <string.h>

/*
 * A counter is not stepped. Its count, its output and its next edge are functions of the time since it was loaded, in whole
 * ticks of the 8254's clock, so nothing drifts and an idle counter costs nothing. A count is taken to be loaded when it is
 * written; the chip does that at its next clock pulse, less than a microsecond later.
 */

#define NEVER UINT64_MAX
#define NS_PER_S 1000000000ull
#define AT_ONCE 1 /* as a time: long over, and not the 0 that stands for none */
/* How many late ticks of a periodic counter 0 are delivered one after the other, see irq_timer(). */
#define CATCH_UP_TICKS 3
/* IRQ 0 is raised at most this often, or a guest could keep the host busy with a count of 2 (596 591 times a second). */
#define MIN_EDGE_NS 100000

#define REFRESH_TICKS 18 /* the memory refresh request, port 0x61 bit 4, changes every 15 us */
#define PORT61_GATE2 0x01
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH 0x10
#define PORT61_OUT2 0x20

/* Whole seconds and the rest apart: exact, and the products stay far below 2^64 whatever the uptime. */
static uint64_t ns_to_ticks(uint64_t ns)
{
	return ns / NS_PER_S * PIT_HZ + ns % NS_PER_S * PIT_HZ / NS_PER_S;
}

/* The first nanosecond of a tick: rounded up, so that ns_to_ticks(ticks_to_ns(t)) == t and no timer comes too early. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks / PIT_HZ * NS_PER_S + (ticks % PIT_HZ * NS_PER_S + PIT_HZ - 1) / PIT_HZ;
}

static uint64_t now_ticks(const struct pit *pit)
{
	return ns_to_ticks(clock_ns() - pit->epoch_ns);
}

static bool periodic(const struct pit_counter *c)
{
	return c->mode == 2 || c->mode == 3;
}

static bool triggered_by_gate(const struct pit_counter *c)
{
	return c->mode == 1 || c->mode == 5;
}

static uint32_t modulus(const struct pit_counter *c)
{
	return c->bcd ? 10000 : 65536;
}

/* BCD digits above 9 are the guest's mistake; the value stays small, and everything below reduces it by the modulus. */
static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static uint16_t to_bcd(uint32_t v)
{
	return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

/* How many ticks the count register stands for. Never 0, so it can be divided by. */
static uint32_t full_count(const struct pit_counter *c)
{
	uint32_t n = c->bcd ? from_bcd(c->reload) : c->reload;
	if (!n)
		return modulus(c);
	return periodic(c) && n == 1 ? 2 : n; /* 1 is illegal there (data sheet, modes 2 and 3) */
}

/*
 * Lets a count that was waiting for the end of the present cycle take over, when that time has come. Everything below
 * wants a counter that is settled for the time it asks about. For counter 0 the change never comes after the edge that its
 * timer is set for (see next_rise), so reading the counter before a late timer has run does not take that edge away.
 */
static void settle(struct pit_counter *c, uint64_t now)
{
	if (!c->next_valid || now < c->next_at)
		return;
	c->count = c->next_count;
	c->start = c->next_start;
	c->next_valid = c->null_count = false;
}

static uint64_t elapsed(const struct pit_counter *c, uint64_t now)
{
	if (!c->counting)
		return 0;
	return c->halted ? c->held : now - c->start;
}

/* The OUT pin (data sheet, "Mode Definitions"). */
static bool output(const struct pit_counter *c, uint64_t now)
{
	uint64_t d = elapsed(c, now);

	if (!c->counting)
		return c->mode != 0;
	switch (c->mode) {
	case 0: /* interrupt on terminal count */
	case 1: /* hardware retriggerable one-shot */
		return d >= c->count;
	case 2: /* rate generator: low for the last tick of each cycle; a low gate forces the pin high */
		return c->halted || d % c->count != c->count - 1;
	case 3: /* square wave: an odd count is high one tick longer than low */
		return c->halted || d % c->count < (c->count + 1) / 2;
	default: /* 4 and 5, strobes: one low tick when the count is over */
		return d != c->count;
	}
}

/* What a read of the counter gives. */
static uint16_t present_count(const struct pit_counter *c, uint64_t now)
{
	uint64_t d = elapsed(c, now);
	uint32_t mod = modulus(c), n = c->count, value;

	if (c->mode == 2) {
		value = n - (uint32_t)(d % n);
	} else if (c->mode == 3) { /* counts by two, twice a cycle, from an even number */
		uint32_t phase = (uint32_t)(d % n), high = (n + 1) / 2;
		value = (n & ~1u) - 2 * (phase < high ? phase : phase - high);
	} else { /* goes on below zero */
		value = n + mod - (uint32_t)(d % mod);
	}
	value %= mod;
	return c->bcd ? to_bcd(value) : (uint16_t)value;
}

/* The first tick after `after` at which OUT rises, or NEVER. */
static uint64_t next_rise(const struct pit_counter *c, uint64_t after)
{
	uint64_t t;

	if (!c->counting || c->halted)
		return NEVER;
	if (!periodic(c)) {
		t = c->start + c->count + (c->mode >= 4);
		return t > after ? t : NEVER;
	}
	t = c->start + ((after - c->start) / c->count + 1) * c->count;
	/* A change at the end of a cycle is such an edge itself; one between the halves of a square wave comes before it. */
	if (c->next_valid && t > c->next_at)
		t = c->next_start + c->next_count;
	return t;
}

/* The count register goes into the counting element. */
static void load(struct pit_counter *c, uint64_t now)
{
	c->count = full_count(c);
	c->start = now;
	c->held = 0;
	c->counting = true;
	c->halted = !c->gate && !triggered_by_gate(c);
	c->next_valid = c->null_count = false;
}

static void count_written(struct pit_counter *c, uint64_t now)
{
	settle(c, now);
	c->armed = c->null_count = true;
	if (triggered_by_gate(c)) /* waits for the gate to rise, and leaves a shot that is under way alone */
		return;
	if (!periodic(c) || !c->counting) {
		load(c, now);
		return;
	}
	if (c->halted) /* loaded when the gate rises */
		return;
	/* The present cycle is finished first; a square wave only the half that it is in. */
	uint64_t phase = (now - c->start) % c->count;
	uint32_t high = (c->count + 1) / 2;
	c->next_valid = true;
	c->next_count = full_count(c);
	if (c->mode == 3 && phase < high) {
		c->next_at = now - phase + high;
		c->next_start = c->next_at - (c->next_count + 1) / 2; /* goes on with the low half; may wrap, and back */
	} else {
		c->next_at = c->next_start = now - phase + c->count;
	}
}

static void set_gate(struct pit_counter *c, bool gate, uint64_t now)
{
	if (gate == c->gate)
		return;
	settle(c, now);
	c->gate = gate;
	if (periodic(c) || triggered_by_gate(c)) {
		if (gate && c->armed) {
			load(c, now); /* the rising edge starts a new cycle */
			return;
		}
		if (triggered_by_gate(c))
			return; /* which does not end one */
	}
	if (!gate) {
		c->held = elapsed(c, now);
		c->halted = true;
		c->next_valid = false; /* the count register has it */
	} else {
		c->start = now - c->held;
		c->halted = false;
	}
}

static void set_irq(struct pit *pit, bool level)
{
	if (pit->irq_level != level)
		irq_set(&pit->irq, level);
	pit->irq_level = level;
}

/* Sets the timer for counter 0's edge after the tick `after`, but not earlier than a given time. */
static void schedule(struct pit *pit, uint64_t after, uint64_t earliest_ns)
{
	pit->next_edge = next_rise(&pit->counter[0], after);
	uint64_t deadline = 0;
	if (pit->next_edge != NEVER) {
		deadline = pit->epoch_ns + ticks_to_ns(pit->next_edge);
		if ((int64_t)(deadline - earliest_ns) < 0) /* the epoch may lie before this host's clock began */
			deadline = earliest_ns;
	}
	loop_timer_set(pit->loop, &pit->timer, deadline);
}

/*
 * Counter 0's output rises: IRQ 0. Edges are taken from the grid that began when the count was loaded, never from the time
 * the callback happened to run, so lateness does not add up.
 *
 * When the host was late by several periods, all those edges at once would be one to the guest: the 8259 has one request bit
 * for IRQ 0. So late edges come one by one, a quarter of a period apart, which gives the guest the time to answer each and
 * keeps its clock right. After a long stop (a debugger, a laptop's lid) that would be a flood that starves the guest, so no
 * more than CATCH_UP_TICKS are owed to it; the others are counted in `coalesced` and given up, as with a real machine whose
 * interrupts were off for too long.
 */
static void irq_timer(void *opaque)
{
	struct pit *pit = opaque;
	struct pit_counter *c = &pit->counter[0];
	uint64_t now = now_ticks(pit), edge = pit->next_edge, earliest_ns = AT_ONCE;

	settle(c, edge);
	set_irq(pit, false); /* the wire stays high between the ticks of a periodic counter, and the 8259 must see an edge */
	set_irq(pit, true);
	pit->ticks++;

	if (periodic(c)) {
		uint64_t late = now > edge ? (now - edge) / c->count : 0;
		if (late > CATCH_UP_TICKS) {
			pit->coalesced += late - CATCH_UP_TICKS;
			edge += (late - CATCH_UP_TICKS) * c->count;
		}
		uint64_t gap = ticks_to_ns(c->count) / 4;
		earliest_ns = clock_ns() + (gap > MIN_EDGE_NS ? gap : MIN_EDGE_NS);
	}
	schedule(pit, edge, earliest_ns);
}

/* After a write to counter 0. */
static void counter0_changed(struct pit *pit, uint64_t now)
{
	set_irq(pit, output(&pit->counter[0], now));
	schedule(pit, now, AT_ONCE);
}

static void latch_count(struct pit_counter *c, uint64_t now)
{
	if (c->latched) /* until it has been read, later latch commands are ignored */
		return;
	c->latch = present_count(c, now);
	c->latched = true;
}

static void latch_status(struct pit_counter *c, uint64_t now)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(output(c, now) << 7 | c->null_count << 6 | c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = true;
}

static void write_control(struct pit *pit, uint8_t value, uint64_t now)
{
	unsigned select = value >> 6, access = value >> 4 & 3;

	if (select == 3) { /* read-back command: bits 1-3 name counters, bits 5 and 4 are inverted */
		for (unsigned i = 0; i < 3; i++) {
			struct pit_counter *c = &pit->counter[i];
			if (!(value & (2u << i)))
				continue;
			settle(c, now);
			if (!(value & 0x20))
				latch_count(c, now);
			if (!(value & 0x10))
				latch_status(c, now);
		}
		return;
	}

	struct pit_counter *c = &pit->counter[select];
	if (!access) {
		settle(c, now);
		latch_count(c, now);
		return;
	}
	c->access = (uint8_t)access;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4; /* 6 and 7 are 2 and 3: bit 3 does not count there */
	c->bcd = value & 1;
	c->null_count = true;
	c->armed = c->counting = c->halted = c->next_valid = false;
	c->latched = c->status_latched = c->write_high_next = c->read_high_next = false;
	if (select == 0)
		counter0_changed(pit, now);
}

static void write_counter(struct pit *pit, unsigned i, uint8_t value, uint64_t now)
{
	struct pit_counter *c = &pit->counter[i];

	if (c->access == 3 && !c->write_high_next) {
		c->write_low = value;
		c->write_high_next = true;
		if (c->mode == 0) /* the first byte stops the count and lowers the output */
			c->counting = false;
	} else {
		if (c->access == 3)
			c->reload = (uint16_t)(value << 8 | c->write_low);
		else
			c->reload = c->access == 2 ? (uint16_t)(value << 8) : value;
		c->write_high_next = false;
		count_written(c, now);
	}
	if (i == 0)
		counter0_changed(pit, now);
}

static uint8_t read_counter(struct pit_counter *c, uint64_t now)
{
	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	bool high = c->access == 2 || (c->access == 3 && c->read_high_next);
	uint16_t value = c->latched ? c->latch : present_count(c, now);
	if (c->access == 3)
		c->read_high_next = !high;
	if (c->access != 3 || high)
		c->latched = false;
	return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t pit_read(void *dev, uint64_t offset, unsigned size)
{
	struct pit *pit = dev;
	(void)size;
	if (offset >= 3) /* the control register cannot be read */
		return 0xff;
	uint64_t now = now_ticks(pit);
	settle(&pit->counter[offset], now);
	return read_counter(&pit->counter[offset], now);
}

static void pit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pit *pit = dev;
	(void)size;
	if (offset >= 3)
		write_control(pit, (uint8_t)value, now_ticks(pit));
	else
		write_counter(pit, (unsigned)offset, (uint8_t)value, now_ticks(pit));
}

static uint64_t port61_read(void *dev, uint64_t offset, unsigned size)
{
	struct pit *pit = dev;
	struct pit_counter *c = &pit->counter[2];
	uint64_t now = now_ticks(pit);
	(void)offset;
	(void)size;
	settle(c, now);
	/* Bits 6 and 7 would report memory and bus errors. */
	return pit->port61 | (now / REFRESH_TICKS & 1 ? PORT61_REFRESH : 0) | (output(c, now) ? PORT61_OUT2 : 0);
}

static void port61_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pit *pit = dev;
	(void)offset;
	(void)size;
	pit->port61 = value & PORT61_WRITABLE;
	set_gate(&pit->counter[2], pit->port61 & PORT61_GATE2, now_ticks(pit));
}

const struct device_ops pit_ops = { .name = "pit", .read = pit_read, .write = pit_write };
const struct device_ops port61_ops = { .name = "port 61", .read = port61_read, .write = port61_write };

void pit_init(struct pit *pit, struct loop *loop, struct irq_line irq)
{
	memset(pit, 0, sizeof(*pit));
	pit->irq = irq;
	pit->loop = loop;
	pit->timer.fn = irq_timer;
	pit->timer.opaque = pit;
	pit->epoch_ns = clock_ns();
	pit->next_edge = NEVER;
	/* Mode 3, as firmware leaves it, but silent until a count is written. OUT is high then, and IRQ 0 starts from there:
	 * the first control word raises no edge. The gates of counters 0 and 1 are wired high. */
	pit->irq_level = true;
	for (unsigned i = 0; i < 3; i++) {
		struct pit_counter *c = &pit->counter[i];
		c->mode = c->access = 3;
		c->gate = i != 2;
		c->null_count = true;
		c->count = modulus(c);
	}
}

/* Edges still come while the state is being saved: so far ahead of the moment in which the VM stood still. */
#define LATEST (60 * PIT_HZ)

static void counter_state(struct pit_counter *c, uint64_t now, struct state_io *io)
{
	/* One that took over a new count at such an edge: as if it had done so some cycles before. */
	if (!io->loading && c->counting && periodic(c) && now - c->start > now + 65536)
		c->start -= ((c->start - now) / c->count + 1) * c->count;
	STATE(io, c->reload);
	STATE(io, c->mode);
	STATE(io, c->access);
	STATE(io, c->bcd);
	STATE(io, c->gate);
	STATE(io, c->write_high_next);
	STATE(io, c->read_high_next);
	STATE(io, c->write_low);
	STATE(io, c->latched);
	STATE(io, c->status_latched);
	STATE(io, c->latch);
	STATE(io, c->status);
	STATE(io, c->armed);
	STATE(io, c->null_count);
	STATE(io, c->counting);
	STATE(io, c->halted);
	STATE(io, c->count);
	STATE(io, c->start);
	STATE(io, c->held);
	STATE(io, c->next_valid);
	STATE(io, c->next_count);
	STATE(io, c->next_at);
	STATE(io, c->next_start);

	uint32_t least = periodic(c) ? 2 : 1;
	/* Square waves that began right after pit_init() have their beginning before it. */
	uint64_t most = now + 65536, ago = now - c->start;

	state_check(io, c->mode <= 5 && c->access >= 1 && c->access <= 3, "a counter has mode %u, access %u", c->mode, c->access);
	state_check(io, c->access == 3 || (!c->write_high_next && !c->read_high_next), "a counter waits for a byte that does not come");
	state_check(io, c->count >= 1 && c->count <= 65536, "a count of %u", c->count);
	state_check(io, !c->counting || (c->armed && c->count >= least), "a counter counts that has no count");
	state_check(io, !c->halted || (!c->gate && !triggered_by_gate(c)), "a counter stands still that has no reason to");
	state_check(io, ago <= most && c->held <= most, "a counter began in the future");
	state_check(io, !c->next_valid || (c->counting && !c->halted && periodic(c) && c->null_count), "a count waits for nothing");
	state_check(io, !c->next_valid || (c->next_count >= least && c->next_count <= 65536), "a next count of %u", c->next_count);
	state_check(io, !c->next_valid || (c->next_at <= most && c->next_at - c->next_start <= 32768),
		    "a next count at a time that is none");
	/* The last resort: what is below divides by it, also in a VM that never runs. */
	if (state_failed(io))
		c->count = 65536;
}

/* Counter 0's next edge has to be one: the timer goes on from it without looking. */
static bool is_edge(const struct pit_counter *c, uint64_t edge)
{
	if (!c->counting || c->halted)
		return edge == NEVER;
	if (!periodic(c))
		return edge == NEVER || edge == c->start + c->count + (c->mode >= 4);
	return edge != NEVER && ((edge - c->start) % c->count == 0 || (c->next_valid && edge == c->next_start + c->next_count));
}

/* Ticks are counted from tick 0 on, so its time is the only one that there is, and the ticks come where they would have come. */
void pit_state(struct pit *pit, struct state_io *io)
{
	state_instant(io, &pit->epoch_ns);
	state_check(io, io->now_ns - pit->epoch_ns < 1ull << 61, "it began in the future");

	uint64_t now = ns_to_ticks(io->now_ns - pit->epoch_ns), due = pit->timer.deadline_ns;

	for (unsigned i = 0; i < 3; i++) {
		counter_state(&pit->counter[i], now, io);
		state_check(io, pit->counter[i].gate || i == 2, "a gate is low that is wired high");
	}
	STATE(io, pit->port61);
	STATE(io, pit->irq_level);
	STATE(io, pit->next_edge);
	state_time(io, &due);
	state_check(io, !(pit->port61 & ~PORT61_WRITABLE) && pit->counter[2].gate == (pit->port61 & PORT61_GATE2),
		    "the third gate is not what port 0x61 says");
	state_check(io, is_edge(&pit->counter[0], pit->next_edge) &&
		    (pit->next_edge == NEVER || pit->next_edge <= now + LATEST), "its next interrupt is not on its way");
	/* The timer comes at that edge, or later while it is catching up. */
	state_check(io, pit->next_edge == NEVER ? !due : due && (int64_t)(due - pit->epoch_ns - ticks_to_ns(pit->next_edge)) >= 0,
		    "its next interrupt comes too early");
	if (io->loading)
		loop_timer_set(pit->loop, &pit->timer, state_failed(io) ? 0 : due);
}
