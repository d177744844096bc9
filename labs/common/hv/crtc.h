/*
 * The text screen of a PC, as far as a kernel in text mode needs it: the CRT controller's registers for the cursor and for
 * what part of memory is shown (IBM VGA technical reference; Motorola MC6845), the input status register that programs poll for the
 * retrace, and the miscellaneous output register. The characters are guest memory at 0xb8000 and are no business of the device:
 * the screen is read only when somebody looks at it. Always mode 3, 80 x 25; registers that would change the mode keep what is written
 * and change nothing.
 */
#ifndef HV_CRTC_H
#define HV_CRTC_H

#include "bus.h"
#include "mem.h"

#include <stdbool.h>
#include <stdint.h>

struct state_io;

#define CRTC_PORT 0x3d4	      /* index; data at 0x3d5 */
#define CRTC_MISC_WRITE 0x3c2 /* reads as input status 0 */
#define CRTC_MISC_READ 0x3cc
#define CRTC_STATUS 0x3da
#define CRTC_REGISTERS 25

#define SCREEN_GPA 0xb8000ull
#define SCREEN_LEN 0x8000ull /* the window: what is shown wraps around inside it */
#define SCREEN_ROWS 25u
#define SCREEN_COLUMNS 80u
#define SCREEN_LINE (SCREEN_COLUMNS * 3 + 1) /* a line in UTF-8: characters of page 437 have up to three bytes */

struct crtc {
	uint8_t index, reg[CRTC_REGISTERS], misc;
	uint8_t status; /* toggles with each read */
};

/* dev = struct crtc. 2 ports at CRTC_PORT; one port each. */
extern const struct device_ops crtc_ops, crtc_misc_write_ops, crtc_misc_read_ops, crtc_status_ops;
/* As the BIOS leaves it in mode 3. */
void crtc_init(struct crtc *crtc);
void crtc_state(struct crtc *crtc, struct state_io *io); /* as in devices.h */

struct screen {
	char line[SCREEN_ROWS][SCREEN_LINE]; /* UTF-8, all 80 columns */
	bool cursor;			     /* it is on and lies within what is shown */
	unsigned row, column;		     /* from 0, if it does */
};

/* What a person would see now. Whatever the guest put into the registers, nothing outside the window is read. */
void screen_read(const struct crtc *crtc, const struct guest_mem *mem, struct screen *screen);

#endif
