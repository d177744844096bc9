// sources: kvm_cpuid.c
/* CPUID of several vCPUs: topology as SDM vol. 3, 9.9 and APM vol. 3, appendix E tell guests to read it. */
#include "kvm_cpuid.h"
#include "machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct kvm_cpuid2 *table;

static int setup(void **state)
{
	(void)state;
	table = calloc(1, sizeof(*table) + MACHINE_CPUID_MAX * sizeof(table->entries[0]));
	return table ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	free(table);
	return 0;
}

static void add(uint32_t leaf, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	table->entries[table->nent++] = (struct kvm_cpuid_entry2){
		.function = leaf, .index = index, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx };
}

static const struct kvm_cpuid_entry2 *find(uint32_t leaf, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (unsigned i = 0; i < table->nent; i++)
		if (table->entries[i].function == leaf && table->entries[i].index == index) {
			assert_null(found); /* KVM would take the first, a reader of this the other */
			found = &table->entries[i];
		}
	return found;
}

/* A host with 8 cores of 2 threads, asked on its CPU 11. */
static void host(bool amd)
{
	add(0, 0, 0x1f, amd ? 0x68747541 : 0x756e6547, 0, 0);
	add(1, 0, 0x600, 11u << 24 | 16 << 16 | 0x0800, 0x80000, 1u << 28 | 1);
	if (!amd) {
		add(4, 0, 7u << 26 | 1 << 14 | 1 << 5 | 1, 1, 2, 3);
		add(4, 1, 7u << 26 | 15 << 14 | 3 << 5 | 3, 1, 2, 3);
		add(4, 2, 0, 0, 0, 0);
	}
	for (uint32_t i = 0; i < 4; i++)
		add(0xb, i, 5, 16, i, 11);
	add(0x1f, 0, 5, 16, 0, 11);
	add(0x80000001, 0, 0, 0, amd ? 1u << 22 | 2 : 0, 0);
	add(0x80000008, 0, 0x3030, 0, amd ? 4u << 12 | 15 : 0, 0);
	if (amd) {
		add(0x8000001d, 0, 1 << 14 | 1 << 5 | 1, 0, 0, 0);
		add(0x8000001d, 3, 15 << 14 | 3 << 5 | 3, 0, 0, 0);
		add(0x8000001e, 0, 11, 0x105, 0x703, 0);
		add(0x80000026, 0, 1, 2, 0x100, 11);
	}
}

static void check_common(unsigned id, unsigned ncpus, unsigned bits)
{
	const struct kvm_cpuid_entry2 *one = find(1, 0);

	assert_int_equal(one->ebx >> 24, id);
	assert_int_equal(one->ebx >> 16 & 0xff, 1u << bits);
	assert_int_equal(one->ebx & 0xffff, 0x0800);
	assert_int_equal(one->edx >> 28 & 1, ncpus > 1);
	for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x1f - 0xb) {
		const struct kvm_cpuid_entry2 *smt = find(leaf, 0), *core = find(leaf, 1), *end = find(leaf, 2);
		assert_int_equal(smt->eax, 0);
		assert_int_equal(smt->ebx, 1);
		assert_int_equal(smt->ecx, 0x100);
		assert_int_equal(core->eax, bits);
		assert_int_equal(core->ebx, ncpus);
		assert_int_equal(core->ecx, 0x201);
		assert_int_equal(end->ebx, 0);
		assert_int_equal(end->ecx, 2);
		assert_true(smt->edx == id && core->edx == id && end->edx == id);
		assert_true(smt->flags & core->flags & end->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		assert_null(find(leaf, 3));
	}
}

static void test_intel(void **state)
{
	(void)state;
	host(false);
	kvm_cpuid_topology(table, 2, 3);
	check_common(2, 3, 2);
	assert_int_equal(find(4, 0)->eax, 3u << 26 | 0 << 14 | 1 << 5 | 1); /* the core's own */
	assert_int_equal(find(4, 1)->eax, 3u << 26 | 3 << 14 | 3 << 5 | 3); /* shared */
	assert_int_equal(find(4, 2)->eax, 0);
	assert_int_equal(find(4, 0)->ebx, 1);
	assert_int_equal(find(0x80000001, 0)->ecx, 0);
	assert_int_equal(find(0x80000008, 0)->ecx, 0);
	assert_int_equal(find(0x80000008, 0)->eax, 0x3030);
}

static void test_amd(void **state)
{
	(void)state;
	host(true);
	kvm_cpuid_topology(table, 7, 8);
	check_common(7, 8, 3);
	assert_int_equal(find(0x80000001, 0)->ecx, 1u << 22 | 2); /* CmpLegacy */
	assert_int_equal(find(0x80000008, 0)->ecx, 3u << 12 | 7);
	assert_int_equal(find(0x8000001d, 0)->eax, 0 << 14 | 1 << 5 | 1);
	assert_int_equal(find(0x8000001d, 3)->eax, 7 << 14 | 3 << 5 | 3);
	assert_int_equal(find(0x8000001e, 0)->eax, 7);
	assert_int_equal(find(0x8000001e, 0)->ebx, 7);
	assert_int_equal(find(0x8000001e, 0)->ecx, 0);
	assert_null(find(0x80000026, 0));
}

static void test_one_cpu(void **state)
{
	(void)state;
	host(true);
	kvm_cpuid_topology(table, 0, 1);
	check_common(0, 1, 0);
	assert_int_equal(find(0x80000001, 0)->ecx, 1u << 22);
	assert_int_equal(find(0x80000008, 0)->ecx, 0);
}

/* Leaves that the host's CPU is too old for are not made up, and a table that is full stays as large as it is. */
static void test_limits(void **state)
{
	(void)state;
	add(0, 0, 7, 0x756e6547, 0, 0);
	kvm_cpuid_topology(table, 1, 2);
	assert_int_equal(table->nent, 1);
	table->entries[0].eax = 0x1f;
	while (table->nent < MACHINE_CPUID_MAX - 1)
		add(0xd, table->nent, 0, 0, 0, 0);
	kvm_cpuid_topology(table, 1, 2);
	assert_int_equal(table->nent, MACHINE_CPUID_MAX);
}

static void test_features(void **state)
{
	(void)state;
	host(false);
	kvm_cpuid_features(table, false);
	assert_int_equal(find(1, 0)->ecx, 0x80000 | 1u << 31 | 1u << 21);
	kvm_cpuid_features(table, true);
	assert_int_equal(find(1, 0)->ecx, 0x80000 | 1u << 31 | 1u << 21 | 1u << 24);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_intel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_amd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_cpu, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_features, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
