/* The thread of a job: a VM goes into a file, or to another hv. */
#include "engine.h"
#include "job.h"
#include "lab5.h"
#include "record.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define CONNECT_NS 5000000000ull /* a destination that was started a moment ago may not listen yet */
#define PATIENCE_NS 10000000000ull
#define REFUSAL_NS 500000000ull

static uint64_t random_id(void)
{
	uint64_t id = 0;

	while (!id)
		if (getrandom(&id, sizeof id, 0) != sizeof id)
			id = clock_ns();
	return id;
}

/* A struct of config.c's as a section. */
#define SEND_STRUCT(s, type, what, call)                                                  \
	do {                                                                              \
		struct state_io io;                                                       \
		state_save_begin(&io, what, 0);                                           \
		call;                                                                     \
		struct iovec iov = { io.data, io.len };                                   \
		err = state_end(&io) ? stream_fail(s, ENOMEM, "%s", io.err) : section_write(s, type, 0, &iov, 1); \
		state_free(&io);                                                          \
	} while (0)

/* Header, configuration, CPUID. */
static int introduce(struct migration *m)
{
	struct stream *s = &m->stream;
	struct config config;
	int err = stream_begin(s, m->id, 0);

	if (err)
		return err;
	config_of(m->vm, &config);
	SEND_STRUCT(s, SECTION_CONFIG, "the configuration", config_io(&config, &io));
	if (err || !m->vm->engine->cpuid_table)
		return err;
	struct cpuid_table *table = calloc(1, sizeof *table);
	if (!table)
		return stream_fail(s, ENOMEM, "there is not enough memory");
	err = m->vm->engine->cpuid_table(m->vm, table);
	if (err)
		stream_fail(s, -err, "KVM does not say what the guest's CPUID answers");
	else
		SEND_STRUCT(s, SECTION_CPUID, "CPUID", cpuid_table_io(table, &io));
	free(table);
	return err;
}

static void fail(struct job *job, const char *what)
{
	struct migration *m = &job->m;

	migration_resume(m);
	wire_close(&m->stream.wire); /* the other side need not find out by waiting */
	job_end(job, JOB_FAILED, "the VM goes on here: %s%.250s", what, m->stream.err);
}

/* --- save ----------------------------------------------------------------------------------------------------------------------- */

/* What is behind a rename survives a loss of power only when the directory was written, too. */
static int sync_directory(const char *file)
{
	char copy[sizeof((struct job *)0)->uri];

	snprintf(copy, sizeof copy, "%s", file);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int err = fsync(fd) ? -errno : 0;
	close(fd);
	return err;
}

static int write_file(struct migration *m)
{
	int err = introduce(m);

	if (!err)
		err = migration_round_begin(m);
	if (!err) {
		uint64_t words = page_words(m->vm), *all = malloc(words * sizeof *all);
		if (!all)
			return stream_fail(&m->stream, ENOMEM, "there is not enough memory");
		memset(all, 0xff, words * sizeof *all);
		err = migration_send(m, all);
		free(all);
	}
	if (!err)
		err = migration_round_end(m, 0);
	if (!err)
		err = machine_save(m->vm, &m->stream);
	if (!err && fsync(m->stream.wire.fd))
		err = stream_fail(&m->stream, errno, "it could not be brought to the disk: %s", strerror(errno));
	return err;
}

void save_to_file(struct job *job)
{
	struct migration *m = &job->m;
	struct stream *s = &m->stream;
	char partial[sizeof job->uri + 16];
	int err;

	/* The old file stays what it is until the new one is whole. */
	snprintf(partial, sizeof partial, "%s.partial", m->uri);
	s->wire.fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (s->wire.fd < 0) {
		stream_fail(s, errno, "\"%s\" cannot be written: %s", partial, strerror(errno));
		fail(job, "");
		return;
	}
	s->align = !s->zstd;
	m->id = random_id();
	m->vm->moves = false;
	err = migration_stop(m);
	if (!err)
		err = write_file(m);
	wire_close(&s->wire);
	if (!err && rename(partial, m->uri))
		err = stream_fail(s, errno, "\"%s\" cannot be put in place: %s", m->uri, strerror(errno));
	if (err) {
		unlink(partial);
		fail(job, "it was not saved: ");
		return;
	}
	sync_directory(m->uri);
	if (!job->quit)
		migration_resume(m);
	job_end(job, JOB_DONE, "saved to %.200s", m->uri);
	if (job->quit)
		vm_stop(m->vm, HV_OK, "%s", m->reason);
}

