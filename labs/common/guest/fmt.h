/* printf's formatter, as much of it as a small kernel needs. */
#ifndef GUEST_FMT_H
#define GUEST_FMT_H

#include <stdarg.h>
#include <stddef.h>

/*
 * %s %c %d %u %x %%, with l for 64 bits and an optional width that pads with blanks on the left (with zeros if it begins
 * with 0), or on the right after a minus sign. The result is always terminated. Returns its length, at most size - 1: what
 * does not fit is cut off.
 */
size_t format(char *buf, size_t size, const char *fmt, va_list args);

#endif
