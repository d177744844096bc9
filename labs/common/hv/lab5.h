/*
 * Lab 5, saving and migration: what the frame calls and the lab's files provide. All functions return 0 (or a number that is said here)
 * or a negative errno; -ENOSYS after lab_todo() where a step is not written.
 *
 *   stream.c    sections and runs of pages, out and in
 *   state.c     in which order state is taken and put back; whether a CPU can take another's place; time
 *   precopy.c   the rounds of memory, and when to stop
 *   commit.c    who has the VM
 *   postcopy.c  memory that comes after the VM (extension)
 */
#ifndef HV_LAB5_H
#define HV_LAB5_H

#include "migration.h"
#include "stream.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

/* --- stream.c ----------------------------------------------------------------------------------------------------------------- */

/* Writes the header with this id and these flags, and begins to count sections. */
int stream_begin(struct stream *s, uint64_t id, uint32_t flags);
/* Reads the other side's header into s->header: magic, version, CRC, an id that is not 0. -EPROTO with s->err; or what wire_read() says. */
int stream_expect(struct stream *s);
/* Writes one section; the payload is given in pieces. */
int section_write(struct stream *s, uint16_t type, uint32_t instance, const struct iovec *payload, unsigned n);
/*
 * Reads the next section whole, before anybody looks into it. Refused with -EPROTO and a sentence in s->err: a length above
 * SECTION_MAX (before anything is allocated or read for it), a wrong CRC, a sequence number that is not the next one, a version
 * other than 1, reserved bits.
 * -ENODATA when the stream ends here, with a sentence as well.
 */
int section_read(struct stream *s, struct section *out);
/* Writes count pages from gfn on, in as few sections as it takes: runs of zero pages become PAGES_ZERO, others PAGES_RAW (or
 * PAGES_ZSTD when s->zstd is set and the run gets smaller). Each page is looked at once: what a vCPU writes meanwhile must not
 * tear the CRC. */
int pages_write(struct stream *s, const struct guest_mem *mem, uint64_t gfn, uint64_t count);
/* Puts the pages of a section where they belong: sink gets each page, NULL for one of zeros. -EPROTO with s->err for what does not lie in
 * [0, pages), has no sense, or does not hold what it says. */
typedef int pages_sink(void *opaque, uint64_t gfn, const void *page);
int pages_read(struct stream *s, const struct section *sec, uint64_t pages, pages_sink *sink, void *opaque);

/* --- state.c ------------------------------------------------------------------------------------------------------------------ */

/* Writes and reads all state behind memory: parts and vCPUs, in an order in which each finds what it needs, and SECTION_END. machine_load()
 * begins with the section `first`, and refuses (-EPROTO, s->err) what is unknown, comes twice, is missing, or has no sense. */
int machine_save(struct vm *vm, struct stream *s);
int machine_load(struct vm *vm, struct stream *s, const struct section *first);
/* The pieces of a vCPU of KVM's, taken and put back in the order that KVM demands: see enum kvm_piece. */
int kvm_cpu_take(struct kvm_cpu *cpu, struct kvm_cpu_state *state);
int kvm_cpu_put(struct kvm_cpu *cpu, const struct kvm_cpu_state *state);
/* Can a machine that offers `have` run a guest that has seen `seen`? 0, or -ENOTSUP with what is missing in err ("CPUID 7.0 EBX
 * bit 5 ..."). */
int cpuid_covers(const struct cpuid_table *have, const struct cpuid_table *seen, char *err, size_t errlen);
/* How far the guest's clocks go on (ns) between the stop at the source and the start here; both times are CLOCK_REALTIME in ns, and the two
 * hosts' clocks need not agree. */
uint64_t clock_gap(bool live, uint64_t stopped_at, uint64_t now);

/* --- precopy.c ---------------------------------------------------------------------------------------------------------------- */

