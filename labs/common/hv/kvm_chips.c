#include "kvm_engine.h"

#include <errno.h>
#include <stdlib.h>
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
