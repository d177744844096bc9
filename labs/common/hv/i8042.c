#include "i8042.h"
#include "state_io.h"

#include <errno.h>
#include <string.h>

/* Status. Bit 1, "do not write yet", is never set: commands are carried out at once. */
enum { STATUS_FULL = 0x01, STATUS_SYSTEM = 0x04, STATUS_COMMAND = 0x08, STATUS_UNLOCKED = 0x10 };
/* The command byte. STATUS_SYSTEM shows its bit 2. */
enum { CB_IRQ = 0x01, CB_SYSTEM = 0x04, CB_KEYBOARD_OFF = 0x10, CB_MOUSE_OFF = 0x20, CB_TRANSLATE = 0x40 };
enum { OUT_NO_RESET = 0x01, OUT_A20 = 0x02, OUT_REST = 0xcc, OUT_IRQ = 0x10 };
enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_PASSED = 0xaa, RELEASE = 0xf0 };
#define SCANCODE_SET 2
#define LEFT_SHIFT 0x2a /* in set 1 */

/* --- scan codes ------------------------------------------------------------------------------------------------------- */

/* What a key has in set 2, by its number in set 1 (Microsoft, "Keyboard Scan Code Specification"): the keys that have characters. */
static const uint8_t set2[] = {
	0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66,
	0x0d, 0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14,
	0x1c, 0x1b, 0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a,
	0x22, 0x21, 0x2a, 0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29,
};

/* The characters of the keys from set 1's number 1 on, without and with shift. \1 stands for keys without one. */
static const char plain[] = "\0331234567890-=\b\tqwertyuiop[]\n\1asdfghjkl;'`\1\\zxcvbnm,./\1\1\1 ";
static const char shifted[] = "\1!@#$%^&*()_+\1\1QWERTYUIOP{}\1\1ASDFGHJKL:\"~\1|ZXCVBNM<>?\1\1\1\1";

/* The key of a character, in set 1; 0 when there is none. */
static uint8_t key_of(char c, bool *shift)
{
	const char *at = c && c != 1 ? strchr(plain, c) : NULL;

	*shift = c && c != 1 && !at;
	if (*shift)
		at = strchr(shifted, c);
	return at ? (uint8_t)(at - (*shift ? shifted : plain) + 1) : 0;
}

/* What the controller makes of a byte of the keyboard's. Bytes that are no key's, such as answers, pass. */
static uint8_t translate(uint8_t byte)
{
	if (byte == SCANCODE_SET || byte == 0x83) /* in the keyboard's answers; IBM's table has both as F7 */
		return 0x41;
	for (uint8_t key = 1; key < sizeof set2; key++)
		if (set2[key] == byte)
			return key;
	return byte;
}

/* --- the output buffer ------------------------------------------------------------------------------------------------- */

static void update_irq(struct i8042 *k)
{
	irq_set(&k->irq, k->full && (k->command_byte & CB_IRQ));
}

static void enqueue(struct i8042 *k, uint8_t byte)
{
	if (k->count < KEYBOARD_QUEUE)
		k->queue[(k->head + k->count++) % KEYBOARD_QUEUE] = byte;
}

/* The keys of the next character: pressed and released, with shift around them. Only when there is room for all of it. */
static void type_next(struct i8042 *k)
{
	bool shift;

	if (k->typed == k->ntext || k->count || !k->scanning)
		return;
	uint8_t code = set2[key_of(k->text[k->typed++], &shift)];
	if (shift)
		enqueue(k, set2[LEFT_SHIFT]);
	enqueue(k, code);
	enqueue(k, RELEASE);
	enqueue(k, code);
	if (shift) {
		enqueue(k, RELEASE);
		enqueue(k, set2[LEFT_SHIFT]);
	}
}

/* The next byte from the keyboard, as the guest is to see it. false when none is ready. */
static bool from_keyboard(struct i8042 *k, uint8_t *byte)
{
	type_next(k);
	while (k->count && !(k->command_byte & CB_KEYBOARD_OFF)) {
		*byte = k->queue[k->head];
		k->head = (k->head + 1) % KEYBOARD_QUEUE;
		k->count--;
		if (!(k->command_byte & CB_TRANSLATE))
			return true;
		if (*byte == RELEASE) { /* set 1 has no prefix, but bit 7 */
			k->release = true;
			continue;
		}
		*byte = translate(*byte);
		if (k->release)
			*byte |= 0x80;
		k->release = false;
		return true;
	}
	return false;
}

/* Fills the output buffer, if it is empty, and tells the guest. */
static void refill(struct i8042 *k)
{
	if (!k->full && k->replies) {
		k->data = k->reply;
		k->replies = false;
		k->full = true;
	} else if (!k->full) {
		k->full = from_keyboard(k, &k->data);
	}
	update_irq(k);
}

