// sources: uart.c console.c pic.c ioapic.c lapic.c pit.c cmos.c i8042.c crtc.c acpi_pm.c state_io.c mem.c
/*
 * The state of the platform devices. A board of all of them is used at random, with a clock that this test moves. Saved in the
 * middle of that and loaded into another board, on a host whose clock shows something else, it goes on as if nothing had
 * happened: what it answers is compared, access by access. And what is loaded may be damaged: then it is refused with a
 * sentence, or it is a state that a board can be in.
 */
#include "crtc.h"
#include "devices.h"
#include "i8042.h"
#include "ioapic.h"
#include "state_io.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SEEDS 400
#define STEPS 2000
#define MUTATIONS 50
#define TIMERS 4

struct board {
	struct pic pic;
	struct ioapic ioapic;
	struct lapic lapic;
	uint64_t cr8;
	struct console con;
	struct uart uart;
	struct pit pit;
	struct cmos cmos;
	struct i8042 i8042;
	struct crtc crtc;
	struct acpi_pm acpi;
	struct loop loop;
	struct loop_timer *timer[TIMERS + 1];
	unsigned resets;
};

static uint64_t now_ns, seed;

/* --- what the devices call ------------------------------------------------------------------------------------------------- */

uint64_t clock_ns(void)
{
	return now_ns;
}

static struct board *board_of(struct loop *l)
{
	return (struct board *)((uint8_t *)l - offsetof(struct board, loop));
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline_ns)
{
	struct board *b = board_of(l);
	unsigned i = 0;

	while (b->timer[i] && b->timer[i] != t)
		i++;
	b->timer[i] = t;
	t->deadline_ns = deadline_ns;
}

int loop_fd_add(struct loop *l, int fd, short events, void (*fn)(void *opaque, short revents), void *opaque)
{
	(void)l, (void)fd, (void)events, (void)fn, (void)opaque;
	return 0;
}
void loop_fd_events(struct loop *l, int fd, short events) { (void)l, (void)fd, (void)events; }
void loop_fd_remove(struct loop *l, int fd) { (void)l, (void)fd; }

static int host_time(clockid_t id, struct timespec *t)
{
	(void)id;
	*t = (struct timespec){ .tv_sec = 1000000000, .tv_nsec = 5 };
	return 0;
}

static void wire(void *opaque, unsigned irq, bool level)
{
	struct board *b = opaque;

	pic_set_line(&b->pic, irq, level);
	ioapic_set_line(&b->ioapic, irq ? irq : 2, level);
}
static void intr(void *opaque) { lapic_lint0_risen(&((struct board *)opaque)->lapic); }
static bool send(void *opaque, const struct apic_message *m) { return lapic_receive(&((struct board *)opaque)->lapic, m); }
static void nothing(void *opaque) { (void)opaque; }
static void eoi(void *opaque, uint8_t vector) { ioapic_eoi(&((struct board *)opaque)->ioapic, vector); }
static void reset(void *opaque) { ((struct board *)opaque)->resets++; }

static struct board *board_make(void)
{
	static const struct lapic_ops ops = { .notify = nothing, .nmi = nothing, .eoi = eoi };
	struct board *b = calloc(1, sizeof *b);

	assert_non_null(b);
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	assert_int_equal(console_start(&b->con, &b->loop, null, null), 0);
	pic_init(&b->pic, intr, b);
	lapic_init(&b->lapic, &b->loop, &b->cr8, &ops, b);
	ioapic_init(&b->ioapic, send, b);
	pit_init(&b->pit, &b->loop, (struct irq_line){ wire, b, 0 });
	uart_init(&b->uart, (struct irq_line){ wire, b, 4 }, &b->con);
	cmos_init(&b->cmos, 64 << 20);
	b->cmos.gettime = host_time;
	i8042_init(&b->i8042, (struct irq_line){ wire, b, 1 }, reset, b);
	crtc_init(&b->crtc);
	b->acpi = (struct acpi_pm){ .poweroff = reset, .opaque = b };
	return b;
}

