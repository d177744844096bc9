// sources: memory_access.c rmw.c gva.c segment.c legacy_walk.c decode.c mem.c bus.c spt.c walk.c fill.c flush.c pool.c cache.c
/* A guest in the modes before 64-bit mode: where its code and data are, what its segments and page tables forbid, and what hv carries out
 * for it there. Expected values are the manual's. */
#include "gva.h"
#include "lab1.h"
#include "legacy_walk.h"
#include "memory_access.h"
#include "segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZE (8 * MiB)
#define DEVICE 0xd0000000ull
#define DIRECTORY 0x3000
#define TABLE 0x4000

static struct vm vm;
static struct vcpu *const v = &vm.vcpu;
static struct {
	unsigned reads, writes;
	uint64_t offset, value;
} device;

int vm_stop(struct vm *m, int status, const char *fmt, ...)
{
	(void)fmt;
	m->stopping = 1;
	m->status = status;
	return -ECANCELED;
}
void trace_count(struct trace_count *table, const char *name) { (void)table, (void)name; }
uint64_t segment_base(struct vcpu *vcpu, unsigned sreg) { return vcpu->seg[sreg].base; }

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev, (void)size;
	device.reads++;
	device.offset = offset;
	return device.value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)dev, (void)size;
	device.writes++;
	device.offset = offset;
	device.value = value;
}

static const struct device_ops device_ops = { .name = "device", .read = device_read, .write = device_write };

static void put32(uint64_t gpa, uint32_t value) { guest_write(&vm.mem, gpa, &value, 4); }
static void put64(uint64_t gpa, uint64_t value) { guest_write(&vm.mem, gpa, &value, 8); }
static uint32_t get32(uint64_t gpa)
{
	uint32_t value = 0;
	guest_read(&vm.mem, gpa, &value, 4);
	return value;
}

static void real_mode(void)
{
	*v = (struct vcpu){ .vm = &vm, .rflags = FLAG_FIXED, .cr0 = CR0_ET };
	for (unsigned i = 0; i < 6; i++)
		v->seg[i] = (struct segment){ .attr = i == CS ? 0x9b : 0x93, .limit = 0xffff };
}

static void load_real(unsigned sreg, uint16_t selector)
{
	v->seg[sreg].selector = selector;
	v->seg[sreg].base = selector * 16u;
}

static void protected_mode(void)
{
	real_mode();
	v->cr0 |= CR0_PE;
	for (unsigned i = 0; i < 6; i++)
		v->seg[i] = (struct segment){ .selector = i == CS ? 8 : 0x18, .attr = i == CS ? 0xc09b : 0xc093, .limit = ~0u };
}

static int setup(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof vm);
	memset(&device, 0, sizeof device);
	vm.all_modes = true;
	vm.phys_bits = 40;
	pthread_mutex_init(&vm.lock, NULL);
	bus_init(&vm.mmio, "address");
	bus_add(&vm.mmio, DEVICE, 0x1000, &device_ops, NULL);
	real_mode();
	return guest_mem_create(&vm.mem, SIZE);
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&vm.mem);
	return 0;
}

#define CODE_AT(gpa, ...) guest_write(&vm.mem, gpa, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void assert_raised(uint8_t vector, bool has_error, uint32_t error)
{
	assert_true(v->event.pending);
	assert_int_equal(v->event.vector, vector);
	assert_int_equal(v->event.has_error, has_error);
	if (has_error)
		assert_int_equal(v->event.error, error);
	v->event.pending = false;
}

static void test_mode(void **state)
{
	(void)state;
	assert_int_equal(insn_mode(v), 16);
	v->cr0 |= CR0_PE; /* before the far jump the code is still what it was */
	assert_int_equal(insn_mode(v), 16);
	protected_mode();
	assert_int_equal(insn_mode(v), 32);
	v->seg[CS].attr = 0xa09b; /* L means nothing outside long mode */
	assert_int_equal(insn_mode(v), 16);
	v->efer = EFER_LME | EFER_LMA;
	assert_int_equal(insn_mode(v), 64);
	v->seg[CS].attr = 0xc09b; /* compatibility mode */
	assert_int_equal(insn_mode(v), 32);
	vm.all_modes = false; /* the trap engine has nothing but 64-bit code */
	assert_int_equal(insn_mode(v), 64);
	real_mode();
	assert_int_equal(insn_mode(v), 64);
}

