/* The state of everything but memory, part by part. */
#include "engine.h"
#include "irqchip.h"
#include "lab5.h"
#include "virtio_state.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

uint64_t realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The first part: it says which time all others count from. */
static void clock_part(struct vm *vm, uint32_t id, struct state_io *io)
{
	(void)id;
	STATE(io, vm->moves);
	STATE(io, vm->paused);
	STATE(io, vm->stopped_real);
	if (io->loading) {
		vm->gap_ns = clock_gap(vm->moves, vm->stopped_real, realtime_ns());
		vm->stopped_ns = clock_ns() - vm->gap_ns;
		io->now_ns = vm->stopped_ns;
	}
	vm->engine->clock_io(vm, io);
}

/* clang-format off */
static void pic_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; pic_state(&vm->pic, io); }
static void ioapic_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; ioapic_state(&vm->ioapic, io); }
static void lapic_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; lapic_state(&vm->lapic, io); }
static void pit_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; pit_state(&vm->pit, io); }
static void uart_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; uart_state(&vm->uart, io); }
static void cmos_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; cmos_state(&vm->cmos, io); }
static void i8042_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; i8042_state(&vm->i8042, io); }
static void crtc_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; crtc_state(&vm->crtc, io); }
static void acpi_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; acpi_pm_state(&vm->acpi, io); }
static void console_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; console_state(&vm->con, io); }
static void chips_part(struct vm *vm, uint32_t id, struct state_io *io) { (void)id; vm->engine->chips_io(vm, io); }
static void virtio_part(struct vm *vm, uint32_t id, struct state_io *io) { virtio_state(vm->virtio[id - PART_VIRTIO], io); }
static void cpu_part(struct vm *vm, uint32_t id, struct state_io *io) { vm->engine->cpu_io(vm, id, io); }
/* clang-format on */

static const struct platform_part {
	struct state_part part;
	enum { ALWAYS, OWN_PIC, OWN_PIT, ENGINE_CHIPS } when; /* hv's own, where the engine has none; the engine's */
} platform[] = {
	{ { PART_VIRTIO, GROUP_VIRTIO, NULL, virtio_part }, ALWAYS }, /* a pattern for all slots */
	{ { PART_UART, GROUP_DEVICES, "the UART", uart_part }, ALWAYS },
	{ { PART_PIC, GROUP_CHIPS, "the PIC", pic_part }, OWN_PIC },
	{ { PART_CLOCK, GROUP_CLOCK, "the clock", clock_part }, ALWAYS },
	{ { PART_LAPIC, GROUP_CHIPS, "the local APIC", lapic_part }, OWN_PIC },
	{ { PART_ACPI, GROUP_DEVICES, "the power management registers", acpi_part }, ALWAYS },
	{ { PART_PIT, GROUP_DEVICES, "the PIT", pit_part }, OWN_PIT },
	{ { PART_IOAPIC, GROUP_CHIPS, "the IOAPIC", ioapic_part }, OWN_PIC },
	{ { PART_KVM_CHIPS, GROUP_CHIPS, "KVM's interrupt controllers", chips_part }, ENGINE_CHIPS },
	{ { PART_I8042, GROUP_DEVICES, "the keyboard controller", i8042_part }, ALWAYS },
	{ { PART_CRTC, GROUP_DEVICES, "the CRT controller", crtc_part }, ALWAYS },
	{ { PART_CONSOLE, GROUP_DEVICES, "the console", console_part }, ALWAYS },
	{ { PART_CMOS, GROUP_DEVICES, "the real-time clock", cmos_part }, ALWAYS },
};

unsigned vm_parts(struct vm *vm, struct state_part *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < vm->opt.cpus; i++)
		out[n++] = (struct state_part){ i, GROUP_CPUS, "a vCPU", cpu_part };
	for (unsigned i = 0; i < sizeof platform / sizeof *platform; i++) {
		const struct platform_part *p = &platform[i];

		if ((p->when == OWN_PIC && vm->engine->has_pic) || (p->when == OWN_PIT && vm->engine->has_pit) ||
		    (p->when == ENGINE_CHIPS && !vm->engine->chips_io))
			continue;
		if (p->part.id != PART_VIRTIO) {
			out[n++] = p->part;
			continue;
		}
		for (unsigned slot = 0; slot < vm->nvirtio; slot++)
			out[n++] = (struct state_part){ PART_VIRTIO + slot, GROUP_VIRTIO, vm->virtio[slot]->ops->name, virtio_part };
	}
	return n;
}

int part_save(struct vm *vm, const struct state_part *part, struct stream *s)
{
	struct state_io io;
	struct iovec iov;
	int err;

	state_save_begin(&io, part->name, vm->stopped_ns);
	pthread_mutex_lock(&vm->lock);
	part->io(vm, part->id, &io);
	pthread_mutex_unlock(&vm->lock);
	err = state_end(&io);
	iov = (struct iovec){ io.data, io.len };
	if (err || vm->stopping)
		err = stream_fail(s, err ? -err : ECANCELED, "%s", err ? io.err : "the VM has ended");
	else
		err = section_write(s, part->group == GROUP_CPUS ? SECTION_CPU : SECTION_PART, part->id, &iov, 1);
	state_free(&io);
	return err;
}

int part_load(struct vm *vm, const struct state_part *part, struct stream *s, const struct section *sec)
{
	struct state_io io;
	int err;

	state_load_begin(&io, part->name, vm->stopped_ns, sec->payload, sec->header.length);
	pthread_mutex_lock(&vm->lock);
	part->io(vm, part->id, &io);
	pthread_mutex_unlock(&vm->lock);
	err = state_end(&io);
	if (vm->stopping)
		return stream_fail(s, ECANCELED, "%s", vm->reason);
	return err ? stream_fail(s, EPROTO, "%s", io.err) : 0;
}

void vm_parts_loaded(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	virtio_loaded(vm);
	pthread_mutex_unlock(&vm->lock);
}
