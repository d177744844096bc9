#include "devices.h"
#include "state_io.h"

/*
 * The fixed registers that ACPI calls PM1 (ACPI 6.5, 4.8.3): status at 0, enable at 2, control at 4, nothing at 6. They are
 * handled byte by byte, so that an access of any size, to either half of a register, means the same.
 */

#define CNT_SCI_EN 0x0001
#define CNT_BM_RLD 0x0002
#define CNT_SLP_TYP 0x1c00
#define CNT_SLP_EN 0x2000
#define CNT_SLP_TYP_SHIFT 10
#define EN_ALL 0x4721 /* timer, global, power button, sleep button, RTC, PCIe wake disable */

static uint8_t read_byte(const struct acpi_pm *pm, uint64_t offset)
{
	unsigned shift = offset & 1 ? 8 : 0;

	switch (offset >> 1) {
	case 0:
		return (uint8_t)(pm->pm1_sts >> shift);
	case 1:
		return (uint8_t)(pm->pm1_en >> shift);
	case 2: /* SCI_EN is always on: there is no firmware that could own the events, so ACPI mode is the only one */
		return (uint8_t)((pm->pm1_cnt | CNT_SCI_EN) >> shift);
	default:
		return 0;
	}
}

static void write_byte(struct acpi_pm *pm, uint64_t offset, uint8_t byte)
{
	unsigned shift = offset & 1 ? 8 : 0;
	uint16_t bits = (uint16_t)(byte << shift), lane = (uint16_t)(0xff << shift);

	switch (offset >> 1) {
	case 0:
		pm->pm1_sts &= ~bits; /* write one to clear */
		break;
	case 1:
		pm->pm1_en = (pm->pm1_en & ~lane) | (bits & EN_ALL);
		break;
	case 2:
		/* SLP_EN and GBL_RLS read as zero, so they are not kept. SLP_EN and SLP_TYP share a byte. */
		pm->pm1_cnt = (pm->pm1_cnt & ~lane) | (bits & (CNT_BM_RLD | CNT_SLP_TYP));
		if ((bits & CNT_SLP_EN) && (pm->pm1_cnt & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT == ACPI_SLP_TYP_S5)
			pm->poweroff(pm->opaque);
		break;
	default:
		break;
	}
}

static uint64_t acpi_pm_read(void *dev, uint64_t offset, unsigned size)
{
	const struct acpi_pm *pm = dev;
	uint64_t value = 0;
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read_byte(pm, offset + i) << (8 * i);
	return value;
}

static void acpi_pm_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = dev;
	for (unsigned i = 0; i < size; i++)
		write_byte(pm, offset + i, (uint8_t)(value >> (8 * i)));
}

const struct device_ops acpi_pm_ops = { .name = "acpi pm", .read = acpi_pm_read, .write = acpi_pm_write };

void acpi_pm_state(struct acpi_pm *pm, struct state_io *io)
{
	STATE(io, pm->pm1_sts);
	STATE(io, pm->pm1_en);
	STATE(io, pm->pm1_cnt);
	state_check(io, !pm->pm1_sts, "an event is set, and there are none"); /* yet: the field is there for when there are */
	state_check(io, !(pm->pm1_en & ~EN_ALL) && !(pm->pm1_cnt & ~(CNT_BM_RLD | CNT_SLP_TYP)), "bits are set that do not exist");
}
