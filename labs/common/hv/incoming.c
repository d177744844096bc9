#include "incoming.h"
#include "engine.h"
#include "lab5.h"
#include "record.h"
#include "virtio_state.h"
#include "vm_pause.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_NS 10000000000ull

struct incoming {
	struct migration m;
	uint64_t *seen; /* a bit for each page that has come, at least once */
	pthread_t thread;
	bool joinable;
};

/* A struct of config.c's out of a section. */
static int take_config(struct stream *s, struct config *c)
{
	struct section sec;
	struct state_io io;
	int err = section_read(s, &sec);

	if (err)
		return err;
	if (sec.header.type != SECTION_CONFIG)
		return stream_fail(s, EPROTO, "it does not say which machine it is");
	*c = (struct config){ 0 };
	state_load_begin(&io, "the configuration", 0, sec.payload, sec.header.length);
	config_io(c, &io);
	return state_end(&io) ? stream_fail(s, EPROTO, "%s", io.err) : 0;
}

static int open_file(struct stream *s, const char *file)
{
	s->wire.fd = open(file, O_RDONLY | O_CLOEXEC);
	return s->wire.fd < 0 ? stream_fail(s, errno, "%s", strerror(errno)) : 0;
}

int restore_options(const char *file, struct vm_options *o, struct config *config)
{
	struct stream s;
	int err = stream_init(&s);

	if (!err)
		err = open_file(&s, file);
	if (!err)
		err = stream_expect(&s);
	if (!err)
		err = take_config(&s, config);
	if (err)
		fprintf(stderr, "hv: \"%s\" cannot be restored: %s\n", file, s.err);
	stream_free(&s);
	if (err)
		return err == -ENOSYS ? HV_TODO : HV_USAGE;
	if (!engine_find(config->engine)) {
		fprintf(stderr, "hv: \"%s\" cannot be restored: there is no engine \"%s\"\n", file, config->engine);
		return HV_USAGE;
	}
	o->engine = engine_find(config->engine)->name;
	o->mem_size = config->mem_size;
	o->cpus = config->cpus;
	o->restore = file;
	return 0;
}

/* --- before memory --------------------------------------------------------------------------------------------------------------- */

static int check_cpuid(struct vm *vm, struct stream *s, const struct section *sec)
{
	struct cpuid_table *seen = calloc(2, sizeof *seen), *have;
	struct state_io io;
	char why[200];
	int err = 0;

	if (!seen)
		return stream_fail(s, ENOMEM, "there is not enough memory");
	have = seen + 1;
	state_load_begin(&io, "CPUID", 0, sec->payload, sec->header.length);
	cpuid_table_io(seen, &io);
	if (state_end(&io))
		err = stream_fail(s, EPROTO, "%s", io.err);
	else if (!vm->engine->cpuid_table || vm->engine->cpuid_table(vm, have))
		err = stream_fail(s, EPROTO, "this engine does not know what the guest's CPUID answers");
	else if (cpuid_covers(have, seen, why, sizeof why))
		err = stream_fail(s, EPROTO, "%s", why);
	else if (vm->engine->cpuid_put && vm->engine->cpuid_put(vm, seen))
		err = stream_fail(s, EPROTO, "KVM does not take what the guest's CPUID answers");
	free(seen);
	return err;
}

/* Configuration and CPUID: can such a VM be made here? Says what is wrong in s->err. */
static int check_machine(struct vm *vm, struct stream *s)
{
	struct config config;
	struct section sec;
	char why[220];
	int err = take_config(s, &config);

	if (err)
		return err;
	if (config_match(vm, &config, why, sizeof why))
		return stream_fail(s, EPROTO, "%s", why);
	if (!vm->engine->cpuid_table)
		return 0;
	err = section_read(s, &sec);
	if (err)
		return err;
	if (sec.header.type != SECTION_CPUID)
		return stream_fail(s, EPROTO, "it does not say what its CPUs can do");
	return check_cpuid(vm, s, &sec);
}

/* --- memory and state ------------------------------------------------------------------------------------------------------------- */

