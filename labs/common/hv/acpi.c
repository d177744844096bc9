/*
 * ACPI tables (ACPI 6.5 chapter 5): how to power off and reset, which virtio devices there are, and, where the machine has APICs, its
 * CPUs and interrupt wires. Without a MADT a guest uses one CPU and the 8259 pair with the legacy numbering.
 */
#include "acpi_aml.h"
#include "boot.h"
#include "devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Guest addresses. The RSDP comes first, 16-byte aligned, where a BIOS guest would also search for it (5.2.5.1). */
#define RSDP_GPA BOOT_ACPI
#define FACS_GPA (BOOT_ACPI + 0x40) /* must be 64-byte aligned */
#define BOOT_ACPI_END 0xf0000

#define RESET_PORT 0x64 /* struct i8042 answers there */
#define RESET_PULSE 0xfe

struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t checksum_all;
	uint8_t reserved[3];
} __attribute__((packed));

struct table_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct xsdt {
	struct table_header header;
	uint64_t table[2]; /* FADT and MADT */
} __attribute__((packed));

/* Generic address structure (5.2.3.2). */
struct gas {
	uint8_t space, bit_width, bit_offset, access;
	uint64_t address;
} __attribute__((packed));
enum { GAS_IO = 1, GAS_BYTE = 1, GAS_WORD = 2 };

/* 5.2.9. Blocks that hv does not have are skipped over by name. */
struct fadt {
	struct table_header header;
	uint32_t facs, dsdt;
	uint8_t reserved1, pm_profile;
	uint16_t sci_irq;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_timer, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_timer_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_timer, x_gpe0, x_gpe1;
	struct gas sleep_control, sleep_status;
	uint64_t hypervisor_id;
} __attribute__((packed));

struct facs {
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version, reserved[31];
} __attribute__((packed));

_Static_assert(sizeof(struct rsdp) == 36, "RSDP layout");
_Static_assert(sizeof(struct table_header) == 36, "table header layout");
_Static_assert(sizeof(struct fadt) == 276, "FADT revision 6 layout");
_Static_assert(sizeof(struct facs) == 64, "FACS layout");

/* Table 5.10: fixed feature flags. */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_NO_POWER_BUTTON (1u << 4) /* set: no fixed-hardware button */
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_NO_RTC_WAKE (1u << 6)
#define FADT_RESET_SUPPORTED (1u << 10)
/*
 * Table 5.11: boot architecture flags. Bit 1 says that there is an 8042, and stays 0 although there is one: Linux would then look for a
 * mouse behind it by waiting for answers that do not come. That makes 21340 exits of a boot's 1250 and nearly doubles its time (test
 * host, Debian's cloud kernel). A kernel that wants the keyboard does not ask ACPI for it.
 */
#define BOOT_ARCH_LEGACY_DEVICES (1u << 0) /* the UART, found by its well-known ports */
#define BOOT_ARCH_NO_VGA (1u << 2)

/* 5.2.12. What follows are its entries. */
struct madt {
	struct table_header header;
	uint32_t lapic, flags;
} __attribute__((packed));
enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };
#define MADT_PCAT_COMPAT (1u << 0) /* there is a pair of 8259 too, which a guest must mask */

struct madt_lapic {
	uint8_t type, length, processor_uid, apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));

struct madt_override {
	uint8_t type, length, bus, irq;
	uint32_t gsi;
	uint16_t flags;
} __attribute__((packed));

