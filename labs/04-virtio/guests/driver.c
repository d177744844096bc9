/*
 * Checkpoints 4.1 to 4.18: a driver without a will of its own. What it does to the devices is a script, the RAM disk: a list of struct op
 * that the grader made from the seed (checks/script.py). It says what it saw and judges nothing.
 *
 * Lines are `N=value`, N being the number of the operation, in hexadecimal. Each byte of output is an exit, which takes as long as a
 * thousand instructions. So most lines are only noted, and of what was noted a CRC-32 goes out; all of it, if that is not the one that
 * the script has.
 */
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "random.h"
#include "start_info.h"

#include <stddef.h>

#define PORT_DEBUG 0xe9
#define LINES 16
#define VECTORS 0x20 /* of line 0 */
#define PIT_CONTROL 0x43
#define PIT_COUNTER0 0x40
#define PIT_ONCE 0x30 /* counter 0, low then high byte, mode 0: one interrupt when it has counted to 0 */
#define TICK 5966     /* of its clock: 5 ms */
#define SPINS 400     /* looks before the CPU is halted between them */
#define PATIENCE 3    /* waits in vain after which none waits for long */

#define REG_INTERRUPT_STATUS 0x60 /* virtio 1.2, 4.2.2 */
#define REG_INTERRUPT_ACK 0x64

enum {
	END,
	SECTION,
	LOAD,
	STORE,
	COPY,
	FILL,
	SET,
	DUMP,
	CRC,
	LISTEN,
	DEAF,
	WAIT_IRQ,
	IRQS,
	WAIT16,
	SAME16,
	ADD16,
	LOOP,
	REST,
	CHECK
};
#define NOTED (1u << 16)

struct op {
	uint64_t what; /* low byte: which; second byte: size of an access, or an interrupt line; NOTED */
	uint64_t a, b, c;
};

struct module {
	uint64_t gpa, size, cmdline, reserved;
};

static const struct op *ops; /* the script, with the bytes that it writes behind it */
static uint64_t late;	     /* waits in vain */

/* --- output ------------------------------------------------------------------------------------------------------------------ */

struct text {
	char *end, *limit, bytes[128 * 1024];
};
static struct text said = { said.bytes, said.bytes + sizeof said.bytes, "" };
static struct text noted = { noted.bytes, noted.bytes + sizeof noted.bytes, "" };

static void flush(struct text *t)
{
	const char *from = t->bytes;
	uint64_t count = t->end - t->bytes;

	asm volatile("cld; rep outsb" : "+S"(from), "+c"(count) : "d"(PORT_DEBUG) : "memory", "cc");
	t->end = t->bytes;
}

static void put_hex(struct text *t, uint64_t v)
{
	if (v >> 4)
		put_hex(t, v >> 4);
	*t->end++ = "0123456789abcdef"[v & 15];
}

/* Begins a line, with room for so many bytes in hexadecimal. */
static struct text *line(const struct op *op, uint64_t bytes)
{
	struct text *t = op->what & NOTED ? &noted : &said;

	if (t->limit - t->end < 40 + 2 * (long)bytes)
		flush(t);
	put_hex(t, op - ops);
	*t->end++ = '=';
	return t;
}

static void say(const struct op *op, uint64_t value)
{
	struct text *t = line(op, sizeof value);

	put_hex(t, value);
	*t->end++ = '\n';
}

static void say_bytes(const struct op *op, const volatile uint8_t *p, uint64_t len)
{
	struct text *t = line(op, len);

	for (; len; len--, p++) {
		*t->end++ = "0123456789abcdef"[*p >> 4];
		*t->end++ = "0123456789abcdef"[*p & 15];
	}
	*t->end++ = '\n';
}

/* --- memory ------------------------------------------------------------------------------------------------------------------ */

static uint64_t load(uint64_t gpa, unsigned size)
{
	switch (size) {
	case 1: return *(volatile uint8_t *)gpa;
	case 2: return *(volatile uint16_t *)gpa;
	case 4: return *(volatile uint32_t *)gpa;
	default: return *(volatile uint64_t *)gpa;
	}
}

static void store(uint64_t gpa, unsigned size, uint64_t value)
{
	switch (size) {
	case 1: *(volatile uint8_t *)gpa = value; break;
	case 2: *(volatile uint16_t *)gpa = value; break;
	case 4: *(volatile uint32_t *)gpa = value; break;
	default: *(volatile uint64_t *)gpa = value;
	}
}

static void copy(uint64_t to, const uint8_t *from, uint64_t len)
{
	asm volatile("cld; rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory", "cc");
}

static void set(uint64_t to, uint64_t len, uint8_t byte)
{
	asm volatile("cld; rep stosb" : "+D"(to), "+c"(len) : "a"(byte) : "memory", "cc");
}

/* The bytes that script.py's pattern() makes of the same seed. */
static void fill(uint64_t to, uint64_t len, uint64_t seed)
{
	random_state = seed;
	while (len) {
		uint64_t word = random64(), part = len < 8 ? len : 8;

		copy(to, (const uint8_t *)&word, part);
		to += part;
		len -= part;
	}
}

/* CRC-32 as zlib has it. */
static uint32_t crc32(const volatile uint8_t *p, uint64_t len)
{
	static uint32_t table[256];
	uint32_t crc = 0xffffffff;

	for (unsigned i = 0; i < 256 && !table[255]; i++) {
		uint32_t v = i;
		for (unsigned bit = 0; bit < 8; bit++)
			v = v >> 1 ^ (v & 1 ? 0xedb88320 : 0);
		table[i] = v;
	}
	for (; len; len--)
		crc = table[(uint8_t)(crc ^ *p++)] ^ crc >> 8;
	return ~crc;
}

