/*
 * The interrupt controllers of a PC as a whole, for the engines that bring none of their own: the 8259 pair, the IOAPIC and the local APIC,
 * how they are wired, and what a vCPU asks of them. `kvm` has KVM's in their place.
 *
 *	device's line --+--> 8259 pair --INTR--> LINT0 --+
 *	                |                                local APIC --> vCPU
 *	                +--> IOAPIC --- APIC bus --------+
 *
 * IRQ 0, the timer, is pin 2 of the IOAPIC, as the MADT's interrupt source override says; all other numbers are the same on both sides.
 * A guest starts in virtual wire mode (MP specification 3.6.2.2): the local APIC passes the 8259s' INTR on, as if it were not there.
 */
#ifndef HV_IRQCHIP_H
#define HV_IRQCHIP_H

#include <stdbool.h>
#include <stdint.h>

struct vm;
struct vcpu;
struct cpuid_result;

/* The chips of vm, their registers on its buses. 0 or negative: a range is taken. */
int irqchip_init(struct vm *vm);
/* A device drives one of the 16 ISA lines. */
void irqchip_set_line(struct vm *vm, unsigned irq, bool level);

/* Is there an interrupt that the vCPU gets as soon as it takes any? Its TPR has been considered, its RFLAGS.IF has not. */
bool irqchip_pending(struct vm *vm);
/* The vCPU takes one now: its vector. What went away in the meantime is answered with a spurious vector. */
uint8_t irqchip_acknowledge(struct vm *vm);

/* The guest has written an MSR. What the APIC must know of it, it learns here. */
void irqchip_msr_written(struct vcpu *v);
/* What a leaf of CPUID says of the local APIC, added to the answer that the guest gets otherwise. */
void irqchip_cpuid(const struct vcpu *v, uint32_t leaf, struct cpuid_result *r);

#endif