/* A VM that is loaded begins with memory that nobody has touched: zeros that come first cost nothing. */
static int put_page(void *opaque, uint64_t gfn, const void *page)
{
	struct incoming *in = opaque;
	uint8_t *p = in->m.vm->mem.hva + gfn * PAGE;

	if (page)
		memcpy(p, page, PAGE);
	else if (in->seen[gfn / 64] >> gfn % 64 & 1)
		memset(p, 0, PAGE);
	in->seen[gfn / 64] |= 1ull << gfn % 64;
	return 0;
}

static int take_owed(struct incoming *in, const struct section *sec)
{
	struct migration *m = &in->m;
	uint64_t words = page_words(m->vm);

	if (sec->header.length != words * sizeof *m->owed || m->owed || !m->vm->opt.incoming)
		return stream_fail(&m->stream, EPROTO, "its list of pages that are to follow makes no sense");
	m->owed = malloc(words * sizeof *m->owed);
	if (!m->owed)
		return stream_fail(&m->stream, ENOMEM, "there is not enough memory");
	memcpy(m->owed, sec->payload, words * sizeof *m->owed);
	m->postcopy = true;
	if (uffd_start(m))
		return stream_fail(&m->stream, EOPNOTSUPP, "%.250s", m->reason);
	return 0;
}

/* Every page has come, or will. */
static int check_complete(struct incoming *in)
{
	struct migration *m = &in->m;

	for (uint64_t gfn = 0; gfn < m->vm->mem.size / PAGE; gfn++)
		if (!(in->seen[gfn / 64] >> gfn % 64 & 1) && !(m->owed && m->owed[gfn / 64] >> gfn % 64 & 1))
			return stream_fail(&m->stream, EPROTO, "the page at 0x%llx is missing", (unsigned long long)(gfn * PAGE));
	return 0;
}

/* Everything from the first page to SECTION_END. */
static int load(struct incoming *in)
{
	struct migration *m = &in->m;
	struct stream *s = &m->stream;
	struct section sec;
	int err = 0, mapped = 0;

	while (!err) {
		if (m->vm->opt.lazy)
			mapped = lazy_next(m->vm, s, in->seen);
		if (mapped)
			err = mapped < 0 ? mapped : 0;
		else
			err = section_read(s, &sec);
		if (err || mapped)
			continue;
		if (sec.header.type == SECTION_PAGES)
			err = pages_read(s, &sec, m->vm->mem.size / PAGE, put_page, in);
		else if (sec.header.type == SECTION_ROUND)
			m->rounds = sec.header.instance;
		else if (sec.header.type == SECTION_OWED)
			err = take_owed(in, &sec);
		else if (sec.header.type == MSG_CANCEL)
			err = stream_fail(s, ECANCELED, "it was cancelled at the source");
		else
			break;
	}
	if (!err)
		err = check_complete(in);
	if (!err)
		err = machine_load(m->vm, s, &sec);
	if (!err)
		vm_parts_loaded(m->vm);
	if (!err && m->uffd)
		err = uffd_loaded(m);
	/* It was paused by its user, and stays it until a user says resume here. */
	pthread_mutex_lock(&m->vm->lock);
	if (!err && m->vm->paused)
		err = vm_pause(m->vm);
	pthread_mutex_unlock(&m->vm->lock);
	return err;
}

/* --- from another hv --------------------------------------------------------------------------------------------------------------- */

static bool vm_ends(void *opaque)
{
	return ((struct vm *)opaque)->stopping;
}

static void refuse(struct migration *m)
{
	char why[sizeof m->stream.err];
	struct iovec iov = { why, strlen(m->stream.err) };

	memcpy(why, m->stream.err, sizeof why);
	section_write(&m->stream, MSG_REFUSE, 0, &iov, 1); /* it has a sentence of its own when it fails */
	memcpy(m->stream.err, why, sizeof why);
}

