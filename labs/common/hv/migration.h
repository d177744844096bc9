/*
 * A VM on its way: into a file, out of one, to another hv, from another hv. What Lab 5's files stand on.
 *
 *   job.c        the control socket's save, migrate, ...: one job at a time, on a thread of its own (outgoing.c, rounds.c)
 *   incoming.c   hv run --incoming URI and hv restore FILE; lazy.c: memory that is mapped from the file
 *   config.c     which machine it is; two machines that must be alike
 *   parts.c      the state of everything that is not a vCPU
 *   page_log.c   which pages were written
 *   record.c     the record that decides who has the VM when the connection does not; reconnect.c: the question that does
 *   follow.c     post-copy: memory follows the VM, over one connection or several
 *   throttle.c   vCPUs that stand still for some of their time
 *   uffd.c       pages that are missing (userfaultfd)
 */
#ifndef HV_MIGRATION_H
#define HV_MIGRATION_H

#include "kvm_pieces.h"
#include "stream.h"
#include "vm.h"

#include <stdbool.h>
#include <stdint.h>

struct section;
struct record;
struct uffd;

/* --- what machine it is (config.c) -------------------------------------------------------------------------------------------- */

#define CONFIG_STRING 256
struct config {
	char engine[16];
	char state[16];    /* whose vCPUs they are: "vcpu" (trap and hvm), "kvm" */
	uint64_t mem_size;
	uint32_t cpus;
	uint32_t ndevices;
	struct config_device {
		char name[16];            /* the option: "disk" */
		char arg[CONFIG_STRING];  /* what stood behind it; the file or the network may be another one at the other side */
		uint64_t rings;
	} device[VIRTIO_SLOTS];
};

void config_of(const struct vm *vm, struct config *c);
void config_io(struct config *c, struct state_io *io);
/* Can this VM take that one's state? 0, or -EINVAL with the difference in err. */
int config_match(const struct vm *vm, const struct config *c, char *err, size_t errlen);

#define CPUID_TABLE_MAX 256
struct cpuid_table {
	uint32_t n;
	struct kvm_cpuid_entry2 entry[CPUID_TABLE_MAX];
};
void cpuid_table_io(struct cpuid_table *t, struct state_io *io);

/* --- state behind memory (parts.c) ---------------------------------------------------------------------------------------------- */

/* In which group of parts something is. Within a group the order means nothing. */
enum part_group {
	GROUP_CLOCK,   /* the time that all others count from */
	GROUP_CHIPS,   /* interrupt controllers: they take what devices raise */
	GROUP_DEVICES, /* PIT, UART and so on: their interrupt lines are raised while they are loaded */
	GROUP_VIRTIO,  /* these look at their rings in guest memory */
	GROUP_CPUS     /* what is pending for them is there already; the last, because of the local APIC's timer */
};
struct state_part {
	uint32_t id;           /* enum state_part_id; SECTION_CPU: the vCPU's number */
	enum part_group group;
	const char *name;      /* "the UART" */
	/* Both directions. With the lock held and the vCPUs standing. */
	void (*io)(struct vm *vm, uint32_t id, struct state_io *io);
};
#define PARTS_MAX 48
/* All parts of this VM, vCPUs among them, in no order that means anything. Returns how many. */
unsigned vm_parts(struct vm *vm, struct state_part *out);
/* Carries out part->io() to a section of the stream, or from one. 0, -errno, or -EPROTO with s->err. */
int part_save(struct vm *vm, const struct state_part *part, struct stream *s);
int part_load(struct vm *vm, const struct state_part *part, struct stream *s, const struct section *sec);
uint64_t realtime_ns(void); /* CLOCK_REALTIME */
/* Behind part_load() of all: devices go on with what they had begun. */
void vm_parts_loaded(struct vm *vm);

/* --- which pages were written (page_log.c) --------------------------------------------------------------------------------------- */

/* A bit per page, in words of 64. */
static inline uint64_t page_words(const struct vm *vm) { return (vm->mem.size / PAGE + 63) / 64; }

/* From now on writes to guest memory are logged: by vCPUs (the engine's log) and by devices, emulation and everything else of hv's
 * (page_log_add()). 0 or -errno. */
int page_log_start(struct vm *vm);
/* The pages written since page_log_start() or the last fetch; they are forgotten in the log before any of them is read by the caller, so
 * that a write meanwhile is seen the next time. Returns how many, or -errno. With vCPUs running or not. */
