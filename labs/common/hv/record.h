/*
 * The record of a migration: a file that both sides see, and of which one rename decides who has the VM (migration.h has record_commit()
 * and record_take()). The destination makes it, next to its socket or where --record says; MSG_ACCEPT tells the source where it is.
 *
 *   PATH            waiting: the VM is the source's, until one of the two renames it
 *   PATH.committed  the VM is the destination's
 *   PATH.taken      the VM is the source's for good
 *
 * It holds the migration's id, so that nobody takes an old one, or one of another host, for his own. The destination keeps it locked while
 * it lives: one that is not locked was left behind by a process that is dead, and stands in nobody's way.
 */
#ifndef HV_RECORD_H
#define HV_RECORD_H

#include "migration.h"

#include <stddef.h>

/* The destination, when m->id is known: makes the record of m->vm->opt.record, or of a unix: URI; elsewhere there is none, and that is no
 * failure. 0, or -errno with a sentence in m->stream.err: it cannot be made, or another hv has one there. */
int record_create(struct migration *m);
/* Says MSG_ACCEPT, with the absolute path of the record in it ("" where there is none). 0 or -errno with m->stream.err. */
int record_accept(struct migration *m);
/* The source, with that payload: remembers the record if it can be seen and renamed from here, and holds this migration's id. 0, or -EPROTO
 * with m->stream.err for what is no path. */
int record_open(struct migration *m, const void *p, size_t n);
/* Nobody needs it any more, on this side: removes what is left of it. Nothing if there is none. */
void record_close(struct migration *m);

#endif
