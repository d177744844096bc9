// sources: gdbpacket.c gdbregs.c
/* The packet layer and the register table of the debugger stub: what comes from outside is bounded. */
#include "gdbpacket.h"
#include "gdbregs.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct gdb_reader reader;

static int setup(void **state)
{
	(void)state;
	memset(&reader, 0, sizeof(reader));
	return 0;
}

/* Feeds all bytes; returns the last event that was not "nothing" and how many there were. */
static enum gdb_event feed(const char *bytes, size_t len, unsigned *events)
{
	enum gdb_event last = GDB_NOTHING;

	*events = 0;
	for (size_t i = 0; i < len; i++) {
		enum gdb_event e = gdb_read_byte(&reader, (uint8_t)bytes[i]);
		if (e != GDB_NOTHING) {
			last = e;
			++*events;
		}
	}
	return last;
}

static enum gdb_event feed_one(const char *string)
{
	unsigned events;
	enum gdb_event e = feed(string, strlen(string), &events);
	assert_true(events <= 1);
	return e;
}

static void test_packet(void **state)
{
	(void)state;
	assert_int_equal(feed_one("$g#67"), GDB_PACKET);
	assert_string_equal(reader.buf, "g");
	assert_int_equal(feed_one("$#00"), GDB_PACKET);
	assert_string_equal(reader.buf, "");
	assert_int_equal(feed_one("$m10,4#2E"), GDB_PACKET); /* capital digits */
	assert_string_equal(reader.buf, "m10,4");
	assert_int_equal(reader.len, 5);
}

static void test_between_packets(void **state)
{
	(void)state;
	assert_int_equal(feed_one("+"), GDB_ACK);
	assert_int_equal(feed_one("-"), GDB_NAK);
	assert_int_equal(feed_one("\x03"), GDB_INTERRUPT);
	assert_int_equal(feed_one("noise#"), GDB_NOTHING);
	/* Inside a packet these bytes mean nothing special. */
	assert_int_equal(feed_one("$\x03+-#5b"), GDB_PACKET);
	assert_string_equal(reader.buf, "\x03+-");
}

static void test_damaged(void **state)
{
	(void)state;
	assert_int_equal(feed_one("$g#68"), GDB_DAMAGED);
	assert_int_equal(feed_one("$g#77"), GDB_DAMAGED);
	assert_int_equal(feed_one("$g#zz"), GDB_DAMAGED);
	assert_int_equal(feed_one("$g#6g"), GDB_DAMAGED);
	assert_int_equal(feed_one("$g#67"), GDB_PACKET); /* and on it goes */
	/* The end of one packet got lost: the next '$' begins anew. */
	assert_int_equal(feed_one("$m123$g#67"), GDB_PACKET);
	assert_string_equal(reader.buf, "g");
}

static void test_length_limit(void **state)
{
	static char packet[GDB_PACKET_MAX + 8];
	unsigned events;

	(void)state;
	for (size_t extra = 0; extra < 2; extra++) {
		size_t len = GDB_PACKET_MAX + extra;
		packet[0] = '$';
		memset(packet + 1, 'a', len);
		snprintf(packet + 1 + len, 4, "#%02x", (unsigned)(len * 'a' & 0xff));
		assert_int_equal(feed(packet, len + 4, &events), extra ? GDB_DAMAGED : GDB_PACKET);
		assert_int_equal(events, 1);
		assert_int_equal(reader.len, GDB_PACKET_MAX);
		assert_int_equal(reader.buf[GDB_PACKET_MAX], 0);
	}
	/* One that never ends. */
	packet[0] = '$';
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(feed(packet, GDB_PACKET_MAX, &events), GDB_NOTHING);
	assert_true(reader.len <= GDB_PACKET_MAX);
}