static void test_fetch(void **state)
{
	struct insn insn;

	(void)state;
	CODE_AT(0x12340, 0xb8, 0x34, 0x12, 0x90, 0x90); /* mov $0x1234,%ax; as 32-bit code one instruction of five bytes */
	load_real(CS, 0x1234);
	assert_true(insn_fetch(v, &insn));
	assert_int_equal(insn.len, 3);
	assert_true(insn_fetch(v, &insn)); /* from the cache */
	assert_int_equal(insn.len, 3);
	v->rip = 0x100;
	load_real(CS, 0x1224); /* the same place */
	assert_true(insn_fetch(v, &insn));
	assert_int_equal(insn.len, 3);
	protected_mode();
	v->rip = 0x2340;
	v->seg[CS].base = 0x10000;
	assert_true(insn_fetch(v, &insn)); /* and in another mode not what the cache has */
	assert_int_equal(insn.len, 5);
	assert_int_equal(insn.mode, 32);
	v->seg[CS].base = 0xffff0000; /* linear addresses wrap at 4 GiB */
	v->rip = 0x22340;
	assert_true(insn_fetch(v, &insn));
	assert_int_equal(insn.len, 5);

	/* There is no page fault without paging. */
	v->seg[CS].base = 0;
	v->rip = SIZE;
	assert_false(insn_fetch(v, &insn));
	assert_false(v->event.pending);
	assert_true(vm.stopping);
}

static void test_next(void **state)
{
	struct insn insn = { .len = 3, .mode = 32 };

	(void)state;
	v->rip = 0xfffffffe;
	assert_int_equal(insn_next(v, &insn), 1);
	insn.mode = 64;
	assert_int_equal(insn_next(v, &insn), 0x100000001);
}

static void test_real_mode_moves(void **state)
{
	(void)state;
	CODE_AT(0x7c00, 0x26, 0x88, 0x07); /* mov %al,%es:(%bx) */
	load_real(ES, 0xffff);
	v->rip = 0x7c00;
	v->gpr[RAX] = 0x11223344;
	v->gpr[RBX] = 0xabcd1010; /* BX only */
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->rip, 0x7c03);
	assert_int_equal(get32(0x100ffc), 0);
	assert_int_equal(get32(0x101000), 0x44); /* 0xffff0 + 0x1010 */

	/* rep movsw from DS:SI to ES:DI, backwards, SI wraps in 16 bits; the upper halves stay. */
	CODE_AT(0x7c10, 0xf3, 0xa5);
	load_real(DS, 0x2000);
	load_real(ES, 0x3000);
	put32(0x20000, 0xbbbbaaaa);
	put32(0x2fffc, 0xccccdddd);
	v->rip = 0x7c10;
	v->rflags |= FLAG_DF;
	v->gpr[RSI] = 0xffff0000;
	v->gpr[RDI] = 0x10;
	v->gpr[RCX] = 0x50002;
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->rip, 0x7c10);
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->rip, 0x7c12);
	assert_int_equal(get32(0x3000e), 0xaaaacccc);
	assert_int_equal(v->gpr[RSI], 0xfffffffc);
	assert_int_equal(v->gpr[RDI], 0xc);
	assert_int_equal(v->gpr[RCX], 0x50000);
}

/* push and pop move SP, of 16 bits here, and use SS. */
static void test_stack_width(void **state)
{
	(void)state;
	CODE_AT(0x7c00, 0xff, 0x36, 0x00, 0x10, 0x8f, 0x06, 0x04, 0x10); /* push 0x1000; pop 0x1004 */
	load_real(SS, 0x4000);
	put32(0x1000, 0x12345678);
	v->rip = 0x7c00;
	v->gpr[RSP] = 0x70000; /* SP = 0: the word goes to 0xfffe */
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->gpr[RSP], 0x7fffe);
	assert_int_equal(get32(0x4fffc), 0x56780000);
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->gpr[RSP], 0x70000);
	assert_int_equal(get32(0x1004), 0x5678);
	assert_int_equal(v->rip, 0x7c08);
}