static void reply(struct i8042 *k, uint8_t byte)
{
	k->reply = byte;
	k->replies = true;
}

/* --- the keyboard ------------------------------------------------------------------------------------------------------ */

static void keyboard_reset(struct i8042 *k)
{
	k->scanning = true;
	k->count = 0;
	k->typed = k->ntext = 0;
	k->parameter_of = 0;
}

static void keyboard_parameter(struct i8042 *k, uint8_t byte)
{
	uint8_t command = k->parameter_of;

	k->parameter_of = 0;
	if (command == 0xf0 && byte && byte != SCANCODE_SET) {
		enqueue(k, RESEND); /* it has one set only */
		return;
	}
	enqueue(k, ACK);
	if (command == 0xf0 && !byte)
		enqueue(k, SCANCODE_SET);
}

static void keyboard_command(struct i8042 *k, uint8_t byte)
{
	if (k->parameter_of && byte < 0x80) { /* else it has changed its mind: parameters are small, commands are not */
		keyboard_parameter(k, byte);
		return;
	}
	k->parameter_of = 0;
	switch (byte) {
	case 0xed: /* lamps */
	case 0xf0: /* scan code set */
	case 0xf3: /* repeat rate */
		k->parameter_of = byte;
		enqueue(k, ACK);
		break;
	case 0xee: enqueue(k, 0xee); break; /* echo */
	case 0xf2:			    /* identify: an MF2 keyboard */
		enqueue(k, ACK);
		enqueue(k, 0xab);
		enqueue(k, 0x83);
		break;
	case 0xf4: /* on */
	case 0xf5: /* off, and defaults */
	case 0xf6: /* defaults */
		k->scanning = byte != 0xf5;
		enqueue(k, ACK);
		break;
	case 0xff:
		keyboard_reset(k);
		enqueue(k, ACK);
		enqueue(k, SELF_TEST_PASSED);
		break;
	default: enqueue(k, RESEND);
	}
}

int i8042_type(struct i8042 *k, const char *text)
{
	static const char escapes[] = "n\nt\tb\be\033\\\\";
	char keys[KEYBOARD_TEXT];
	size_t n = 0, left = k->ntext - k->typed;

	for (; *text; text++) {
		char c = *text;
		bool shift;
		if (c == '\\') {
			const char *e = escapes;
			while (*e && *e != text[1])
				e += 2;
			if (!*e)
				return -EINVAL;
			c = e[1];
			text++;
		}
		if (!key_of(c, &shift))
			return -EINVAL;
		if (left + n == sizeof keys)
			return -ENOSPC;
		keys[n++] = c;
	}
	if (!k->scanning)
		return -EIO;
	memmove(k->text, k->text + k->typed, left);
	memcpy(k->text + left, keys, n);
	k->typed = 0;
	k->ntext = left + n;
	refill(k);
	return 0;
}

/* --- the controller ---------------------------------------------------------------------------------------------------- */

static void set_output_port(struct i8042 *k, uint8_t value)
{
	k->output_port = (value & OUT_A20) | OUT_NO_RESET | OUT_REST;
	if (!(value & OUT_NO_RESET))
		k->reset(k->opaque);
}

static void controller_command(struct i8042 *k, uint8_t command)
{
	k->awaits = 0;
	switch (command) {
	case 0x20: reply(k, k->command_byte); break;
	case 0x60: /* command byte follows */
	case 0xd1: /* output port follows */
	case 0xd2: /* a byte follows that shall seem to be the keyboard's */
	case 0xd3: /* the same for the mouse; there is none, and nothing comes back */
	case 0xd4: /* a byte for the mouse follows */ k->awaits = command; break;
	case 0xa7: k->command_byte |= CB_MOUSE_OFF; break;
	case 0xa8: k->command_byte &= (uint8_t)~CB_MOUSE_OFF; break;
	case 0xaa: /* self-test. Some controllers forget the command byte over it; kernels cope with both */
		k->command_byte |= CB_SYSTEM;
		reply(k, 0x55);
		break;
	case 0xab: reply(k, 0x00); break; /* the keyboard's lines are sound */
	case 0xad: k->command_byte |= CB_KEYBOARD_OFF; break;
	case 0xae: k->command_byte &= (uint8_t)~CB_KEYBOARD_OFF; break;
	case 0xc0: reply(k, 0x80); break; /* input port: the case is not locked */
	case 0xd0: reply(k, k->output_port | (k->full && (k->command_byte & CB_IRQ) ? OUT_IRQ : 0)); break;
	default:
		/* 0xf0 to 0xff: a pulse on those of the lines 0 to 3 whose bit is 0. */
		if (command >= 0xf0 && !(command & OUT_NO_RESET))
			k->reset(k->opaque);
	}
}

