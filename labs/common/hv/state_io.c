#include "state_io.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void state_save_begin(struct state_io *io, const char *what, uint64_t now_ns)
{
	*io = (struct state_io){ .what = what, .now_ns = now_ns };
}

void state_load_begin(struct state_io *io, const char *what, uint64_t now_ns, const void *data, size_t len)
{
	*io = (struct state_io){ .loading = true, .what = what, .now_ns = now_ns, .data = (uint8_t *)data, .len = len };
}

static bool fail(struct state_io *io, const char *fmt, va_list args)
{
	if (!state_failed(io)) {
		int n = snprintf(io->err, sizeof io->err, "the state of %s does not make sense: ", io->what);

		if (n > 0 && (size_t)n < sizeof io->err)
			vsnprintf(io->err + n, sizeof io->err - (size_t)n, fmt, args);
	}
	return false;
}

bool state_check(struct state_io *io, bool rule, const char *fmt, ...)
{
	va_list args;

	if (!io->loading || (rule && !state_failed(io)))
		return !state_failed(io);
	va_start(args, fmt);
	fail(io, fmt, args);
	va_end(args);
	return false;
}

void state_fail(struct state_io *io, const char *fmt, ...)
{
	va_list args;

	if (state_failed(io))
		return;
	va_start(args, fmt);
	vsnprintf(io->err, sizeof io->err, fmt, args);
	va_end(args);
}

int state_end(struct state_io *io)
{
	state_check(io, io->at == io->len, "%zu bytes are left over", io->len - io->at);
	return !state_failed(io) ? 0 : io->loading ? -EINVAL : -ENOMEM;
}

void state_free(struct state_io *io)
{
	if (!io->loading)
		free(io->data);
	io->data = NULL;
}

static bool grow(struct state_io *io, size_t n)
{
	if (io->room - io->len >= n)
		return true;
	size_t room = (io->len + n) * 2;
	uint8_t *data = realloc(io->data, room);
	if (!data) {
		state_fail(io, "there is not enough memory to save %s", io->what);
		return false;
	}
	io->data = data;
	io->room = room;
	return true;
}

void state_bytes(struct state_io *io, void *p, size_t n)
{
	if (io->loading) {
		if (!state_check(io, io->len - io->at >= n, "it ends %zu bytes early", n - (io->len - io->at))) {
			memset(p, 0, n);
			return;
		}
		memcpy(p, io->data + io->at, n);
		io->at += n;
	} else if (!state_failed(io) && n && grow(io, n)) {
		memcpy(io->data + io->len, p, n);
		io->len += n;
	}
}

void state_u8(struct state_io *io, uint8_t *v) { state_bytes(io, v, sizeof *v); }
/* The hosts are little-endian, as the stream is. */
void state_u16(struct state_io *io, uint16_t *v) { state_bytes(io, v, sizeof *v); }
void state_u32(struct state_io *io, uint32_t *v) { state_bytes(io, v, sizeof *v); }
void state_u64(struct state_io *io, uint64_t *v) { state_bytes(io, v, sizeof *v); }

void state_bool(struct state_io *io, bool *v)
{
	uint8_t byte = *v;

	state_u8(io, &byte);
	state_check(io, byte <= 1, "a switch is neither on nor off");
	*v = byte == 1;
}

void state_instant(struct state_io *io, uint64_t *ns)
{
	uint64_t distance = *ns - io->now_ns;

	state_u64(io, &distance);
	/* 73 years either way; a clock that wraps around would fire at once for ever. */
	state_check(io, distance + (1ull << 61) < 1ull << 62, "a time lies too far away");
	if (io->loading)
		*ns = io->now_ns + (state_failed(io) ? 0 : distance);
}

void state_time(struct state_io *io, uint64_t *ns)
{
	bool set = *ns;

	if (!set)
		*ns = io->now_ns;
	state_bool(io, &set);
	state_instant(io, ns);
	state_check(io, set || *ns == io->now_ns, "a time is there that is not set");
	if (!set)
		*ns = 0;
	else if ((int64_t)*ns <= 0)
		*ns = 1; /* it would lie before this host's clock began: long over */
}
