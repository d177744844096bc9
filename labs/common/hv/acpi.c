/*
 * ACPI tables (ACPI 6.5 chapter 5): as few as a guest needs to find out how to power off and reset. There is no MADT,
 * because there is one CPU and its interrupts come from the 8259 pair; without one a guest uses the legacy numbering.
 */
#include "boot.h"
#include "devices.h"

#include <string.h>

/* Guest addresses. The RSDP comes first, 16-byte aligned, where a BIOS guest would also search for it (5.2.5.1). */
#define RSDP_GPA BOOT_ACPI
#define XSDT_GPA (BOOT_ACPI + 0x40)
#define FACS_GPA (BOOT_ACPI + 0x80) /* must be 64-byte aligned */
#define DSDT_GPA (BOOT_ACPI + 0xc0)
#define FADT_GPA (BOOT_ACPI + 0x100)

#define SCI_IRQ 9
#define RESET_PORT 0x64 /* struct reset_port answers there */
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
	uint64_t table[1];
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
/* Table 5.11: boot architecture flags. Bit 1 stays 0: of an 8042 there is only the reset line. */
#define BOOT_ARCH_LEGACY_DEVICES (1u << 0) /* the UART, found by its well-known ports */
#define BOOT_ARCH_NO_VGA (1u << 2)

/*
 * The whole DSDT: Name (\_S5, Package (4) { S5, S5, 0, 0 }) in AML (20.2): NameOp, a root-relative name, PackageOp, the
 * package's length counted from its own byte, four elements. _S5 (7.4.2.6) tells which SLP_TYP to write to power off.
 */
static const uint8_t dsdt_aml[] = {
	0x08, '\\', '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, ACPI_SLP_TYP_S5, 0x0a, ACPI_SLP_TYP_S5, 0x00, 0x00,
};

struct dsdt {
	struct table_header header;
	uint8_t aml[sizeof(dsdt_aml)];
} __attribute__((packed));

_Static_assert(RSDP_GPA + sizeof(struct rsdp) <= XSDT_GPA, "RSDP fits");
_Static_assert(XSDT_GPA + sizeof(struct xsdt) <= FACS_GPA, "XSDT fits");
_Static_assert(DSDT_GPA + sizeof(struct dsdt) <= FADT_GPA, "DSDT fits");

/* The byte that makes the sum of all len bytes 0. The place where it goes still holds 0. */
static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += p[i];
	return (uint8_t)-sum;
}

/* Fills in the header of a table whose contents are complete, and puts the table into guest memory. */
static void put_table(const struct guest_mem *mem, uint64_t gpa, const char *signature, uint8_t revision,
		      struct table_header *header, uint32_t length)
{
	memcpy(header->signature, signature, sizeof(header->signature));
	header->length = length;
	header->revision = revision;
	memcpy(header->oem_id, "TRAPDR", sizeof(header->oem_id));
	memcpy(header->oem_table_id, "TRAPDOOR", sizeof(header->oem_table_id));
	header->oem_revision = 1;
	memcpy(header->creator_id, "TRAP", sizeof(header->creator_id));
	header->creator_revision = 1;
	header->checksum = checksum(header, length);
	memcpy(boot_area(mem, gpa, length), header, length);
}

static struct gas io_register(uint16_t port, uint8_t bytes, uint8_t access)
{
	return (struct gas){ .space = GAS_IO, .bit_width = 8 * bytes, .access = access, .address = port };
}

static void fadt_write(const struct guest_mem *mem)
{
	/* SMI_CMD 0 says that the machine is always in ACPI mode (4.8.2.5): there is nothing to switch on. */
	struct fadt fadt = {
		.facs = FACS_GPA,
		.dsdt = DSDT_GPA,
		.sci_irq = SCI_IRQ,
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
		.x_dsdt = DSDT_GPA,
		.x_pm1a_evt = io_register(ACPI_PM1A_EVT, ACPI_PM1A_CNT - ACPI_PM1A_EVT, GAS_WORD),
		.x_pm1a_cnt = io_register(ACPI_PM1A_CNT, 2, GAS_WORD),
	};
	memcpy(&fadt.hypervisor_id, "Trapdoor", sizeof(fadt.hypervisor_id));
	put_table(mem, FADT_GPA, "FACP", 6, &fadt.header, sizeof(fadt));
}

uint64_t acpi_tables_write(struct guest_mem *mem)
{
	struct facs facs = { .signature = "FACS", .length = sizeof(facs), .version = 2 };
	memcpy(boot_area(mem, FACS_GPA, sizeof(facs)), &facs, sizeof(facs));

	struct dsdt dsdt = { 0 };
	memcpy(dsdt.aml, dsdt_aml, sizeof(dsdt_aml));
	put_table(mem, DSDT_GPA, "DSDT", 2, &dsdt.header, sizeof(dsdt));

	fadt_write(mem);

	struct xsdt xsdt = { .table = { FADT_GPA } };
	put_table(mem, XSDT_GPA, "XSDT", 1, &xsdt.header, sizeof(xsdt));

	struct rsdp rsdp = { .revision = 2, .length = sizeof(rsdp), .xsdt = XSDT_GPA };
	memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
	memcpy(rsdp.oem_id, "TRAPDR", sizeof(rsdp.oem_id));
	rsdp.checksum = checksum(&rsdp, 20);
	rsdp.checksum_all = checksum(&rsdp, sizeof(rsdp));
	memcpy(boot_area(mem, RSDP_GPA, sizeof(rsdp)), &rsdp, sizeof(rsdp));
	return RSDP_GPA;
}