/* --- migrate -------------------------------------------------------------------------------------------------------------------- */

/* The destination's answer to what the machine is. */
static int accepted(struct migration *m)
{
	struct stream *s = &m->stream;
	struct section sec;
	int err = stream_expect(s);

	if (!err && s->header.id != m->id)
		err = stream_fail(s, EPROTO, "it answers to another migration");
	if (!err)
		err = section_read(s, &sec);
	if (err)
		return err;
	if (sec.header.type == MSG_REFUSE)
		return stream_fail(s, EPROTO, "the destination refuses: %.*s", (int)sec.header.length, (const char *)sec.payload);
	if (sec.header.type != MSG_ACCEPT)
		return stream_fail(s, EPROTO, "the destination says %u where it should accept", sec.header.type);
	return record_open(m, sec.payload, sec.header.length);
}

static int send_owed(struct migration *m)
{
	struct iovec iov = { m->owed, page_words(m->vm) * sizeof *m->owed };

	return section_write(&m->stream, SECTION_OWED, 0, &iov, 1);
}

/* A destination that hangs up may have said why before: then that is what happened, and not that nothing could be written any more. */
static void hear_refusal(struct migration *m)
{
	struct stream *s = &m->stream;
	struct section sec;
	char first[sizeof s->err];

	memcpy(first, s->err, sizeof first);
	s->wire.patience = REFUSAL_NS;
	bool greeted = s->header.id == m->id || !stream_expect(s);
	if (greeted && !section_read(s, &sec) && sec.header.type == MSG_REFUSE)
		stream_fail(s, EPROTO, "the destination refused: %.*s", (int)sec.header.length, (const char *)sec.payload);
	else
		memcpy(s->err, first, sizeof first);
}

/* The VM runs at the other side. Post-copy: its memory follows. */
static void leave(struct job *job)
{
	struct migration *m = &job->m;

	if (m->postcopy)
		postcopy_follow(m);
	job_end(job, JOB_DONE, "moved to %.200s", m->uri);
	vm_stop(m->vm, HV_OK, "%s", m->reason);
}

/* From the connection to the source's last byte of state, with the account of it. 0, or -errno with s->err. */
static int send_vm(struct migration *m)
{
	struct stream *s = &m->stream;
	char why[200];
	int err = wire_connect(&s->wire, m->uri, CONNECT_NS, why, sizeof why);

	if (err)
		return stream_fail(s, -err, "%s", why);
	err = introduce(m);
	if (!err)
		err = accepted(m);
	if (!err)
		err = precopy(m);
	if (err)
		return err;
	uint64_t sent = clock_ns();
	m->parts.final_round = sent - m->vm->stopped_ns;
	if (m->postcopy)
		err = send_owed(m);
	if (!err)
		err = machine_save(m->vm, s);
	m->parts.state = clock_ns() - sent;
	return err;
}

void migrate_away(struct job *job)
{
	struct migration *m = &job->m;
	enum commit_fate fate;

	m->id = random_id();
	m->vm->moves = true;
	m->stream.wire.patience = PATIENCE_NS;
	int err = send_vm(m);
	if (err == -EPIPE)
		hear_refusal(m);
	if (err) {
		if (err == -ETIMEDOUT && !m->stream.err[0]) /* precopy() has given up */
			stream_fail(&m->stream, ETIMEDOUT, MIGRATION_TOO_SLOW);
		fail(job, "");
		record_close(m);
		return;
	}
	uint64_t sent = clock_ns();
	err = commit_source(m, &fate);
	uint64_t committed = clock_ns();
	m->parts.send = (m->heard_ready ? m->heard_ready : committed) - sent;
	m->parts.commit = committed - sent - m->parts.send;
	if (err || fate == FATE_RUN) {
		stream_fail(&m->stream, ECANCELED, "%.250s", m->reason);
		fail(job, "");
		record_close(m);
	} else if (fate == FATE_END) {
		record_close(m);
		leave(job);
	} else {
		job_end(job, JOB_STANDING,
			"nobody knows whether the VM runs at %.60s (%.120s): make sure that it does not, and say resume, or quit",
			m->uri, m->reason);
	}
}
