/*
 * The stream of a saved or migrating VM (docs/stream.md describes it byte by byte): a header, then sections. A file has sections in one
 * direction; a migration has them in both, and those that are only said to the other side are called messages.
 */
#ifndef HV_STREAM_H
#define HV_STREAM_H

#include "mem.h"
#include "state_io.h"
#include "wire.h"

#define STREAM_MAGIC "TRAPDOOR"
#define STREAM_VERSION 1u
#define STREAM_ASK 1u /* flag of the header: no VM follows, only MSG_ASK (a source that wants to know how it ended) */
#define STREAM_MORE 2u /* flag of the header: the rest of a post-copy migration whose connection broke */
#define SECTION_MAX (8 * MiB) /* payload */

/* In front of everything, once in each direction. 32 bytes. */
struct stream_header {
	char magic[8];
	uint32_t version, flags;
	uint64_t id;       /* of this migration, or of this file: random, never 0 */
	uint32_t reserved; /* 0 */
	uint32_t crc;      /* CRC-32C of the 28 bytes before it */
};

/* In front of each section. 24 bytes, then `length` bytes of payload. */
struct section_header {
	uint16_t type;     /* enum section_type */
	uint16_t version;  /* of the payload's layout, from 1 */
	uint32_t instance; /* which one: the vCPU, the slot of a virtio device, the number of a round; else 0 */
	uint32_t length;   /* bytes of payload, SECTION_MAX at most */
	uint32_t sequence; /* 0 for the first section of this direction, then one more each time */
	uint32_t reserved; /* 0 */
	uint32_t crc;      /* CRC-32C of the 20 bytes before it and of the payload */
};

_Static_assert(sizeof(struct stream_header) == 32 && sizeof(struct section_header) == 24, "layout of the stream");

enum section_type {
	SECTION_CONFIG = 1, /* what machine it is (struct config) */
	SECTION_CPUID = 2,  /* what its CPUs say they can do */
	SECTION_PAGES = 3,  /* a run of memory (struct pages_header) */
	SECTION_ROUND = 4,  /* end of a round: instance is its number, from 1 */
	SECTION_PART = 5,   /* the state of one part; instance says which (enum state_part_id) */
	SECTION_CPU = 6,    /* one vCPU; instance is its number */
	SECTION_OWED = 7,   /* post-copy: a bit for each page that is still at the source */
	SECTION_END = 8,    /* everything is there */

	MSG_ACCEPT = 64,    /* D: such a machine can be made here */
	MSG_REFUSE = 65,    /* D: no; the payload is the sentence why */
	MSG_READY = 66,     /* D: all of it is loaded and makes sense; nothing runs */
	MSG_COMMIT = 67,    /* S: it is yours */
	MSG_COMMITTED = 68, /* D: it is mine, and runs now */
	MSG_CANCEL = 69,    /* S: it stays here */
	MSG_ASK = 70,       /* S: did you commit? */
	MSG_ANSWER = 71,    /* D: instance 0: no, I am ready; 1: yes */
	MSG_NEED = 72,      /* D, post-copy: these pages are wanted at once (numbers of pages, 64 bits each) */
	MSG_HAVE = 73,      /* D, post-copy after a break: a bit for each page that is there */
	MSG_DONE = 74       /* post-copy. S: that was the last page. D: I have them all (payload: struct postcopy_waits) */
};

/* SECTION_PAGES: this, then zeros up to `data`, then the pages. */
struct pages_header {
	uint64_t gfn;   /* number of the first page: gpa / 4096 */
	uint32_t count; /* pages, PAGES_MAX at most */
	uint32_t kind;  /* enum pages_kind */
	uint32_t data;  /* from the payload's beginning: in files raw pages lie at multiples of 4096, so that they can be mapped */
	uint32_t size;  /* bytes at `data`, which end the payload */
};
_Static_assert(sizeof(struct pages_header) == 24, "layout of the stream");

#define PAGES_MAX 1024u /* in one section: 4 MiB */
enum pages_kind {
	PAGES_RAW = 0,  /* size = count * 4096 */
	PAGES_ZERO = 1, /* all of them are zero: no data. Whoever reads it clears the pages */
	PAGES_ZSTD = 2  /* one zstd frame that holds count * 4096 bytes */
};

/* The parts that are not a vCPU or a virtio device (instance of SECTION_PART). Numbers are never used again for something else. */
enum state_part_id {
	PART_CLOCK = 1, PART_PIC = 2, PART_IOAPIC = 3, PART_LAPIC = 4, PART_PIT = 5, PART_UART = 6, PART_CMOS = 7, PART_I8042 = 8,
	PART_CRTC = 9, PART_ACPI = 10, PART_KVM_CHIPS = 11, PART_CONSOLE = 12,
	PART_VIRTIO = 32 /* + slot: transport, queues and the device */
};

struct vm;

/* One end of a stream. */
struct stream {
	struct vm *vm;               /* that lab_todo() stops, or NULL */
	struct wire wire;
	struct stream_header header; /* ours, when written; the other side's, when read */
	uint32_t next_out, next_in;  /* sequence numbers */
	bool align;                  /* raw pages are put at multiples of 4096: it is a file */
	int zstd;                    /* level of compression of pages, 0: none */
	uint8_t *payload;            /* of the section that was read last; SECTION_MAX bytes, allocated by stream_init() */
	uint8_t *scratch;            /* room for PAGES_MAX pages: a copy of those that are written, or what was packed */
	uint8_t *packed;             /* what pages_compress() made */
	uint64_t zero_pages;         /* pages_write(): so many were zero; for the user */
	char err[256];               /* what went wrong, as a sentence */
};

/* A section that was read: payload points into the stream and is there until the next one is read. */
struct section {
	struct section_header header;
	const uint8_t *payload;
};

/* 0 or -ENOMEM. The stream has no wire yet (fd -1). */
int stream_init(struct stream *s);
void stream_free(struct stream *s); /* closes the wire, too */
/* Sets s->err to a sentence (printf style) and returns -err. */
int stream_fail(struct stream *s, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A lab step that is not written: s->err and vm_todo(). -ENOSYS. */
int stream_todo(struct stream *s, const char *step, const char *hint);
/* Packs n bytes of pages into s->packed with level s->zstd. The number of bytes, or 0 when they do not get smaller. */
size_t pages_compress(struct stream *s, const void *pages, size_t n);
/* Unpacks into s->scratch: true when the frame was whole and held exactly n bytes. */
bool pages_uncompress(struct stream *s, const void *frame, size_t size, size_t n);

/* CRC-32C (Castagnoli; RFC 3720 appendix B.4). crc is 0 for the first piece, and the result so far for the next. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

#endif
