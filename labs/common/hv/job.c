#include "job.h"
#include "control.h"
#include "lab5.h"
#include "json.h"
#include "vm_pause.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOWNTIME_MS 300
#define TIMEOUT_S 120
#define SEEN_NS 2000000000ull /* so long a moved VM's last answer is waited for */

static const char *const state_names[] = { "running", "done", "failed", "standing" };

static void refuse(FILE *out, const char *sentence)
{
	fputs("{\"error\":", out);
	json_string(out, sentence);
	fputs("}\n", out);
}

/* Behind this job the VM is gone. */
static bool leaves(const struct job *job)
{
	return job->state == JOB_DONE && (!job->m.to_file || job->quit);
}

void job_end(struct job *job, enum job_state state, const char *format, ...)
{
	char reason[sizeof job->m.reason]; /* the old one may be a part of it */
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof reason, format, args);
	va_end(args);
	pthread_mutex_lock(&job->vm->lock);
	snprintf(job->m.reason, sizeof job->m.reason, "%s", reason);
	job->m.ended = clock_ns();
	job->state = state;
	pthread_mutex_unlock(&job->vm->lock);
	/* The one who asked wants to hear how it ended, and a VM that has gone has nobody to answer. */
	for (uint64_t until = clock_ns() + SEEN_NS; leaves(job) && !job->detached && clock_ns() < until && !job->vm->stopping;) {
		pthread_mutex_lock(&job->vm->lock);
		bool seen = job->seen;
		pthread_mutex_unlock(&job->vm->lock);
		if (seen)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
}

static bool cancelled(void *opaque)
{
	const struct job *job = opaque;

	return job->m.cancel || job->vm->stopping;
}

static void *save_thread(void *opaque)
{
	save_to_file(opaque);
	return NULL;
}

static void *migrate_thread(void *opaque)
{
	migrate_away(opaque);
	return NULL;
}

/* The word at *p becomes a string of its own, *p goes behind it. NULL at the end. */
static char *word(char **p)
{
	char *w = *p + strspn(*p, " ");

	if (!*w)
		return NULL;
	*p = w + strcspn(w, " ");
	if (**p)
		*(*p)++ = 0;
	return w;
}

static bool number(const char *text, double scale, double most, uint64_t *out)
{
	char *end;
	double value = text ? strtod(text, &end) : -1;

	if (!text || end == text || !(value >= 0) || value > most)
		return false;
	if (scale == 1 && *end) { /* bytes a second, with a suffix */
		const char *suffix = strchr("KMG", *end);
		if (!suffix || end[1])
			return false;
		value *= (double)(1ull << 10 * (suffix - "KMG" + 1));
	} else if (*end) {
		return false;
	}
	*out = (uint64_t)(value * scale);
	return true;
}

/* The options behind FILE or URI. false with a sentence. */
static bool options(struct job *job, char *p, bool migrate, const char **sentence)
{
	struct migration *m = &job->m;

	for (char *w; (w = word(&p));) {
		if (!strcmp(w, "--detach")) {
			job->detached = true;
		} else if (!strcmp(w, "--compress")) {
			uint64_t level;
			*sentence = "--compress takes a level of zstd, 1 to 19";
			if (!number(word(&p), 1, 19, &level) || !level)
				return false;
			m->stream.zstd = (int)level;
		} else if (!migrate && !strcmp(w, "--quit")) {
			job->quit = true;
		} else if (migrate && !strcmp(w, "--downtime")) {
			*sentence = "--downtime takes milliseconds";
			if (!number(word(&p), 1e6, 1e6, &m->downtime))
				return false;
		} else if (migrate && !strcmp(w, "--bandwidth")) {
			*sentence = "--bandwidth takes bytes a second, with K, M or G behind them, at least 4K";
			if (!number(word(&p), 1, 1e12, &m->bandwidth) || m->bandwidth < 4 * KiB)
				return false;
			m->stream.wire.rate = m->bandwidth;
		} else if (migrate && !strcmp(w, "--timeout")) {
			*sentence = "--timeout takes seconds";
			if (!number(word(&p), 1e9, 1e6, &m->timeout))
				return false;
		} else if (migrate && !strcmp(w, "--mode")) {
			w = word(&p);
			*sentence = "--mode takes precopy or postcopy";
			if (!w || (strcmp(w, "precopy") && strcmp(w, "postcopy")))
				return false;
			m->postcopy = !strcmp(w, "postcopy");
		} else if (migrate && !strcmp(w, "--step")) {
			m->step = true;
		} else {
			*sentence = migrate ? "migrate takes a URI, then --downtime MS, --bandwidth RATE, "
					      "--mode precopy|postcopy, --timeout S, --compress LEVEL, --step, --detach"
					    : "save takes a file, then --compress LEVEL, --quit, --detach";
			return false;
		}
	}
	return true;
}