struct madt_lapic_nmi {
	uint8_t type, length, processor_uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

#define MADT_CPU_MAX 8
struct whole_madt {
	struct madt madt;
	struct madt_ioapic ioapic;
	struct madt_override timer, sci;
	struct madt_lapic_nmi nmi;
	struct madt_lapic cpu[MADT_CPU_MAX]; /* the last, because fewer may be used */
} __attribute__((packed));

_Static_assert(sizeof(struct madt_lapic) == 8 && sizeof(struct madt_ioapic) == 12, "MADT entry layout");
_Static_assert(sizeof(struct madt_override) == 10 && sizeof(struct madt_lapic_nmi) == 6, "MADT entry layout");

/* Room for \_S5 and BOOT_VIRTIO_MAX devices, and to spare. */
#define AML_MAX 2048
struct dsdt {
	struct table_header header;
	uint8_t aml[AML_MAX];
} __attribute__((packed));

/* One place after the other, from FIRST_TABLE on. */
#define FIRST_TABLE (FACS_GPA + sizeof(struct facs))
#define TABLE_ALIGN 16
_Static_assert(RSDP_GPA + sizeof(struct rsdp) <= FACS_GPA, "RSDP fits");
#define TABLES_END (FIRST_TABLE + sizeof(struct dsdt) + sizeof(struct fadt) + sizeof(struct whole_madt) + sizeof(struct xsdt) + \
		    4 * TABLE_ALIGN)
_Static_assert(TABLES_END <= BOOT_ACPI_END, "all tables fit");

struct writer {
	const struct guest_mem *mem;
	uint64_t next; /* where the next table goes */
	struct xsdt xsdt;
	unsigned tables; /* that the XSDT names so far */
};

/* Fills in the header of a table whose contents are complete, and puts the table into guest memory. Returns its gpa. */
static uint64_t put_table(struct writer *w, const char *signature, uint8_t revision, struct table_header *header, size_t length)
{
	uint64_t gpa = w->next;

	memcpy(header->signature, signature, sizeof(header->signature));
	header->length = (uint32_t)length;
	header->revision = revision;
	memcpy(header->oem_id, "TRAPDR", sizeof(header->oem_id));
	memcpy(header->oem_table_id, "TRAPDOOR", sizeof(header->oem_table_id));
	header->oem_revision = 1;
	memcpy(header->creator_id, "TRAP", sizeof(header->creator_id));
	header->creator_revision = 1;
	header->checksum = boot_checksum(header, length);
	memcpy(boot_area(w->mem, gpa, length), header, length);
	w->next = (gpa + length + TABLE_ALIGN - 1) & ~(uint64_t)(TABLE_ALIGN - 1);
	return gpa;
}

static struct gas io_register(uint16_t port, uint8_t bytes, uint8_t access)
{
	return (struct gas){ .space = GAS_IO, .bit_width = 8 * bytes, .access = access, .address = port };
}

/*
 * The DSDT tells how to power off, and which virtio devices there are: nothing else would, because their bus cannot be searched.
 * Name (\_S5, Package () { S5, S5, 0, 0 }) has the SLP_TYP to write (7.4.2.6).
 */
static uint64_t dsdt_write(struct writer *w, const struct boot_request *req)
{
	struct dsdt dsdt = { 0 };
	struct aml a = { .bytes = dsdt.aml, .room = sizeof(dsdt.aml) };

	aml_name(&a, "\\_S5_");
	size_t package = aml_package(&a, 4);
	aml_integer(&a, ACPI_SLP_TYP_S5);
	aml_integer(&a, ACPI_SLP_TYP_S5);
	aml_integer(&a, 0);
	aml_integer(&a, 0);
	aml_end(&a, package);
	size_t bus = req->nvirtio ? aml_scope(&a, "\\_SB_") : 0;
	for (unsigned i = 0; i < req->nvirtio; i++) {
		const char name[] = { 'V', 'I', 'O', (char)('0' + i), 0 };
		size_t device = aml_device(&a, name);
		aml_name(&a, "_HID");
		aml_string(&a, "LNRO0005");
		aml_name(&a, "_UID");
		aml_integer(&a, i);
		aml_name(&a, "_CRS");
		size_t resources = aml_resources(&a);
		aml_memory32(&a, req->virtio[i].gpa, req->virtio[i].len);
		aml_interrupt(&a, req->virtio[i].gsi);
		aml_resources_end(&a, resources);
		aml_end(&a, device);
	}
	if (req->nvirtio)
		aml_end(&a, bus);
	if (a.full) {
		fprintf(stderr, "hv: bug: the DSDT is larger than planned\n");
		abort();
	}
	return put_table(w, "DSDT", 2, &dsdt.header, sizeof(dsdt.header) + a.len);
}