int64_t page_log_fetch(struct vm *vm, uint64_t *bitmap);
void page_log_stop(struct vm *vm);
/* hv itself wrote [gpa, gpa + len). From any thread; does nothing when nothing is logged. */
void page_log_add(struct vm *vm, uint64_t gpa, uint64_t len);

/* --- a migration, the source's side and the destination's --------------------------------------------------------------------------- */

#define ROUNDS_MAX 256
#define MIGRATION_TOO_SLOW "it could not be moved in the time that it has"
struct migration {
	struct vm *vm;
	struct stream stream;
	uint64_t id;
	bool to_file;
	bool postcopy;         /* stop after the first round; the rest follows the VM */
	const char *uri;       /* or the file */
	uint64_t downtime;     /* ns */
	uint64_t bandwidth;    /* bytes a second while the vCPUs run, 0: no limit */
	uint64_t timeout;      /* ns, 0: none */
	uint64_t started;      /* clock_ns() */
	bool stands;           /* the vCPUs do, by migration_stop() */
	struct round {
		uint64_t pages, zero_pages, bytes, ns; /* sent in it; ns without the time in which it waited to be stepped */
		uint64_t dirty; /* pages written since it began */
		unsigned throttle;
	} round[ROUNDS_MAX];
	unsigned rounds;
	unsigned throttle;     /* percent, now */
	struct throttling {    /* throttle.c's */
		struct loop_timer timer;
		bool pausing, stands; /* it waits for the vCPUs; they stand because of it */
		uint64_t at, since, stood; /* clock_ns() of that; since the percentage was set, they have stood so long */
	} throttling;
	uint64_t pages_sent, zero_sent;
	uint64_t *owed;        /* post-copy: a bit for each page that the destination does not have (yet) */
	struct { uint64_t final_round, state, send, commit; } parts; /* of the downtime, ns */
	struct record *record; /* or NULL */
	char reason[320];      /* how it ended, as a sentence */

	/* The job's own (job.c, incoming.c). */
	volatile bool cancel;  /* the user wants it to end */
	bool step;             /* each round waits for "migrate-step" */
	volatile unsigned steps;
	bool step_waits;
	uint64_t heard_ready, ended; /* clock_ns() of MSG_READY and of the end, 0: not yet */
	uint64_t round_ns, round_bytes, round_zero; /* of the present round: when it began, and what the stream had counted then */
	bool awaited;          /* destination: migration_await() was called before the commit */
	int listening;         /* destination: still open, for a source that asks; else -1 */
	struct uffd *uffd;     /* destination, post-copy */
	volatile bool following; /* source: the VM is at the other side, its memory not yet */
	pthread_mutex_t send_lock; /* postcopy_say()'s: two threads write messages */
	struct postcopy {
		uint64_t *asked;   /* destination: a bit for each page that was asked for */
		uint64_t next;     /* source: where the pages that nobody waits for go on */
		uint64_t urgent, background; /* source: pages sent because they were asked for, and the others */
		uint64_t arrived, twice;     /* destination: pages put in; pages that were there already */
		struct postcopy_waits {      /* destination, and the source when it has MSG_DONE: */
			uint64_t faults, total_ns, longest_ns; /* how often something waited for a page, and how long */
		} waits;
		bool broken;       /* the connection is. Destination: only MSG_HAVE can be said. Source: waits for migrate-resume */
		unsigned breaks;
		char again[512];   /* source: where migrate-resume wants to go on, "" if it does not */
	} post;
};

/* A bitmap with a bit per page that several threads use. The last two return what the bit was. */
static inline bool page_bit(const uint64_t *map, uint64_t gfn)
{
	return __atomic_load_n(&map[gfn / 64], __ATOMIC_ACQUIRE) >> gfn % 64 & 1;
}
static inline bool page_bit_set(uint64_t *map, uint64_t gfn)
{
	return __atomic_fetch_or(&map[gfn / 64], 1ull << gfn % 64, __ATOMIC_ACQ_REL) >> gfn % 64 & 1;
}
static inline bool page_bit_clear(uint64_t *map, uint64_t gfn)
{
	return __atomic_fetch_and(&map[gfn / 64], ~(1ull << gfn % 64), __ATOMIC_ACQ_REL) >> gfn % 64 & 1;
}

/* The pages of a bitmap, through pages_write(), with its round's numbers; 0, -ECANCELED (the user, or the VM ended), -ETIMEDOUT
 * (m->timeout), or -errno with m->stream.err. */
