/* The rounds of a migration: what Lab 5's precopy.c counts with, and how the VM comes to stand. */
#include "job.h"
#include "lab5.h"
#include "virtio_state.h"
#include "vm_pause.h"

#include <stdio.h>

/* In bytes: with a round as short as this nothing can be said about how fast a connection is. */
#define BANDWIDTH_SAMPLE (1 * MiB)
#define BANDWIDTH_GUESS (1 * GiB)

/* How many pages go between two looks at whether it is to go on. */
#define SEND_PAGES 256u

static struct round *this_round(struct migration *m)
{
	return &m->round[m->rounds];
}

static int may_go_on(struct migration *m)
{
	if (m->cancel || m->vm->stopping)
		return stream_fail(&m->stream, ECANCELED, m->cancel ? "it was cancelled" : "the VM has ended");
	/* Once the vCPUs stand it is nearly done: to give up there would be for nothing. */
	if (m->timeout && !m->stands && clock_ns() - m->started >= m->timeout)
		return stream_fail(&m->stream, ETIMEDOUT, MIGRATION_TOO_SLOW);
	return 0;
}

/* The bits from gfn on that are equal to its own: how many pages, at most `most`. */
static uint64_t run_length(const uint64_t *bitmap, uint64_t gfn, uint64_t most)
{
	bool set = bitmap[gfn / 64] >> gfn % 64 & 1;
	uint64_t n = 0;

	while (n < most) {
		uint64_t at = gfn + n, left = 64 - at % 64;
		uint64_t word = (set ? ~bitmap[at / 64] : bitmap[at / 64]) >> at % 64;

		if (word)
			left = (unsigned)__builtin_ctzll(word);
		n += left;
		if (left < 64 - at % 64)
			break;
	}
	return n < most ? n : most;
}

int migration_send(struct migration *m, const uint64_t *bitmap)
{
	uint64_t pages = m->vm->mem.size / PAGE, n;
	int err = may_go_on(m);

	for (uint64_t gfn = 0; gfn < pages && !err; gfn += n) {
		bool wanted = bitmap[gfn / 64] >> gfn % 64 & 1;

		n = run_length(bitmap, gfn, wanted && pages - gfn > SEND_PAGES ? SEND_PAGES : pages - gfn);
		if (!wanted)
			continue;
		err = pages_write(&m->stream, &m->vm->mem, gfn, n);
		this_round(m)->pages += n;
		if (!err)
			err = may_go_on(m);
	}
	return err;
}

int migration_round_begin(struct migration *m)
{
	int err = may_go_on(m);

	/* One step lets one round begin; behind the stop nobody has to ask for it. */
	while (!err && m->step && !m->stands) {
		if (m->steps) {
			__atomic_fetch_sub(&m->steps, 1, __ATOMIC_ACQ_REL);
			break;
		}
		m->step_waits = true;
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
		err = may_go_on(m);
	}
	m->step_waits = false;
	m->round_ns = clock_ns();
	m->round_bytes = m->stream.wire.written;
	m->round_zero = m->stream.zero_pages;
	this_round(m)->throttle = m->throttle;
	return err;
}

int migration_round_end(struct migration *m, uint64_t dirty)
{
	struct round *r = this_round(m);
	/* What it says to the other side, who only shows it: pages sent, pages dirty since. */
	uint64_t said[2] = { r->pages, dirty };
	struct iovec iov = { said, sizeof said };

	r->dirty += dirty;
	r->ns += clock_ns() - m->round_ns;
	r->bytes += m->stream.wire.written - m->round_bytes;
	r->zero_pages += m->stream.zero_pages - m->round_zero;
	int err = section_write(&m->stream, SECTION_ROUND, m->rounds + 1, &iov, 1);

	pthread_mutex_lock(&m->vm->lock);
	if (m->rounds < ROUNDS_MAX - 2) /* the last two numbers stand for all that come */
		m->rounds++;
	else
		*r = (struct round){ .pages = r->pages, .dirty = dirty, .throttle = m->throttle };
	pthread_mutex_unlock(&m->vm->lock);
	return err;
}

uint64_t migration_bandwidth(const struct migration *m)
{
	uint64_t bytes = 0, ns = 0, limit = m->bandwidth ? m->bandwidth : BANDWIDTH_GUESS;

	for (unsigned i = 0; i < m->rounds; i++) {
		bytes += m->round[i].bytes;
		ns += m->round[i].ns;
	}
	if (bytes < BANDWIDTH_SAMPLE || !ns)
		return limit;
	uint64_t seen = (uint64_t)((double)bytes * 1e9 / (double)ns) + 1;
	/* Just below the limit it is the limit that was seen. */
	return m->bandwidth && seen > m->bandwidth - m->bandwidth / 16 ? m->bandwidth : seen;
}

int migration_stop(struct migration *m)
{
	struct vm *vm = m->vm;
	int err;

	pthread_mutex_lock(&vm->lock);
	err = vm_pause(vm);
	if (!err) {
		vm->stopped_ns = clock_ns();
		vm->stopped_real = realtime_ns();
		m->stands = true;
		m->stream.wire.rate = 0; /* what is saved for others here, the guest would pay for */
		err = virtio_settle(vm);
	}
	pthread_mutex_unlock(&vm->lock);
	if (err)
		return stream_fail(&m->stream, -err, vm->stopping ? "the VM has ended" : m->stands ?
				   "a device does not finish what it has begun" : "a processor does not come back from its last exit");
	return 0;
}

void migration_resume(struct migration *m)
{
	if (!m->stands)
		return;
	pthread_mutex_lock(&m->vm->lock);
	m->stands = false;
	virtio_unsettle(m->vm);
	vm_resume(m->vm);
	pthread_mutex_unlock(&m->vm->lock);
}
