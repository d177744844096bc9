#include "reconnect.h"
#include "lab5.h"

#include <time.h>

#define MS 1000000ull
#define AGAIN_MS 50
#define HEADER_NS (2000 * MS) /* whoever connects has to say at once who he is: others may be waiting behind him */
#define AWAIT_NS (10000 * MS)
/* A source whose connection fell silent without an end asks only when its own patience (10 s, outgoing.c) is over, and then for as long. */
#define COMMITTED_NS (30000 * MS)

static bool cancelled(const struct wire *w)
{
	return w->cancelled && w->cancelled(w->opaque);
}

static uint64_t left(uint64_t limit)
{
	uint64_t now = clock_ns();

	return now < limit ? limit - now : 1; /* 0 would be for ever */
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* --- the source ------------------------------------------------------------------------------------------------------------------- */

/* One attempt: header out, header in. A destination that has no use for it closes the connection. */
static int attempt(struct migration *m, const char *uri, uint32_t flag, uint64_t limit)
{
	struct stream *s = &m->stream;
	char why[200];

	wire_close(&s->wire);
	s->wire.patience = left(limit);
	int err = wire_connect(&s->wire, uri, s->wire.patience, why, sizeof why);
	if (err)
		return stream_fail(s, -err, "%s", why);
	s->wire.patience = sooner(HEADER_NS, left(limit));
	err = stream_begin(s, m->id, flag);
	if (!err)
		err = stream_expect(s);
	if (!err && s->header.id != m->id)
		err = stream_fail(s, EPROTO, "who answers there knows nothing of this migration");
	return err;
}

int reconnect(struct migration *m, const char *uri, uint32_t flag, uint64_t limit)
{
	struct wire *w = &m->stream.wire;
	uint64_t patience = w->patience;
	int err;

	while ((err = attempt(m, uri, flag, limit)) && err != -EINVAL && clock_ns() + AGAIN_MS * MS < limit &&
	       !cancelled(w)) {
		wire_close(w);
		nanosleep(&(struct timespec){ .tv_nsec = AGAIN_MS * MS }, NULL);
	}
	if (err)
		wire_close(w);
	w->patience = patience;
	return err;
}

int migration_ask(struct migration *m)
{
	struct stream *s = &m->stream;
	uint64_t limit = clock_ns() + (s->wire.patience ? s->wire.patience : AWAIT_NS);
	struct section sec;

	/* Who cancels now comes too late, and would only end the question. (A VM that ends still does.) */
	m->cancel = false;
	do {
		if (reconnect(m, m->uri, STREAM_ASK, limit))
			break;
		if (!section_write(s, MSG_ASK, 0, NULL, 0) && !section_read(s, &sec) && sec.header.type == MSG_ANSWER &&
		    sec.header.instance <= 1)
			return sec.header.instance ? NEWS_ANSWER_YES : NEWS_ANSWER_NO;
	} while (clock_ns() < limit);
	wire_close(&s->wire);
	return NEWS_SILENCE;
}

/* --- the destination -------------------------------------------------------------------------------------------------------------- */

int reaccept(struct migration *m, uint64_t limit)
{
	struct stream *s = &m->stream;
	uint64_t patience = s->wire.patience;
	int r = -ETIMEDOUT;

	while (r == -ETIMEDOUT && clock_ns() < limit) {
		wire_close(&s->wire);
		s->wire.patience = left(limit);
		int err = m->listening < 0 ? -ECANCELED : wire_accept(&s->wire, m->listening);
		if (err && err != -EAGAIN)
			r = err;
		if (err)
			continue;
		s->wire.patience = sooner(HEADER_NS, left(limit));
		if (!stream_expect(s) && s->header.id == m->id &&
		    (s->header.flags == STREAM_ASK || s->header.flags == STREAM_MORE) &&
		    !stream_begin(s, m->id, s->header.flags))
			r = (int)s->header.flags;
	}
	if (r < 0)
		wire_close(&s->wire);
	s->wire.patience = patience;
	return r;
}

int migration_await(struct migration *m, bool committed)
{
	struct stream *s = &m->stream;
	uint64_t limit = clock_ns() + (committed ? COMMITTED_NS : AWAIT_NS);
	struct section sec;
	int r;

	m->awaited |= !committed;
	while ((r = reaccept(m, limit)) >= 0) {
		bool told = r == STREAM_ASK && !section_read(s, &sec) && sec.header.type == MSG_ASK &&
			    !section_write(s, MSG_ANSWER, committed, NULL, 0);
		/* Now the source goes on, with MSG_COMMIT. One that hears "committed" has no more to say; but it may not hear it. */
		if (told && !committed)
			return 0;
	}
	return r;
}
