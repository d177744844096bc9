#include "bus.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/*
 * A device that is one byte wide (the 8259, the 8254, the UART, ...) is handed a wider access as it is: it takes the low
 * byte of what is written and answers with one register, zero-extended. A real ISA bus would split the access into one
 * cycle for each port; no kernel relies on that for these devices, and a split would turn one slip of a guest into
 * several accesses of neighbouring registers.
 */

static uint64_t size_mask(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

static bool size_valid(unsigned size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

void bus_init(struct bus *bus, const char *name)
{
	memset(bus, 0, sizeof(*bus));
	bus->name = name;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t len, const struct device_ops *ops, void *dev)
{
	/* Last addresses are compared, not ends: a range may reach the top of the address space, where its end is 0. */
	if (!len || len - 1 > UINT64_MAX - base)
		return -EINVAL;
	uint64_t last = base + (len - 1);

	for (unsigned i = 0; i < bus->nranges; i++) {
		const struct bus_range *r = &bus->range[i];
		if (base <= r->base + (r->len - 1) && r->base <= last)
			return -EEXIST;
	}
	if (bus->nranges == BUS_RANGES)
		return -ENOSPC;
	bus->range[bus->nranges++] = (struct bus_range){ .base = base, .len = len, .ops = ops, .dev = dev };
	return 0;
}

/* The range that all of [addr, addr + size) lies in, or NULL. */
static const struct bus_range *find(const struct bus *bus, uint64_t addr, unsigned size)
{
	for (unsigned i = 0; i < bus->nranges; i++) {
		const struct bus_range *r = &bus->range[i];
		/* addr - base wraps to something huge when addr lies below the range; len - offset cannot wrap. */
		uint64_t offset = addr - r->base;
		if (offset < r->len && size <= r->len - offset)
			return r;
	}
	return NULL;
}

/* The slot of an unclaimed address, or NULL when the table is full: a guest that scans all ports must not grow it. */
static struct bus_unclaimed *unclaimed_slot(struct bus *bus, uint64_t addr)
{
	bus->unclaimed_total++;
	for (unsigned i = 0; i < bus->nunclaimed; i++) {
		if (bus->unclaimed[i].addr == addr)
			return &bus->unclaimed[i];
	}
	if (bus->nunclaimed == BUS_UNCLAIMED)
		return NULL;
	struct bus_unclaimed *u = &bus->unclaimed[bus->nunclaimed++];
	*u = (struct bus_unclaimed){ .addr = addr };
	return u;
}

bool bus_read(struct bus *bus, uint64_t addr, unsigned size, uint64_t *value)
{
	const struct bus_range *r = size_valid(size) ? find(bus, addr, size) : NULL;
	if (r) {
		*value = r->ops->read(r->dev, addr - r->base, size) & size_mask(size);
		return true;
	}
	struct bus_unclaimed *u = unclaimed_slot(bus, addr);
	if (u)
		u->reads++;
	/* Nobody drives the data lines and they are pulled up: what a PC reads from a port with no device. */
	*value = size_mask(size);
	return false;
}

bool bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
	const struct bus_range *r = size_valid(size) ? find(bus, addr, size) : NULL;
	if (r) {
		r->ops->write(r->dev, addr - r->base, size, value & size_mask(size));
		return true;
	}
	struct bus_unclaimed *u = unclaimed_slot(bus, addr);
	if (u)
		u->writes++;
	return false;
}

const char *bus_device_name(const struct bus *bus, uint64_t addr)
{
	const struct bus_range *r = find(bus, addr, 1);
	return r ? r->ops->name : NULL;
}

void bus_report_unclaimed(const struct bus *bus, FILE *out)
{
	uint64_t listed = 0;
	for (unsigned i = 0; i < bus->nunclaimed; i++) {
		const struct bus_unclaimed *u = &bus->unclaimed[i];
		fprintf(out, "nothing answers at %s 0x%" PRIx64 ": %" PRIu64 " read%s, %" PRIu64 " write%s\n", bus->name,
			u->addr, u->reads, u->reads == 1 ? "" : "s", u->writes, u->writes == 1 ? "" : "s");
		listed += u->reads + u->writes;
	}
	uint64_t rest = bus->unclaimed_total - listed;
	if (rest)
		fprintf(out, "nothing answers at any further %s: %" PRIu64 " access%s\n", bus->name, rest,
			rest == 1 ? "" : "es");
}
