// sources: gva.c segment.c legacy_walk.c protect.c registers.c decode.c mem.c bus.c spt.c walk.c fill.c flush.c pool.c cache.c
/* What the CPU checks before it lets an instruction have a segment, a register's value or memory: the cases that the test host's
 * processor does not check, and those that the lab's guests cannot reach. */
#include "lab1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define GDT 0x1000
#define DATA0 0x10 /* selectors */
#define CODE3 0x18
#define DATA3 0x20
#define CONFORMING0 0x28
#define ABSENT3 0x30
#define TSS 0x38

static struct vm vm;
static struct vcpu *const v = &vm.vcpu;

int vm_stop(struct vm *m, int status, const char *fmt, ...)
{
	(void)fmt;
	m->stopping = 1;
	m->status = status;
	return -ECANCELED;
}
void trap_refresh_segments(struct vcpu *vcpu) { (void)vcpu; }
void trap_special_changed(struct vcpu *vcpu) { (void)vcpu; }
uint64_t segment_base(struct vcpu *vcpu, unsigned sreg) { return vcpu->seg[sreg].base; }
uint64_t trap_cr4_allowed(const struct vcpu *vcpu)
{
	(void)vcpu;
	return CR4_PAE | CR4_PGE | CR4_DE;
}

static int setup(void **state)
{
	static const uint64_t gdt[] = {
		0, 0,
		0x00cf93000000ffff, /* DATA0 */
		0x00affb000000ffff, /* CODE3 */
		0x00cff3000000ffff, /* DATA3 */
		0x00af9f000000ffff, /* CONFORMING0 */
		0x00cf73000000ffff, /* ABSENT3 */
		0x0000890020000067, 0 /* TSS */
	};

	(void)state;
	memset(&vm, 0, sizeof vm);
	v->vm = &vm;
	v->cr0 = CR0_PE | CR0_PG;
	v->cr4 = CR4_PAE;
	v->efer = EFER_LME | EFER_LMA | EFER_SCE;
	v->gdtr = (struct dtable){ .base = GDT, .limit = sizeof gdt - 1 };
	return guest_mem_create(&vm.mem, 4 * MiB) || guest_write(&vm.mem, GDT, gdt, sizeof gdt);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&vm.mem);
	return 0;
}

/* The call failed and queued this exception. */
static void raised_is(bool result, uint8_t vector, uint32_t error)
{
	assert_false(result);
	assert_true(v->event.pending);
	assert_int_equal(v->event.vector, vector);
	assert_int_equal(v->event.error, error);
	v->event = (struct event){ 0 };
}

static void test_alignment_is_checked_at_cpl_3_only(void **state)
{
	uint8_t bytes[40];

	(void)state;
	v->cr0 |= CR0_AM;
	v->rflags = FLAG_AC;
	assert_true(gva_read(v, 0x2001, bytes, 4));
	v->cpl = 3;
	raised_is(gva_read(v, 0x2001, bytes, 4), VEC_AC, 0);
	raised_is(gva_write(v, 0x2002, bytes, 4), VEC_AC, 0);
	raised_is(stack_read(v, 0x2004, bytes, 40), VEC_AC, 0); /* five words */
	assert_true(gva_read(v, 0x2001, bytes, 1));
	assert_true(gva_read(v, 0x2002, bytes, 2));
	assert_true(gva_read(v, 0x2002, bytes, 10)); /* the operand of SGDT */
	assert_true(stack_read(v, 0x2008, bytes, 40));
	assert_true(gva_read_system(v, 0x2001, bytes, 8)); /* the CPU's own accesses are the kernel's */
	v->rflags = 0;
	assert_true(gva_read(v, 0x2001, bytes, 4));
	v->rflags = FLAG_AC;
	v->cr0 &= ~CR0_AM;
	assert_true(gva_read(v, 0x2001, bytes, 4));
}

static void test_return_hides_what_was_the_kernels(void **state)
{
	const uint16_t ss = DATA3 | 3;

	(void)state;
	assert_true(load_data_segment(v, DS, DATA0));
	assert_true(load_data_segment(v, ES, CONFORMING0));
	assert_true(load_data_segment(v, FS, DATA3 | 3));
	assert_true(load_data_segment(v, GS, DATA0));
	v->seg[GS].base = 0x123456;
	assert_true(return_to(v, CODE3 | 3, 0x4000, &ss));
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->rip, 0x4000);
	assert_int_equal(v->seg[CS].selector, CODE3 | 3);
	assert_int_equal(v->seg[SS].selector, DATA3 | 3);
	assert_int_equal(v->seg[DS].selector, 0);
	assert_int_equal(v->seg[ES].selector, CONFORMING0); /* every level may use it */
	assert_int_equal(v->seg[FS].selector, DATA3 | 3);
	assert_int_equal(v->seg[GS].selector, 0);
	assert_int_equal(v->seg[GS].base, 0x123456);
	assert_false(v->shadow); /* a return is no MOV to SS */
}

