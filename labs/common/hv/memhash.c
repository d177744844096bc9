#include "memhash.h"

#include <stdbool.h>
#include <string.h>


uint32_t crc32_ieee(const uint8_t *data, size_t len)
{
	static uint32_t table[256];
	uint32_t crc = ~0u;

	for (unsigned i = 0; i < 256 && !table[255]; i++) {
		uint32_t r = i;
		for (unsigned bit = 0; bit < 8; bit++)
			r = r & 1 ? r >> 1 ^ 0xedb88320 : r >> 1;
		table[i] = r;
	}
	while (len--)
		crc = crc >> 8 ^ table[(crc ^ *data++) & 0xff];
	return ~crc;
}

void memhash_json(const struct guest_mem *mem, FILE *out)
{
	bool comma = false;

	fputc('{', out);
	for (uint64_t gpa = 0; gpa < mem->size; gpa += PAGE) {
		const uint8_t *page = guest_range(mem, gpa, PAGE);

		/* All zero: the first byte is, and each is like the one before it. */
		if (!page[0] && !memcmp(page, page + 1, PAGE - 1))
			continue;
		fprintf(out, "%s\"0x%llx\":\"%08x\"", comma ? "," : "", (unsigned long long)gpa, crc32_ieee(page, PAGE));
		comma = true;
	}
	fputc('}', out);
}
