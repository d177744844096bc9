/*
 * Where a stream goes and comes from: a file, or a connection to the other side of a migration (unix:PATH, tcp:HOST:PORT).
 * Bytes only; stream.c makes sections of them. Not thread-safe: one thread reads and one writes at a time.
 */
#ifndef HV_WIRE_H
#define HV_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct wire {
	int fd;             /* -1: none. Not blocking when it is a connection */
	bool connection;    /* not a file */
	uint64_t patience;  /* ns without a byte moving after which the other side counts as gone; 0: no limit */
	uint64_t rate;      /* bytes written a second at most, 0: no limit */
	/* Looked at again and again while waiting: true ends it with -ECANCELED. May be NULL. */
	bool (*cancelled)(void *opaque);
	void *opaque;
	uint64_t written, read; /* bytes so far */
	uint64_t paid_ns;       /* the time until which the rate allows what was written */
	uint64_t left_ns;       /* when something was written last, 0: never */
};

/* URIs. Each returns 0 or -errno, with a sentence in err. wire_connect() waits until somebody listens, `patience_ns` at most. */
int wire_uri_check(const char *uri, char *err, size_t errlen);
int wire_listen(const char *uri, int *listening, char *err, size_t errlen);
/* Closes what wire_listen() opened, and removes the socket's file. */
void wire_unlisten(int listening);
int wire_accept(struct wire *w, int listening); /* -ECANCELED, -EAGAIN when w->patience ran out */
int wire_connect(struct wire *w, const char *uri, uint64_t patience_ns, char *err, size_t errlen);
void wire_close(struct wire *w);

/* All of it, in order: 0; -EPIPE (the other side is gone), -ETIMEDOUT (w->patience), -ECANCELED, or what the host says (-ENOSPC, -EIO). */
int wire_write(struct wire *w, const struct iovec *iov, unsigned n);
/* Exactly n bytes: 0; -ENODATA at the end of a file or when the other side is gone (there may have been some bytes, not all);
 * -ETIMEDOUT, -ECANCELED or -errno. */
int wire_read(struct wire *w, void *p, size_t n);
/* Is there something to read, or the end? Waits ns at most: 1, 0, or -ECANCELED. */
int wire_wait(struct wire *w, uint64_t ns);

#endif
