/*
 * Lab 5, checkpoints 5.1 to 5.4: the stream. Sections that say how long they are, in which order they come and whether they arrived
 * whole, and memory in runs of pages. The layout is in stream.h and docs/stream.md.
 */
#include "lab5.h"

int stream_begin(struct stream *s, uint64_t id, uint32_t flags)
{
	// SOLUTION 5.1
	struct stream_header h = { .version = STREAM_VERSION, .flags = flags, .id = id };
	struct iovec iov = { &h, sizeof h };

	memcpy(h.magic, STREAM_MAGIC, sizeof h.magic);
	h.crc = crc32c(0, &h, offsetof(struct stream_header, crc));
	s->next_out = 0;
	int err = wire_write(&s->wire, &iov, 1);
	return err ? stream_fail(s, -err, "the header could not be written: %s", strerror(-err)) : 0;
	// STARTER 5.1: write a struct stream_header. Hint: the CRC-32C of what stands before it, crc32c(); then wire_write(). From here
	// on sections are counted from 0.
	//	(void)id;
	//	(void)flags;
	//	return stream_todo(s, "5.1", "stream_begin() in stream.c: the header of a stream");
	// END
}

int section_write(struct stream *s, uint16_t type, uint32_t instance, const struct iovec *payload, unsigned n)
{
	// SOLUTION 5.1
	struct section_header h = { .type = type, .version = 1, .instance = instance, .sequence = s->next_out };
	struct iovec iov[8] = { { &h, sizeof h } };
	uint64_t length = 0;

	if (n >= sizeof iov / sizeof *iov)
		return stream_fail(s, EINVAL, "a section in %u pieces: a bug in hv", n);
	for (unsigned i = 0; i < n; i++) {
		iov[i + 1] = payload[i];
		length += payload[i].iov_len;
	}
	if (length > SECTION_MAX)
		return stream_fail(s, EINVAL, "a section of %llu bytes: a bug in hv", (unsigned long long)length);
	h.length = (uint32_t)length;
	h.crc = crc32c(0, &h, offsetof(struct section_header, crc));
	for (unsigned i = 0; i < n; i++)
		h.crc = crc32c(h.crc, payload[i].iov_base, payload[i].iov_len);
	int err = wire_write(&s->wire, iov, n + 1);
	if (err)
		return stream_fail(s, -err, "section %u could not be written: %s", h.sequence, strerror(-err));
	s->next_out++;
	return 0;
	// STARTER 5.1: write a struct section_header and the payload behind it. Hint: length is the sum of the pieces, sequence counts
	// the sections, the CRC goes over the header before it and over the payload. One wire_write() with an array of n + 1 pieces.
	//	(void)type;
	//	(void)instance;
	//	(void)payload;
	//	(void)n;
	//	return stream_todo(s, "5.1", "section_write() in stream.c: a section of a stream");
	// END
}

int stream_expect(struct stream *s)
{
	// SOLUTION 5.2
	struct stream_header h;
	int err = wire_read(&s->wire, &h, sizeof h);

	if (err == -ENODATA)
		return stream_fail(s, ENODATA, "it ends within its header");
	if (err)
		return stream_fail(s, -err, "its header could not be read: %s", strerror(-err));
	if (memcmp(h.magic, STREAM_MAGIC, sizeof h.magic))
		return stream_fail(s, EPROTO, "it is no saved VM: it does not begin with " STREAM_MAGIC);
	if (h.crc != crc32c(0, &h, offsetof(struct stream_header, crc)))
		return stream_fail(s, EPROTO, "its header is damaged");
	if (h.version != STREAM_VERSION)
		return stream_fail(s, EPROTO, "it has version %u of the format; this hv knows version %u", h.version, STREAM_VERSION);
	if (!h.id || h.reserved || h.flags & ~(STREAM_ASK | STREAM_MORE))
		return stream_fail(s, EPROTO, "its header says what this hv does not know");
	s->header = h;
	s->next_in = 0;
	return 0;
	// STARTER 5.2: read the other side's header into s->header, and refuse what is not a header of version 1. Hint: the CRC before
	// the version, for a damaged file is not a newer one. stream_fail() keeps the sentence.
	//	return stream_todo(s, "5.2", "stream_expect() in stream.c: reading the header");
	// END
}

int section_read(struct stream *s, struct section *out)
{
	// SOLUTION 5.2
	struct section_header h;
	int err = wire_read(&s->wire, &h, sizeof h);

	if (err == -ENODATA)
		return stream_fail(s, ENODATA, "it ends before section %u", s->next_in);
	if (err)
		return stream_fail(s, -err, "section %u could not be read: %s", s->next_in, strerror(-err));
	/* The length is used before the CRC can be checked: it is the one thing that has to be bounded first. */
	if (h.length > SECTION_MAX)
		return stream_fail(s, EPROTO, "section %u claims to have %u bytes", s->next_in, h.length);
	err = wire_read(&s->wire, s->payload, h.length);
	if (err == -ENODATA)
		return stream_fail(s, ENODATA, "it ends within section %u", s->next_in);
	if (err)
		return stream_fail(s, -err, "section %u could not be read: %s", s->next_in, strerror(-err));
	if (h.crc != crc32c(crc32c(0, &h, offsetof(struct section_header, crc)), s->payload, h.length))
		return stream_fail(s, EPROTO, "section %u is damaged", s->next_in);
	if (h.sequence != s->next_in)
		return stream_fail(s, EPROTO, "section %u is missing: number %u comes in its place", s->next_in, h.sequence);
	if (h.version != 1 || h.reserved)
		return stream_fail(s, EPROTO, "section %u (type %u) has version %u of its layout, which this hv does not know",
				   h.sequence, h.type, h.version);
	s->next_in++;
	*out = (struct section){ .header = h, .payload = s->payload };
	return 0;
	// STARTER 5.2: read a section whole, into s->payload, and believe nothing of it before the CRC is right. Hint: bound the length
	// first, because you need it to read the rest. Then CRC, sequence, version. The end of the stream is -ENODATA.
	//	(void)out;
	//	return stream_todo(s, "5.2", "section_read() in stream.c: reading a section");
	// END
}

