/*
 * The IOAPIC (Intel 82093AA data sheet), version 0x20: 24 pins, each with a redirection entry that says what message a signal becomes.
 * Beside the 82093AA's two registers there is the EOI register of later chips, which ends one vector without the local APIC's broadcast.
 *
 * Lines are asserted or not: what voltage that is (an entry's polarity bit) is kept for the guest and means nothing here.
 * Every function is called with the VM's lock held.
 */
#ifndef HV_IOAPIC_H
#define HV_IOAPIC_H

#include "bus.h"
#include "lapic.h"

#include <stdbool.h>
#include <stdint.h>

struct state_io;

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_LEN 0x1000
#define IOAPIC_PINS 24

struct ioapic {
	/* Puts a message on the APIC bus. false: no local APIC took it. */
	bool (*send)(void *opaque, const struct apic_message *m);
	void *opaque;
	uint8_t select;   /* IOREGSEL */
	uint32_t id;      /* bits 27-24 */
	uint32_t lines;   /* the pins as the devices drive them */
	uint64_t entry[IOAPIC_PINS];
};
extern const struct device_ops ioapic_mmio_ops; /* IOAPIC_LEN bytes at IOAPIC_BASE; dev = struct ioapic */

/* All pins masked, as after a reset. */
void ioapic_init(struct ioapic *io, bool (*send)(void *opaque, const struct apic_message *m), void *opaque);
void ioapic_state(struct ioapic *ioapic, struct state_io *io); /* as in devices.h */
/* A device drives a pin. Numbers that do not exist are ignored. */
void ioapic_set_line(struct ioapic *io, unsigned pin, bool level);
/* A local APIC has ended a level-triggered interrupt. What is still asserted comes again. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

#endif