static void board_free(struct board *b)
{
	close(b->con.out_fd);
	free(b);
}

/* --- using it ------------------------------------------------------------------------------------------------------------- */

static uint32_t any(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

/* Registers, and how often each is chosen. */
static const struct {
	const struct device_ops *ops;
	size_t dev;
	unsigned first, count, step, size;
} registers[] = {
	{ &uart_ops, offsetof(struct board, uart), 0, 8, 1, 1 },
	{ &uart_ops, offsetof(struct board, uart), 0, 5, 1, 1 },
	{ &pic_master_ops, offsetof(struct board, pic), 0, 2, 1, 1 },
	{ &pic_slave_ops, offsetof(struct board, pic), 0, 2, 1, 1 },
	{ &pic_elcr_ops, offsetof(struct board, pic), 0, 2, 1, 1 },
	{ &pit_ops, offsetof(struct board, pit), 0, 4, 1, 1 },
	{ &pit_ops, offsetof(struct board, pit), 0, 4, 1, 1 },
	{ &pit_ops, offsetof(struct board, pit), 0, 1, 1, 1 },
	{ &port61_ops, offsetof(struct board, pit), 0, 1, 1, 1 },
	{ &cmos_ops, offsetof(struct board, cmos), 0, 2, 1, 1 },
	{ &i8042_data_ops, offsetof(struct board, i8042), 0, 1, 1, 1 },
	{ &i8042_command_ops, offsetof(struct board, i8042), 0, 1, 1, 1 },
	{ &port_a_ops, offsetof(struct board, i8042), 0, 1, 1, 1 },
	{ &crtc_ops, offsetof(struct board, crtc), 0, 2, 1, 1 },
	{ &crtc_misc_write_ops, offsetof(struct board, crtc), 0, 1, 1, 1 },
	{ &crtc_status_ops, offsetof(struct board, crtc), 0, 1, 1, 1 },
	{ &acpi_pm_ops, offsetof(struct board, acpi), 0, ACPI_PM_LEN / 2, 2, 2 },
	{ &ioapic_mmio_ops, offsetof(struct board, ioapic), 0, 5, 16, 4 },
	{ &lapic_mmio_ops, offsetof(struct board, lapic), 2, 0x3d, 16, 4 },
	{ &lapic_mmio_ops, offsetof(struct board, lapic), 0x32, 13, 16, 4 },
};
#define REGISTERS (sizeof registers / sizeof *registers)

static void pass_time(struct board *b)
{
	uint64_t until = now_ns + any(1u << any(31));

	for (;;) {
		struct loop_timer *next = NULL;

		for (unsigned i = 0; b->timer[i]; i++)
			if (b->timer[i]->deadline_ns && b->timer[i]->deadline_ns <= until &&
			    (!next || b->timer[i]->deadline_ns < next->deadline_ns))
				next = b->timer[i];
		if (!next)
			break;
		if (next->deadline_ns > now_ns)
			now_ns = next->deadline_ns;
		next->deadline_ns = 0;
		next->fn(next->opaque);
	}
	now_ns = until;
}

/* One thing that happens to the board; what it answers. */
static uint64_t step(struct board *b)
{
	uint32_t value = any(4) ? any(256) : any(1u << 31);
	unsigned what = any(REGISTERS + 14);

	if (what < REGISTERS) {
		void *dev = (uint8_t *)b + registers[what].dev;
		uint64_t offset = (registers[what].first + any(registers[what].count)) * registers[what].step;

		if (any(2))
			return registers[what].ops->read(dev, offset, registers[what].size);
		/* Switched on more often than chance would have it: else there were no interrupts. */
		if (registers[what].ops == &lapic_mmio_ops && (offset == 0xf0 || (offset >= 0x320 && offset <= 0x370)))
			value = offset == 0xf0 ? 0x1ff : (value & ~0x10000u) | 0x20;
		registers[what].ops->write(dev, offset, registers[what].size, value);
		return 0;
	}
	switch (what - REGISTERS) {
	case 0: {
		size_t n = any(sizeof b->con.pending - (unsigned)b->con.npending);

		memset(b->con.pending + b->con.npending, (int)value, n);
		b->con.npending += n;
		console_kick(&b->con);
		return n;
	}
	case 1: return (uint64_t)i8042_type(&b->i8042, value & 1 ? "Ab\\n" : "ls");
	case 2: return lapic_pending(&b->lapic) ? lapic_acknowledge(&b->lapic) : 0x1000;
	case 3: return pic_pending(&b->pic) && lapic_passes_intr(&b->lapic) ? pic_acknowledge(&b->pic) : 0x1000;
	case 4: b->cr8 = any(8) ? 0 : any(16); return 0;
	case 5: /* on, from level to edge, and so on: a pin that is used */
		ioapic_mmio_ops.write(&b->ioapic, 0, 4, 0x10 + 2 * (any(3) + (any(2) ? 0 : 2)));
		ioapic_mmio_ops.write(&b->ioapic, 0x10, 4, 0x20 + any(0xd0) + 0x8000 * any(2));
		return 0;
	case 6: lapic_mmio_ops.write(&b->lapic, 0xb0, 4, 0); return 0;
	case 7:
		if (!any(20))
			lapic_set_base(&b->lapic, LAPIC_BASE | (any(2) ? APIC_BASE_ENABLE : 0));
		return b->lapic.base;
	case 8: /* a command that is followed by data, and perhaps the data */
		(any(2) ? i8042_command_ops : i8042_data_ops)
			.write(&b->i8042, 0, 1, (const uint8_t[]){ 0x60, 0xd2, 0xd4, 0xed, 0xf0, 0xf3 }[any(6)]);
		return 0;
	case 9: { /* an 8259 from the beginning */
		const struct device_ops *chip = any(2) ? &pic_master_ops : &pic_slave_ops;

		chip->write(&b->pic, 0, 1, 0x11);
		for (unsigned i = any(8); i < 4; i++)
			chip->write(&b->pic, 1, 1, i == 2 ? any(32) : i == 3 ? 0 : any(256));
		return 0;
	}
	default: pass_time(b); return b->resets;
	}
}

/* --- its state ------------------------------------------------------------------------------------------------------------ */

#define STATE_CALL(name, type, field)                                                             \
	static void name(struct board *b, struct state_io *io) { type##_state(&b->field, io); }
STATE_CALL(io_pic, pic, pic)
STATE_CALL(io_ioapic, ioapic, ioapic)
STATE_CALL(io_lapic, lapic, lapic)
STATE_CALL(io_pit, pit, pit)
STATE_CALL(io_uart, uart, uart)
STATE_CALL(io_cmos, cmos, cmos)
STATE_CALL(io_i8042, i8042, i8042)
STATE_CALL(io_crtc, crtc, crtc)
STATE_CALL(io_acpi, acpi_pm, acpi)

/* Interrupt controllers first, as state.c has it. */
static const struct part {
	const char *name;
	void (*io)(struct board *b, struct state_io *io);
} parts[] = { { "the 8259 pair", io_pic }, { "the IOAPIC", io_ioapic }, { "the local APIC", io_lapic }, { "the PIT", io_pit },
	      { "the UART", io_uart }, { "the CMOS", io_cmos }, { "the 8042", io_i8042 }, { "the CRTC", io_crtc }, { "ACPI", io_acpi } };
#define PARTS (sizeof parts / sizeof *parts)

static void save(struct board *b, unsigned part, struct state_io *io)
{
	state_save_begin(io, parts[part].name, now_ns);
	parts[part].io(b, io);
	assert_int_equal(state_end(io), 0);
}

static int load(struct board *b, unsigned part, const void *data, size_t len, char *err)
{
	struct state_io io;

	state_load_begin(&io, parts[part].name, now_ns, data, len);
	parts[part].io(b, &io);

	int failed = state_end(&io);

	assert_true(failed ? io.err[0] && strstr(io.err, parts[part].name) : !io.err[0]);
	if (err)
		strcpy(err, io.err);
	return failed;
}

static void save_all(struct board *b, struct state_io *saved)
{
	for (unsigned p = 0; p < PARTS; p++)
		save(b, p, &saved[p]);
}

static void load_all(struct board *b, const struct state_io *saved)
{
	for (unsigned p = 0; p < PARTS; p++) {
		char err[STATE_ERR];

		if (load(b, p, saved[p].data, saved[p].len, err))
			fail_msg("seed of %s: %s", parts[p].name, err);
	}
}

static void free_all(struct state_io *saved)
{
	for (unsigned p = 0; p < PARTS; p++)
		state_free(&saved[p]);
}

static struct board *used(uint64_t which, unsigned steps)
{
	struct board *b;

	seed = which * 0x9e3779b97f4a7c15ull + 1;
	now_ns = 1000000000ull * any(1000) + any(1000000000); /* seconds or many minutes since the host was switched on */
	b = board_make();
	for (unsigned i = 0; i < steps; i++)
		step(b);
	return b;
}

static void goes_on_elsewhere(void **state)
{
	static uint64_t answers[STEPS];

	(void)state;
	for (uint64_t which = 0; which < SEEDS; which++) {
		struct board *here = used(which, STEPS), *there;
		struct state_io saved[PARTS], again[PARTS];
		uint64_t stopped = now_ns, behind = seed, cr8 = here->cr8;
		unsigned resets = here->resets;

		save_all(here, saved);
		for (unsigned i = 0; i < STEPS; i++)
			answers[i] = step(here);

		seed = behind;
		now_ns = stopped + (any(2) ? 3600000000000ull * 24 * 365 : -stopped + any(1u << 30)); /* a host that is older, or younger */
		there = board_make();
		there->cr8 = cr8;
		there->resets = resets;
		load_all(there, saved);
		save_all(there, again);
		for (unsigned p = 0; p < PARTS; p++) {
			assert_int_equal(saved[p].len, again[p].len);
			assert_memory_equal(saved[p].data, again[p].data, saved[p].len);
		}
		seed = behind;
		for (unsigned i = 0; i < STEPS; i++) {
			uint64_t answer = step(there);

			if (answer != answers[i])
				fail_msg("seed %llu, step %u: %llx, and undisturbed %llx", (unsigned long long)which, i,
					 (unsigned long long)answer, (unsigned long long)answers[i]);
		}
		free_all(saved);
		free_all(again);
		board_free(here);
		board_free(there);
	}
}

/* Bytes that are damaged, missing, too many, or only noise. */
static size_t damage(uint8_t *data, size_t len)
{
	size_t at = any((uint32_t)len);

	switch (any(8)) {
	case 0: return at;
	case 1: data[len] = (uint8_t)any(256); return len + 1;
	case 2: memset(data + at, any(2) ? 0xff : 0, len - at); return len;
	case 3:
		for (size_t i = 0; i < len; i++)
			data[i] = (uint8_t)any(256);
		return len;
	default:
		for (unsigned i = 0; i <= any(4); i++)
			data[any((uint32_t)len)] = (uint8_t)(any(2) ? any(256) : 1u << any(8));
		return len;
	}
}

/* What a board says of a part is taken, and said again by who took it; len: how much that is, if it is known. */
static void says_the_same(struct board *b, unsigned p, size_t len)
{
	struct state_io once, twice;
	struct board *other = board_make();
	char err[STATE_ERR];

	save(b, p, &once);
	if (load(other, p, once.data, once.len, err))
		fail_msg("%s", err);
	save(other, p, &twice);
	assert_true(!len || once.len == len);
	assert_int_equal(once.len, twice.len);
	assert_memory_equal(once.data, twice.data, once.len);
	state_free(&once);
	state_free(&twice);
	board_free(other);
}

static void damaged(void **state)
{
	unsigned refused[PARTS] = { 0 }, taken[PARTS] = { 0 };

	(void)state;
	for (uint64_t which = 0; which < SEEDS; which++) {
		struct board *here = used(which, STEPS / 4);
		struct state_io saved[PARTS];

		save_all(here, saved);
		for (unsigned i = 0; i < MUTATIONS; i++) {
			unsigned p = any(PARTS);
			struct board *there = board_make();
			uint8_t data[4096];
			size_t len = saved[p].len;

			assert_true(len < sizeof data);
			memcpy(data, saved[p].data, len);
			len = damage(data, len);
			load_all(there, saved);
			board_free(there);
			there = board_make();
			if (load(there, p, data, len, NULL)) {
				refused[p]++;
			} else { /* it is a state as any other: it says the same of itself, and stays one whatever happens */
				taken[p]++;
				says_the_same(there, p, len);
				for (unsigned s = 0; s < 50; s++)
					step(there);
				for (unsigned q = 0; q < PARTS; q++)
					says_the_same(there, q, 0);
			}
			board_free(there);
		}
		free_all(saved);
		board_free(here);
	}
	for (unsigned p = 0; p < PARTS; p++)
		assert_true(refused[p] && taken[p]);
}

/* A level that is high is on the wire again, and makes no second edge; one that was masked stays pending. */
static void no_second_edge(void **state)
{
	struct board *here, *there;
	struct state_io saved[PARTS];

	(void)state;
	now_ns = 5000;
	here = board_make();
	pic_master_ops.write(&here->pic, 1, 1, 0); /* nothing masked */
	uart_ops.write(&here->uart, 1, 1, 2);	   /* transmitter empty: the line rises */
	assert_true(here->pic.chip[0].irr & 0x10);
	assert_int_equal(pic_acknowledge(&here->pic), 0x08 + 4);
	pic_master_ops.write(&here->pic, 0, 1, 0x20); /* EOI, and the line is still high */
	save_all(here, saved);
	there = board_make();
	load_all(there, saved);
	assert_true(there->pic.chip[0].lines & 0x10);
	assert_false(pic_pending(&there->pic));
	uart_ops.write(&there->uart, 1, 1, 0); /* falls and rises: now it is one */
	uart_ops.write(&there->uart, 1, 1, 2);
	assert_true(pic_pending(&there->pic));
	free_all(saved);
	board_free(here);
	board_free(there);
}

/* Typed before the VM was there, and behind what waited for it. */
static void input_on_the_way(void **state)
{
	struct board *here, *there;
	struct state_io saved;

	(void)state;
	now_ns = 5000;
	here = board_make();
	memcpy(here->con.pending, "abcdef", 6);
	here->con.npending = 6;
	console_kick(&here->con); /* without a FIFO one byte goes */
	save(here, 4, &saved);
	there = board_make();
	there->con.held = true;
	memcpy(there->con.pending, "gh", 2);
	there->con.npending = 2;
	console_kick(&there->con);
	assert_int_equal(there->con.npending, 2);
	assert_int_equal(load(there, 4, saved.data, saved.len, NULL), 0);
	there->con.held = false;
	for (const char *c = "abcdefgh"; *c; c++)
		assert_int_equal(uart_ops.read(&there->uart, 0, 1), *c);
	assert_int_equal(there->con.npending, 0);
	state_free(&saved);
	board_free(here);
	board_free(there);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_on_elsewhere),
		cmocka_unit_test(damaged),
		cmocka_unit_test(no_second_edge),
		cmocka_unit_test(input_on_the_way),
	};
	return cmocka_run_group_tests_name("device state", tests, NULL, NULL);
}
