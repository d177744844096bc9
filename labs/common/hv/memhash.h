/*
 * What guest memory held at the end, so that two runs can be compared page by page (hv run --hash-memory).
 */
#ifndef HV_MEMHASH_H
#define HV_MEMHASH_H

#include "mem.h"

#include <stdio.h>

/* CRC-32 of IEEE 802.3 (zlib's crc32(0, data, len)). */
uint32_t crc32_ieee(const uint8_t *data, size_t len);

/* "0x1000":"1c291ca3",... for each page of 4 KiB that is not all zero, as one JSON object. */
void memhash_json(const struct guest_mem *mem, FILE *out);

#endif
