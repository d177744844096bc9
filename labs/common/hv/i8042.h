/*
 * The keyboard controller of a PC (Intel 8042; IBM PC/AT technical reference, "Keyboard Controller") with a keyboard and no mouse: ports
 * 0x60 and 0x64, IRQ 1. It is also how a PC is reset, and it holds the gate of address line 20, which here is open always. Beside it
 * port 0x92, system control port A of the PS/2, which does both faster.
 *
 * It begins as a BIOS leaves it: keyboard on, IRQ 1 on, and the keyboard's scan codes (set 2) translated to set 1. All functions are
 * called with the VM's lock held.
 */
#ifndef HV_I8042_H
#define HV_I8042_H

#include "bus.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_io;

#define I8042_DATA 0x60
#define I8042_COMMAND 0x64
#define PORT_A 0x92
#define I8042_PULSE_RESET 0xfe /* command: pulse output line 0, which is the CPU's reset pin */

#define KEYBOARD_QUEUE 16 /* as a keyboard has */
#define KEYBOARD_TEXT 512

struct i8042 {
	struct irq_line irq;
	void (*reset)(void *opaque);
	void *opaque;

	/* The controller. */
	uint8_t command_byte, output_port;
	bool command_last; /* what was written last went to I8042_COMMAND */
	uint8_t awaits;	   /* the command whose data comes next at I8042_DATA; 0: data is the keyboard's */
	bool full;	   /* the output buffer, which the guest reads at I8042_DATA */
	uint8_t data;
	bool replies; /* and what the controller itself will put there next */
	uint8_t reply;
	bool release; /* translation: the keyboard's prefix for a released key has come; the key itself follows at once */

	/* The keyboard. */
	bool scanning;
	uint8_t parameter_of; /* the command whose parameter comes next, or 0 */
	uint8_t queue[KEYBOARD_QUEUE];
	unsigned head, count;
	char text[KEYBOARD_TEXT]; /* is being typed */
	size_t typed, ntext;
};

/* dev = struct i8042; one port each. */
extern const struct device_ops i8042_data_ops, i8042_command_ops, port_a_ops;
void i8042_init(struct i8042 *kbc, struct irq_line irq, void (*reset)(void *opaque), void *opaque);
void i8042_state(struct i8042 *kbc, struct state_io *io); /* as in devices.h */

/*
 * Types text on an American keyboard, as fast as the guest takes it. \n, \t, \b, \e and \\ stand for Enter, Tab, Backspace, Escape and the
 * backslash. 0, -EINVAL (a character that no key has), -ENOSPC (too much, with what is still to be typed), -EIO (the guest has
 * switched the keyboard off); nothing is typed then.
 */
int i8042_type(struct i8042 *kbc, const char *text);

#endif