/* Behind the commit: pages that follow, or a source that did not hear the answer. */
static void *serve(void *opaque)
{
	struct incoming *in = opaque;
	struct migration *m = &in->m;

	if (m->postcopy)
		postcopy_serve(m);
	else
		migration_await(m, true);
	/* Nobody is waited for any more. Who connects must not wait for an answer. */
	wire_unlisten(m->listening);
	m->listening = -1;
	return NULL;
}

static int accept_vm(struct incoming *in)
{
	struct migration *m = &in->m;
	struct stream *s = &m->stream;
	int err = wire_accept(&s->wire, m->listening);

	if (err)
		return stream_fail(s, -err, "%s", err == -ECANCELED ? "nobody came" : strerror(-err));
	s->wire.patience = PATIENCE_NS;
	err = stream_expect(s);
	if (err)
		return err;
	m->id = s->header.id;
	if (s->header.flags)
		return stream_fail(s, EPROTO, "it goes on with a migration that is unknown here");
	err = stream_begin(s, m->id, 0);
	if (!err)
		err = check_machine(m->vm, s);
	if (!err)
		err = record_create(m);
	if (!err)
		err = record_accept(m);
	if (!err)
		err = load(in);
	if (err)
		refuse(m);
	return err;
}

static int arrive(struct incoming *in)
{
	struct migration *m = &in->m;
	struct vm *vm = m->vm;
	enum commit_fate fate;
	char why[200];

	m->uri = vm->opt.incoming;
	if (wire_listen(m->uri, &m->listening, why, sizeof why))
		return vm_stop(vm, HV_USAGE, "%s", why);
	int err = accept_vm(in);
	if (err && !vm->stopping)
		return vm_stop(vm, HV_HOST, "the VM that was to come does not: %s", m->stream.err);
	if (err || commit_destination(m, &fate))
		return -ECANCELED;
	if (fate != FATE_RUN)
		return vm_stop(vm, HV_HOST, "the VM stays where it was: %s", m->reason);
	in->joinable = !pthread_create(&in->thread, NULL, serve, in);
	if (!in->joinable && m->postcopy)
		return vm_stop(vm, HV_HOST, "the host has no thread left");
	return 0;
}

/* --- both --------------------------------------------------------------------------------------------------------------------------- */

static int restore(struct incoming *in)
{
	struct stream *s = &in->m.stream;
	int err = open_file(s, in->m.vm->opt.restore);

	if (!err)
		err = stream_expect(s);
	if (!err)
		err = check_machine(in->m.vm, s);
	if (!err)
		err = load(in);
	if (err && !in->m.vm->stopping)
		vm_stop(in->m.vm, HV_USAGE, "\"%s\" cannot be restored: %s", in->m.vm->opt.restore, s->err);
	wire_close(&s->wire);
	return err;
}

int incoming_take(struct vm *vm)
{
	struct incoming *in = calloc(1, sizeof *in);

	if (in)
		in->seen = calloc(page_words(vm), sizeof *in->seen);
	if (!in || !in->seen || stream_init(&in->m.stream)) {
		free(in ? in->seen : NULL);
		free(in);
		return vm_stop(vm, HV_HOST, "there is not enough memory");
	}
	vm->arrival = in;
	in->m.vm = in->m.stream.vm = vm;
	in->m.listening = -1;
	in->m.stream.wire.cancelled = vm_ends;
	in->m.stream.wire.opaque = vm;
	pthread_mutex_init(&in->m.send_lock, NULL);
	if (vm->opt.restore ? restore(in) : arrive(in))
		return -ECANCELED;
	pthread_mutex_lock(&vm->lock);
	virtio_unsettle(vm); /* disks and networks are this process's from now on */
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

void incoming_destroy(struct vm *vm)
{
	struct incoming *in = vm->arrival;

	if (!in)
		return;
	if (in->joinable)
		pthread_join(in->thread, NULL);
	uffd_stop(&in->m);
	record_close(&in->m);
	wire_unlisten(in->m.listening);
	stream_free(&in->m.stream);
	pthread_mutex_destroy(&in->m.send_lock);
	free(in->m.owed);
	free(in->seen);
	free(in);
	vm->arrival = NULL;
}