static void test_limits(void **state)
{
	uint64_t gva;

	(void)state;
	/* Real mode: no error code. */
	load_real(DS, 0x100);
	assert_true(segment_gva(v, DS, 0xfffc, 4, true, &gva));
	assert_int_equal(gva, 0x10ffc);
	assert_false(segment_gva(v, DS, 0xfffd, 4, true, &gva));
	assert_raised(VEC_GP, false, 0);
	assert_false(segment_gva(v, SS, 0xffff, 2, false, &gva));
	assert_raised(VEC_SS, false, 0);
	v->seg[DS].limit = ~0u; /* "unreal mode": the limit of protected mode stays */
	assert_true(segment_gva(v, DS, 0x200000, 4, false, &gva));
	assert_int_equal(gva, 0x201000);

	protected_mode();
	v->seg[DS] = (struct segment){ .selector = 0x20, .attr = 0x4093, .base = 0x1000, .limit = 0x7f };
	assert_true(segment_gva(v, DS, 0x7c, 4, true, &gva));
	assert_false(segment_gva(v, DS, 0x7d, 4, false, &gva));
	assert_raised(VEC_GP, true, 0);
	assert_false(segment_gva(v, DS, 0xfffffffe, 4, false, &gva)); /* its end does not wrap into the segment */
	assert_raised(VEC_GP, true, 0);
	v->seg[DS].attr = 0x4097; /* expands down: above the limit, up to 4 GiB */
	assert_false(segment_gva(v, DS, 0x7f, 1, true, &gva));
	assert_raised(VEC_GP, true, 0);
	assert_true(segment_gva(v, DS, 0x80, 4, true, &gva));
	assert_true(segment_gva(v, DS, 0xfffffffc, 4, true, &gva));
	assert_int_equal(gva, 0xffc);
	v->seg[DS].attr = 0x0097; /* and with B = 0 up to 64 KiB */
	assert_true(segment_gva(v, DS, 0xfffc, 4, true, &gva));
	assert_false(segment_gva(v, DS, 0xfffd, 4, true, &gva));
	assert_raised(VEC_GP, true, 0);
	v->seg[DS].attr = 0x4091; /* read-only */
	assert_true(segment_gva(v, DS, 0, 4, false, &gva));
	assert_false(segment_gva(v, DS, 0, 4, true, &gva));
	assert_raised(VEC_GP, true, 0);
	assert_true(segment_gva(v, CS, 0, 4, false, &gva)); /* readable code */
	assert_false(segment_gva(v, CS, 0, 4, true, &gva));
	assert_raised(VEC_GP, true, 0);
	v->seg[CS].attr = 0xc099;
	assert_false(segment_gva(v, CS, 0, 4, false, &gva));
	assert_raised(VEC_GP, true, 0);
	v->seg[FS] = (struct segment){ 0 }; /* null */
	assert_false(segment_gva(v, FS, 0, 1, false, &gva));
	assert_raised(VEC_GP, true, 0);

	/* In 64-bit mode nothing of this counts. */
	v->efer = EFER_LME | EFER_LMA;
	v->seg[CS].attr = 0xa09b;
	assert_true(segment_gva(v, DS, 0x123456789a, 8, true, &gva));
	assert_int_equal(gva, 0x123456789a);
}

/* An instruction that faults has changed nothing. */
static void test_fault_of_an_operand(void **state)
{
	struct vcpu before;

	(void)state;
	CODE_AT(0x7c00, 0xa5); /* movsw: may be read, not written */
	protected_mode();
	v->seg[ES] = (struct segment){ .attr = 0x4091, .limit = 0xffff };
	v->rip = 0x7c00;
	v->gpr[RSI] = v->gpr[RDI] = 0x1000;
	before = *v;
	assert_int_equal(memory_emulate(v), 0);
	assert_raised(VEC_GP, true, 0);
	before.event = v->event;
	assert_memory_equal(v, &before, sizeof before);
}

