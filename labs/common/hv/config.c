/* Which machine a VM is, and whether another one can take its place. */
#include "engine.h"
#include "migration.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void text(struct state_io *io, char *s, size_t room)
{
	uint16_t n = (uint16_t)strnlen(s, room - 1);

	STATE(io, n);
	if (!state_check(io, n < room, "a name of %u characters", n))
		n = 0;
	if (io->loading)
		memset(s, 0, room);
	state_bytes(io, s, n);
	state_check(io, !memchr(s, 0, n), "a name with a zero in it");
}

void config_of(const struct vm *vm, struct config *c)
{
	*c = (struct config){ .mem_size = vm->mem.size, .cpus = vm->opt.cpus, .ndevices = vm->opt.ndevices };
	snprintf(c->engine, sizeof c->engine, "%s", vm->engine->name);
	snprintf(c->state, sizeof c->state, "%s", vm->engine->state_kind);
	for (unsigned i = 0; i < c->ndevices; i++) {
		const struct device_option *o = &vm->opt.device[i];

		snprintf(c->device[i].name, sizeof c->device[i].name, "%s", o->name);
		snprintf(c->device[i].arg, sizeof c->device[i].arg, "%s", o->arg ? o->arg : "");
		c->device[i].rings = o->rings;
	}
}

void config_io(struct config *c, struct state_io *io)
{
	text(io, c->engine, sizeof c->engine);
	text(io, c->state, sizeof c->state);
	STATE(io, c->mem_size);
	state_check(io, c->mem_size >= MEM_MIN && c->mem_size <= MEM_MAX && c->mem_size % PAGE == 0, "%llu bytes of memory",
		    (unsigned long long)c->mem_size);
	STATE(io, c->cpus);
	state_check(io, c->cpus && c->cpus <= VM_CPUS_MAX, "%u vCPUs", c->cpus);
	STATE(io, c->ndevices);
	if (!state_check(io, c->ndevices <= VIRTIO_SLOTS, "%u devices", c->ndevices))
		c->ndevices = 0;
	for (unsigned i = 0; i < c->ndevices; i++) {
		text(io, c->device[i].name, sizeof c->device[i].name);
		text(io, c->device[i].arg, sizeof c->device[i].arg);
		STATE(io, c->device[i].rings);
	}
}

static int differ(char *err, size_t errlen, const char *what, unsigned long long there, unsigned long long here)
{
	snprintf(err, errlen, "the VM has %llu %s, and this one %llu", there, what, here);
	return -EINVAL;
}

int config_match(const struct vm *vm, const struct config *c, char *err, size_t errlen)
{
	struct config mine;

	config_of(vm, &mine);
	if (strcmp(c->state, mine.state)) {
		snprintf(err, errlen, "the VM comes from the %s engine, which the %s engine cannot go on with", c->engine, mine.engine);
		return -EINVAL;
	}
	if (c->mem_size != mine.mem_size)
		return differ(err, errlen, "KiB of memory", c->mem_size / KiB, mine.mem_size / KiB);
	if (c->cpus != mine.cpus)
		return differ(err, errlen, "vCPUs", c->cpus, mine.cpus);
	if (c->ndevices != mine.ndevices)
		return differ(err, errlen, "virtio devices", c->ndevices, mine.ndevices);
	for (unsigned i = 0; i < c->ndevices; i++) {
		if (strcmp(c->device[i].name, mine.device[i].name)) {
			snprintf(err, errlen, "device %u of the VM is --%s, and here it is --%s", i, c->device[i].name,
				 mine.device[i].name);
			return -EINVAL;
		}
		if (c->device[i].rings != mine.device[i].rings) {
			snprintf(err, errlen, "device %u (--%s) of the VM offers other --rings", i, c->device[i].name);
			return -EINVAL;
		}
	}
	return 0;
}
