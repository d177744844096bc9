#include "ioapic.h"
#include "state_io.h"

#include <string.h>

/* Offsets of what the CPU sees; the registers themselves are behind IOREGSEL and IOWIN (data sheet, 3.1). */
enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };
enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_ENTRY = 0x10 };

#define VERSION (0x20 | (IOAPIC_PINS - 1) << 16)
#define ID_WRITABLE 0x0f000000

/* Redirection entry (3.2.4). Bit 12, delivery status, is always 0: a message is delivered at once, or waits as an asserted line. */
#define RTE_LOGICAL (1ull << 11)
#define RTE_REMOTE_IRR (1ull << 14) /* a local APIC has the level-triggered interrupt, and has not ended it */
#define RTE_LEVEL (1ull << 15)
#define RTE_MASKED (1ull << 16)
#define RTE_WRITABLE 0xff0000000001afffull
#define RTE_MODE(e) ((enum apic_mode)((e) >> 8 & 7))

/* Only these two modes wait for an EOI; with the others a level is what its edge is. */
static bool ends_with_eoi(uint64_t entry)
{
	return (entry & RTE_LEVEL) && RTE_MODE(entry) <= APIC_LOWEST;
}

static void deliver(struct ioapic *io, unsigned pin)
{
	uint64_t entry = io->entry[pin];
	struct apic_message m = { .vector = (uint8_t)entry, .mode = RTE_MODE(entry), .logical = entry & RTE_LOGICAL,
				  .level = ends_with_eoi(entry), .dest = (uint8_t)(entry >> 56) };

	if (io->send(io->opaque, &m) && m.level)
		io->entry[pin] |= RTE_REMOTE_IRR;
}

/* A level-triggered pin asks as long as it is asserted, but not again before the EOI. */
static void deliver_level(struct ioapic *io, unsigned pin)
{
	uint64_t entry = io->entry[pin];

	if (ends_with_eoi(entry) && (io->lines >> pin & 1) && !(entry & (RTE_MASKED | RTE_REMOTE_IRR)))
		deliver(io, pin);
}

void ioapic_set_line(struct ioapic *io, unsigned pin, bool level)
{
	if (pin >= IOAPIC_PINS)
		return;
	uint32_t bit = 1u << pin;
	bool risen = level && !(io->lines & bit);

	io->lines = level ? io->lines | bit : io->lines & ~bit;
	if (ends_with_eoi(io->entry[pin]))
		deliver_level(io, pin);
	else if (risen && !(io->entry[pin] & RTE_MASKED)) /* an edge on a masked pin is lost (3.2.4, bit 16) */
		deliver(io, pin);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if ((uint8_t)io->entry[pin] != vector || !(io->entry[pin] & RTE_REMOTE_IRR))
			continue;
		io->entry[pin] &= ~RTE_REMOTE_IRR;
		deliver_level(io, pin);
	}
}

/* One half of an entry. A guest that writes it in two steps masks it first, or sees what it asked for. */
static void write_entry(struct ioapic *io, unsigned pin, bool high, uint32_t value)
{
	uint64_t *entry = &io->entry[pin];
	uint64_t kept = high ? (uint32_t)*entry : (*entry & ~0xffffffffull) | (*entry & RTE_REMOTE_IRR);

	*entry = kept | ((high ? (uint64_t)value << 32 : value) & RTE_WRITABLE);
	/* On its way from level to edge an entry forgets the EOI that is still owed. Guests use that to end an interrupt on chips
	 * without the EOI register. */
	if (!(*entry & RTE_LEVEL))
		*entry &= ~RTE_REMOTE_IRR;
	deliver_level(io, pin);
}

static void write_register(struct ioapic *io, uint32_t value)
{
	unsigned i = io->select - REG_ENTRY;

	if (io->select == REG_ID)
		io->id = value & ID_WRITABLE;
	else if (io->select >= REG_ENTRY && i / 2 < IOAPIC_PINS)
		write_entry(io, i / 2, i % 2, value);
}

static uint32_t read_register(const struct ioapic *io)
{
	unsigned i = io->select - REG_ENTRY;

	switch (io->select) {
	case REG_ID:
	case REG_ARBITRATION: /* loaded from the id (3.2.3) */
		return io->id;
	case REG_VERSION:
		return VERSION;
	default:
		return io->select >= REG_ENTRY && i / 2 < IOAPIC_PINS ? (uint32_t)(io->entry[i / 2] >> (i % 2 ? 32 : 0)) : 0;
	}
}

static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned size)
{
	struct ioapic *io = dev;
	(void)size;

	switch (offset) {
	case IOREGSEL: return io->select;
	case IOWIN: return read_register(io);
	default: return 0;
	}
}

static void ioapic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct ioapic *io = dev;

	if (offset == IOREGSEL)
		io->select = (uint8_t)value;
	else if (offset == IOWIN && size >= 4) /* IOWIN is for whole registers (3.1.2) */
		write_register(io, (uint32_t)value);
	else if (offset == IOEOI)
		ioapic_eoi(io, (uint8_t)value);
}

const struct device_ops ioapic_mmio_ops = { .name = "ioapic", .read = ioapic_read, .write = ioapic_write };

void ioapic_init(struct ioapic *io, bool (*send)(void *opaque, const struct apic_message *m), void *opaque)
{
	memset(io, 0, sizeof *io);
	io->send = send;
	io->opaque = opaque;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->entry[pin] = RTE_MASKED;
}

/* What is asserted and not masked was offered when it became so; it is not offered again. */
void ioapic_state(struct ioapic *ioapic, struct state_io *io)
{
	STATE(io, ioapic->select);
	STATE(io, ioapic->id);
	STATE(io, ioapic->lines);
	state_check(io, !(ioapic->id & ~ID_WRITABLE) && !(ioapic->lines >> IOAPIC_PINS), "bits are set that do not exist");
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *entry = &ioapic->entry[pin];

		STATE(io, *entry);
		state_check(io, !(*entry & ~(RTE_WRITABLE | RTE_REMOTE_IRR)), "pin %u has bits that do not exist", pin);
		state_check(io, *entry & RTE_LEVEL || !(*entry & RTE_REMOTE_IRR), "pin %u waits for the end of an edge", pin);
	}
}
