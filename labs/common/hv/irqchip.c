#include "irqchip.h"
#include "engine.h"
#include "lab1.h"

#define TIMER_IRQ 0
#define TIMER_PIN 2
#define CPUID_APIC (1u << 9) /* leaf 1, EDX; AMD repeats it in 0x80000001 */

static void kick(void *opaque)
{
	vm_kick(opaque);
}

static void intr_risen(void *opaque)
{
	struct vm *vm = opaque;

	lapic_lint0_risen(&vm->lapic);
	if (lapic_passes_intr(&vm->lapic))
		vm_kick(vm);
}

static void nmi(void *opaque)
{
	struct vm *vm = opaque;

	if (vm->engine->nmi)
		vm->engine->nmi(vm);
}

static void eoi(void *opaque, uint8_t vector)
{
	struct vm *vm = opaque;
	ioapic_eoi(&vm->ioapic, vector);
}

static bool send(void *opaque, const struct apic_message *m)
{
	struct vm *vm = opaque;
	return lapic_receive(&vm->lapic, m);
}

static const struct lapic_ops lapic_ops = { .notify = kick, .nmi = nmi, .eoi = eoi };

int irqchip_init(struct vm *vm)
{
	struct bus *pio = &vm->pio;
	int err = 0;

	pic_init(&vm->pic, intr_risen, vm);
	lapic_init(&vm->lapic, &vm->loop, &vm->vcpu.cr8, &lapic_ops, vm);
	ioapic_init(&vm->ioapic, send, vm);
	err |= bus_add(pio, 0x20, 2, &pic_master_ops, &vm->pic);
	err |= bus_add(pio, 0xa0, 2, &pic_slave_ops, &vm->pic);
	err |= bus_add(pio, 0x4d0, 2, &pic_elcr_ops, &vm->pic);
	err |= bus_add(&vm->mmio, LAPIC_BASE, LAPIC_LEN, &lapic_mmio_ops, &vm->lapic);
	err |= bus_add(&vm->mmio, IOAPIC_BASE, IOAPIC_LEN, &ioapic_mmio_ops, &vm->ioapic);
	return err;
}

void irqchip_set_line(struct vm *vm, unsigned irq, bool level)
{
	pic_set_line(&vm->pic, irq, level);
	if (irq == TIMER_IRQ)
		ioapic_set_line(&vm->ioapic, TIMER_PIN, level);
	else if (irq != TIMER_PIN) /* the number that the 8259s use for their cascade */
		ioapic_set_line(&vm->ioapic, irq, level);
}

bool irqchip_pending(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	bool pending = lapic_pending(&vm->lapic) || (lapic_passes_intr(&vm->lapic) && pic_pending(&vm->pic));
	pthread_mutex_unlock(&vm->lock);
	return pending;
}

uint8_t irqchip_acknowledge(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	/* Which of the two is first is nowhere laid down. ExtINT has no priority of its own, and TPR does not hold it back. */
	uint8_t vector = lapic_pending(&vm->lapic) ? lapic_acknowledge(&vm->lapic) : pic_acknowledge(&vm->pic);
	pthread_mutex_unlock(&vm->lock);
	return vector;
}

void irqchip_msr_written(struct vcpu *v)
{
	struct lapic *l = &v->vm->lapic;

	pthread_mutex_lock(&v->vm->lock);
	if (l->base != v->msr.apic_base)
		lapic_set_base(l, v->msr.apic_base);
	pthread_mutex_unlock(&v->vm->lock);
}

void irqchip_cpuid(const struct vcpu *v, uint32_t leaf, struct cpuid_result *r)
{
	uint32_t bit = leaf == 1 ? CPUID_APIC : leaf == 0x80000001 ? trap_host_cpuid(v, leaf, 0).edx & CPUID_APIC : 0;

	/* Switched off by IA32_APIC_BASE, it is not there for CPUID either (SDM vol. 3, 10.4.3). Its id, in EBX of leaf 1, is 0. */
	r->edx &= ~bit;
	if (v->msr.apic_base & APIC_BASE_ENABLE)
		r->edx |= bit;
}