static void page32(uint32_t cr4)
{
	protected_mode();
	v->cr0 |= CR0_PG | CR0_WP;
	v->cr4 = cr4;
	v->cr3 = DIRECTORY;
	memset(guest_range(&vm.mem, DIRECTORY, 0x4000), 0, 0x4000);
}

static void test_32_bit_paging(void **state)
{
	uint32_t value = 0;

	(void)state;
	page32(CR4_PSE);
	put32(DIRECTORY + 4 * 0x300, TABLE | PTE_P | PTE_W | PTE_U);
	put32(TABLE + 4 * 0x12, 0x5000 | PTE_P | PTE_U);
	put32(DIRECTORY + 4 * 0x301, 0x400000 | PTE_P | PTE_W | PTE_PS);
	put32(0x5abc, 0xcafe);
	assert_true(gva_read(v, 0xc0012abc, &value, 4));
	assert_int_equal(value, 0xcafe);
	assert_int_equal(get32(TABLE + 4 * 0x12), 0x5000 | PTE_P | PTE_U | PTE_A);
	assert_int_equal(get32(DIRECTORY + 4 * 0x300), TABLE | PTE_P | PTE_W | PTE_U | PTE_A);
	assert_false(gva_write(v, 0xc0012abc, &value, 4));
	assert_raised(VEC_PF, true, PF_P | PF_W);
	assert_int_equal(v->cr2, 0xc0012abc);
	v->cr0 &= ~CR0_WP;
	assert_true(gva_write(v, 0xc0012abc, &value, 4));
	assert_int_equal(get32(TABLE + 4 * 0x12) & (PTE_A | PTE_D), PTE_A | PTE_D);
	assert_int_equal(get32(DIRECTORY + 4 * 0x300) & PTE_D, 0); /* of a table D means nothing */

	/* 4 MiB pages; the second half of the access is in the next page, which is not there. */
	value = 0x77;
	assert_true(gva_write(v, 0xc0412344, &value, 4));
	assert_int_equal(get32(0x412344), 0x77);
	assert_int_equal(get32(DIRECTORY + 4 * 0x301) & (PTE_A | PTE_D), PTE_A | PTE_D);
	assert_false(gva_write(v, 0xc07ffffe, &value, 4));
	assert_raised(VEC_PF, true, PF_W);
	assert_int_equal(v->cr2, 0xc0800000);
	v->cpl = 3;
	assert_false(gva_read(v, 0xc0412344, &value, 4));
	assert_raised(VEC_PF, true, PF_P | PF_U);
	v->cpl = 0;

	/* Without CR4.PSE the bit is ignored, and the entry is a table's. */
	v->cr4 = 0;
	put32(0x400000 + 4 * 0x12, 0x5000 | PTE_P);
	assert_true(gva_read(v, 0xc0412abc, &value, 4));
	assert_int_equal(value, 0xcafe);
	v->cr4 = CR4_PSE;

	/* PSE-36: bits 20:13 are bits 39:32 of the address; bit 21 is reserved, and so is what the CPU's addresses do not reach. */
	struct walk w;
	put32(DIRECTORY + 4 * 0x302, 0x400000 | 0x25u << 13 | PTE_P | PTE_PS);
	assert_int_equal(legacy_walk(v, 0xc0800010, &w), 0);
	assert_int_equal(w.gpa, 0x2500400010);
	vm.phys_bits = 36;
	assert_int_equal(legacy_walk(v, 0xc0800010, &w), -EFAULT);
	assert_int_equal(w.error, PF_P | PF_RSVD);
	put32(DIRECTORY + 4 * 0x302, 0x400000 | 1 << 21 | PTE_P | PTE_PS);
	assert_false(gva_read(v, 0xc0800010, &value, 4));
	assert_raised(VEC_PF, true, PF_P | PF_RSVD);

	/* A directory where there is no memory reads as ones: 4 MiB at the end, with reserved bits. */
	v->cr3 = SIZE;
	assert_int_equal(legacy_walk(v, 0, &w), -EFAULT);
	assert_int_equal(w.error, PF_P | PF_RSVD);
}

