/*
 * A migration's connection again, behind its end: with the same id, and a flag in the header that says what for. Sections are counted from
 * 0 again, in both directions.
 */
#ifndef HV_RECONNECT_H
#define HV_RECONNECT_H

#include "migration.h"

/* The source: connects to uri and exchanges headers, as often as it takes until `limit` of clock_ns(). 0, or -errno with m->stream.err. */
int reconnect(struct migration *m, const char *uri, uint32_t flag, uint64_t limit);
/* The destination: waits at m->listening for a source of this migration, and exchanges headers. Returns the flag of its header, STREAM_ASK
 * or STREAM_MORE; others who come are sent away. -ETIMEDOUT, or -ECANCELED. */
int reaccept(struct migration *m, uint64_t limit);

#endif
