/*
 * The platform devices. Each has its own .c file and one device_ops; none knows which engine runs.
 * All functions are called with the VM's lock held.
 *
 * Each has an X_state(), which saves it or loads it (state_io.h). It is loaded into a device that is as X_init() leaves it. It
 * drives no line: which levels its lines had is part of the state of the chip at their other end, and an edge must not come
 * twice. Timers are set anew.
 */
#ifndef HV_DEVICES_H
#define HV_DEVICES_H

#include "bus.h"
#include "console.h"
#include "loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct state_io;

/* --- 16550A UART (National Semiconductor PC16550D data sheet), ports 0x3f8-0x3ff, IRQ 4 --- */
#define UART_FIFO 16
struct uart {
	struct irq_line irq;
	struct console *con;
	uint8_t ier, lcr, mcr, msr, scr, fcr, dll, dlm;
	uint8_t lsr; /* the error bits; the others follow from the state */
	bool thr_irq; /* the transmitter-empty interrupt is pending */
	uint8_t rx[UART_FIFO];
	unsigned rx_head, rx_count;
	/* 8 data bits of output are written to the console at once; the transmitter is always empty. */
	uint64_t tx_bytes, rx_bytes;
};
extern const struct device_ops uart_ops; /* 8 ports */
void uart_init(struct uart *uart, struct irq_line irq, struct console *con);
/* With the console's input that nobody has taken yet. */
void uart_state(struct uart *uart, struct state_io *io);

/* --- 8259A pair (Intel 8259A data sheet), ports 0x20-0x21, 0xa0-0xa1, 0x4d0-0x4d1 (edge/level control) --- */
struct pic_chip {
	uint8_t irr, imr, isr, vector_base;
	uint8_t elcr;     /* edge/level control: 1 = level-triggered */
	uint8_t lines;    /* the levels that the devices drive now */
	uint8_t icw_step; /* 0 = initialised, else which ICW is expected next */
	bool single;      /* ICW1: no ICW3 follows */
	bool read_isr, auto_eoi, rotate_auto_eoi, special_mask, icw4_needed, special_fully_nested, poll;
	uint8_t lowest_priority; /* the line with the lowest priority (7 after reset) */
};
struct pic {
	struct pic_chip chip[2]; /* master, slave on line 2 */
	bool intr;               /* the INTR pin as it was announced last */
	/* Called when an interrupt becomes deliverable, so that a vCPU in the guest is kicked out. May be NULL. */
	void (*notify)(void *opaque);
	void *notify_opaque;
};
extern const struct device_ops pic_master_ops, pic_slave_ops, pic_elcr_ops; /* 2 ports each; dev = struct pic */
void pic_init(struct pic *pic, void (*notify)(void *opaque), void *opaque);
void pic_state(struct pic *pic, struct state_io *io);
/* A device drives one of the 16 wires. 2 (the cascade) and numbers that do not exist are ignored. */
void pic_set_line(struct pic *pic, unsigned irq, bool level);
bool pic_pending(const struct pic *pic); /* the INTR pin */
/* The INTA cycle: the vector to deliver (the spurious vector when nothing is pending any more). */
uint8_t pic_acknowledge(struct pic *pic);

/* --- 8254 PIT (Intel 8254 data sheet), ports 0x40-0x43, and port 0x61; counter 0 drives IRQ 0 --- */
#define PIT_HZ 1193182
struct pit_counter {
	uint16_t reload;      /* the count register, as written; 0 stands for 65536, or 10000 in BCD */
	uint8_t mode, access; /* access: 1 low byte, 2 high byte, 3 low then high */
	bool bcd, gate, write_high_next, read_high_next;
	uint8_t write_low;
	bool latched, status_latched;
	uint16_t latch;
	uint8_t status;
	bool armed;      /* a count was written since the control word */
	bool null_count; /* it has not reached the counting element yet */
	/* The counting element. Times are PIT ticks since pit_init(). */
	bool counting;  /* it holds a count of the present mode */
	bool halted;    /* the gate is low: the count stands still, held ticks from its start */
	uint32_t count; /* what was loaded, 1-65536 */
	uint64_t start, held;
	/* Modes 2 and 3: a new count that takes over at next_at, as if it had been loaded at next_start. */
	bool next_valid;
	uint32_t next_count;
	uint64_t next_at, next_start;
};
struct pit {
	struct irq_line irq;
	struct loop *loop;
	struct loop_timer timer; /* next rising edge of counter 0's output */
	struct pit_counter counter[3];
	uint8_t port61;     /* bits 0-1: gate of counter 2, speaker data */
	bool irq_level;     /* counter 0's output as IRQ 0 saw it last */
	uint64_t epoch_ns;  /* tick 0 */
	uint64_t next_edge; /* the tick that the timer is set for */
	uint64_t ticks, coalesced; /* interrupts raised, and those given up because the host was late */
};
extern const struct device_ops pit_ops;    /* 4 ports */
extern const struct device_ops port61_ops; /* 1 port; dev = struct pit. Bit 4 toggles with refresh, bit 5 is counter 2's OUT */
void pit_init(struct pit *pit, struct loop *loop, struct irq_line irq);
void pit_state(struct pit *pit, struct state_io *io);
/* The port 0x61 device alone, with a live counter 2, is also what the kvm engine uses when KVM has no PIT. */

/* --- CMOS real-time clock (Motorola MC146818), ports 0x70-0x71: the host's UTC time, RAM size in the usual bytes --- */
struct cmos {
	uint8_t index;
	uint8_t ram[128]; /* also the alarm and status registers; the time itself is read from the host */
	int (*gettime)(clockid_t clock, struct timespec *now); /* clock_gettime(), or a unit test's own clock */
};
extern const struct device_ops cmos_ops; /* 2 ports */
void cmos_init(struct cmos *cmos, uint64_t mem_size);
void cmos_state(struct cmos *cmos, struct state_io *io); /* without the time, which is the host's */

/*
 * --- Debug and exit device for guests: the same two ports that QEMU's isa-debugcon and isa-debug-exit have, so that one
 * image behaves the same on bare QEMU. 0xe9: a byte written goes to the console; reads 0xe9. 0xf4: a value written (any
 * size) ends the VM with that exit code. ---
 */
struct debugdev {
	struct console *con;
	void (*exit)(void *opaque, uint32_t code);
	void *exit_opaque;
};
extern const struct device_ops debugcon_ops, debugexit_ops; /* 1 port at 0xe9; 4 ports at 0xf4 */
void debugdev_init(struct debugdev *dev, struct console *con, void (*exit)(void *opaque, uint32_t code), void *opaque);

/* --- ACPI power management registers (ACPI 6.5 section 4.8.3): PM1a event block 0x600-0x603, control 0x604-0x605 --- */
#define ACPI_PM1A_EVT 0x600
#define ACPI_PM1A_CNT 0x604
#define ACPI_PM_LEN 8
#define ACPI_SLP_TYP_S5 5
struct acpi_pm {
	uint16_t pm1_sts, pm1_en, pm1_cnt;
	void (*poweroff)(void *opaque);
	void *opaque;
};
extern const struct device_ops acpi_pm_ops; /* ACPI_PM_LEN ports at ACPI_PM1A_EVT */
void acpi_pm_state(struct acpi_pm *pm, struct state_io *io);

#endif
