/*
 * What a line of output costs: the same lines go out through the UART, or through the virtio console in slot 0 with more or less
 * suppression of notifications. The command line says how: `uart`, `each`, `quiet` or `batch`. Used by scripts/bench_console.py, which
 * counts the exits.
 *
 *	uart    as a driver of a 16550A does: wait for the transmitter, then a FIFO of 16 bytes
 *	each    a buffer per line, a notification and an interrupt for each
 *	quiet   the same without interrupts (VIRTQ_AVAIL_F_NO_INTERRUPT): the used ring is polled
 *	batch   EVENT_IDX: BATCH lines are made available, notified if the device asks for that, and the last one's interrupt is asked for
 */
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "start_info.h"

#include <stdbool.h>
#include <stddef.h>

#define LINES 256u
#define LINE 64u
#define BATCH 64u /* entries of the queue, too */

#define COM1 0x3f8
#define LSR_THRE 0x20
#define FIFO 16u

#define VECTORS 0x20
#define IRQ 5
#define MMIO 0xd0000000ul /* slot 0 */
#define TRANSMITQ 1
#define EVENT_IDX (1u << 29)

static char text[LINES][LINE];

static struct {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
} desc[BATCH] __attribute__((aligned(16)));
static volatile struct {
	uint16_t flags, idx, ring[BATCH], used_event;
} avail __attribute__((aligned(2)));
static volatile struct {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[BATCH];
	uint16_t avail_event;
} used __attribute__((aligned(4)));

static volatile unsigned interrupts;

static uint32_t load(unsigned reg)
{
	return *(volatile uint32_t *)(MMIO + reg);
}
static void store(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)(MMIO + reg) = v;
}

static void on_interrupt(struct trap_frame *f)
{
	(void)f;
	store(0x64, load(0x60)); /* InterruptStatus to InterruptACK */
	pic_eoi(IRQ);
	interrupts++;
}

static void set_address(unsigned reg, volatile void *p)
{
	store(reg, (uint32_t)(uintptr_t)p);
	store(reg + 4, 0);
}

static void start_device(bool events)
{
	store(0x70, 0);
	store(0x70, 3);
	store(0x24, 0);
	store(0x20, events ? EVENT_IDX : 0);
	store(0x24, 1);
	store(0x20, 1); /* VERSION_1 */
	store(0x70, 11);
	store(0x30, TRANSMITQ);
	store(0x38, BATCH);
	set_address(0x80, desc);
	set_address(0x90, &avail);
	set_address(0xa0, &used);
	store(0x44, 1);
	store(0x70, 15);
	if (load(0x70) != 15)
		guest_exit(2);
}

static void through_uart(void)
{
	for (unsigned i = 0; i < sizeof text; i++) {
		if (i % FIFO == 0)
			while (!(inb(COM1 + 5) & LSR_THRE))
				;
		outb(COM1, (uint8_t)text[i / LINE][i % LINE]);
	}
}

/* n lines from `first` on; returns when the device has written them. */
static void through_queue(unsigned first, unsigned n, bool events, bool poll)
{
	uint16_t end = (uint16_t)(first + n);

	for (unsigned i = first; i < first + n; i++) {
		desc[i % BATCH].addr = (uintptr_t)text[i];
		desc[i % BATCH].len = LINE;
		avail.ring[i % BATCH] = i % BATCH;
	}
	avail.used_event = (uint16_t)(end - 1);
	__atomic_store_n(&avail.idx, end, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (events ? (uint16_t)(end - used.avail_event - 1) < n : !(used.flags & 1))
		store(0x50, TRANSMITQ);
	/* A driver of a PC's kernel would sleep. STI takes effect behind the next instruction, so no interrupt is lost before HLT. */
	while (used.idx != end) {
		if (poll)
			continue;
		sti_hlt();
		cli();
	}
	if (!poll) { /* the interrupt for what was seen already */
		sti();
		__asm__ volatile("nop");
		cli();
	}
}

static bool is(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return !*a && !*b;
}

int guest_main(const struct hvm_start_info *info);
int guest_main(const struct hvm_start_info *info)
{
	const char *how = start_info_cmdline(info);
	bool batch = is(how, "batch"), quiet = is(how, "quiet"), each = is(how, "each");

	for (unsigned i = 0; i < LINES; i++)
		for (unsigned k = 0; k < LINE; k++)
			text[i][k] = k == LINE - 1 ? '\n' : (char)('a' + (i + k) % 26);
	idt_init();
	pic_init(VECTORS);
	trap_handlers[VECTORS + IRQ] = on_interrupt;
	pic_unmask(2);
	pic_unmask(IRQ);
	if (is(how, "uart")) {
		through_uart();
		return 0;
	}
	if (!batch && !quiet && !each)
		return 1;
	avail.flags = quiet;
	start_device(batch);
	for (unsigned i = 0; i < LINES; i += batch ? BATCH : 1)
		through_queue(i, batch ? BATCH : 1, batch, quiet);
	return 0;
}