static void test_a_refused_return_changes_nothing(void **state)
{
	const uint16_t absent = ABSENT3 | 3, kernel = DATA0, ss = DATA3 | 3;
	struct vcpu before;

	(void)state;
	v->rip = 0x3000;
	assert_true(load_data_segment(v, DS, DATA0));
	before = *v;
	raised_is(return_to(v, CODE3 | 3, 0x4000, &absent), VEC_SS, ABSENT3);
	raised_is(return_to(v, CODE3 | 3, 0x4000, &kernel), VEC_GP, DATA0);
	raised_is(return_to(v, CODE3 | 3, 1ull << 47, &ss), VEC_GP, 0);
	raised_is(return_to(v, 3, 0x4000, &ss), VEC_GP, 0);
	raised_is(return_to(v, DATA3 | 3, 0x4000, &ss), VEC_GP, DATA3);
	v->cpl = before.cpl = 3;
	raised_is(return_to(v, CONFORMING0, 0x4000, &ss), VEC_GP, CONFORMING0); /* inwards */
	before.event = v->event;
	assert_memory_equal(v, &before, sizeof before);
}

static void test_system_descriptors(void **state)
{
	struct descriptor d;
	uint64_t busy = 0x00008b0020000067, wrong_upper_half = 0x1full << 40;

	(void)state;
	assert_true(system_descriptor_read(v, TSS, SEG_TSS, &d));
	assert_int_equal(d.gva, GDT + TSS);
	raised_is(system_descriptor_read(v, TSS, SEG_LDT, &d), VEC_GP, TSS);
	raised_is(system_descriptor_read(v, TSS | 4, SEG_TSS, &d), VEC_GP, TSS | 4);
	raised_is(system_descriptor_read(v, DATA0, SEG_TSS, &d), VEC_GP, DATA0);
	raised_is(system_descriptor_read(v, TSS + 8, SEG_TSS, &d), VEC_GP, TSS + 8); /* half of it behind the limit */
	assert_int_equal(guest_write(&vm.mem, GDT + TSS + 8, &wrong_upper_half, 8), 0);
	raised_is(system_descriptor_read(v, TSS, SEG_TSS, &d), VEC_GP, TSS);
	assert_int_equal(guest_write(&vm.mem, GDT + TSS, &busy, 8), 0);
	raised_is(system_descriptor_read(v, TSS, SEG_TSS, &d), VEC_GP, TSS);
}

static void test_control_registers(void **state)
{
	(void)state;
	assert_ptr_equal(cr_register(v, 8), &v->cr8);
	assert_null(cr_register(v, 1));
	assert_null(cr_register(v, 15));
	assert_true(cr_value_valid(v, 0, CR0_PE | CR0_PG));
	assert_true(cr_value_valid(v, 0, CR0_PE | CR0_PG | CR0_CD | CR0_NW));
	assert_false(cr_value_valid(v, 0, CR0_PE | CR0_PG | CR0_NW));
	assert_false(cr_value_valid(v, 0, CR0_PG));
	assert_false(cr_value_valid(v, 0, CR0_PE));
	assert_false(cr_value_valid(v, 0, CR0_PE | CR0_PG | 1ull << 32));
	assert_true(cr_value_valid(v, 3, (1ull << 52) - 1));
	assert_false(cr_value_valid(v, 3, 1ull << 52));
	assert_true(cr_value_valid(v, 4, CR4_PAE | CR4_DE));
	assert_false(cr_value_valid(v, 4, CR4_DE));
	assert_false(cr_value_valid(v, 4, CR4_PAE | CR4_SMEP));
	assert_true(cr_value_valid(v, 8, 15));
	assert_false(cr_value_valid(v, 8, 16));
}

static void test_debug_registers(void **state)
{
	(void)state;
	assert_int_equal(dr_value(6, 0), 0xffff0ff0);
	assert_int_equal(dr_value(6, ~0ull >> 32), 0xffffefff);
	assert_int_equal(dr_value(7, 0), 0x400);
	assert_int_equal(dr_value(7, ~0ull >> 32), 0xffff2fff);
	assert_int_equal(dr_value(0, 0x123456789abcdef0), 0x123456789abcdef0);
}

static void test_msrs(void **state)
{
	(void)state;
	assert_ptr_equal(msr_register(v, MSR_LSTAR), &v->msr.lstar);
	assert_null(msr_register(v, MSR_TSC));
	assert_null(msr_register(v, 0x12345678));
	assert_true(msr_value_valid(v, MSR_LSTAR, 0xffff800000000000));
	assert_false(msr_value_valid(v, MSR_LSTAR, 0x800000000000));
	assert_true(msr_value_valid(v, MSR_STAR, ~0ull));
	assert_true(msr_value_valid(v, MSR_PAT, 0x0007040600070406));
	assert_false(msr_value_valid(v, MSR_PAT, 0x0007040600070402));
	assert_true(msr_value_valid(v, MSR_EFER, EFER_LME | EFER_NXE));
	assert_false(msr_value_valid(v, MSR_EFER, EFER_NXE)); /* long mode stays */
	assert_false(msr_value_valid(v, MSR_EFER, EFER_LME | 1ull << 12)); /* SVME */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_alignment_is_checked_at_cpl_3_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_return_hides_what_was_the_kernels, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_refused_return_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_system_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_control_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_debug_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_msrs, setup, teardown),
	};
	return cmocka_run_group_tests_name("protect", tests, NULL, NULL);
}
