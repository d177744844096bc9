/*
 * Lab 5, checkpoints 5.9 to 5.13: pre-copy (Clark et al., NSDI 2005). Memory is sent while the guest writes to it; what it has written
 * since is sent again, and again, until so little is left that the guest may stand still for it.
 */
#include "lab5.h"

#include <stdlib.h>

#define THROTTLE_FIRST 20u
#define THROTTLE_MORE 10u
#define THROTTLE_MOST 99u

enum precopy_choice precopy_next(const struct precopy_facts *f, unsigned *throttle)
{
	// TODO 5.11: the rule, in this order. Stop when the pages that are dirty take no longer than the downtime at
	// this bandwidth. Give up when the time is over (timeout 0: it never is). Behind two slow rounds slow the vCPUs
	// down: 20 percent, then 10 more each time, up to 99. Otherwise another round. Hint: it is a pure function,
	// nothing but f decides.
	(void)f;
	*throttle = 0;
	return PRECOPY_ROUND;
}

/* Everything is sent once. left: a bit for each page that has to be sent. */
static int first_round(struct migration *m, uint64_t *left)
{
	// TODO 5.9: have writes logged, set a bit in left for every page, begin the first round and send it. Hint:
	// page_log_start(), migration_round_begin(), migration_send(). What is written before the log is on, and behind
	// the copy, is lost: which comes first?
	(void)left;
	lab_todo(m->vm, "5.9", "first_round() in precopy.c: all of memory once, with its writes logged");
	return -ENOSYS;
}

static enum precopy_choice decide(struct migration *m, uint64_t dirty, unsigned *slow_rounds, unsigned *throttle)
{
	uint64_t sent = m->round[m->rounds - 1].pages;

	*slow_rounds = dirty * 2 > sent ? *slow_rounds + 1 : 0;
	struct precopy_facts f = { .sent = sent, .dirty = dirty, .bandwidth = migration_bandwidth(m), .downtime = m->downtime,
				   .elapsed = clock_ns() - m->started, .timeout = m->timeout, .slow_rounds = *slow_rounds,
				   .throttle = m->throttle };
	return precopy_next(&f, throttle);
}

static void slow_down(struct migration *m, unsigned throttle)
{
	// TODO 5.13: from now on the vCPUs stand still for so many percent of their time. Hint: migration_throttle().
	(void)throttle;
	lab_todo(m->vm, "5.13", "slow_down() in precopy.c: vCPUs that write too fast");
}

/* The first round is sent. Returns when what is left may be sent while the guest stands still: it is in `left`. */
static int more_rounds(struct migration *m, uint64_t *left)
{
	// TODO 5.10: round after round: fetch what was written into left, end the round with its number of pages,
	// decide(), and begin and send the next one. Hint: page_log_fetch() forgets what it returns, so call it once a
	// round, before a page is copied. PRECOPY_STOP: 0, with left as it is. PRECOPY_GIVE_UP: -ETIMEDOUT.
	// PRECOPY_THROTTLE: slow_down(), and go on. With m->postcopy there is no second round: return behind the first
	// fetch.
	(void)left;
	(void)decide;
	(void)slow_down;
	lab_todo(m->vm, "5.10", "more_rounds() in precopy.c: what was written since");
	return -ENOSYS;
}

/* The vCPUs stand still, and the rest goes. Post-copy: it stays, and left says what that is. */
static int last_round(struct migration *m, uint64_t *left)
{
	// TODO 5.12: stop the VM, add to left what was written since the log was fetched last, and send it as one more
	// round, which 0 pages follow. Hint: migration_stop() first: as long as a vCPU runs, there is always one more
	// page. With m->postcopy nothing is sent.
	(void)left;
	lab_todo(m->vm, "5.12", "last_round() in precopy.c: the rest, while the VM stands still");
	return -ENOSYS;
}

int precopy(struct migration *m)
{
	uint64_t *left = calloc(page_words(m->vm), sizeof *left);
	int err = left ? first_round(m, left) : -ENOMEM;

	if (!err)
		err = more_rounds(m, left);
	if (!err)
		err = last_round(m, left);
	page_log_stop(m->vm);
	// TODO 5.13: however it ended, the vCPUs may run at full speed again. Hint: 0 percent.
	if (!err && m->postcopy)
		m->owed = left;
	else
		free(left);
	return err;
}