static void test_frame(void **state)
{
	uint8_t frame[GDB_FRAME_MAX];

	(void)state;
	assert_int_equal(gdb_frame(frame, "OK", 2), 6);
	assert_memory_equal(frame, "$OK#9a", 6);
	assert_int_equal(gdb_frame(frame, "", 0), 4);
	assert_memory_equal(frame, "$#00", 4);
	/* Escaped: the byte behind '}' has bit 5 turned over, and both count for the sum. */
	size_t len = gdb_frame(frame, "#$}*\0z", 6);
	assert_memory_equal(frame, "$}\x03}\x04}]}\n\0z#dc", len);
	assert_int_equal(len, 1 + 10 + 3);
}

/* What is framed is read back, also when it is as long as can be. */
static void test_round_trip(void **state)
{
	static char payload[GDB_PACKET_MAX];
	static uint8_t frame[GDB_FRAME_MAX];
	unsigned events;

	(void)state;
	memset(payload, 'e', sizeof(payload));
	size_t len = gdb_frame(frame, payload, sizeof(payload));
	assert_int_equal(feed((char *)frame, len, &events), GDB_PACKET);
	assert_memory_equal(reader.buf, payload, sizeof(payload));
	memset(payload, '#', sizeof(payload));
	assert_int_equal(gdb_frame(frame, payload, sizeof(payload)), GDB_FRAME_MAX);
}

static void test_hex_number(void **state)
{
	static const struct {
		const char *text;
		bool ok;
		uint64_t value;
		size_t used;
	} cases[] = {
		{ "0", true, 0, 1 },
		{ "1aF,4", true, 0x1af, 3 },
		{ "ffffffffffffffff", true, UINT64_MAX, 16 },
		{ "0000000000000000000001", true, 1, 22 },
		{ "10000000000000000", false, 0, 0 },
		{ "", false, 0, 0 },
		{ ",1", false, 0, 0 },
		{ "-1", false, 0, 0 },
		{ " 1", false, 0, 0 },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *p = cases[i].text;
		uint64_t value = 77;
		assert_int_equal(gdb_hex_number(&p, &value), cases[i].ok);
		assert_int_equal(value, cases[i].ok ? cases[i].value : 77);
		assert_int_equal(p - cases[i].text, cases[i].used);
	}
}

static void test_hex_bytes(void **state)
{
	const char *text = "00ff1A;", *p = text;
	uint8_t bytes[4] = { 9, 9, 9, 9 };
	char digits[6];

	(void)state;
	assert_true(gdb_hex_decode(&p, bytes, 3));
	assert_memory_equal(bytes, "\x00\xff\x1a\x09", 4);
	assert_string_equal(p, ";");
	p = text;
	assert_false(gdb_hex_decode(&p, bytes, 4));
	assert_ptr_equal(p, text);
	p = "123";
	assert_false(gdb_hex_decode(&p, bytes, 2)); /* half a byte */
	p = "";
	assert_false(gdb_hex_decode(&p, bytes, 1));
	assert_true(gdb_hex_decode(&p, bytes, 0));
	assert_ptr_equal(gdb_hex_encode(digits, (const uint8_t *)"\x00\xff\x1a", 3), digits + 6);
	assert_memory_equal(digits, "00ff1a", 6);
}

/* --- registers ----------------------------------------------------------------------------------------------------------- */

/* Register numbers as a debugger counts them for this architecture. */
enum {
	N_RBX = 1, N_R15 = 15, N_EFLAGS = 17, N_CS = 18, N_ST0 = 24, N_FOP = 39, N_FS_BASE = 40, N_CR0 = 43, N_CR8 = 47,
	N_EFER = 48
};

static void test_register_layout(void **state)
{
	size_t total = 0;

	(void)state;
	assert_int_equal(gdb_reg_count(), N_EFER + 1);
	for (unsigned n = 0; n < gdb_reg_count(); n++) {
		assert_in_range(gdb_reg_size(n), 1, GDB_REG_BYTES_MAX);
		total += gdb_reg_size(n);
	}
	/* 17 of 64 bits, eflags and 6 selectors of 32, 8 of 80, 8 of 32, 9 of 64. */
	assert_int_equal(total, 17 * 8 + 7 * 4 + 8 * 10 + 8 * 4 + 9 * 8);
	assert_true(2 * total <= GDB_PACKET_MAX); /* all of them fit in one packet */
}

