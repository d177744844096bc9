/* vCPUs that stand still for some of their time, so that they write less than the connection carries. */
#include "migration.h"
#include "vm_pause.h"

/*
 * One after the other, they stand and run for parts of this time. Shorter: at 99 percent the rest would not be enough to wake the threads
 * and enter the guest. Longer: the guest's user would see it stutter.
 */
#define PERIOD_NS 100000000ull
#define LATE_PERIODS 10 /* lateness beyond that is forgotten, not made up for */

/* Begins to count the guest's time: what it has stood and run so far was of another percentage, or too long ago. */
static void count_anew(struct throttling *t, uint64_t now)
{
	t->since = now;
	t->stood = 0;
}

/*
 * A timer of the event loop, so with the lock held, once: that is what vm_pause() demands. Timers are late on a busy host, and to stop
 * takes its own time. So how long the vCPUs are to stand is worked out from what they have stood since the percentage was set.
 */
static void on_throttle(void *opaque)
{
	struct migration *m = opaque;
	struct throttling *t = &m->throttling;
	uint64_t now = clock_ns(), next = now + PERIOD_NS * (100 - m->throttle) / 100;

	if (t->stands) {
		vm_resume(m->vm);
		t->stands = false;
		t->stood += now - t->at;
	} else {
		uint64_t due = (now - t->since + PERIOD_NS) * m->throttle / 100;
		if (due > t->stood + LATE_PERIODS * PERIOD_NS) {
			count_anew(t, now);
			due = PERIOD_NS * m->throttle / 100;
		}
		/* No pause: the VM ends, or a handler of an exit takes its time. The next try tells. */
		t->pausing = due > t->stood;
		if (t->pausing && !vm_pause(m->vm)) {
			t->stands = true;
			t->at = clock_ns();
			next = t->at + due - t->stood;
		}
	}
	/* While vm_pause() waited, the lock was free, and migration_throttle() may have ended it. */
	if (!m->throttle && t->stands) {
		vm_resume(m->vm);
		t->stands = false;
	}
	loop_timer_set(&m->vm->loop, &t->timer, m->throttle ? next : 0);
	t->pausing = false;
	pthread_cond_broadcast(&m->vm->wake);
}

void migration_throttle(struct migration *m, unsigned percent)
{
	struct throttling *t = &m->throttling;

	pthread_mutex_lock(&m->vm->lock);
	m->throttle = percent;
	t->timer.fn = on_throttle;
	t->timer.opaque = m;
	count_anew(t, clock_ns());
	if (percent && !t->timer.deadline_ns && !t->pausing)
		loop_timer_set(&m->vm->loop, &t->timer, t->since);
	/* Behind the end nobody may look at m any more. */
	while (!percent && t->pausing)
		pthread_cond_wait(&m->vm->wake, &m->vm->lock);
	if (!percent) {
		loop_timer_set(&m->vm->loop, &t->timer, 0);
		if (t->stands)
			vm_resume(m->vm);
		t->stands = false;
	}
	pthread_mutex_unlock(&m->vm->lock);
}