static void test_pae(void **state)
{
	uint32_t value;
	struct walk w;

	(void)state;
	page32(CR4_PAE);
	v->efer = EFER_NXE;
	v->cr3 = DIRECTORY + 0x20; /* aligned to 32 bytes only */
	put64(DIRECTORY + 0x20 + 8 * 3, TABLE | PTE_P);
	put64(TABLE + 8 * 1, 0x400000 | PTE_P | PTE_W | PTE_PS | PTE_NX);
	put64(TABLE + 8 * 2, 0x5000 | PTE_P | PTE_W);
	put64(0x5000 + 8 * 7, 0x6000 | PTE_P | PTE_W);
	put32(0x400008, 0xbeef);
	assert_true(gva_read(v, 0xc0200008, &value, 4));
	assert_int_equal(value, 0xbeef);
	assert_int_equal(get32(DIRECTORY + 0x20 + 8 * 3), TABLE | PTE_P); /* the first level has no A */
	assert_int_equal(get32(TABLE + 8) & (PTE_A | PTE_D), PTE_A);
	assert_true(gva_write(v, 0xc0407004, &value, 4));
	assert_int_equal(get32(0x6004), 0xbeef);
	assert_int_equal(legacy_translate(v, 0xc0200008, ACCESS_FETCH, &w), -EFAULT);
	assert_int_equal(w.error, PF_P | PF_I);
	v->efer = 0; /* then NX is a reserved bit */
	assert_int_equal(legacy_translate(v, 0xc0200008, 0, &w), -EFAULT);
	assert_int_equal(w.error, PF_P | PF_RSVD);
	assert_int_equal(w.level, 2);
	put64(DIRECTORY + 0x20 + 8 * 3, TABLE | PTE_P | PTE_W); /* no rights there */
	assert_int_equal(legacy_translate(v, 0xc0407004, ACCESS_WRITE, &w), -EFAULT);
	assert_int_equal(w.error, PF_P | PF_W | PF_RSVD);
	assert_int_equal(w.level, 3);
	assert_int_equal(legacy_translate(v, 0x407004, 0, &w), -EFAULT);
	assert_int_equal(w.error, 0);
}

/* A device behind a segment and a page table. */
static void test_device(void **state)
{
	(void)state;
	page32(CR4_PSE);
	put32(DIRECTORY, PTE_P | PTE_W | PTE_PS);
	put32(DIRECTORY + 4 * 0x200, DEVICE | PTE_P | PTE_W | PTE_PS);
	v->seg[FS] = (struct segment){ .selector = 0x20, .attr = 0x4093, .base = 0x80000000 - 0x100, .limit = 0xfff };
	CODE_AT(0x7c00, 0x64, 0x01, 0x83, 0x04, 0x01, 0x00, 0x00); /* add %eax,%fs:0x104(%ebx) */
	v->rip = 0x7c00;
	v->gpr[RAX] = 5;
	v->gpr[RBX] = 0x10;
	device.value = 37;
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->rip, 0x7c07);
	assert_int_equal(device.reads, 1);
	assert_int_equal(device.writes, 1);
	assert_int_equal(device.offset, 0x14);
	assert_int_equal(device.value, 42);
}

/* An access that ends behind the last linear address goes on at 0. */
static void test_linear_addresses_wrap(void **state)
{
	uint32_t value = 0;

	(void)state;
	page32(CR4_PSE);
	put32(DIRECTORY, PTE_P | PTE_W | PTE_PS);
	put32(DIRECTORY + 4 * 0x3ff, 0x400000 | PTE_P | PTE_W | PTE_PS);
	put32(0x7ffffc, 0x22110000);
	put32(0, 0x4433);
	assert_true(gva_read(v, 0xfffffffe, &value, 4));
	assert_int_equal(value, 0x44332211);
	put32(DIRECTORY, 0);
	assert_false(gva_read(v, 0xfffffffe, &value, 4));
	assert_raised(VEC_PF, true, 0);
	assert_int_equal(v->cr2, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_mode),
		TEST(test_fetch),
		TEST(test_next),
		TEST(test_real_mode_moves),
		TEST(test_stack_width),
		TEST(test_limits),
		TEST(test_fault_of_an_operand),
		TEST(test_32_bit_paging),
		TEST(test_pae),
		TEST(test_device),
		TEST(test_linear_addresses_wrap),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
