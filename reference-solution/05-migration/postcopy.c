/*
 * Lab 5, checkpoints 5.19 to 5.21: memory that follows the VM. The VM runs at the destination while most of its pages are still at the
 * source. Who touches one of those waits until it has come, so such a page goes before all others (Hines et al., VEE 2009).
 */
#include "lab5.h"

#include <stdlib.h>

/*
 * Pages that go in one piece while nobody waits. A page that is asked for waits behind the piece that is just being sent, 64 KiB: half a
 * millisecond at 1 Gbit/s, about as long as the question and its answer take themselves. Smaller pieces would gain little there, and cost:
 * each one is a system call, a header and a look for questions, a few microseconds beside the 30 or so that its pages take. With a limit
 * of bandwidth it is as many as go in that half millisecond, but a page at least.
 */
#define BATCH 16
#define BATCHES 2000 /* a second */

static uint64_t batch(const struct migration *m)
{
	uint64_t pages = m->stream.wire.rate / (BATCHES * PAGE);

	return !m->stream.wire.rate || pages > BATCH ? BATCH : pages ? pages : 1;
}

/* So long the destination may be silent when it has all pages. */
#define DONE_NS 10000000000ull

/* --- the destination asks --------------------------------------------------------------------------------------------------------- */

int postcopy_fault(struct migration *m, uint64_t gfn)
{
	// SOLUTION 5.19
	struct iovec need = { &gfn, sizeof gfn };

	if (!page_bit(m->owed, gfn) || page_bit_set(m->post.asked, gfn))
		return 0;
	return postcopy_say(m, MSG_NEED, &need, 1);
	// STARTER 5.19: ask for that page: MSG_NEED with its number. Hint: a page that is not in m->owed has come meanwhile;
	// m->post.asked keeps what was asked for already, by another vCPU. page_bit(), page_bit_set(), postcopy_say().
	//	(void)gfn;
	//	return postcopy_todo(m, "5.19", "postcopy_fault() in postcopy.c: a page is missing");
	// END
}

/* --- the source answers ----------------------------------------------------------------------------------------------------------- */

/* What the other side says: the pages of MSG_NEED go at once. */
static int serve(struct migration *m, const struct section *sec)
{
	// SOLUTION 5.19
	uint64_t pages = m->vm->mem.size / PAGE, gfn;

	if (sec->header.type != MSG_NEED || sec->header.length % sizeof gfn) {
		stream_fail(&m->stream, EPROTO, "the destination says %u while memory follows", sec->header.type);
		return -EPIPE;
	}
	for (uint32_t i = 0; i < sec->header.length; i += sizeof gfn) {
		memcpy(&gfn, sec->payload + i, sizeof gfn);
		/* It may be on its way already, and the other side is not to be believed. */
		if (gfn >= pages || !page_bit_clear(m->owed, gfn))
			continue;
		if (pages_write(&m->stream, &m->vm->mem, gfn, 1))
			return -EPIPE;
		m->post.urgent++;
		m->post.next = gfn + 1; /* what lies behind it is likely to be next */
	}
	return 0;
	// STARTER 5.19: send each page that MSG_NEED names, if it is still in m->owed, and take it out. Hint: page_bit_clear() says what
	// the bit was; pages_write(). The numbers come from outside: a page that the guest does not have is nobody's. Count in
	// m->post.urgent, and let m->post.next be the page behind it. Another message, or a part of a number, is as bad as a broken
	// connection.
	//	(void)sec;
	//	return postcopy_todo(m, "5.19", "serve() in postcopy.c: a page is asked for");
	// END
}

// SOLUTION 5.20
/* The first page from m->post.next on that is owed, around the end of memory; or the number of pages when there is none. */
static uint64_t next_owed(const struct migration *m)
{
	uint64_t pages = m->vm->mem.size / PAGE, words = page_words(m->vm);
	uint64_t start = m->post.next < pages ? m->post.next : 0;

	for (uint64_t i = 0; i <= words; i++) {
		uint64_t w = (start / 64 + i) % words, bits = m->owed[w];

		if (!i)
			bits &= ~0ull << start % 64;
		if (bits)
			return w * 64 + (unsigned)__builtin_ctzll(bits);
	}
	return pages;
}

/* All are sent. What is still asked for crossed its answer on the way. */
static int finish(struct migration *m)
{
	struct section sec;

	if (postcopy_say(m, MSG_DONE, NULL, 0))
		return -EPIPE;
	while (postcopy_poll(m, &sec, DONE_NS) == 1)
		if (sec.header.type != MSG_NEED)
			return sec.header.type == MSG_DONE ? 0 : -EPIPE;
	return -EPIPE;
}
// END

/* Nobody waits: some of the others. 1; 0 when the other side has all; -EPIPE. */
static int background(struct migration *m)
{
	// SOLUTION 5.20
	uint64_t pages = m->vm->mem.size / PAGE, most = batch(m), gfn = next_owed(m), n = 0;

	if (gfn >= pages)
		return finish(m);
	while (n < most && gfn + n < pages && page_bit_clear(m->owed, gfn + n))
		n++;
	if (pages_write(&m->stream, &m->vm->mem, gfn, n))
		return -EPIPE;
	m->post.background += n;
	m->post.next = gfn + n;
	return 1;
	// STARTER 5.20: send the next pages of m->owed, from m->post.next on and around the end of memory, batch() at most, and take
	// them out. When there are none, say MSG_DONE and wait for the other side's. Hint: what is taken out before it is sent cannot go
	// twice. Count in m->post.background. Behind MSG_DONE a MSG_NEED may still come: its answer is on the way. Until this is
	// written, only what is asked for moves.
	//	(void)batch;
	//	if (wire_wait(&m->stream.wire, 2000000000) == 1)
	//		return 1;
	//	return postcopy_todo(m, "5.20", "background() in postcopy.c: pages that nobody has asked for yet");
	// END
}

