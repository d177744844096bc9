/* What Lab 5's stream.c stands on: memory, sentences, sums, compression. */
#include "stream.h"
#include "vm.h"

#include <errno.h>
#include <nmmintrin.h>
#include <pthread.h>
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

/*
 * Polynomial 0x1edc6f41, bits reversed. table[k][b]: what the byte b does to a CRC when k more bytes come behind it, so that eight
 * bytes need eight looks that do not wait for each other ("slicing by 8").
 */
static uint32_t table[8][256];

static void table_make(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint32_t c = i;

		for (unsigned bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
		table[0][i] = c;
	}
	for (unsigned k = 1; k < 8; k++)
		for (unsigned i = 0; i < 256; i++)
			table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

static uint32_t crc32c_slices(uint32_t crc, const uint8_t *p, size_t n)
{
	uint64_t word;

	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, 8);
		word ^= crc;
		crc = 0;
		for (unsigned k = 0; k < 8; k++)
			crc ^= table[7 - k][word >> 8 * k & 0xff];
	}
	while (n--)
		crc = crc >> 8 ^ table[0][(crc ^ *p++) & 0xff];
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

static uint32_t (*fastest)(uint32_t crc, const uint8_t *p, size_t n);

/* way is volatile, or a compiler that knows it leaves out calls of which nobody wants the result. */
static uint64_t cost(uint32_t (*volatile way)(uint32_t crc, const uint8_t *p, size_t n))
{
	way(0, (uint8_t *)table, sizeof table); /* an emulated CPU translates it first */
	uint64_t begin = clock_ns();

	way(0, (uint8_t *)table, sizeof table);
	return clock_ns() - begin;
}

/* The instruction is five times as fast as the table, or four times as slow: where the CPU is one in software it is a call. */
static void choose(void)
{
	table_make();
	fastest = __builtin_cpu_supports("sse4.2") && cost(crc32c_words) < cost(crc32c_slices) ? crc32c_words : crc32c_slices;
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, choose);
	return ~fastest(~crc, p, n);
}
