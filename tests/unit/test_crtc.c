// sources: crtc.c bus.c mem.c state_io.c
/* The text screen: registers, code page, and what is shown when the guest sets them to anything at all. */
#include "crtc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct crtc crtc;
static struct bus bus;
static struct guest_mem mem;
static struct screen screen;

static int setup(void **state)
{
	(void)state;
	crtc_init(&crtc);
	bus_init(&bus, "port");
	assert_int_equal(bus_add(&bus, CRTC_PORT, 2, &crtc_ops, &crtc), 0);
	assert_int_equal(bus_add(&bus, CRTC_MISC_WRITE, 1, &crtc_misc_write_ops, &crtc), 0);
	assert_int_equal(bus_add(&bus, CRTC_MISC_READ, 1, &crtc_misc_read_ops, &crtc), 0);
	assert_int_equal(bus_add(&bus, CRTC_STATUS, 1, &crtc_status_ops, &crtc), 0);
	return guest_mem_create(&mem, MEM_MIN);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&mem);
	return 0;
}

static void set(uint8_t index, uint8_t value)
{
	bus_write(&bus, CRTC_PORT, 1, index);
	bus_write(&bus, CRTC_PORT + 1, 1, value);
}

static uint64_t in(uint64_t port, unsigned size)
{
	uint64_t value = ~0ull;
	assert_true(bus_read(&bus, port, size, &value));
	return value;
}

static void put(unsigned cell, const char *text)
{
	for (; *text; text++, cell++)
		assert_int_equal(guest_write(&mem, SCREEN_GPA + cell % (SCREEN_LEN / 2) * 2, (uint8_t[]){ (uint8_t)*text, 0x07 }, 2), 0);
}

static void registers(void **state)
{
	(void)state;
	set(0x0e, 0x12);
	set(0x0f, 0x34);
	bus_write(&bus, CRTC_PORT, 1, 0x0e);
	assert_int_equal(in(CRTC_PORT, 1), 0x0e);
	assert_int_equal(in(CRTC_PORT + 1, 1), 0x12);
	/* Both in one access. */
	bus_write(&bus, CRTC_PORT, 2, 0x560f);
	assert_int_equal(in(CRTC_PORT, 2), 0x560f);
	assert_int_equal(in(CRTC_PORT + 1, 1), 0x56);

	/* An index without a register, and every other one. */
	for (unsigned index = 0; index < 256; index++)
		set((uint8_t)index, (uint8_t)~index);
	for (unsigned index = 0; index < 256; index++) {
		bus_write(&bus, CRTC_PORT, 1, index);
		assert_int_equal(in(CRTC_PORT + 1, 1), index < CRTC_REGISTERS ? (uint8_t)~index : 0);
	}
	bus_write(&bus, CRTC_MISC_WRITE, 1, 0xa5);
	assert_int_equal(in(CRTC_MISC_READ, 1), 0xa5);
}

/* Programs wait for the retrace to begin, or to end. */
static void status_toggles(void **state)
{
	(void)state;
	uint64_t first = in(CRTC_STATUS, 1), second = in(CRTC_STATUS, 1);
	assert_int_equal((first ^ second) & 9, 9);
	assert_int_equal(in(CRTC_STATUS, 1), first);
}

static void shows_text_and_cursor(void **state)
{
	(void)state;
	put(0, "top");
	put(24 * 80 + 77, "end");
	set(0x0e, (3 * 80 + 7) >> 8);
	set(0x0f, (3 * 80 + 7) & 0xff);
	screen_read(&crtc, &mem, &screen);
	assert_memory_equal(screen.line[0], "top   ", 6);
	assert_int_equal(strlen(screen.line[0]), 80);
	assert_string_equal(screen.line[24] + 77, "end");
	assert_true(screen.cursor);
	assert_int_equal(screen.row, 3);
	assert_int_equal(screen.column, 7);
	set(0x0a, 0x20);
	screen_read(&crtc, &mem, &screen);
	assert_false(screen.cursor);
}

/* All 256 characters; the expected text is Python's: bytes(range(128, 256)).decode("cp437"). */
static void code_page(void **state)
{
	static const char upper[] = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀"
				    "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";
	char all[256 * 3 + 1], *end = all;
	(void)state;

	for (unsigned c = 0; c < 256; c++)
		assert_int_equal(guest_write(&mem, SCREEN_GPA + c * 2, (uint8_t[]){ (uint8_t)c, 0x07 }, 2), 0);
	screen_read(&crtc, &mem, &screen);
	for (unsigned row = 0; row < 4; row++)
		end = stpcpy(end, screen.line[row]);
	assert_memory_equal(all, " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ !\"#", strlen(" ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ !\"#"));
	const char *ascii = strstr(all, " !\"#");
	for (unsigned c = 0x20; c < 0x7f; c++)
		assert_int_equal(ascii[c - 0x20], c);
	assert_memory_equal(ascii + 0x7f - 0x20, "⌂", strlen("⌂"));
	assert_memory_equal(ascii + 0x7f - 0x20 + strlen("⌂"), upper, strlen(upper));
}

static void scrolls_by_start_address(void **state)
{
	(void)state;
	put(160, "third line");
	set(0x0c, 0);
	set(0x0d, 160);
	set(0x0e, 0);
	set(0x0f, 159); /* one cell above what is shown */
	screen_read(&crtc, &mem, &screen);
	assert_memory_equal(screen.line[0], "third line", 10);
	assert_false(screen.cursor);
	set(0x0f, 161);
	screen_read(&crtc, &mem, &screen);
	assert_true(screen.cursor);
	assert_int_equal(screen.row, 0);
	assert_int_equal(screen.column, 1);
}

/* Whatever the registers say, only the window is read: what lies around it never shows. */
static void any_start_address(void **state)
{
	(void)state;
	memset(guest_range(&mem, SCREEN_GPA - 0x1000, 0x1000), 'X', 0x1000);
	memset(guest_range(&mem, SCREEN_GPA + SCREEN_LEN, 0x1000), 'X', 0x1000);
	put(0x3fff, "ab"); /* the last cell of the window and the first one */
	for (unsigned start = 0; start < 0x10000; start += 0x101) {
		set(0x0c, (uint8_t)(start >> 8));
		set(0x0d, (uint8_t)start);
		set(0x0e, (uint8_t)~start);
		screen_read(&crtc, &mem, &screen);
		for (unsigned row = 0; row < SCREEN_ROWS; row++)
			assert_null(strchr(screen.line[row], 'X'));
		assert_true(screen.row < SCREEN_ROWS && screen.column < SCREEN_COLUMNS);
	}
	set(0x0c, 0xff);
	set(0x0d, 0xff);
	screen_read(&crtc, &mem, &screen);
	assert_memory_equal(screen.line[0], "ab  ", 4);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(registers), TEST(status_toggles), TEST(shows_text_and_cursor), TEST(code_page),
		TEST(scrolls_by_start_address), TEST(any_start_address),
	};
	return cmocka_run_group_tests_name("crtc", tests, NULL, NULL);
}
