#include "acpi_aml.h"

#include <string.h>

/* 20.3, the bytes that stand for each kind of object. */
enum {
	NAME_OP = 0x08,
	BYTE_PREFIX = 0x0a,
	WORD_PREFIX = 0x0b,
	DWORD_PREFIX = 0x0c,
	STRING_PREFIX = 0x0d,
	SCOPE_OP = 0x10,
	BUFFER_OP = 0x11,
	PACKAGE_OP = 0x12,
	EXT_PREFIX = 0x5b,
	DEVICE_OP = 0x82, /* behind EXT_PREFIX */
};

/* 6.4.2 and 6.4.3: tags of resource descriptors. */
enum { END_TAG = 0x79, MEMORY32_FIXED = 0x86, EXTENDED_INTERRUPT = 0x89 };

/* A length counts its own bytes, and is written when what it counts is complete (20.2.4): one byte, or two up to LENGTH_MAX. */
#define LENGTH_BYTES 2
#define SHORT_LENGTH_MAX 0x3fu
#define LENGTH_MAX 0xfffu
/* The size of a buffer of resources: a byte, with its prefix. */
#define SIZE_BYTES 2

static void put(struct aml *a, const void *data, size_t len)
{
	if (len > a->room - a->len) {
		a->full = true;
		return;
	}
	memcpy(a->bytes + a->len, data, len);
	a->len += len;
}

static void put_byte(struct aml *a, uint8_t byte)
{
	put(a, &byte, 1);
}

static void put_bytes(struct aml *a, uint32_t value, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		put_byte(a, (uint8_t)(value >> 8 * i));
}

static void put_text(struct aml *a, const char *text)
{
	put(a, text, strlen(text));
}

/* Where the length is going to be. */
static size_t begin(struct aml *a)
{
	size_t at = a->len;
	put_bytes(a, 0, LENGTH_BYTES);
	return at;
}

size_t aml_scope(struct aml *a, const char *name)
{
	put_byte(a, SCOPE_OP);
	size_t at = begin(a);
	put_text(a, name);
	return at;
}

size_t aml_device(struct aml *a, const char *name)
{
	put_byte(a, EXT_PREFIX);
	put_byte(a, DEVICE_OP);
	size_t at = begin(a);
	put_text(a, name);
	return at;
}

size_t aml_package(struct aml *a, uint8_t elements)
{
	put_byte(a, PACKAGE_OP);
	size_t at = begin(a);
	put_byte(a, elements);
	return at;
}

void aml_end(struct aml *a, size_t at)
{
	size_t len = a->len - at;

	a->full = a->full || len > LENGTH_MAX;
	if (a->full)
		return;
	if (len - 1 <= SHORT_LENGTH_MAX) { /* the shortest form is what compilers write */
		memmove(a->bytes + at + 1, a->bytes + at + LENGTH_BYTES, len - LENGTH_BYTES);
		a->bytes[at] = (uint8_t)(len - 1);
		a->len--;
	} else {
		a->bytes[at] = (uint8_t)(1 << 6 | (len & 0xf)); /* one more byte follows; of this one the low half counts */
		a->bytes[at + 1] = (uint8_t)(len >> 4);
	}
}

size_t aml_resources(struct aml *a)
{
	put_byte(a, BUFFER_OP);
	size_t at = begin(a);
	put_byte(a, BYTE_PREFIX);
	put_byte(a, 0);
	return at;
}

void aml_resources_end(struct aml *a, size_t at)
{
	put_byte(a, END_TAG);
	put_byte(a, 0); /* instead of a checksum (6.4.2.9) */
	size_t size = a->len - at - LENGTH_BYTES - SIZE_BYTES;
	a->full = a->full || size > UINT8_MAX;
	if (!a->full)
		a->bytes[at + LENGTH_BYTES + 1] = (uint8_t)size;
	aml_end(a, at);
}

void aml_name(struct aml *a, const char *name)
{
	put_byte(a, NAME_OP);
	put_text(a, name);
}

void aml_integer(struct aml *a, uint32_t value)
{
	if (value <= 1) { /* ZeroOp and OneOp are their values */
		put_byte(a, (uint8_t)value);
	} else if (value <= 0xff) {
		put_byte(a, BYTE_PREFIX);
		put_bytes(a, value, 1);
	} else if (value <= 0xffff) {
		put_byte(a, WORD_PREFIX);
		put_bytes(a, value, 2);
	} else {
		put_byte(a, DWORD_PREFIX);
		put_bytes(a, value, 4);
	}
}

void aml_string(struct aml *a, const char *text)
{
	put_byte(a, STRING_PREFIX);
	put(a, text, strlen(text) + 1);
}

/* A large descriptor: tag, then the length of what follows (6.4.3). */
static void put_large(struct aml *a, uint8_t tag, uint16_t len)
{
	put_byte(a, tag);
	put_bytes(a, len, 2);
}

void aml_memory32(struct aml *a, uint32_t base, uint32_t len)
{
	put_large(a, MEMORY32_FIXED, 9);
	put_byte(a, 1); /* it may be written */
	put_bytes(a, base, 4);
	put_bytes(a, len, 4);
}

void aml_interrupt(struct aml *a, uint32_t gsi)
{
	put_large(a, EXTENDED_INTERRUPT, 6);
	put_byte(a, 1u << 0 | 1u << 1); /* consumer, edge; active high and exclusive are 0 */
	put_byte(a, 1);                 /* one number */
	put_bytes(a, gsi, 4);
}
