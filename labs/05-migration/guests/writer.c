/*
 * Checkpoints 5.7 to 5.21: a guest that writes where it is told to. Commands come by the UART, a line each; it sleeps between them, so that
 * nothing changes that was not asked for. The pages that it writes lie from 2 MiB on; params: a seed, how many they are, and as the fourth
 * 1 for a guest that does not use KVM's clock. What it finds there at any time is known outside (checks/writer.py). Commands:
 *
 *	w SEED COUNT   writes one word of COUNT pages (some of them twice), as the seed says; then "wrote=COUNT"
 *	h              "hash=" of all these pages
 *	s FIRST COUNT  a storm: from page FIRST on, COUNT pages get the number of the pass, pass after pass, and before each write it looks
 *	               whether the number of the pass before is there; until the next line comes: "passes=" and "wrong="
 *	t              "tsc=" and, where it has one, "clock=": KVM's paravirtual clock, ns
 *	q              the guest ends
 */
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "random.h"
#include "start_info.h"

#include "../../01-trap-emulate/guests/probe.h"

PARAMS;
enum { SEED, PAGES, NO_CLOCK = 3 };

#define PAGE_WORDS 512
#define FIRST_PAGE 0x200000ul
#define HASH_STEP 0x9e3779b97f4a7c15
#define STORM_WORD 8 /* of a page */

#define COM1 0x3f8
#define UART_IER (COM1 + 1)
#define UART_MCR (COM1 + 4)
#define UART_LSR (COM1 + 5)
#define IER_RX 0x01
#define MCR_OUT2 0x08 /* connects the chip to the interrupt controller */
#define LSR_RX_READY 0x01
#define VECTORS 0x20

/* The paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst). */
#define CPUID_KVM 0x40000000
#define KVM_SIGNATURE 0x4b4d564b /* "KVMK" */
#define CLOCKSOURCE2 (1u << 3)
#define MSR_SYSTEM_TIME 0x4b564d01

static volatile struct {
	uint32_t version, pad;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
} pvclock __attribute__((aligned(64)));
static bool has_pvclock;

static struct {
	volatile unsigned head, tail; /* only grow */
	char bytes[256];
} rx;

static void on_uart(struct trap_frame *f)
{
	(void)f;
	while (inb(UART_LSR) & LSR_RX_READY)
		rx.bytes[rx.head++ % sizeof rx.bytes] = (char)inb(COM1);
	pic_eoi(IRQ_COM1);
}

static char next_byte(void)
{
	for (cli(); rx.head == rx.tail; cli())
		sti_hlt();
	sti();
	return rx.bytes[rx.tail++ % sizeof rx.bytes];
}

/* A line, and the numbers in it behind the first letter. */
static char next_line(uint64_t number[2])
{
	unsigned i = 0;
	char first = next_byte(), c = first;

	number[0] = number[1] = 0;
	while (c != '\n') {
		c = next_byte();
		if (c >= '0' && c <= '9' && i && i <= 2)
			number[i - 1] = number[i - 1] * 10 + (uint64_t)(c - '0');
		else if (c == ' ')
			i++;
	}
	return first;
}

static volatile uint64_t *page(uint64_t number)
{
	return (volatile uint64_t *)(FIRST_PAGE + number * PAGE_WORDS * 8);
}

/* Three of four pages begin with two words that are not zero. */
static void begin_with(uint64_t seed)
{
	random_state = seed;
	for (uint64_t i = 0; i < params[PAGES]; i++) {
		uint64_t r = random64();

		if (!(r & 3))
			continue;
		page(i)[r >> 2 & 511] = random64() | 1;
		page(i)[r >> 11 & 511] = random64() | 1;
	}
}

static void write_some(uint64_t seed, uint64_t count)
{
	random_state = seed;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t r = random64();

		page((r >> 9) % params[PAGES])[r & 511] += random64() | 1;
	}
	report("wrote", count);
}

static void hash(void)
{
	uint64_t sum = 0, factor = HASH_STEP;

	for (uint64_t i = 0; i < params[PAGES] * PAGE_WORDS; i++, factor += 2 * HASH_STEP)
		sum += page(0)[i] * factor;
	report("hash", sum);
}

static void storm(uint64_t first, uint64_t count)
{
	uint64_t pass = 0, wrong = 0;

	for (uint64_t i = 0; i < count; i++)
		page(first + i)[STORM_WORD] = 0;
	dputs("storm\n");
	while (rx.head == rx.tail) {
		for (uint64_t i = 0; i < count; i++) {
			wrong += page(first + i)[STORM_WORD] != pass;
			page(first + i)[STORM_WORD] = pass + 1;
		}
		pass++;
	}
	report("passes", pass);
	report("wrong", wrong);
}

static uint64_t tsc(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static uint64_t clock(void)
{
	uint32_t version;
	uint64_t ns, delta;

	do {
		version = pvclock.version & ~1u;
		asm volatile("" : : : "memory");
		delta = tsc() - pvclock.tsc;
		delta = pvclock.shift < 0 ? delta >> -pvclock.shift : delta << pvclock.shift;
		ns = pvclock.ns + (uint64_t)((unsigned __int128)delta * pvclock.mul >> 32);
		asm volatile("" : : : "memory");
	} while (version != pvclock.version);
	return ns;
}

static void start_pvclock(void)
{
	uint32_t a = CPUID_KVM, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (b != KVM_SIGNATURE)
		return;
	a = CPUID_KVM + 1;
	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	has_pvclock = a & CLOCKSOURCE2;
	if (has_pvclock)
		wrmsr(MSR_SYSTEM_TIME, (uint64_t)&pvclock | 1);
}

int guest_main(const struct hvm_start_info *info);
int guest_main(const struct hvm_start_info *info)
{
	uint64_t number[2];

	(void)info;
	gdt_init();
	idt_init();
	trap_handlers[VECTORS + IRQ_COM1] = on_uart;
	pic_init(VECTORS);
	pic_unmask(IRQ_COM1);
	outb(UART_MCR, MCR_OUT2);
	outb(UART_IER, IER_RX);
	if (!params[NO_CLOCK])
		start_pvclock();
	begin_with(params[SEED]);
	sti();
	dputs("ready\n");
	for (;;) {
		switch (next_line(number)) {
		case 'w': write_some(number[0], number[1]); break;
		case 'h': hash(); break;
		case 's': storm(number[0], number[1]); break;
		case 't':
			report("tsc", tsc());
			if (has_pvclock)
				report("clock", clock());
			break;
		case 'q': return 0;
		}
	}
}
