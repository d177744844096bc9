/* What Lab 5's stream.c stands on: memory, sentences, sums, compression. */
#include "stream.h"
#include "vm.h"

#include <errno.h>
#include <nmmintrin.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <zstd.h>

#define SCRATCH (PAGES_MAX * PAGE)

int stream_init(struct stream *s)
{
	*s = (struct stream){ .wire.fd = -1 };
	s->payload = sparse_alloc(SECTION_MAX);
	s->scratch = sparse_alloc(SCRATCH);
	s->packed = sparse_alloc(SCRATCH);
	if (s->payload && s->scratch && s->packed)
		return 0;
	stream_free(s);
	return -ENOMEM;
}

void stream_free(struct stream *s)
{
	wire_close(&s->wire);
	sparse_free(s->payload, SECTION_MAX);
	sparse_free(s->scratch, SCRATCH);
	sparse_free(s->packed, SCRATCH);
	s->payload = s->scratch = s->packed = NULL;
}

int stream_fail(struct stream *s, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(s->err, sizeof s->err, fmt, args);
	va_end(args);
	return -err;
}

int stream_todo(struct stream *s, const char *step, const char *hint)
{
	if (s->vm)
		vm_todo(s->vm, step, hint);
	return stream_fail(s, ENOSYS, "step %s is not written yet: %s", step, hint);
}

size_t pages_compress(struct stream *s, const void *pages, size_t n)
{
	/* With less room than the pages take it fails when they do not get smaller. */
	size_t size = ZSTD_compress(s->packed, n < SCRATCH ? n : SCRATCH, pages, n, s->zstd);

	return ZSTD_isError(size) || size >= n ? 0 : size;
}

bool pages_uncompress(struct stream *s, const void *frame, size_t size, size_t n)
{
	return n <= SCRATCH && ZSTD_decompress(s->scratch, n, frame, size) == n;
}

/* For a CPU without the instruction. Polynomial 0x1edc6f41, bits reversed. */
static uint32_t crc32c_table[256];

__attribute__((constructor)) static void crc32c_table_make(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint32_t c = i;

		for (unsigned bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
		crc32c_table[i] = c;
	}
}

static uint32_t crc32c_bytes(uint32_t crc, const uint8_t *p, size_t n)
{
	while (n--)
		crc = crc >> 8 ^ crc32c_table[(crc ^ *p++) & 0xff];
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_words(uint32_t crc, const uint8_t *p, size_t n)
{
	uint64_t c = crc, word;

	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, 8);
		c = _mm_crc32_u64(c, word);
	}
	for (; n; n--)
		c = _mm_crc32_u8((uint32_t)c, *p++);
	return (uint32_t)c;
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	return ~(__builtin_cpu_supports("sse4.2") ? crc32c_words(~crc, p, n) : crc32c_bytes(~crc, p, n));
}