int postcopy_send(struct migration *m)
{
	// SOLUTION 5.19
	struct section sec;

	for (;;) {
		int r = postcopy_poll(m, &sec, 0);

		if (r == 1)
			r = serve(m, &sec);
		else if (r == 0 && (r = background(m)) == 0)
			return 0;
		if (r < 0)
			return r;
	}
	// STARTER 5.19: again and again: is there a message? serve() it, else do a piece of background(). Hint: postcopy_poll() with no
	// time to wait. background() returns 0 when it is over.
	//	(void)serve;
	//	(void)background;
	//	return postcopy_todo(m, "5.19", "postcopy_send() in postcopy.c: those first that somebody waits for");
	// END
}

/* --- the destination takes -------------------------------------------------------------------------------------------------------- */

static int put(void *opaque, uint64_t gfn, const void *page)
{
	uffd_put(opaque, gfn, page);
	return 0;
}

/* The source says that it has sent all. 0 when that is so. */
static int done(struct migration *m)
{
	// SOLUTION 5.20
	for (uint64_t i = 0; i < page_words(m->vm); i++) {
		if (m->owed[i]) {
			stream_fail(&m->stream, EPROTO, "the source is done, and pages are missing");
			return -EPIPE;
		}
	}
	return postcopy_say(m, MSG_DONE, NULL, 0);
	// STARTER 5.20: are all pages there? Then say so, with MSG_DONE; the source forgets the VM when it has heard that. Hint: if one
	// is missing, -EPIPE: over the next connection it will be sent.
	//	return postcopy_todo(m, "5.20", "done() in postcopy.c: the last page has come");
	// END
}

int postcopy_receive(struct migration *m)
{
	// SOLUTION 5.19
	struct section sec;

	for (;;) {
		if (section_read(&m->stream, &sec))
			return -EPIPE;
		if (sec.header.type == MSG_DONE)
			return done(m);
		if (sec.header.type != SECTION_PAGES) {
			stream_fail(&m->stream, EPROTO, "the source says %u while memory follows", sec.header.type);
			return -EPIPE;
		}
		if (pages_read(&m->stream, &sec, m->vm->mem.size / PAGE, put, m))
			return -EPIPE;
	}
	// STARTER 5.19: read sections: pages are put() in, MSG_DONE is the end (done()). Hint: pages_read(). All else, and the end of
	// the connection, is -EPIPE.
	//	(void)put;
	//	(void)done;
	//	return postcopy_todo(m, "5.19", "postcopy_receive() in postcopy.c: pages arrive");
	// END
}

/* --- another connection ----------------------------------------------------------------------------------------------------------- */

int postcopy_rejoin(struct migration *m)
{
	// SOLUTION 5.21
	uint64_t words = page_words(m->vm), *have = malloc(words * sizeof *have);
	struct iovec iov = { have, words * sizeof *have };
	int err = have ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < words && !err; i++)
		have[i] = ~m->owed[i];
	if (!err)
		err = postcopy_say(m, MSG_HAVE, &iov, 1);
	free(have);
	/* From here on faults are asked for as always. Those of before got no answer. */
	for (uint64_t gfn = 0; gfn < m->vm->mem.size / PAGE && !err; gfn++) {
		struct iovec need = { &gfn, sizeof gfn };
		if (page_bit(m->owed, gfn) && page_bit(m->post.asked, gfn))
			err = postcopy_say(m, MSG_NEED, &need, 1);
	}
	return err;
	// STARTER 5.21: say MSG_HAVE, a bit for each page that is there, then MSG_NEED for each page that is owed and was asked for.
	// Hint: as a whole bitmap, words as in m->owed. Until MSG_HAVE is said, postcopy_say() says nothing else: what is asked for in
	// the meantime stays in m->post.asked.
	//	return postcopy_todo(m, "5.21", "postcopy_rejoin() in postcopy.c: the destination on a new connection");
	// END
}

int postcopy_recount(struct migration *m)
{
	// SOLUTION 5.21
	uint64_t pages = m->vm->mem.size / PAGE, words = page_words(m->vm), have;
	struct section sec;

	if (section_read(&m->stream, &sec))
		return -EPIPE;
	if (sec.header.type != MSG_HAVE || sec.header.length != words * sizeof have) {
		stream_fail(&m->stream, EPROTO, "the destination does not say which pages it has");
		return -EPIPE;
	}
	for (uint64_t i = 0; i < words; i++) {
		memcpy(&have, sec.payload + i * sizeof have, sizeof have);
		m->owed[i] = ~have;
	}
	if (pages % 64)
		m->owed[words - 1] &= (1ull << pages % 64) - 1;
	return 0;
	// STARTER 5.21: read MSG_HAVE: what the other side does not have is m->owed from now on, whatever was sent before. Hint: the
	// length must be right, and the last word may have bits behind the last page.
	//	return postcopy_todo(m, "5.21", "postcopy_recount() in postcopy.c: the source on a new connection");
	// END
}
