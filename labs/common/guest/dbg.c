#include "dbg.h"

#include "io.h"

#define PORT_DEBUG 0xe9
#define PORT_EXIT 0xf4

void dputc(char c)
{
	outb(PORT_DEBUG, c);
}

void dputs(const char *s)
{
	while (*s)
		dputc(*s++);
}

void dprint_hex(uint64_t v)
{
	if (v >> 4)
		dprint_hex(v >> 4);
	dputc("0123456789abcdef"[v & 15]);
}

void report(const char *key, uint64_t value)
{
	dputs(key);
	dputc('=');
	dprint_hex(value);
	dputc('\n');
}

_Noreturn void guest_exit(uint32_t code)
{
	outl(PORT_EXIT, code);
	for (;;) { /* on a machine without the exit device: stand still */
		cli();
		hlt();
	}
}
