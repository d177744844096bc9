/*
 * What a small 32-bit kernel of a course does when it starts: looks at what the multiboot loader passed, writes on the text screen, talks
 * to the keyboard controller. It reports observations; tests/vm/test_platform.py judges them. The first lines are the same on bare QEMU,
 * which loads such an image by -kernel. With the word "keys" on the command line it then echoes what is typed, until Enter.
 */
#include "dbg.h"
#include "io.h"

#include <stdbool.h>
#include <stdint.h>

#define SCREEN ((volatile uint16_t *)0xb8000)
#define COLUMNS 80
#define CRTC_INDEX 0x3d4
#define CRTC_DATA 0x3d5
#define KBD_DATA 0x60
#define KBD_STATUS 0x64
#define PIC_COMMAND 0x20
#define PIC_READ_IRR 0x0a
#define TOP_LINE 3 /* of what is shown */

struct multiboot {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, boot_loader_name;
};

struct module {
	uint32_t start, end, string, reserved;
};

struct map_entry {
	uint32_t size, addr, addr_high, len, len_high, type;
};

static uint32_t zeros[1024]; /* .bss: whoever loads the image clears it */

static void say(const char *key, const char *text)
{
	dputs(key);
	dputc('=');
	dputs(text);
	dputc('\n');
}

/* Fletcher's sum: enough to see that a module came whole. */
static uint32_t sum(const uint8_t *data, uint32_t len)
{
	uint32_t a = 0, b = 0;
	for (uint32_t i = 0; i < len; i++) {
		a = (a + data[i]) % 65535;
		b = (b + a) % 65535;
	}
	return b << 16 | a;
}

static void tell_modules(const struct multiboot *mb)
{
	const struct module *m = (const struct module *)mb->mods_addr;

	report("modules", mb->flags & 8 ? mb->mods_count : 0);
	for (uint32_t i = 0; mb->flags & 8 && i < mb->mods_count; i++, m++) {
		report("module.offset", m->start & 0xfff);
		report("module.start", m->start);
		report("module.length", m->end - m->start);
		report("module.sum", sum((const uint8_t *)m->start, m->end - m->start));
		say("module.string", (const char *)m->string);
	}
}

static void tell_memory(const struct multiboot *mb)
{
	report("lower", mb->mem_lower);
	report("upper", mb->mem_upper);
	for (uint32_t at = mb->mmap_addr; mb->flags & 64 && at < mb->mmap_addr + mb->mmap_length;) {
		const struct map_entry *e = (const struct map_entry *)at;
		report("map.addr", (uint64_t)e->addr_high << 32 | e->addr);
		report("map.length", (uint64_t)e->len_high << 32 | e->len);
		report("map.type", e->type);
		at += e->size + sizeof(e->size);
	}
}

/* --- screen ------------------------------------------------------------------------------------------------------------ */

static void crtc(uint8_t index, uint8_t value)
{
	outb(CRTC_INDEX, index);
	outb(CRTC_DATA, value);
}

static uint32_t crtc_pair(uint8_t high)
{
	outb(CRTC_INDEX, high);
	uint32_t value = inb(CRTC_DATA);
	outb(CRTC_INDEX, high + 1);
	return value << 8 | inb(CRTC_DATA);
}

static unsigned cursor;

static void put(uint8_t c)
{
	SCREEN[cursor++] = 0x0700 | c;
}

static void place_cursor(void)
{
	crtc(0x0e, cursor >> 8);
	crtc(0x0f, (uint8_t)cursor);
}

static void use_screen(void)
{
	for (unsigned i = 0; i < COLUMNS * 60; i++)
		SCREEN[i] = 0x0720;
	cursor = TOP_LINE * COLUMNS;
	crtc(0x0c, cursor >> 8);
	crtc(0x0d, (uint8_t)cursor);
	for (const char *c = "teaching kernel \xc9\xcd\xbb"; *c; c++)
		put((uint8_t)*c);
	cursor = (TOP_LINE + 1) * COLUMNS;
	place_cursor();
	report("screen.start", crtc_pair(0x0c));
	report("screen.cursor", crtc_pair(0x0e));
	/* Both edges of the retrace come. */
	while (inb(0x3da) & 8)
		;
	while (!(inb(0x3da) & 8))
		;
	say("screen.retrace", "seen");
}

/* --- keyboard ---------------------------------------------------------------------------------------------------------- */

static bool kbd_wait(void)
{
	for (unsigned i = 0; i < 1000000; i++)
		if (inb(KBD_STATUS) & 1)
			return true;
	return false;
}

static void answer(const char *key)
{
	report(key, kbd_wait() ? inb(KBD_DATA) : 0xbad);
}

static void use_keyboard(void)
{
	while (inb(KBD_STATUS) & 1)
		inb(KBD_DATA);
	outb(KBD_STATUS, 0xaa);
	answer("kbd.test");
	outb(KBD_STATUS, 0xab);
	answer("kbd.lines");
	outb(KBD_STATUS, 0x60);
	outb(KBD_DATA, 0x65);
	outb(KBD_STATUS, 0x20);
	answer("kbd.byte");
	outb(KBD_DATA, 0xf2);
	answer("kbd.ack");
	answer("kbd.id1");
	answer("kbd.id2");
	outb(KBD_DATA, 0xed);
	answer("kbd.lamps");
	outb(KBD_DATA, 0x00);
	answer("kbd.lamps");
	/* The interrupt shows in the 8259's request register. */
	outb(KBD_DATA, 0xee);
	kbd_wait();
	outb(PIC_COMMAND, PIC_READ_IRR);
	report("kbd.irq", inb(PIC_COMMAND) & 2);
	answer("kbd.echo");
}

static void echo_keys(void)
{
	say("keys", "ready");
	for (uint8_t code = 0; code != 0x1c;) { /* Enter */
		while (!(inb(KBD_STATUS) & 1))
			;
		code = inb(KBD_DATA);
		report("key", code);
		if (code < 0x80)
			put("..1234567890-=..qwertyuiop[]..asdfghjkl;'`.\\zxcvbnm,./.*. "[code < 58 ? code : 0]);
		place_cursor();
	}
	for (;;) /* until somebody has looked at the screen */
		;
}

static bool has_word(const char *line, const char *word)
{
	for (; *line; line++) {
		unsigned i = 0;
		while (word[i] && line[i] == word[i])
			i++;
		if (!word[i])
			return true;
	}
	return false;
}

/* Called by teaching-start.S with what EAX and EBX held. */
void teaching_main(uint32_t magic, const struct multiboot *mb);
void teaching_main(uint32_t magic, const struct multiboot *mb)
{
	uint32_t cr0, eflags, rest = 0;

	asm("mov %%cr0, %0" : "=r"(cr0));
	asm("pushf; pop %0" : "=r"(eflags));
	report("magic", magic);
	report("paging", cr0 & 0x80000001);
	report("interrupts", eflags & 0x200);
	for (unsigned i = 0; i < sizeof(zeros) / sizeof(*zeros); i++)
		rest |= zeros[i];
	report("bss", rest);
	report("flags", mb->flags & 0x4d); /* memory, command line, modules, map */
	say("cmdline", (const char *)mb->cmdline);
	tell_modules(mb);
	tell_memory(mb);
	say("loader", mb->flags & 512 ? (const char *)mb->boot_loader_name : "");
	use_screen();
	use_keyboard();
	if (has_word((const char *)mb->cmdline, "keys"))
		echo_keys();
	if (has_word((const char *)mb->cmdline, "reset"))
		outb(KBD_STATUS, 0xfe);
	guest_exit(0);
}
