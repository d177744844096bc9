/*
 * The packet layer of the GDB remote serial protocol (GDB manual, appendix E.1): framing, checksums, hexadecimal numbers.
 * It knows nothing about what packets mean and does no I/O. Everything that is read comes from outside and is bounded.
 */
#ifndef HV_GDBPACKET_H
#define HV_GDBPACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest payload in either direction, told to the debugger as PacketSize. */
#define GDB_PACKET_MAX 0x4000
/* Room for any payload of that size with framing, even if every byte of it has to be escaped. */
#define GDB_FRAME_MAX (2 * GDB_PACKET_MAX + 4)

/* What a byte completed. */
enum gdb_event {
	GDB_NOTHING,   /* nothing yet */
	GDB_PACKET,    /* a packet with the right checksum lies in buf, followed by a 0 */
	GDB_DAMAGED,   /* a packet with a wrong checksum or longer than GDB_PACKET_MAX was dropped */
	GDB_INTERRUPT, /* Ctrl-C, sent as a single byte 3 between packets */
	GDB_ACK,
	GDB_NAK
};

/* Begins as all zeroes; may be zeroed at any time to start over. */
struct gdb_reader {
	enum { READ_IDLE, READ_PAYLOAD, READ_SUM_HIGH, READ_SUM_LOW } state;
	bool damaged;
	uint8_t sum; /* of the payload so far; then less what the sender says it should be */
	size_t len;
	char buf[GDB_PACKET_MAX + 1];
};

enum gdb_event gdb_read_byte(struct gdb_reader *r, uint8_t byte);

/*
 * Frames a payload of at most GDB_PACKET_MAX bytes: '$', the payload with '$', '#', '}' and '*' escaped, '#', checksum.
 * Returns the length of the frame.
 */
size_t gdb_frame(uint8_t frame[GDB_FRAME_MAX], const char *payload, size_t len);

/*
 * Reads a hexadecimal number at *p and moves *p behind it. False when there is no digit or the number has more than 64
 * bits; *p is then unchanged.
 */
bool gdb_hex_number(const char **p, uint64_t *value);
/* Reads exactly len bytes as 2 * len digits at *p and moves *p behind them. False, with *p unchanged, if they are not there. */
bool gdb_hex_decode(const char **p, uint8_t *dst, size_t len);
/* Writes 2 * len digits, without a final 0. Returns the place behind them. */
char *gdb_hex_encode(char *dst, const uint8_t *src, size_t len);

#endif
