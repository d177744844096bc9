/*
 * The local APIC of the one vCPU, in xAPIC mode (SDM vol. 3, chapter 10; in newer editions 11), for engines without an in-kernel one.
 * It accepts interrupts (from the IOAPIC, its own timer, itself), keeps them in IRR, ISR and TMR, and says which of them the vCPU
 * takes next. There is no x2APIC, no TSC deadline mode, and nobody else on the bus.
 *
 * Every function is called with the VM's lock held.
 */
#ifndef HV_LAPIC_H
#define HV_LAPIC_H

#include "bus.h"
#include "loop.h"

#include <stdbool.h>
#include <stdint.h>

struct state_io;

/* IA32_APIC_BASE (10.4.4). The registers cannot be moved: lapic_base_valid(). */
#define LAPIC_BASE 0xfee00000ull
#define LAPIC_LEN 0x1000
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_ENABLE (1u << 11)

#define LAPIC_TIMER_HZ 1000000000u /* before the divider: one tick is one nanosecond, as in KVM and QEMU */

/* Delivery modes of ICR, LVT and redirection entries (10.6.1). */
enum apic_mode { APIC_FIXED, APIC_LOWEST, APIC_SMI, APIC_NMI = 4, APIC_INIT, APIC_STARTUP, APIC_EXTINT };

/* What travels on the APIC bus. */
struct apic_message {
	uint8_t vector;
	enum apic_mode mode;
	bool logical;  /* destination is compared with LDR, else with the APIC's id (10.6.2) */
	bool level;    /* its EOI is told to the IOAPIC */
	uint8_t dest;
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

struct lapic_ops {
	void (*notify)(void *opaque);              /* an interrupt was accepted: a vCPU in the guest or in HLT has to look up */
	void (*nmi)(void *opaque);                 /* an NMI was accepted */
	void (*eoi)(void *opaque, uint8_t vector); /* a level-triggered interrupt is over (10.8.5): the IOAPIC wants to know */
};

struct lapic {
	const struct lapic_ops *ops;
	void *opaque;
	struct loop *loop;
	uint64_t *cr8; /* the vCPU's: the upper half of TPR is the same register (10.8.6.1) */

	uint64_t base; /* IA32_APIC_BASE as lapic_set_base() was told */
	uint32_t id, ldr, dfr, svr, icr_low, icr_high;
	uint32_t lvt[LVT_COUNT];
	uint32_t irr[8], isr[8], tmr[8]; /* bit v % 32 of word v / 32 is vector v */
	uint8_t tpr;
	uint32_t esr, errors; /* what a read gives, and what has happened since the last write */

	/* The timer is not stepped: the count is a function of the time since it was started. */
	struct loop_timer timer; /* the next interrupt; armed only while one will come */
	uint32_t divide, initial;
	uint64_t start_ns; /* when the count was `initial` */
	bool run_down;	   /* the count stays at 0, however the mode or the divider changes */
	uint64_t due_ns;   /* of the interrupt that the timer is armed for */
};
extern const struct device_ops lapic_mmio_ops; /* LAPIC_LEN bytes at LAPIC_BASE; dev = struct lapic */

/* The state in which firmware leaves the bootstrap processor's: as after a reset, with the 8259 pair on LINT0 (virtual wire mode). */
void lapic_init(struct lapic *l, struct loop *loop, uint64_t *cr8, const struct lapic_ops *ops, void *opaque);
void lapic_state(struct lapic *l, struct state_io *io); /* as in devices.h; TPR's upper half is the vCPU's CR8 */

/* Can IA32_APIC_BASE have this value? Another address, x2APIC mode and reserved bits are refused: #GP(0). */
static inline bool lapic_base_valid(uint64_t value)
{
	return (value & ~(uint64_t)(APIC_BASE_ENABLE | APIC_BASE_BSP)) == LAPIC_BASE;
}
/* IA32_APIC_BASE was written. Switched off it is not there at all, and comes back as after a reset (10.4.3). */
void lapic_set_base(struct lapic *l, uint64_t value);

/* A message on the bus. false: it is not for this APIC, or this APIC does not take it now. */
bool lapic_receive(struct lapic *l, const struct apic_message *m);
/* The INTR pin of the 8259 pair, which is wired to LINT0, rose. Only for the modes in which LINT0 makes a message of it. */
void lapic_lint0_risen(struct lapic *l);

/* Does the vCPU see the INTR pin itself? When the APIC is off, or LINT0 passes it on as ExtINT. */
bool lapic_passes_intr(const struct lapic *l);
/* Is there an interrupt of higher priority than what the vCPU does now (PPR)? */
bool lapic_pending(const struct lapic *l);
/* The vCPU takes it: the vector, in service from now on. The spurious vector when there is none any more (10.9). */
uint8_t lapic_acknowledge(struct lapic *l);

#endif
