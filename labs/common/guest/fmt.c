#include "fmt.h"

#include "string.h"

#include <stdbool.h>
#include <stdint.h>

struct sink {
	char *buf;
	size_t size, len;
};

struct spec {
	unsigned width;
	bool left, zeros, is_long;
};

static void put(struct sink *out, char c)
{
	if (out->len + 1 < out->size)
		out->buf[out->len++] = c;
}

static void put_padded(struct sink *out, const struct spec *spec, const char *s, size_t len)
{
	size_t pad = spec->width > len ? spec->width - len : 0;

	for (; pad && !spec->left; pad--)
		put(out, spec->zeros ? '0' : ' ');
	while (len--)
		put(out, *s++);
	for (; pad; pad--)
		put(out, ' ');
}

static void put_number(struct sink *out, const struct spec *spec, uint64_t v, unsigned base, bool negative)
{
	char digits[24], *p = digits + sizeof(digits);

	do {
		*--p = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (negative)
		*--p = '-';
	put_padded(out, spec, p, digits + sizeof(digits) - p);
}

/* Reads what stands between the % and the letter; returns a pointer to the letter. */
static const char *parse_spec(const char *fmt, struct spec *spec)
{
	*spec = (struct spec){ 0 };
	if (*fmt == '-') {
		spec->left = true;
		fmt++;
	}
	spec->zeros = *fmt == '0';
	while (*fmt >= '0' && *fmt <= '9')
		spec->width = spec->width * 10 + *fmt++ - '0';
	if (*fmt == 'l') {
		spec->is_long = true;
		fmt++;
	}
	return fmt;
}

/* One conversion. args is passed by address because a va_list is used up across calls (C17 7.16.1). */
static void convert(struct sink *out, char letter, const struct spec *spec, va_list *args)
{
	const char *s;
	int64_t v;
	char c;

	switch (letter) {
	case 's':
		s = va_arg(*args, const char *);
		put_padded(out, spec, s, strlen(s));
		break;
	case 'c':
		c = va_arg(*args, int);
		put_padded(out, spec, &c, 1);
		break;
	case 'd':
		v = spec->is_long ? va_arg(*args, int64_t) : va_arg(*args, int);
		put_number(out, spec, v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0);
		break;
	case 'u':
	case 'x':
		put_number(out, spec, spec->is_long ? va_arg(*args, uint64_t) : va_arg(*args, unsigned),
			   letter == 'u' ? 10 : 16, false);
		break;
	default: put(out, letter); /* %%, and a mistake shows as itself */
	}
}

size_t format(char *buf, size_t size, const char *fmt, va_list args)
{
	struct sink out = { buf, size, 0 };
	struct spec spec;
	va_list ap;

	va_copy(ap, args);
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put(&out, *fmt);
			continue;
		}
		fmt = parse_spec(fmt + 1, &spec);
		if (!*fmt)
			break;
		convert(&out, *fmt, &spec, &ap);
	}
	va_end(ap);
	buf[out.len] = 0;
	return out.len;
}
