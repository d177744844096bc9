#include "mptable.h"
#include "boot.h"
#include "devices.h"

#include <string.h>

#define CONFIG_AT (BOOT_MP + sizeof(struct mp_pointer))
#define ISA_BUS 0
#define ISA_IRQS 16
#define LAPIC_VERSION 0x14
#define EVERY_LAPIC 0xff

/* 4.1 */
struct mp_pointer {
	char signature[4];
	uint32_t config;
	uint8_t length; /* of this structure, in units of 16 bytes */
	uint8_t revision, checksum;
	uint8_t feature[5]; /* all 0: there is a configuration table, and no IMCR: interrupts begin in virtual wire mode */
} __attribute__((packed));

/* 4.2 */
struct mp_config {
	char signature[4];
	uint16_t length;
	uint8_t revision, checksum;
	char oem_id[8], product_id[12];
	uint32_t oem_table;
	uint16_t oem_length, entries;
	uint32_t lapic;
	uint16_t extended_length;
	uint8_t extended_checksum, reserved;
} __attribute__((packed));

/* 4.3: entries, in ascending order of their type */
enum { MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_INTERRUPT, MP_LOCAL_INTERRUPT };

struct mp_processor {
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features;
	uint8_t reserved[8];
} __attribute__((packed));
enum { CPU_ENABLED = 1, CPU_BOOT = 2 };

struct mp_bus {
	uint8_t type, id;
	char name[6];
} __attribute__((packed));

struct mp_ioapic {
	uint8_t type, id, version, flags;
	uint32_t address;
} __attribute__((packed));
enum { IOAPIC_USABLE = 1 };

struct mp_interrupt {
	uint8_t type, kind;
	uint16_t flags; /* polarity and trigger mode; 0: as on the bus */
	uint8_t bus, irq, apic_id, pin;
} __attribute__((packed));
enum { KIND_INT, KIND_NMI, KIND_SMI, KIND_EXTINT };

_Static_assert(sizeof(struct mp_pointer) == 16, "floating pointer layout");
_Static_assert(sizeof(struct mp_config) == 44, "configuration table layout");
_Static_assert(sizeof(struct mp_processor) == 20, "processor entry layout");
_Static_assert(sizeof(struct mp_interrupt) == 8, "interrupt entry layout");

/* The table under construction: boot data at CONFIG_AT. */
struct table {
	struct mp_config *config;
	const struct guest_mem *mem;
};

static void add(struct table *t, const void *entry, uint16_t len)
{
	memcpy(boot_area(t->mem, CONFIG_AT + t->config->length, len), entry, len);
	t->config->length += len;
	t->config->entries++;
}

static void add_cpus(struct table *t, unsigned cpus)
{
	for (unsigned i = 0; i < cpus; i++) {
		/* What a CPU is, CPUID says better: here it is one of the sixth family with an FPU and an APIC. */
		struct mp_processor cpu = { MP_PROCESSOR, (uint8_t)i, LAPIC_VERSION, CPU_ENABLED | (i ? 0 : CPU_BOOT), 0x600,
					    1u << 0 | 1u << 9, { 0 } };
		add(t, &cpu, sizeof cpu);
	}
}

static void add_interrupts(struct table *t)
{
	for (unsigned irq = 0; irq < ISA_IRQS; irq++) {
		struct mp_interrupt line = { MP_INTERRUPT, KIND_INT, irq == ACPI_SCI_IRQ ? MP_LEVEL_HIGH : 0, ISA_BUS, (uint8_t)irq,
					     IOAPIC_ID, (uint8_t)(irq ? irq : IOAPIC_PIN_IRQ0) };
		if (irq != CASCADE_IRQ)
			add(t, &line, sizeof line);
	}
	/* The 8259 pair's output is on the boot processor's LINT0. */
	struct mp_interrupt pic = { MP_LOCAL_INTERRUPT, KIND_EXTINT, 0, ISA_BUS, 0, 0, 0 };
	struct mp_interrupt nmi = { MP_LOCAL_INTERRUPT, KIND_NMI, 0, ISA_BUS, 0, EVERY_LAPIC, 1 };
	add(t, &pic, sizeof pic);
	add(t, &nmi, sizeof nmi);
}

void mptable_write(struct guest_mem *mem, const struct boot_request *req)
{
	struct mp_pointer *pointer = boot_area(mem, BOOT_MP, sizeof *pointer);
	struct mp_bus isa = { MP_BUS, ISA_BUS, "ISA   " };
	struct mp_ioapic ioapic = { MP_IOAPIC, IOAPIC_ID, IOAPIC_VERSION, IOAPIC_USABLE, IOAPIC_GPA };
	struct table t = { boot_area(mem, CONFIG_AT, sizeof *t.config), mem };

	*t.config = (struct mp_config){ .length = sizeof *t.config, .revision = 4, .lapic = LAPIC_GPA };
	memcpy(t.config->signature, "PCMP", 4);
	memcpy(t.config->oem_id, "TRAPDOOR", 8);
	memcpy(t.config->product_id, "hv          ", 12);
	add_cpus(&t, req->cpus);
	add(&t, &isa, sizeof isa);
	add(&t, &ioapic, sizeof ioapic);
	add_interrupts(&t);
	t.config->checksum = boot_checksum(t.config, t.config->length);

	*pointer = (struct mp_pointer){ .config = CONFIG_AT, .length = 1, .revision = 4 };
	memcpy(pointer->signature, "_MP_", 4);
	pointer->checksum = boot_checksum(pointer, sizeof *pointer);
}
