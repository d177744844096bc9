/*
 * Two buses, port I/O and MMIO, with the same shape: devices claim ranges, an access finds its device or is counted as
 * unclaimed by address. What nothing answers reads as all ones, as on a PC, and is reported when the VM ends, so that a
 * guest waiting for a device that hv does not model is found by its address and not by a silent hang.
 */
#ifndef HV_BUS_H
#define HV_BUS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* One device. offset is from the start of the range that was claimed; size is 1, 2, 4 (or 8 on the MMIO bus) bytes. */
struct device_ops {
	const char *name;
	uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
	void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

#define BUS_RANGES 48
#define BUS_UNCLAIMED 64

struct bus_range {
	uint64_t base, len;
	const struct device_ops *ops;
	void *dev;
};

/* An address that nothing answered, and how often it was asked. */
struct bus_unclaimed {
	uint64_t addr;
	uint64_t reads, writes;
};

struct bus {
	const char *name; /* "port" or "address": used in reports */
	struct bus_range range[BUS_RANGES];
	unsigned nranges;
	struct bus_unclaimed unclaimed[BUS_UNCLAIMED]; /* the first BUS_UNCLAIMED distinct addresses */
	unsigned nunclaimed;
	uint64_t unclaimed_total; /* all of them, also those that no longer found a slot */
};

void bus_init(struct bus *bus, const char *name);

/* Claims [base, base + len) for a device. 0, -EEXIST when the range overlaps another, -ENOSPC, -EINVAL (empty or wrapping). */
int bus_add(struct bus *bus, uint64_t base, uint64_t len, const struct device_ops *ops, void *dev);

/*
 * One access. true when a device answered. An access that no device claims (or that only begins inside a device's range)
 * reads as all ones of its size, drops what is written, is counted, and returns false.
 */
bool bus_read(struct bus *bus, uint64_t addr, unsigned size, uint64_t *value);
bool bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value);

/* The name of the device at an address, or NULL. For traces. */
const char *bus_device_name(const struct bus *bus, uint64_t addr);

/* One line per unclaimed address: "nothing answers at port 0x70: 3 reads, 1 write". */
void bus_report_unclaimed(const struct bus *bus, FILE *out);

/*
 * An interrupt wire. A device calls irq_set() with the level it drives; who listens (the 8259 pair, KVM's in-kernel chips,
 * a test) is decided where the device is created.
 */
struct irq_line {
	void (*set)(void *opaque, unsigned irq, bool level);
	void *opaque;
	unsigned irq; /* ISA interrupt number, 0-15 */
};

static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->opaque, line->irq, level);
}

#endif