int migration_send(struct migration *m, const uint64_t *bitmap);
/* Begins the next round: waits for the user's step if it is to be stepped through. Sets throttle. */
int migration_round_begin(struct migration *m);
/* Ends it: writes SECTION_ROUND and keeps the numbers; `dirty` pages were written since it began. */
int migration_round_end(struct migration *m, uint64_t dirty);
/* Bytes a second that a round may count on: m's limit, or less if the rounds so far have shown less. */
uint64_t migration_bandwidth(const struct migration *m);
/* The vCPUs stand still from when it returns, and no device writes to guest memory any more. 0 or -errno. */
int migration_stop(struct migration *m);
/* They go on (the VM stays here). Nothing if they do not stand. */
void migration_resume(struct migration *m);
/* vCPUs stand still for so many percent of their time, 0 to 99. Without the lock, and 0 before m goes away. Others may pause the VM too. */
void migration_throttle(struct migration *m, unsigned percent);

/* --- who has the VM (record.c, reconnect.c) -------------------------------------------------------------------------------------- */

/*
 * A file that both sides can see (the same host, or a shared directory), and that is renamed: "waiting" to "committed" by the destination,
 * "waiting" to "taken" by the source. A rename happens or it does not, so only one of them succeeds, whatever the connection does.
 */
/* The destination may run it: 1, it does from now on; 0, the source has taken it back; -ENOENT: there is no record. */
int record_commit(struct migration *m);
/* The source wants it back: 1, it has it; 0, the destination has committed; -ENOENT: there is no record that can be seen from here. */
int record_take(struct migration *m);
/* Connects to m->uri again and asks: NEWS_ANSWER_NO, NEWS_ANSWER_YES or NEWS_SILENCE, after m->stream.wire.patience at most. After an
 * answer the stream is connected to that side. */
int migration_ask(struct migration *m);
/* The destination waits for a source that asks, and tells it whether it has committed. It has not: 0 when the stream is connected again,
 * within 10 s. It has: answers all who ask, for 30 s. -ETIMEDOUT or -ECANCELED. */
int migration_await(struct migration *m, bool committed);

/* --- post-copy, the connection (follow.c) ------------------------------------------------------------------------------------------ */

/*
 * None of this takes vm->lock on the destination: whoever holds it may be waiting for a page.
 */
/* The source, behind the commit: postcopy_send() until everything is at the other side; when the connection breaks, it waits for the user's
 * migrate-resume and goes on. Returns when the other side has all, or the VM ends. */
void postcopy_follow(struct migration *m);
/* The user's migrate-resume, from the control socket: 0, or -EINVAL with a sentence (nothing is broken, no such place). */
int postcopy_again(struct migration *m, const char *uri, char *err, size_t errlen);
/* The destination, on a thread of its own: postcopy_receive() until all pages are there, over as many connections as it takes. */
void postcopy_serve(struct migration *m);
/* A step that is not written, on either side; -ENOSYS. (lab_todo() takes vm->lock: see above. Here who waits is let go first.) */
int postcopy_todo(struct migration *m, const char *step, const char *hint);
/* Says something to the other side, from any thread: 0 or -EPIPE. The destination, behind a break: only MSG_HAVE, with which it ends. */
int postcopy_say(struct migration *m, uint16_t type, const struct iovec *payload, unsigned n);
/* The source: takes the next message if there is one (MSG_NEED and so on): 1, 0, -EPIPE. Waits ns at most. */
int postcopy_poll(struct migration *m, struct section *sec, uint64_t ns);

/* --- post-copy, the destination's memory (uffd.c) ------------------------------------------------------------------------------------ */

/* Pages of m->owed are missing from now on; whoever touches one waits. 0, or -errno with a sentence in m->reason (no userfaultfd here). */
int uffd_start(struct migration *m);
/* All state is loaded. 0, or -EPROTO with a sentence in m->stream.err: what a missing page holds was needed for it, and nobody could send
 * it yet. On vCPU 0's thread. */
int uffd_loaded(struct migration *m);
/* From now on whoever waits is told to postcopy_fault(), on a thread of its own. */
void uffd_serve(struct migration *m);
/* Puts a page in (NULL: zeros) and lets go on who waited for it. 1; 0 when it was there. */
int uffd_put(struct migration *m, uint64_t gfn, const void *page);
/* Who waits goes on, with zeros: only for what cannot go on at all (postcopy_todo()). */
void uffd_release(struct migration *m);
/* All pages are there, or nobody who could touch one is left. */
void uffd_stop(struct migration *m);

#endif