/* --- interrupts -------------------------------------------------------------------------------------------------------------- */

static struct {
	uint64_t device; /* whose interrupts are acknowledged, or 0 */
	volatile uint32_t count, seen;
} lines[LINES];

static volatile uint64_t ticks;
static volatile bool ticking; /* one is due */

static void on_line(struct trap_frame *f)
{
	unsigned irq = f->vector - VECTORS;

	if (pic_spurious(irq))
		return;
	if (irq == IRQ_TIMER) {
		ticks++;
		ticking = false;
	} else {
		lines[irq].count++;
		if (lines[irq].device) {
			uint32_t status = load(lines[irq].device + REG_INTERRUPT_STATUS, 4);

			lines[irq].seen |= status;
			store(lines[irq].device + REG_INTERRUPT_ACK, 4, status);
		}
	}
	pic_eoi(irq);
}

static uint64_t irqs(unsigned irq)
{
	return lines[irq].count | (uint64_t)lines[irq].seen << 32;
}

/* --- waiting ----------------------------------------------------------------------------------------------------------------- */

static bool arrived(const struct op *op)
{
	switch ((uint8_t)op->what) {
	case WAIT_IRQ: return lines[op->what >> 8 & 15].count >= op->a;
	case WAIT16: return (uint16_t)load(op->a, 2) == (uint16_t)op->b;
	case SAME16: return load(op->a, 2) == load(op->b, 2);
	default: return false;
	}
}

/* One tick at a time, when it is needed: a KVM guest gets every tick that it missed with its line masked. */
static void next_tick(void)
{
	outb(PIT_CONTROL, PIT_ONCE);
	outb(PIT_COUNTER0, TICK & 0xff);
	outb(PIT_COUNTER0, TICK >> 8);
}

/* Until what the operation waits for is there, or so many ticks went by. */
static void wait(const struct op *op, uint64_t most)
{
	for (unsigned i = 0; i < SPINS; i++) {
		if (arrived(op))
			return;
		asm volatile("pause");
	}
	cli();
	for (uint64_t end = ticks + (late > PATIENCE ? 1 : most); !arrived(op) && ticks < end; cli()) {
		if (!ticking) {
			ticking = true;
			next_tick();
		}
		sti_hlt();
	}
	sti();
	late += (uint8_t)op->what != REST && !arrived(op);
}

/* --- the script --------------------------------------------------------------------------------------------------------------- */

static void section(void)
{
	flush(&said);
	for (unsigned i = 0; i < LINES; i++) {
		if (lines[i].device)
			pic_mask(i);
		lines[i].device = lines[i].count = lines[i].seen = 0;
	}
}

static void listen(unsigned irq, uint64_t device)
{
	lines[irq].device = device;
	pic_unmask(irq);
}

/* What was noted since the last time. */
static void check(const struct op *op)
{
	uint32_t crc = crc32((const uint8_t *)noted.bytes, noted.end - noted.bytes);

	say(op, crc);
	if (crc != op->a) {
		flush(&said);
		flush(&noted);
	}
	noted.end = noted.bytes;
}

static void carry_out(const struct op *op)
{
	unsigned size = op->what >> 8 & 0xff;

	switch ((uint8_t)op->what) {
	case SECTION: section(); break;
	case LOAD: say(op, load(op->a, size)); break;
	case STORE: store(op->a, size, op->b); break;
	case COPY: copy(op->a, (const uint8_t *)ops + op->b, op->c); break;
	case FILL: fill(op->a, op->b, op->c); break;
	case SET: set(op->a, op->b, op->c); break;
	case DUMP: say_bytes(op, (const volatile uint8_t *)op->a, op->b); break;
	case CRC: say(op, crc32((const volatile uint8_t *)op->a, op->b)); break;
	case LISTEN: listen(size, op->a); break;
	case DEAF: pic_mask(size); break;
	case WAIT_IRQ:
		wait(op, op->b);
		say(op, irqs(size));
		break;
	case IRQS: say(op, irqs(size)); break;
	case WAIT16:
		wait(op, op->c);
		say(op, load(op->a, 2));
		break;
	case SAME16: wait(op, op->c); break;
	case ADD16: store(op->a, 2, load(op->a, 2) + op->b); break;
	case REST: wait(op, op->a); break;
	case CHECK: check(op); break;
	}
}

int guest_main(const struct hvm_start_info *info);
int guest_main(const struct hvm_start_info *info)
{
	if (!info->nr_modules) {
		dputs("there is no script: it is the first module\n");
		return 1;
	}
	const struct op *op = ops = (const struct op *)((const struct module *)info->modules)->gpa;

	gdt_init();
	idt_init();
	for (unsigned i = 0; i < LINES; i++)
		trap_handlers[VECTORS + i] = on_line;
	pic_init(VECTORS);
	pic_unmask(IRQ_TIMER);
	sti();
	for (; (uint8_t)op->what != END; op++) {
		if ((uint8_t)op->what == LOOP) { /* the next a operations, b times */
			for (uint64_t round = 0; round < op->b; round++)
				for (uint64_t i = 1; i <= op->a; i++)
					carry_out(op + i);
			op += op->a;
		} else {
			carry_out(op);
		}
	}
	say(op, late);
	flush(&said);
	return 0;
}
