/*
 * What the guest beat.c has in its memory after so many beats, for the guest, which computes it from its memory, and for
 * the host, which computes it from the number alone.
 *
 * At each beat some pages get new contents, from the beat's number; now and then a page becomes zero. Then a sum over all
 * pages is printed: one page that is missing, old or another one's changes it.
 */
#ifndef BEAT_H
#define BEAT_H

#include <stdint.h>

#define BEAT_PAGES 48
#define BEAT_WORDS 512 /* of a page */
#define BEAT_CHANGES 4 /* pages a beat */

/* SplitMix64's output function. */
static inline uint64_t beat_mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* Which page is the i-th to change in beat n, and the seed of its new contents (0: zeros). */
static inline unsigned beat_page(uint64_t n, unsigned i)
{
	return (unsigned)(beat_mix(n * BEAT_CHANGES + i) % BEAT_PAGES);
}

static inline uint64_t beat_seed(uint64_t n, unsigned i)
{
	uint64_t seed = beat_mix(~(n * BEAT_CHANGES + i));

	return seed % 4 ? seed | 1 : 0;
}

static inline uint64_t beat_word(uint64_t seed, unsigned word)
{
	return seed ? seed * (2 * word + 1) : 0;
}

static inline uint64_t beat_add(uint64_t sum, uint64_t word)
{
	return (sum ^ word) * 0x100000001b3; /* FNV-1a's prime */
}

#endif