static void forget(struct job *job)
{
	if (job->joinable)
		pthread_join(job->thread, NULL);
	stream_free(&job->m.stream);
	pthread_mutex_destroy(&job->m.send_lock);
	free(job->m.owed);
	free(job);
}

/* A new job in place of one that has ended; NULL after an answer. */
static struct job *begin(struct vm *vm, const char *argument, bool migrate, FILE *out)
{
	const char *sentence = "", *options_at = strstr(argument, " --");
	size_t n = options_at ? (size_t)(options_at - argument) : strlen(argument);
	char rest[CONTROL_LINE] = "", err[300];

	if (vm->job && (vm->job->state == JOB_RUNNING || vm->job->state == JOB_STANDING)) {
		refuse(out, "this VM is being saved or moved already; see job");
		return NULL;
	}
	/* The others' threads have nothing more to do that takes the lock, which is held here while they are waited for. */
	if (vm->job && leaves(vm->job)) {
		refuse(out, "this VM ends: it was saved or moved; see job");
		return NULL;
	}
	if (vm->virtio_stands) { /* it is being loaded, and nobody else's job has its devices stand still */
		refuse(out, "this VM is not here yet");
		return NULL;
	}
	struct job *job = calloc(1, sizeof *job);
	if (!job || n >= sizeof job->uri || stream_init(&job->m.stream)) {
		free(job);
		refuse(out, job ? "the name is too long" : "there is not enough memory");
		return NULL;
	}
	memcpy(job->uri, argument, n);
	snprintf(rest, sizeof rest, "%s", options_at ? options_at : "");
	job->vm = vm;
	job->m.vm = job->m.stream.vm = vm;
	job->m.to_file = !migrate;
	job->m.uri = job->uri;
	job->m.downtime = DOWNTIME_MS * 1000000ull;
	job->m.timeout = TIMEOUT_S * 1000000000ull;
	job->m.listening = -1;
	job->m.stream.wire.cancelled = cancelled;
	job->m.stream.wire.opaque = job;
	pthread_mutex_init(&job->m.send_lock, NULL);
	if (!options(job, rest, migrate, &sentence)) {
		refuse(out, sentence);
	} else if (migrate && wire_uri_check(job->uri, err, sizeof err)) {
		refuse(out, err);
	} else {
		if (vm->job)
			forget(vm->job);
		return vm->job = job;
	}
	forget(job);
	return NULL;
}

static void run(struct vm *vm, void *(*thread)(void *), FILE *out)
{
	struct job *job = vm->job;

	job->m.started = clock_ns();
	if (pthread_create(&job->thread, NULL, thread, job)) {
		job->state = JOB_FAILED;
		refuse(out, "the host has no thread left");
		return;
	}
	job->joinable = true;
	fprintf(out, "{\"job\":\"%s\",\"state\":\"running\"}\n", job->m.to_file ? "save" : "migrate");
}

void job_save(struct vm *vm, const char *argument, FILE *out)
{
	if (begin(vm, argument, false, out))
		run(vm, save_thread, out);
}

