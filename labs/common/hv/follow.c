/* Post-copy: the connection over which memory follows the VM, and what becomes of it when it breaks. */
#include "lab5.h"
#include "reconnect.h"

#include <stdio.h>
#include <time.h>

#define AGAIN_NS 5000000000ull	   /* so long migrate-resume tries to connect */
#define LISTEN_NS 3600000000000ull /* the destination waits again and again */

static bool vm_ends(void *opaque)
{
	return ((struct vm *)opaque)->stopping;
}

int postcopy_todo(struct migration *m, const char *step, const char *hint)
{
	uffd_release(m);
	vm_todo(m->vm, step, hint);
	return -ENOSYS;
}

/* --- messages --------------------------------------------------------------------------------------------------------------------- */

int postcopy_say(struct migration *m, uint16_t type, const struct iovec *payload, unsigned n)
{
	struct iovec waits = { &m->post.waits, sizeof m->post.waits };
	int err = -EPIPE;

	if (type == MSG_DONE && m->uffd) {
		payload = &waits;
		n = 1;
	}
	pthread_mutex_lock(&m->send_lock);
	if (!m->post.broken || type == MSG_HAVE)
		err = section_write(&m->stream, type, 0, payload, n) ? -EPIPE : 0;
	if (!err)
		m->post.broken = false;
	pthread_mutex_unlock(&m->send_lock);
	return err;
}

int postcopy_poll(struct migration *m, struct section *sec, uint64_t ns)
{
	int r = wire_wait(&m->stream.wire, ns);

	if (r < 0)
		return -EPIPE;
	if (!r)
		return 0;
	if (section_read(&m->stream, sec))
		return -EPIPE;
	if (sec->header.type == MSG_DONE && sec->header.length == sizeof m->post.waits)
		memcpy(&m->post.waits, sec->payload, sizeof m->post.waits);
	return 1;
}

/* --- the source ------------------------------------------------------------------------------------------------------------------- */

static uint64_t owed_pages(const struct migration *m)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < page_words(m->vm); i++)
		n += (uint64_t)__builtin_popcountll(m->owed[i]);
	return n;
}

/* What `job` says. With the lock: nobody on this side waits for a page with it. */
static void tell(struct migration *m, bool broken)
{
	pthread_mutex_lock(&m->vm->lock);
	m->post.broken = broken;
	m->post.breaks += broken;
	m->post.again[0] = 0;
	if (broken)
		snprintf(m->reason, sizeof m->reason,
			 "the VM runs at %.80s without %llu pages that are still here (%.120s): say migrate-resume URI",
			 m->uri, (unsigned long long)owed_pages(m), m->stream.err);
	else
		m->reason[0] = 0;
	pthread_mutex_unlock(&m->vm->lock);
}

int postcopy_again(struct migration *m, const char *uri, char *err, size_t errlen)
{
	if (!m->post.broken) {
		snprintf(err, errlen, "no post-copy migration waits for its destination");
		return -EINVAL;
	}
	if (strlen(uri) >= sizeof m->post.again) {
		snprintf(err, errlen, "the name is too long");
		return -EINVAL;
	}
	int r = wire_uri_check(uri, err, errlen);
	if (!r)
		strcpy(m->post.again, uri);
	return r;
}

/* Waits for the user and connects: 0, or -ECANCELED when the VM ends. */
static int go_on(struct migration *m)
{
	char uri[sizeof m->post.again] = "";

	/* It broke at the commit already, over which the source had to ask: nobody has seen that yet. */
	if (!m->post.breaks && !m->post.urgent && !m->post.background)
		snprintf(uri, sizeof uri, "%s", m->uri);
	for (;; uri[0] = 0) {
		wire_close(&m->stream.wire);
		tell(m, true);
		for (; !uri[0]; nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL)) {
			if (m->vm->stopping)
				return -ECANCELED;
			pthread_mutex_lock(&m->vm->lock);
			strcpy(uri, m->post.again);
			pthread_mutex_unlock(&m->vm->lock);
		}
		if (!reconnect(m, uri, STREAM_MORE, clock_ns() + AGAIN_NS) && !postcopy_recount(m)) {
			tell(m, false);
			return 0;
		}
	}
}

void postcopy_follow(struct migration *m)
{
	/* It is too late to cancel: what is here is of no use without what is there. */
	m->following = true;
	m->cancel = false;
	m->stream.wire.cancelled = vm_ends;
	m->stream.wire.opaque = m->vm;
	m->stream.wire.rate = m->bandwidth;
	while (postcopy_send(m) && !m->vm->stopping)
		if (go_on(m))
			return;
}

/* --- the destination -------------------------------------------------------------------------------------------------------------- */

/* Who only asks is told; who comes with the rest is listened to. 0, or -ECANCELED. */
static int take_back(struct migration *m)
{
	struct stream *s = &m->stream;
	struct section sec;

	for (;;) {
		int r = reaccept(m, clock_ns() + LISTEN_NS);
		if (r == STREAM_MORE && !postcopy_rejoin(m))
			return 0;
		if (r == STREAM_ASK && !section_read(s, &sec) && sec.header.type == MSG_ASK)
			section_write(s, MSG_ANSWER, 1, NULL, 0);
		if (m->vm->stopping || (r < 0 && r != -ETIMEDOUT))
			return -ECANCELED;
	}
}

void postcopy_serve(struct migration *m)
{
	uffd_serve(m);
	while (postcopy_receive(m)) {
		if (m->vm->stopping)
			return;
		fprintf(stderr,
			"hv: the connection over which memory follows broke (%s); on the other side, migrate-resume URI "
			"goes on\n",
			m->stream.err);
		pthread_mutex_lock(&m->send_lock);
		m->post.broken = true;
		m->post.breaks++;
		pthread_mutex_unlock(&m->send_lock);
		wire_close(&m->stream.wire);
		if (take_back(m))
			return;
	}
	uffd_stop(m);
}