static uint64_t command_read(void *dev, uint64_t offset, unsigned size)
{
	const struct i8042 *k = dev;
	(void)offset;
	(void)size;
	return (k->full ? STATUS_FULL : 0) | (k->command_byte & CB_SYSTEM) | (k->command_last ? STATUS_COMMAND : 0) |
	       STATUS_UNLOCKED;
}

static void command_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *k = dev;
	(void)offset;
	(void)size;
	k->command_last = true;
	controller_command(k, (uint8_t)value);
	refill(k);
}

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8042 *k = dev;
	uint8_t data = k->data; /* an empty buffer shows what was in it */
	(void)offset;
	(void)size;
	k->full = false;
	update_irq(k); /* the line falls before it rises for the next byte: the 8259 waits for an edge */
	refill(k);
	return data;
}

static void data_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *k = dev;
	uint8_t byte = (uint8_t)value, awaits = k->awaits;
	(void)offset;
	(void)size;
	k->command_last = false;
	k->awaits = 0;
	switch (awaits) {
	case 0:
		k->command_byte &= (uint8_t)~CB_KEYBOARD_OFF; /* else its answer would never come */
		keyboard_command(k, byte);
		break;
	case 0x60: k->command_byte = byte; break;
	case 0xd1: set_output_port(k, byte); break;
	case 0xd2: reply(k, byte); break;
	default: break; /* nobody hears it */
	}
	refill(k);
}

/* System control port A (IBM PS/2 technical reference): bit 0 resets, bit 1 is the gate of address line 20. */
static uint64_t port_a_read(void *dev, uint64_t offset, unsigned size)
{
	(void)offset;
	(void)size;
	return ((const struct i8042 *)dev)->output_port & OUT_A20;
}

static void port_a_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)offset;
	(void)size;
	set_output_port(dev, (value & OUT_A20) | (value & 1 ? 0 : OUT_NO_RESET));
}

const struct device_ops i8042_data_ops = { .name = "8042 data", .read = data_read, .write = data_write };
const struct device_ops i8042_command_ops = { .name = "8042", .read = command_read, .write = command_write };
const struct device_ops port_a_ops = { .name = "port A", .read = port_a_read, .write = port_a_write };

void i8042_init(struct i8042 *k, struct irq_line irq, void (*reset)(void *opaque), void *opaque)
{
	*k = (struct i8042){
		.irq = irq,
		.reset = reset,
		.opaque = opaque,
		.command_byte = CB_TRANSLATE | CB_MOUSE_OFF | CB_SYSTEM | CB_IRQ,
		.output_port = OUT_REST | OUT_A20 | OUT_NO_RESET,
		.scanning = true,
	};
}

/* 0 or one of the commands, each of them as a character of the list. */
static bool one_of(uint8_t command, const char *list)
{
	return !command || strchr(list, command);
}

void i8042_state(struct i8042 *k, struct state_io *io)
{
	bool shift;

	STATE(io, k->command_byte);
	STATE(io, k->output_port);
	STATE(io, k->command_last);
	STATE(io, k->awaits);
	STATE(io, k->full);
	STATE(io, k->data);
	STATE(io, k->replies);
	STATE(io, k->reply);
	STATE(io, k->scanning);
	STATE(io, k->parameter_of);
	state_bytes(io, k->queue, sizeof k->queue);
	STATE(io, k->head);
	STATE(io, k->count);
	STATE(io, k->typed);
	STATE(io, k->ntext);
	state_check(io, (k->output_port & ~OUT_A20) == (OUT_NO_RESET | OUT_REST), "the output port has bits that it has not");
	state_check(io, one_of(k->awaits, "\x60\xd1\xd2\xd3\xd4"), "it waits for data of a command that has none");
	state_check(io, one_of(k->parameter_of, "\xed\xf0\xf3"), "the keyboard waits for a parameter of a command that has none");
	state_check(io, k->full || !k->replies, "an answer waits for a buffer that is empty");
	if (!state_check(io, k->head < KEYBOARD_QUEUE && k->count <= KEYBOARD_QUEUE,
			 "the keyboard's queue holds more than it has room for"))
		k->head = k->count = 0;
	if (!state_check(io, k->typed <= k->ntext && k->ntext <= sizeof k->text, "more is being typed than there is room for"))
		k->typed = k->ntext = 0;
	state_bytes(io, k->text + k->typed, k->ntext - k->typed);
	for (size_t i = k->typed; i < k->ntext; i++)
		state_check(io, key_of(k->text[i], &shift), "a character is being typed that has no key");
}