void job_migrate(struct vm *vm, const char *argument, FILE *out)
{
	if (begin(vm, argument, true, out))
		run(vm, migrate_thread, out);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

void job_status(struct vm *vm, const char *argument, FILE *out)
{
	struct job *job = vm->job;
	(void)argument;

	if (!job) {
		fputs("{\"job\":null}\n", out);
		return;
	}
	struct migration *m = &job->m;
	const struct round *last = m->rounds ? &m->round[m->rounds - 1] : NULL;
	uint64_t bandwidth = migration_bandwidth(m), pages = 0;

	fprintf(out, "{\"job\":\"%s\",\"state\":\"%s\",\"to\":", m->to_file ? "save" : "migrate", state_names[job->state]);
	json_string(out, m->uri);
	fputs(",\"rounds\":[", out);
	for (unsigned i = 0; i < m->rounds; i++) {
		const struct round *r = &m->round[i];

		pages += r->pages;
		fprintf(out, "%s{\"pages\":%llu,\"zero\":%llu,\"bytes\":%llu,\"ms\":%.3f,\"dirty\":%llu,\"throttle\":%u}", i ? "," : "",
			(unsigned long long)r->pages, (unsigned long long)r->zero_pages, (unsigned long long)r->bytes, ms(r->ns),
			(unsigned long long)r->dirty, r->throttle);
	}
	fprintf(out,
		"],\"pages\":%llu,\"bytes\":%llu,\"ms\":%.3f,\"waits_for_step\":%s,\"throttle\":%u,\"dirty_rate\":%.0f,\"bandwidth\":%llu,"
		"\"expected_downtime_ms\":%.3f,\"downtime\":{\"final_round_ms\":%.3f,\"state_ms\":%.3f,\"send_ms\":%.3f,\"commit_ms\":%.3f,"
		"\"total_ms\":%.3f},\"reason\":",
		(unsigned long long)pages, (unsigned long long)m->stream.wire.written,
		ms((m->ended ? m->ended : clock_ns()) - m->started), m->step_waits ? "true" : "false", m->throttle,
		last && last->ns ? (double)last->dirty * 1e9 / (double)last->ns : 0.0, (unsigned long long)bandwidth,
		last ? (double)last->dirty * PAGE * 1e3 / (double)bandwidth : 0.0, ms(m->parts.final_round), ms(m->parts.state),
		ms(m->parts.send), ms(m->parts.commit),
		ms(m->parts.final_round + m->parts.state + m->parts.send + m->parts.commit));
	json_string(out, m->reason);
	if (m->postcopy)
		fprintf(out,
			",\"postcopy\":{\"follows\":%s,\"urgent\":%llu,\"background\":%llu,\"breaks\":%u,\"broken\":%s,"
			"\"waits\":%llu,\"wait_ms\":%.3f,\"longest_wait_ms\":%.3f}",
			m->following ? "true" : "false", (unsigned long long)m->post.urgent,
			(unsigned long long)m->post.background, m->post.breaks, m->post.broken ? "true" : "false",
			(unsigned long long)m->post.waits.faults, ms(m->post.waits.total_ns), ms(m->post.waits.longest_ns));
	fputs("}\n", out);
	job->seen = job->state != JOB_RUNNING;
}

void job_step(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	if (!vm->job || vm->job->state != JOB_RUNNING || !vm->job->m.step) {
		refuse(out, "no migration waits for steps; begin one with migrate URI --step");
		return;
	}
	__atomic_fetch_add(&vm->job->m.steps, 1, __ATOMIC_ACQ_REL);
	fputs("{\"stepped\":true}\n", out);
}

void job_cancel(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	if (!vm->job || vm->job->state != JOB_RUNNING || vm->job->m.following) {
		refuse(out, vm->job && vm->job->m.following ? "the VM runs at the other side, and needs what is here" :
							      "nothing is under way that could be cancelled");
		return;
	}
	vm->job->m.cancel = true;
	fputs("{\"cancelled\":true}\n", out);
}

void job_again(struct vm *vm, const char *argument, FILE *out)
{
	char err[300] = "no post-copy migration waits for its destination";

	if (!vm->job || vm->job->state != JOB_RUNNING || postcopy_again(&vm->job->m, argument, err, sizeof err))
		refuse(out, err);
	else
		fputs("{\"again\":true}\n", out);
}

bool job_release(struct vm *vm)
{
	if (!vm->job || vm->job->state != JOB_STANDING)
		return false;
	vm->job->state = JOB_FAILED;
	migration_resume(&vm->job->m);
	return true;
}

void job_destroy(struct vm *vm)
{
	if (!vm->job)
		return;
	vm->job->m.cancel = true;
	forget(vm->job);
	vm->job = NULL;
	free(vm->page_log);
	vm->page_log = NULL;
}