enum precopy_choice { PRECOPY_ROUND, PRECOPY_THROTTLE, PRECOPY_STOP, PRECOPY_GIVE_UP };
struct precopy_facts {
	uint64_t sent;       /* pages of the round that has just ended */
	uint64_t dirty;      /* pages written since it began */
	uint64_t bandwidth;  /* bytes a second */
	uint64_t downtime;   /* ns that are allowed */
	uint64_t elapsed, timeout; /* ns since the migration began, and how long it may take (0: for ever) */
	unsigned slow_rounds; /* how many rounds one after another dirtied more than half of what they sent, this one included */
	unsigned throttle;    /* percent of their time that vCPUs stand still now */
};
/* What to do next. PRECOPY_THROTTLE: *throttle is the new percentage, and another round follows. The rule is in the handout, step 5.11. */
enum precopy_choice precopy_next(const struct precopy_facts *f, unsigned *throttle);
/* Everything from the first page to the last one that is sent while vCPUs run, then those that were dirty when they stood still. Behind it,
 * the VM is stopped (migration_stop()) and its memory is at the other side. */
int precopy(struct migration *m);

/* --- commit.c ----------------------------------------------------------------------------------------------------------------- */

/* How far a side has come. */
enum commit_stage {
	SRC_SENDING,   /* MSG_READY has not come */
	SRC_READY,     /* it has come; MSG_COMMIT was not sent, not even a part of it */
	SRC_COMMITTING,/* some of MSG_COMMIT may have been sent */
	SRC_COMMITTED, /* MSG_COMMITTED has come */
	DST_LOADING,   /* MSG_READY was not sent */
	DST_READY,     /* it may have been sent; MSG_COMMIT has not come */
	DST_COMMITTED  /* it has come, and the record says so (if there is one) */
};
/* What a side sees. */
enum commit_news {
	NEWS_BROKEN,   /* the connection ended, timed out, or carries nonsense */
	NEWS_REFUSED,  /* MSG_REFUSE (source) */
	NEWS_CANCEL,   /* the user cancels (source), MSG_CANCEL (destination) */
	NEWS_TAKEN,    /* the record was "waiting", and it is taken now: the destination can never commit (source) */
	NEWS_LOST,     /* the record says that the destination committed (source); that the source took it (destination) */
	NEWS_ANSWER_NO,  /* asked again: ready, not committed (source) */
	NEWS_ANSWER_YES, /* asked again: committed (source) */
	NEWS_SILENCE   /* nobody answers any more, and there is no record (source); nobody asked for long (destination) */
};
enum commit_fate {
	FATE_RUN,      /* the VM runs on this side, now */
	FATE_END,      /* this side's VM ends: it never runs again here */
	FATE_ASK,      /* look at the record or, without one, connect again and ask */
	FATE_COMMIT,   /* send MSG_COMMIT (again) */
	FATE_WAIT,     /* stand still until somebody connects */
	FATE_STAND     /* stand still until the user decides: nobody can know */
};
/* Who runs when what happens: the failure table of the handout. It must never let both sides run. */
enum commit_fate commit_fate(enum commit_stage stage, enum commit_news news);
/* The source's side behind machine_save(), with the VM stopped; *fate is FATE_RUN, FATE_END or FATE_STAND. */
int commit_source(struct migration *m, enum commit_fate *fate);
/* The destination's side, behind machine_load(): *fate is FATE_RUN or FATE_END. */
int commit_destination(struct migration *m, enum commit_fate *fate);

/* --- postcopy.c: memory that follows the VM. All say -EPIPE when the connection broke, and it has to be done again over another one --- */

/* The destination: somebody waits for that page. Asks for it, unless it is there or was asked for. Called on a thread that waits for
 * nothing else. */
int postcopy_fault(struct migration *m, uint64_t gfn);
/* The source, behind the commit: all pages that the other side does not have, those that it asks for first. 0 when it has all. */
int postcopy_send(struct migration *m);
/* The destination: reads pages and puts them in, until all are there. On a thread of its own while the vCPUs run. */
int postcopy_receive(struct migration *m);
/* Over a new connection. The destination says what it has, and asks again for what is waited for; the source works out from the first of
 * these what it still owes. */
int postcopy_rejoin(struct migration *m);
int postcopy_recount(struct migration *m);

#endif