static uint64_t madt_write(struct writer *w, unsigned cpus)
{
	struct whole_madt t = {
		.madt = { .lapic = LAPIC_GPA, .flags = MADT_PCAT_COMPAT },
		.ioapic = { MADT_IOAPIC, sizeof(t.ioapic), IOAPIC_ID, 0, IOAPIC_GPA, 0 },
		.timer = { MADT_OVERRIDE, sizeof(t.timer), 0, 0, IOAPIC_PIN_IRQ0, 0 },
		.sci = { MADT_OVERRIDE, sizeof(t.sci), 0, ACPI_SCI_IRQ, ACPI_SCI_IRQ, MP_LEVEL_HIGH },
		.nmi = { MADT_LAPIC_NMI, sizeof(t.nmi), 0xff, 0, 1 }, /* every CPU, LINT1 */
	};
	if (cpus > MADT_CPU_MAX)
		cpus = MADT_CPU_MAX;
	for (unsigned i = 0; i < cpus; i++)
		t.cpu[i] = (struct madt_lapic){ MADT_LAPIC, sizeof(t.cpu[i]), (uint8_t)i, (uint8_t)i, 1 };
	return put_table(w, "APIC", 5, &t.madt.header, offsetof(struct whole_madt, cpu) + cpus * sizeof(t.cpu[0]));
}

static uint64_t fadt_write(struct writer *w, uint32_t dsdt)
{
	/* SMI_CMD 0 says that the machine is always in ACPI mode (4.8.2.5): there is nothing to switch on. */
	struct fadt fadt = {
		.facs = FACS_GPA,
		.dsdt = dsdt,
		.sci_irq = ACPI_SCI_IRQ,
		.pm1a_evt = ACPI_PM1A_EVT,
		.pm1a_cnt = ACPI_PM1A_CNT,
		.pm1_evt_len = ACPI_PM1A_CNT - ACPI_PM1A_EVT,
		.pm1_cnt_len = 2,
		.c2_latency = 0xffff, /* more than 100 and 1000 us: no C2, no C3 */
		.c3_latency = 0xffff,
		.boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_NO_RTC_WAKE |
			 FADT_RESET_SUPPORTED,
		.reset_reg = io_register(RESET_PORT, 1, GAS_BYTE),
		.reset_value = RESET_PULSE,
		.minor = 5,
		.x_dsdt = dsdt,
		.x_pm1a_evt = io_register(ACPI_PM1A_EVT, ACPI_PM1A_CNT - ACPI_PM1A_EVT, GAS_WORD),
		.x_pm1a_cnt = io_register(ACPI_PM1A_CNT, 2, GAS_WORD),
	};
	memcpy(&fadt.hypervisor_id, "Trapdoor", sizeof(fadt.hypervisor_id));
	return put_table(w, "FACP", 6, &fadt.header, sizeof(fadt));
}

uint64_t acpi_tables_write(struct guest_mem *mem, const struct boot_request *req)
{
	struct writer w = { .mem = mem, .next = FIRST_TABLE };
	struct facs facs = { .signature = "FACS", .length = sizeof(facs), .version = 2 };
	memcpy(boot_area(mem, FACS_GPA, sizeof(facs)), &facs, sizeof(facs));

	w.xsdt.table[w.tables++] = fadt_write(&w, (uint32_t)dsdt_write(&w, req));
	if (req->cpus)
		w.xsdt.table[w.tables++] = madt_write(&w, req->cpus);
	uint64_t xsdt = put_table(&w, "XSDT", 1, &w.xsdt.header, offsetof(struct xsdt, table) + w.tables * sizeof(w.xsdt.table[0]));

	struct rsdp rsdp = { .revision = 2, .length = sizeof(rsdp), .xsdt = xsdt };
	memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
	memcpy(rsdp.oem_id, "TRAPDR", sizeof(rsdp.oem_id));
	rsdp.checksum = boot_checksum(&rsdp, 20);
	rsdp.checksum_all = boot_checksum(&rsdp, sizeof(rsdp));
	memcpy(boot_area(mem, RSDP_GPA, sizeof(rsdp)), &rsdp, sizeof(rsdp));
	return RSDP_GPA;
}