static void test_register_access(void **state)
{
	struct vcpu v = { .rflags = FLAG_FIXED, .cr0 = CR0_PE | CR0_PG };
	uint8_t in[GDB_REG_BYTES_MAX] = { 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11 }, out[GDB_REG_BYTES_MAX];

	(void)state;
	assert_int_equal(gdb_reg_set(&v, N_RBX, in), 0);
	assert_int_equal(v.gpr[RBX], 0x1122334455667788); /* not RCX, which has number 1 in the encoding */
	assert_int_equal(gdb_reg_set(&v, N_R15, in), 0);
	assert_int_equal(v.gpr[R15], 0x1122334455667788);
	assert_int_equal(gdb_reg_set(&v, N_FS_BASE, in), 0);
	assert_int_equal(v.seg[FS].base, 0x1122334455667788);
	assert_true(gdb_reg_get(&v, N_RBX, out));
	assert_memory_equal(out, in, 8);

	v.seg[CS].selector = 0x10;
	assert_true(gdb_reg_get(&v, N_CS, out));
	assert_memory_equal(out, "\x10\0\0\0", 4);
	assert_int_equal(gdb_reg_set(&v, N_CS, out), 0); /* the same again is no change */
	assert_int_equal(gdb_reg_set(&v, N_CS, in), -EINVAL);
	assert_int_equal(v.seg[CS].selector, 0x10);

	assert_false(gdb_reg_get(&v, N_ST0, out));
	assert_false(gdb_reg_get(&v, N_FOP, out));
	assert_int_equal(gdb_reg_set(&v, N_ST0, in), -EINVAL);
}

static void test_register_reserved_bits(void **state)
{
	struct vcpu v = { .rflags = FLAG_FIXED, .cr0 = CR0_PE };
	uint8_t ones[GDB_REG_BYTES_MAX], task[GDB_REG_BYTES_MAX] = { 15 };

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(gdb_reg_set(&v, N_EFLAGS, ones), 0);
	assert_int_equal(v.rflags, FLAGS_DEFINED);
	memset(ones + 4, 0, sizeof(ones) - 4);
	assert_int_equal(gdb_reg_set(&v, N_CR0, ones), -EINVAL);
	assert_int_equal(v.cr0, CR0_PE);
	assert_int_equal(gdb_reg_set(&v, N_CR8, ones), -EINVAL);
	assert_int_equal(gdb_reg_set(&v, N_CR8, task), 0);
	assert_int_equal(v.cr8, 15);
	/* Neighbours of what was set are untouched. */
	assert_int_equal(v.cr4 | v.efer | v.rip, 0);
}

static void test_target_description(void **state)
{
	char xml[GDB_XML_MAX];
	size_t len = gdb_target_xml(xml);
	unsigned registers = 0;

	(void)state;
	assert_int_equal(strlen(xml), len);
	assert_memory_equal(xml, "<?xml", 5);
	assert_string_equal(xml + len - 10, "</target>\n");
	assert_non_null(strstr(xml, "<architecture>i386:x86-64</architecture>"));
	for (const char *p = xml; (p = strstr(p, "<reg ")); p++)
		registers++;
	assert_int_equal(registers, gdb_reg_count());
	assert_non_null(strstr(xml, "org.gnu.gdb.i386.core"));
	assert_non_null(strstr(xml, "org.gnu.gdb.i386.segments"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_packet, setup),
		cmocka_unit_test_setup(test_between_packets, setup),
		cmocka_unit_test_setup(test_damaged, setup),
		cmocka_unit_test_setup(test_length_limit, setup),
		cmocka_unit_test(test_frame),
		cmocka_unit_test_setup(test_round_trip, setup),
		cmocka_unit_test(test_hex_number),
		cmocka_unit_test(test_hex_bytes),
		cmocka_unit_test(test_register_layout),
		cmocka_unit_test(test_register_access),
		cmocka_unit_test(test_register_reserved_bits),
		cmocka_unit_test(test_target_description),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
