/*
 * State as bytes. One function per device names its fields once, in order, and serves both directions: it writes them when the VM is
 * saved and reads them when it is restored. All numbers are little-endian; nothing is padded.
 *
 *	void uart_state(struct uart *u, struct state_io *io)
 *	{
 *		STATE(io, u->ier);
 *		STATE(io, u->rx_count);
 *		state_check(io, u->rx_count <= UART_FIFO, "more bytes than its FIFO holds");
 *	}
 *
 * What is loaded was written by somebody else, perhaps to do harm: every value that live state could not have fails a state_check()
 * before anything relies on it. Errors stick: behind the first one, reading gives zeros, and the VM that was to be made of it never runs.
 * So a function need not look after each field, only before it uses one as an index or follows it.
 */
#ifndef HV_STATE_IO_H
#define HV_STATE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_ERR 200

struct state_io {
	bool loading;
	uint8_t *data;
	size_t len, room, at; /* bytes there; saving: bytes allocated; loading: the next one */
	uint64_t now_ns;      /* clock_ns() of the moment at which the VM stands still: devices keep times as distances from it */
	const char *what;     /* whose state it is, for sentences: "the UART" */
	char err[STATE_ERR];  /* the first error as a sentence; "" while there is none */
};

/* To save: data grows as needed, state_free() takes it back. */
void state_save_begin(struct state_io *io, const char *what, uint64_t now_ns);
/* To load: data belongs to the caller and stays. */
void state_load_begin(struct state_io *io, const char *what, uint64_t now_ns, const void *data, size_t len);
/* Loading: everything has to be read. 0, or -EINVAL (a sentence is in err), -ENOMEM. */
int state_end(struct state_io *io);
void state_free(struct state_io *io);

static inline bool state_failed(const struct state_io *io)
{
	return io->err[0];
}
/* Loading: a rule that live state keeps; printf style. Saving: nothing. Returns whether everything is well so far. */
bool state_check(struct state_io *io, bool rule, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Either direction: it cannot be had, or not be put here (not: it makes no sense), for a reason that is said as a whole sentence. */
void state_fail(struct state_io *io, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void state_u8(struct state_io *io, uint8_t *v);
void state_u16(struct state_io *io, uint16_t *v);
void state_u32(struct state_io *io, uint32_t *v);
void state_u64(struct state_io *io, uint64_t *v);
void state_bool(struct state_io *io, bool *v); /* a byte, 0 or 1; another fails */
void state_bytes(struct state_io *io, void *p, size_t n);
/* A point in time of clock_ns(), kept as the distance from now_ns (64-bit two's complement). 0 stands for "none" and stays 0. */
void state_time(struct state_io *io, uint64_t *ns);
/* The same for one that is always set. 0 is a time like any other: what began before this host's clock did lies "below" 0, so
 * such times are only ever subtracted from each other. */
void state_instant(struct state_io *io, uint64_t *ns);

/* A field by its type. Enumerations count as unsigned. */
#define STATE(io, field)                  \
	_Generic((field),                 \
		uint8_t: state_u8,        \
		uint16_t: state_u16,      \
		uint32_t: state_u32,      \
		uint64_t: state_u64,      \
		bool: state_bool)((io), &(field))

#endif
