// sources: mptable.c boot.c mem.c
/* The MP tables as a guest walks them; offsets are those of the MultiProcessor Specification 1.4, chapter 4. */
#include "guest_fixture.h"
#include "loader.h"
#include "mptable.h"

#include <string.h>

static int setup(void **state)
{
	(void)state;
	int r = guest_mem_create(&mem, MEM_MIN);
	if (!r)
		memset(guest_range(&mem, BOOT_MP, 0x1000), 0xff, 0x1000); /* what is not written must not be read as 0 */
	return r;
}

/* As a guest does it: 16 bytes each, through the BIOS's 64 KiB. */
static uint64_t find_pointer(void)
{
	for (uint64_t at = 0xf0000; at < 0x100000; at += 16)
		if (!memcmp(guest_range(&mem, at, 4), "_MP_", 4) && !sum(at, 16))
			return at;
	return 0;
}

/* What was found in the configuration table. */
struct found {
	unsigned cpus, boot_cpus, buses, ioapics, interrupts, extint, nmi;
	int pin_of[16]; /* of the IOAPIC, by ISA interrupt; -1: none */
	unsigned flags_of[16];
};

static void look_at_entry(struct found *f, uint64_t at)
{
	switch (get(at, 1)) {
	case 0:
		assert_int_equal(get(at + 1, 1), f->cpus); /* the APIC id */
		assert_true(get(at + 3, 1) & 1);
		f->boot_cpus += get(at + 3, 1) >> 1 & 1;
		assert_true(get(at + 8, 4) & 1 << 9); /* it has an APIC */
		f->cpus++;
		break;
	case 1:
		assert_memory_equal(guest_range(&mem, at + 2, 6), "ISA   ", 6);
		f->buses++;
		break;
	case 2:
		assert_true(get(at + 3, 1) & 1);
		assert_int_equal(get(at + 4, 4), 0xfec00000);
		f->ioapics++;
		break;
	case 3:
		assert_int_equal(get(at + 1, 1), 0);
		assert_in_range(get(at + 5, 1), 0, 15);
		assert_int_equal(f->pin_of[get(at + 5, 1)], -1);
		f->pin_of[get(at + 5, 1)] = (int)get(at + 7, 1);
		f->flags_of[get(at + 5, 1)] = get(at + 2, 2);
		f->interrupts++;
		break;
	case 4:
		f->extint += get(at + 1, 1) == 3 && get(at + 6, 1) == 0 && get(at + 7, 1) == 0;
		f->nmi += get(at + 1, 1) == 1 && get(at + 6, 1) == 0xff && get(at + 7, 1) == 1;
		break;
	default: fail_msg("an entry of type %u", (unsigned)get(at, 1));
	}
}

static void check(unsigned cpus)
{
	struct boot_request req = { .cpus = cpus };
	struct found f = { 0 };
	unsigned last_type = 0;

	mptable_write(&mem, &req);
	uint64_t pointer = find_pointer();
	assert_int_not_equal(pointer, 0);
	assert_int_equal(get(pointer + 8, 1), 1);  /* paragraphs */
	assert_int_equal(get(pointer + 9, 1), 4);  /* version 1.4 */
	assert_int_equal(get(pointer + 11, 1), 0); /* there is a table */
	assert_int_equal(get(pointer + 12, 1), 0); /* no IMCR */

	uint64_t config = get(pointer + 4, 4);
	uint32_t length = get(config + 4, 2);
	assert_memory_equal(guest_range(&mem, config, 4), "PCMP", 4);
	assert_int_equal(sum(config, length), 0);
	assert_int_equal(get(config + 6, 1), 4);
	assert_int_equal(get(config + 36, 4), 0xfee00000);
	memset(f.pin_of, -1, sizeof(f.pin_of));
	uint64_t at = config + 44;
	for (unsigned i = 0; i < get(config + 34, 2); i++) {
		unsigned type = get(at, 1);
		assert_true(type >= last_type); /* in ascending order */
		last_type = type;
		look_at_entry(&f, at);
		at += type ? 8 : 20;
	}
	assert_int_equal(at, config + length);
	assert_int_equal(f.cpus, cpus);
	assert_int_equal(f.boot_cpus, 1);
	assert_int_equal(f.buses, 1);
	assert_int_equal(f.ioapics, 1);
	assert_int_equal(f.interrupts, 15); /* all but the cascade */
	assert_int_equal(f.extint, 1);
	assert_int_equal(f.nmi, 1);
	for (int irq = 0; irq < 16; irq++) {
		assert_int_equal(f.pin_of[irq], irq == 0 ? 2 : irq == 2 ? -1 : irq);
		assert_int_equal(f.flags_of[irq], irq == 9 ? 0x0d : 0);
	}
}

static void test_one_cpu(void **state)
{
	(void)state;
	check(1);
}

static void test_most_cpus(void **state)
{
	(void)state;
	check(8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_cpu, setup, teardown),
		cmocka_unit_test_setup_teardown(test_most_cpus, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
