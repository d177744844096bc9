#include "crtc.h"
#include "state_io.h"

#include <string.h>

/* Numbers of registers. */
enum { CURSOR_START = 0x0a, START_HIGH = 0x0c, START_LOW = 0x0d, CURSOR_HIGH = 0x0e, CURSOR_LOW = 0x0f };
#define CURSOR_OFF 0x20 /* in CURSOR_START */

#define MISC_MODE3 0x67	       /* the ports are at 0x3dx, memory is on */
#define STATUS_RETRACE 0x09    /* vertical retrace, and display off, which holds during it */
#define CELLS (SCREEN_LEN / 2) /* each a character and its colours */

void crtc_init(struct crtc *crtc)
{
	static const uint8_t mode3[CRTC_REGISTERS] = { 0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00,
						       0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e,
						       0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff };

	*crtc = (struct crtc){ .misc = MISC_MODE3 };
	memcpy(crtc->reg, mode3, sizeof mode3);
}

static uint64_t crtc_read(void *dev, uint64_t offset, unsigned size)
{
	const struct crtc *c = dev;
	uint64_t data = c->index < CRTC_REGISTERS ? c->reg[c->index] : 0;

	if (offset)
		return data;
	return size == 1 ? c->index : c->index | data << 8;
}

static void crtc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct crtc *c = dev;

	if (!offset) {
		c->index = (uint8_t)value;
		if (size == 1)
			return;
		value >>= 8; /* kernels set index and data by one 16-bit OUT, and the card takes it so */
	}
	if (c->index < CRTC_REGISTERS)
		c->reg[c->index] = (uint8_t)value;
}

static uint64_t misc_read(void *dev, uint64_t offset, unsigned size)
{
	(void)offset;
	(void)size;
	return ((const struct crtc *)dev)->misc;
}

static void misc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)offset;
	(void)size;
	((struct crtc *)dev)->misc = (uint8_t)value;
}

/* Input status 0 says what is plugged in and which interrupts wait: neither exists. */
static uint64_t status0_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0;
}

/* A program that waits for the retrace, or for its end, sees it come at its next look; there is no picture to be disturbed. */
static uint64_t status_read(void *dev, uint64_t offset, unsigned size)
{
	struct crtc *c = dev;
	(void)offset;
	(void)size;
	c->status ^= STATUS_RETRACE;
	return c->status;
}

static void ignore_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)dev;
	(void)offset;
	(void)size;
	(void)value;
}

const struct device_ops crtc_ops = { .name = "CRT controller", .read = crtc_read, .write = crtc_write };
const struct device_ops crtc_misc_write_ops = { .name = "VGA misc", .read = status0_read, .write = misc_write };
const struct device_ops crtc_misc_read_ops = { .name = "VGA misc", .read = misc_read, .write = ignore_write };
const struct device_ops crtc_status_ops = { .name = "VGA status", .read = status_read, .write = ignore_write };

void crtc_state(struct crtc *c, struct state_io *io)
{
	STATE(io, c->index);
	state_bytes(io, c->reg, sizeof c->reg);
	STATE(io, c->misc);
	STATE(io, c->status);
	state_check(io, !c->status || c->status == STATUS_RETRACE, "the retrace has only begun in part");
}

