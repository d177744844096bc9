#include "gdbpacket.h"

#include <assert.h>
#include <string.h>

#define CTRL_C 3
#define ESCAPE '}'
#define ESCAPE_XOR 0x20

static const char digits[] = "0123456789abcdef";

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void begin(struct gdb_reader *r)
{
	r->state = READ_PAYLOAD;
	r->damaged = false;
	r->sum = 0;
	r->len = 0;
}

static enum gdb_event between_packets(struct gdb_reader *r, uint8_t byte)
{
	switch (byte) {
	case '$': begin(r); return GDB_NOTHING;
	case '+': return GDB_ACK;
	case '-': return GDB_NAK;
	case CTRL_C: return GDB_INTERRUPT;
	default: return GDB_NOTHING; /* line noise */
	}
}

enum gdb_event gdb_read_byte(struct gdb_reader *r, uint8_t byte)
{
	int value = digit_value((char)byte);

	switch (r->state) {
	case READ_IDLE: return between_packets(r, byte);
	case READ_PAYLOAD:
		if (byte == '#') {
			r->state = READ_SUM_HIGH;
		} else if (byte == '$') {
			begin(r); /* a '$' cannot be inside a payload: the rest of the packet before got lost */
		} else {
			r->sum += byte;
			if (r->len < GDB_PACKET_MAX)
				r->buf[r->len++] = (char)byte;
			else
				r->damaged = true;
		}
		return GDB_NOTHING;
	case READ_SUM_HIGH:
		r->damaged |= value < 0;
		r->sum -= (uint8_t)((unsigned)value << 4);
		r->state = READ_SUM_LOW;
		return GDB_NOTHING;
	case READ_SUM_LOW:
		r->damaged |= value < 0;
		r->sum -= (uint8_t)value;
		r->state = READ_IDLE;
		r->buf[r->len] = 0;
		return r->damaged || r->sum ? GDB_DAMAGED : GDB_PACKET;
	}
	return GDB_NOTHING;
}

size_t gdb_frame(uint8_t frame[GDB_FRAME_MAX], const char *payload, size_t len)
{
	uint8_t *out = frame, sum = 0;

	assert(len <= GDB_PACKET_MAX);
	*out++ = '$';
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = (uint8_t)payload[i];
		/* '*' would be taken for a run length. */
		if (byte && strchr("$#}*", byte)) {
			*out++ = ESCAPE;
			sum += ESCAPE;
			byte ^= ESCAPE_XOR;
		}
		*out++ = byte;
		sum += byte;
	}
	*out++ = '#';
	*out++ = (uint8_t)digits[sum >> 4];
	*out++ = (uint8_t)digits[sum & 15];
	return (size_t)(out - frame);
}

bool gdb_hex_number(const char **p, uint64_t *value)
{
	const char *s = *p;
	uint64_t v = 0;
	int d;

	while ((d = digit_value(*s)) >= 0) {
		if (v >> 60)
			return false;
		v = v << 4 | (uint64_t)d;
		s++;
	}
	if (s == *p)
		return false;
	*p = s;
	*value = v;
	return true;
}

bool gdb_hex_decode(const char **p, uint8_t *dst, size_t len)
{
	const char *s = *p;

	for (size_t i = 0; i < len; i++) {
		/* The final 0 is no digit, so this never looks behind the end of the string. */
		int high = digit_value(s[2 * i]);
		int low = high < 0 ? -1 : digit_value(s[2 * i + 1]);
		if (low < 0)
			return false;
		dst[i] = (uint8_t)(high << 4 | low);
	}
	*p = s + 2 * len;
	return true;
}

char *gdb_hex_encode(char *dst, const uint8_t *src, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		*dst++ = digits[src[i] >> 4];
		*dst++ = digits[src[i] & 15];
	}
	return dst;
}
