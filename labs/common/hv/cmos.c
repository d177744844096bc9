#include "devices.h"
#include "mem.h"
#include "state_io.h"

#include <string.h>

/* Registers (MC146818 data sheet, "Address Map"); from 0x0e on it is memory, of which PC firmware gave some a meaning. */
enum {
	REG_SECONDS = 0, REG_MINUTES = 2, REG_HOURS = 4, /* between them the alarm's, which are plain memory here */
	REG_WEEKDAY = 6, REG_DAY, REG_MONTH, REG_YEAR, REG_A, REG_B, REG_C, REG_D
};
#define REG_CENTURY 0x32
#define A_UIP 0x80
#define A_DEFAULT 0x26 /* 32768 Hz time base, 1024 Hz periodic rate: what firmware sets */
#define B_SET 0x80
#define B_BINARY 0x04
#define B_24H 0x02
#define D_VALID 0x80
#define UIP_NS 244000 /* update in progress is raised 244 us before the time changes */
#define NS_PER_S 1000000000

static uint8_t encode(const struct cmos *cmos, int value)
{
	return (uint8_t)(cmos->ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static uint8_t encode_hour(const struct cmos *cmos, int hour)
{
	if (cmos->ram[REG_B] & B_24H)
		return encode(cmos, hour);
	/* 12-hour clock: 12, 1, ... 11, and bit 7 for the afternoon. */
	return encode(cmos, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

/*
 * The time is the host's at each read; a guest that reads the registers one by one sees a change between them as it would
 * on the chip, and guards against it the same way: by UIP, or by reading twice.
 */
static uint8_t read_register(const struct cmos *cmos, uint8_t index)
{
	struct timespec now;
	struct tm tm = { 0 };
	cmos->gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);

	switch (index) {
	case REG_SECONDS:
		return encode(cmos, tm.tm_sec);
	case REG_MINUTES:
		return encode(cmos, tm.tm_min);
	case REG_HOURS:
		return encode_hour(cmos, tm.tm_hour);
	case REG_WEEKDAY:
		return encode(cmos, tm.tm_wday + 1); /* Sunday is 1 */
	case REG_DAY:
		return encode(cmos, tm.tm_mday);
	case REG_MONTH:
		return encode(cmos, tm.tm_mon + 1);
	case REG_YEAR:
		return encode(cmos, tm.tm_year % 100);
	case REG_CENTURY:
		return encode(cmos, tm.tm_year / 100 + 19);
	case REG_A: /* no update begins while SET is on */
		return cmos->ram[REG_A] |
		       (now.tv_nsec >= NS_PER_S - UIP_NS && !(cmos->ram[REG_B] & B_SET) ? A_UIP : 0);
	case REG_C: /* no interrupt of the clock is modelled, so none is ever flagged */
		return 0;
	case REG_D:
		return D_VALID;
	default:
		return cmos->ram[index];
	}
}

/* Registers without a byte of memory behind them. */
static bool read_only(uint8_t index)
{
	switch (index) {
	case REG_SECONDS:
	case REG_MINUTES:
	case REG_HOURS:
	case REG_WEEKDAY:
	case REG_DAY:
	case REG_MONTH:
	case REG_YEAR:
	case REG_CENTURY: /* a guest cannot set the host's clock, and the guest's clock is the host's */
	case REG_C:
	case REG_D:
		return true;
	default:
		return false;
	}
}

static void write_register(struct cmos *cmos, uint8_t index, uint8_t value)
{
	if (!read_only(index))
		cmos->ram[index] = index == REG_A ? value & ~A_UIP : value;
}

static uint64_t cmos_read(void *dev, uint64_t offset, unsigned size)
{
	const struct cmos *cmos = dev;
	(void)size;
	return offset ? read_register(cmos, cmos->index) : 0xff; /* the index port cannot be read */
}

static void cmos_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct cmos *cmos = dev;
	(void)size;
	if (offset)
		write_register(cmos, cmos->index, (uint8_t)value);
	else
		cmos->index = value & 0x7f; /* bit 7 masks the NMI, which nothing here raises; 128 registers stay */
}

const struct device_ops cmos_ops = { .name = "cmos", .read = cmos_read, .write = cmos_write };

/* A memory size of 16 bits, low byte first; what does not fit reads as the largest. */
static void set_size(struct cmos *cmos, uint8_t index, uint64_t value)
{
	if (value > 0xffff)
		value = 0xffff;
	cmos->ram[index] = (uint8_t)value;
	cmos->ram[index + 1] = (uint8_t)(value >> 8);
}

void cmos_init(struct cmos *cmos, uint64_t mem_size)
{
	memset(cmos, 0, sizeof(*cmos));
	cmos->gettime = clock_gettime;
	cmos->ram[REG_A] = A_DEFAULT;
	cmos->ram[REG_B] = B_24H;

	uint64_t above_1m = mem_size > MiB ? mem_size - MiB : 0;
	uint64_t above_16m = mem_size > 16 * MiB ? mem_size - 16 * MiB : 0;
	set_size(cmos, 0x15, 640);            /* below 640 KiB, in KiB */
	set_size(cmos, 0x17, above_1m / KiB); /* from 1 MiB up, in KiB; twice: as set up and as found at power-on */
	set_size(cmos, 0x30, above_1m / KiB);
	set_size(cmos, 0x34, above_16m / (64 * KiB)); /* from 16 MiB up, in units of 64 KiB */
}

void cmos_state(struct cmos *cmos, struct state_io *io)
{
	STATE(io, cmos->index);
	state_bytes(io, cmos->ram, sizeof cmos->ram);
	if (!state_check(io, cmos->index < sizeof cmos->ram, "it has no register %u", cmos->index))
		cmos->index = 0;
	state_check(io, !(cmos->ram[REG_A] & A_UIP), "an update is in progress that the host's clock does not know of");
	for (uint8_t i = 0; i < sizeof cmos->ram; i++)
		state_check(io, !read_only(i) || !cmos->ram[i], "register %u was written, which nobody can", i);
}
