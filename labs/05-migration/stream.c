/*
 * Lab 5, checkpoints 5.1 to 5.4: the stream. Sections that say how long they are, in which order they come and whether they arrived
 * whole, and memory in runs of pages. The layout is in stream.h and docs/stream.md.
 */
#include "lab5.h"

int stream_begin(struct stream *s, uint64_t id, uint32_t flags)
{
	// TODO 5.1: write a struct stream_header. Hint: the CRC-32C of what stands before it, crc32c(); then
	// wire_write(). From here on sections are counted from 0.
	(void)id;
	(void)flags;
	return stream_todo(s, "5.1", "stream_begin() in stream.c: the header of a stream");
}

int section_write(struct stream *s, uint16_t type, uint32_t instance, const struct iovec *payload, unsigned n)
{
	// TODO 5.1: write a struct section_header and the payload behind it. Hint: length is the sum of the pieces,
	// sequence counts the sections, the CRC goes over the header before it and over the payload. One wire_write()
	// with an array of n + 1 pieces.
	(void)type;
	(void)instance;
	(void)payload;
	(void)n;
	return stream_todo(s, "5.1", "section_write() in stream.c: a section of a stream");
}

int stream_expect(struct stream *s)
{
	// TODO 5.2: read the other side's header into s->header, and refuse what is not a header of version 1. Hint:
	// the CRC before the version, for a damaged file is not a newer one. stream_fail() keeps the sentence.
	return stream_todo(s, "5.2", "stream_expect() in stream.c: reading the header");
}

int section_read(struct stream *s, struct section *out)
{
	// TODO 5.2: read a section whole, into s->payload, and believe nothing of it before the CRC is right. Hint:
	// bound the length first, because you need it to read the rest. Then CRC, sequence, version. The end of the
	// stream is -ENODATA.
	(void)out;
	return stream_todo(s, "5.2", "section_read() in stream.c: reading a section");
}

int pages_write(struct stream *s, const struct guest_mem *mem, uint64_t gfn, uint64_t count)
{
	// TODO 5.3: write these pages as sections of type SECTION_PAGES, a run of zero pages or a run of others each.
	// Hint: copy a run to s->scratch before you write it, for a vCPU may change a page between the CRC and the
	// write. With s->align raw data lies at a multiple of 4096 of the file (s->wire.written says where the section
	// begins). pages_compress() when s->zstd is set. Count zero pages in s->zero_pages.
	(void)mem;
	(void)gfn;
	(void)count;
	return stream_todo(s, "5.3", "pages_write() in stream.c: memory as runs of pages");
}

int pages_read(struct stream *s, const struct section *sec, uint64_t pages, pages_sink *sink, void *opaque)
{
	// TODO 5.4: give each page of the section to sink(), NULL for one of zeros. Hint: the section may come from an
	// enemy: check count, gfn (without overflow), data and size against each other and against the section's length
	// before you follow any. pages_uncompress() fills s->scratch. A run of zeros is not nothing: the sink clears
	// what was there.
	(void)sec;
	(void)pages;
	(void)sink;
	(void)opaque;
	return stream_todo(s, "5.4", "pages_read() in stream.c: runs of pages back to memory");
}