// SOLUTION 5.3
static bool page_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)page;

	for (unsigned i = 0; i < PAGE / 8; i += 8)
		if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] | word[i + 6] | word[i + 7])
			return false;
	return true;
}

static int write_run(struct stream *s, uint64_t gfn, uint32_t count, const uint8_t *copy)
{
	static const uint8_t zeros[PAGE];
	struct pages_header h = { .gfn = gfn, .count = count, .kind = copy ? PAGES_RAW : PAGES_ZERO, .data = sizeof h };
	uint32_t pad = 0;

	if (copy) {
		h.size = count * (uint32_t)PAGE;
		size_t small = s->zstd ? pages_compress(s, copy, h.size) : 0;
		if (small) {
			h.kind = PAGES_ZSTD;
			h.size = (uint32_t)small;
			copy = s->packed;
		} else if (s->align) {
			pad = (uint32_t)(-(s->wire.written + sizeof(struct section_header) + sizeof h) % PAGE);
		}
	}
	h.data += pad;
	struct iovec iov[] = { { &h, sizeof h }, { (void *)zeros, pad }, { (void *)copy, h.size } };
	return section_write(s, SECTION_PAGES, 0, iov, 3);
}
// END

int pages_write(struct stream *s, const struct guest_mem *mem, uint64_t gfn, uint64_t count)
{
	// SOLUTION 5.3
	const uint8_t *p = guest_range(mem, gfn * PAGE, count * PAGE);
	int err = 0;

	if (!p)
		return stream_fail(s, EINVAL, "pages that the guest does not have: a bug in hv");
	while (count && !err) {
		bool zero = page_is_zero(p);
		uint32_t n = 0;

		/* A vCPU may write to a page at any time. The copy is what is checked and sent: it cannot change between the two. */
		do {
			if (!zero)
				memcpy(s->scratch + n * PAGE, p, PAGE);
			p += PAGE;
			n++;
		} while (n < count && n < PAGES_MAX && page_is_zero(p) == zero);
		err = write_run(s, gfn, n, zero ? NULL : s->scratch);
		s->zero_pages += zero ? n : 0;
		gfn += n;
		count -= n;
	}
	return err;
	// STARTER 5.3: write these pages as sections of type SECTION_PAGES, a run of zero pages or a run of others each. Hint: copy a
	// run to s->scratch before you write it, for a vCPU may change a page between the CRC and the write. With s->align raw data lies
	// at a multiple of 4096 of the file (s->wire.written says where the section begins). pages_compress() when s->zstd is
	// set. Count zero pages in s->zero_pages.
	//	(void)mem;
	//	(void)gfn;
	//	(void)count;
	//	return stream_todo(s, "5.3", "pages_write() in stream.c: memory as runs of pages");
	// END
}

int pages_read(struct stream *s, const struct section *sec, uint64_t pages, pages_sink *sink, void *opaque)
{
	// SOLUTION 5.4
	struct pages_header h;
	int err = 0;

	if (sec->header.length < sizeof h)
		return stream_fail(s, EPROTO, "section %u is too short for pages", sec->header.sequence);
	memcpy(&h, sec->payload, sizeof h);
	if (!h.count || h.count > PAGES_MAX || h.gfn >= pages || h.count > pages - h.gfn)
		return stream_fail(s, EPROTO, "section %u has pages that the guest does not have", sec->header.sequence);
	if (h.data < sizeof h || h.data > sec->header.length || h.size != sec->header.length - h.data)
		return stream_fail(s, EPROTO, "section %u does not say where its pages are", sec->header.sequence);

	const uint8_t *data = sec->payload + h.data;
	bool whole = false;
	switch (h.kind) {
	case PAGES_RAW: whole = h.size == h.count * PAGE; break;
	case PAGES_ZERO:
		whole = !h.size;
		data = NULL;
		break;
	case PAGES_ZSTD:
		whole = pages_uncompress(s, data, h.size, h.count * PAGE);
		data = s->scratch;
		break;
	}
	if (!whole)
		return stream_fail(s, EPROTO, "section %u does not hold the %u pages that it says", sec->header.sequence, h.count);
	for (uint32_t i = 0; i < h.count && !err; i++)
		err = sink(opaque, h.gfn + i, data ? data + i * PAGE : NULL);
	return err;
	// STARTER 5.4: give each page of the section to sink(), NULL for one of zeros. Hint: the section may come from an enemy: check
	// count, gfn (without overflow), data and size against each other and against the section's length before you follow any.
	// pages_uncompress() fills s->scratch. A run of zeros is not nothing: the sink clears what was there.
	//	(void)sec;
	//	(void)pages;
	//	(void)sink;
	//	(void)opaque;
	//	return stream_todo(s, "5.4", "pages_read() in stream.c: runs of pages back to memory");
	// END
}