/* Code page 437 as Unicode (the characters of a PC's ROM; 0 and 255 are blank). What is not here is as in ASCII. */
static const uint16_t low437[32] = {
	0x0020, 0x263a, 0x263b, 0x2665, 0x2666, 0x2663, 0x2660, 0x2022, 0x25d8, 0x25cb, 0x25d9,
	0x2642, 0x2640, 0x266a, 0x266b, 0x263c, 0x25ba, 0x25c4, 0x2195, 0x203c, 0x00b6, 0x00a7,
	0x25ac, 0x21a8, 0x2191, 0x2193, 0x2192, 0x2190, 0x221f, 0x2194, 0x25b2, 0x25bc,
};
static const uint16_t high437[129] = {
	/* from 0x7f */
	0x2302, 0x00c7, 0x00fc, 0x00e9, 0x00e2, 0x00e4, 0x00e0, 0x00e5, 0x00e7, 0x00ea, 0x00eb, 0x00e8, 0x00ef,
	0x00ee, 0x00ec, 0x00c4, 0x00c5, 0x00c9, 0x00e6, 0x00c6, 0x00f4, 0x00f6, 0x00f2, 0x00fb, 0x00f9, 0x00ff,
	0x00d6, 0x00dc, 0x00a2, 0x00a3, 0x00a5, 0x20a7, 0x0192, 0x00e1, 0x00ed, 0x00f3, 0x00fa, 0x00f1, 0x00d1,
	0x00aa, 0x00ba, 0x00bf, 0x2310, 0x00ac, 0x00bd, 0x00bc, 0x00a1, 0x00ab, 0x00bb, 0x2591, 0x2592, 0x2593,
	0x2502, 0x2524, 0x2561, 0x2562, 0x2556, 0x2555, 0x2563, 0x2551, 0x2557, 0x255d, 0x255c, 0x255b, 0x2510,
	0x2514, 0x2534, 0x252c, 0x251c, 0x2500, 0x253c, 0x255e, 0x255f, 0x255a, 0x2554, 0x2569, 0x2566, 0x2560,
	0x2550, 0x256c, 0x2567, 0x2568, 0x2564, 0x2565, 0x2559, 0x2558, 0x2552, 0x2553, 0x256b, 0x256a, 0x2518,
	0x250c, 0x2588, 0x2584, 0x258c, 0x2590, 0x2580, 0x03b1, 0x00df, 0x0393, 0x03c0, 0x03a3, 0x03c3, 0x00b5,
	0x03c4, 0x03a6, 0x0398, 0x03a9, 0x03b4, 0x221e, 0x03c6, 0x03b5, 0x2229, 0x2261, 0x00b1, 0x2265, 0x2264,
	0x2320, 0x2321, 0x00f7, 0x2248, 0x00b0, 0x2219, 0x00b7, 0x221a, 0x207f, 0x00b2, 0x25a0, 0x0020,
};

static char *put_character(char *out, uint8_t c)
{
	unsigned code = c < 32 ? low437[c] : c < 0x7f ? c : high437[c - 0x7f];

	if (code < 0x80) {
		*out++ = (char)code;
	} else if (code < 0x800) {
		*out++ = (char)(0xc0 | code >> 6);
		*out++ = (char)(0x80 | (code & 0x3f));
	} else {
		*out++ = (char)(0xe0 | code >> 12);
		*out++ = (char)(0x80 | (code >> 6 & 0x3f));
		*out++ = (char)(0x80 | (code & 0x3f));
	}
	return out;
}

void screen_read(const struct crtc *crtc, const struct guest_mem *mem, struct screen *screen)
{
	/* Both registers count cells from the beginning of the window, not of what is shown. */
	unsigned start = (unsigned)(crtc->reg[START_HIGH] << 8 | crtc->reg[START_LOW]) % CELLS;
	unsigned cursor = (unsigned)(crtc->reg[CURSOR_HIGH] << 8 | crtc->reg[CURSOR_LOW]) % CELLS;
	unsigned at = (cursor + CELLS - start) % CELLS;
	const uint8_t *cells = guest_range(mem, SCREEN_GPA, SCREEN_LEN); /* a guest has at least MEM_MIN */

	for (unsigned row = 0; row < SCREEN_ROWS; row++) {
		char *out = screen->line[row];
		for (unsigned column = 0; column < SCREEN_COLUMNS; column++)
			out = put_character(out, cells[(start + row * SCREEN_COLUMNS + column) % CELLS * 2]);
		*out = 0;
	}
	screen->cursor = !(crtc->reg[CURSOR_START] & CURSOR_OFF) && at < SCREEN_ROWS * SCREEN_COLUMNS;
	screen->row = screen->cursor ? at / SCREEN_COLUMNS : 0;
	screen->column = screen->cursor ? at % SCREEN_COLUMNS : 0;
}
