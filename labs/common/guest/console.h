/* The console: a 16550A UART at 0x3f8 (PC16550D data sheet). Output waits for the chip, input comes by interrupt. */
#ifndef GUEST_CONSOLE_H
#define GUEST_CONSOLE_H

#include <stddef.h>

void console_init(void);
void console_write(const char *s, size_t len);
/* See format() for what it understands; at most 255 characters a call. */
void kprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/*
 * Waits for a line, echoing it; backspace works. Carriage return or line feed ends it and is not stored. At most size - 1
 * characters are kept; the result is terminated. Returns its length. The calling process sleeps.
 */
size_t console_read_line(char *buf, size_t size);

#endif
