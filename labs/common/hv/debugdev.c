#include "devices.h"

static uint64_t debugcon_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0xe9; /* how a guest finds out that the port is there */
}

static void debugcon_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct debugdev *d = dev;
	uint8_t byte = (uint8_t)value;
	(void)offset;
	(void)size;
	console_write(d->con, &byte, 1);
}

static uint64_t debugexit_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0;
}

static void debugexit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct debugdev *d = dev;
	(void)offset;
	(void)size; /* any size: the bus has cut the value to it */
	d->exit(d->exit_opaque, (uint32_t)value);
}

const struct device_ops debugcon_ops = { .name = "debugcon", .read = debugcon_read, .write = debugcon_write };
const struct device_ops debugexit_ops = { .name = "debugexit", .read = debugexit_read, .write = debugexit_write };

void debugdev_init(struct debugdev *dev, struct console *con, void (*exit)(void *opaque, uint32_t code), void *opaque)
{
	dev->con = con;
	dev->exit = exit;
	dev->exit_opaque = opaque;
}
