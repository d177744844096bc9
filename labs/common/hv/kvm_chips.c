#include "kvm_engine.h"
#include "kvm_state_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define IOAPIC_PINS 24
#define ISA_IRQS 16
#define CASCADE 2 /* the slave 8259's line: no interrupt of its own */

/*
 * Which pin each interrupt number (GSI) drives: of the 8259 pair below 16, and of the IOAPIC. The two see the same wires, as in a PC;
 * which of them a guest listens to is its choice. The 8254 is on pin 2 of the IOAPIC, where PCs have it and where guests that ask
 * nobody look for it; the MADT and the MP table say so.
 */
static int route_interrupts(struct machine *m)
{
	struct kvm_irq_routing *r = calloc(1, sizeof *r + (IOAPIC_PINS + ISA_IRQS) * sizeof r->entries[0]);

	if (!r)
		return vm_stop(m->vm, HV_HOST, "the host has not enough memory");
	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		if (gsi == CASCADE)
			continue;
		r->entries[r->nr++] = (struct kvm_irq_routing_entry){
			.gsi = gsi,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi ? gsi : 2 },
		};
		if (gsi < ISA_IRQS)
			r->entries[r->nr++] = (struct kvm_irq_routing_entry){
				.gsi = gsi,
				.type = KVM_IRQ_ROUTING_IRQCHIP,
				.u.irqchip = { .irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, .pin = gsi % 8 },
			};
	}
	int err = ioctl(m->vm_fd, KVM_SET_GSI_ROUTING, r) < 0 ? machine_error(m, "KVM_SET_GSI_ROUTING") : 0;
	free(r);
	return err;
}

int kvm_create_chips(struct machine *m)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY }; /* with a live port 0x61 */
	uint64_t identity_map = 0xfffbc000;

	/* Addresses that Intel's VT-x needs to be told. */
	if (ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		return machine_error(m, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(m->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0)
		return machine_error(m, "KVM_SET_TSS_ADDR");
	if (ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return machine_error(m, "KVM_CREATE_IRQCHIP");
	if (ioctl(m->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return machine_error(m, "KVM_CREATE_PIT2");
	return route_interrupts(m);
}

static int vm_fd(struct vm *vm)
{
	const struct kvm_engine *e = vm->engine_state;
	return e->cpu[0].m.vm_fd;
}

void kvm_irq_line(struct vm *vm, unsigned irq, bool level)
{
	struct kvm_irq_level line = { .irq = irq, .level = level };
	ioctl(vm_fd(vm), KVM_IRQ_LINE, &line);
}

/* Both descriptors are of the same kind and the kernel keeps a reference of its own, so closing one is all there is to do at the end. */
static int bind_eventfd(struct vm *vm, int fd, unsigned long request, void *arg)
{
	int err;

	if (fd < 0)
		return -errno;
	if (ioctl(vm_fd(vm), request, arg) == 0)
		return fd;
	err = errno;
	close(fd);
	return -err;
}

int kvm_irq_fd(struct vm *vm, unsigned gsi)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct kvm_irqfd irq = { .fd = (uint32_t)fd, .gsi = gsi };
	return bind_eventfd(vm, fd, KVM_IRQFD, &irq);
}

int kvm_io_fd(struct vm *vm, uint64_t gpa, unsigned len, uint32_t value)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct kvm_ioeventfd io = { .datamatch = value, .addr = gpa, .len = len, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };
	return bind_eventfd(vm, fd, KVM_IOEVENTFD, &io);
}

static int take_chips(struct vm *vm, struct kvm_chips_state *s)
{
	static const uint32_t id[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC };
	struct kvm_irqchip chip[3];

	for (unsigned i = 0; i < 3; i++) {
		chip[i] = (struct kvm_irqchip){ .chip_id = id[i] };
		if (ioctl(vm_fd(vm), KVM_GET_IRQCHIP, &chip[i]) < 0)
			return -errno;
	}
	s->pic[0] = chip[0].chip.pic;
	s->pic[1] = chip[1].chip.pic;
	s->ioapic = chip[2].chip.ioapic;
	return ioctl(vm_fd(vm), KVM_GET_PIT2, &s->pit) < 0 ? -errno : 0;
}

/*
 * An interrupt that the IOAPIC holds back is sent anew by KVM_SET_IRQCHIP. It arrives twice if the local APIC has it already: so local
 * APICs are put back later, as they were. The timer begins its period anew (KVM_SET_PIT2 does not take how much of it was over).
 */
static int put_chips(struct vm *vm, const struct kvm_chips_state *s)
{
	struct kvm_irqchip chip[] = {
		{ .chip_id = KVM_IRQCHIP_PIC_MASTER, .chip.pic = s->pic[0] },
		{ .chip_id = KVM_IRQCHIP_PIC_SLAVE, .chip.pic = s->pic[1] },
		{ .chip_id = KVM_IRQCHIP_IOAPIC, .chip.ioapic = s->ioapic },
	};

	for (unsigned i = 0; i < 3; i++)
		if (ioctl(vm_fd(vm), KVM_SET_IRQCHIP, &chip[i]) < 0)
			return -errno;
	return ioctl(vm_fd(vm), KVM_SET_PIT2, &s->pit) < 0 ? -errno : 0;
}

void kvm_chips_io(struct vm *vm, struct state_io *io)
{
	struct kvm_chips_state s = { 0 };
	int err = io->loading ? 0 : take_chips(vm, &s);

	kvm_chips_state_io(&s, io);
	if (io->loading && !state_failed(io))
		err = put_chips(vm, &s);
	if (err)
		state_fail(io, "KVM refuses the state of its interrupt controllers: %s", strerror(-err));
}
