// sources: memory_access.c rmw.c gva.c segment.c legacy_walk.c decode.c mem.c bus.c spt.c walk.c fill.c flush.c pool.c cache.c
/* Instructions on memory that hv carries out for the guest, against the CPU that runs this test: the same bytes on the same memory,
 * registers and flags, which must come out equal. And what a fault leaves behind: nothing. TRAPDOOR_SEED=N fixes the operands. */
#include "lab1.h"
#include "memory_access.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#define CODE 0x100000
#define DATA 0x200000
#define SPACE 1024 /* bytes at DATA, with the operand somewhere in the middle */
#define DEVICE (FLAT_LIMIT - 4096)
#define ROUNDS 1000 /* for each form and size */

#define CF 0x001
#define PF 0x004
#define AF 0x010
#define ZF 0x040
#define SF 0x080
#define OF 0x800
#define ARITHMETIC (CF | PF | AF | ZF | SF | OF)

/* handle_trap() takes what comes before INSN_MOV for an instruction that the machine may refuse. */
_Static_assert(INSN_ADD > INSN_MOV && INSN_POP > INSN_MOV, "no machine refuses these");

static struct vm vm;
static struct vcpu *const v = &vm.vcpu;
static uint64_t seed;
static uint8_t *space; /* the machine's twin of DATA, and behind it the instruction */

int vm_stop(struct vm *m, int status, const char *fmt, ...)
{
	(void)fmt;
	m->stopping = 1;
	m->status = status;
	return -ECANCELED;
}
void trace_count(struct trace_count *table, const char *name) { (void)table, (void)name; }
uint64_t segment_base(struct vcpu *vcpu, unsigned sreg) { return vcpu->seg[sreg].base; }

/* --- the machine -------------------------------------------------------------------------------------------------------- */

struct cpu {
	uint64_t gpr[16], rflags;
};

/* Runs code with these registers and arithmetic flags, RSP included, and comes back when it jumps to native_back. */
void native_run(struct cpu *cpu, const void *code);
extern const char native_back[];
__asm__(".bss\n"
	"native_cpu: .quad 0\nnative_code: .quad 0\nnative_stack: .quad 0\nnative_rdi: .quad 0\n"
	".text\n"
	".globl native_run, native_back\n"
	"native_run:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rdi, native_cpu(%rip)\n"
	"	mov %rsi, native_code(%rip)\n"
	"	mov %rsp, native_stack(%rip)\n"
	"	push 128(%rdi)\n	popfq\n"
	"	mov 0(%rdi), %rax\n	mov 8(%rdi), %rcx\n	mov 16(%rdi), %rdx\n	mov 24(%rdi), %rbx\n"
	"	mov 32(%rdi), %rsp\n	mov 40(%rdi), %rbp\n	mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8\n	mov 72(%rdi), %r9\n	mov 80(%rdi), %r10\n	mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12\n	mov 104(%rdi), %r13\n	mov 112(%rdi), %r14\n	mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	jmp *native_code(%rip)\n"
	"native_back:\n" /* a MOV changes no flag */
	"	mov %rdi, native_rdi(%rip)\n"
	"	mov native_cpu(%rip), %rdi\n"
	"	mov %rax, 0(%rdi)\n	mov %rcx, 8(%rdi)\n	mov %rdx, 16(%rdi)\n	mov %rbx, 24(%rdi)\n"
	"	mov %rsp, 32(%rdi)\n	mov %rbp, 40(%rdi)\n	mov %rsi, 48(%rdi)\n"
	"	mov %r8, 64(%rdi)\n	mov %r9, 72(%rdi)\n	mov %r10, 80(%rdi)\n	mov %r11, 88(%rdi)\n"
	"	mov %r12, 96(%rdi)\n	mov %r13, 104(%rdi)\n	mov %r14, 112(%rdi)\n	mov %r15, 120(%rdi)\n"
	"	mov native_rdi(%rip), %rax\n"
	"	mov %rax, 56(%rdi)\n"
	"	mov native_stack(%rip), %rsp\n"
	"	pushfq\n	pop 128(%rdi)\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

/* --- instructions ------------------------------------------------------------------------------------------------------- */

/* What the manual leaves undefined of the flags (SDM vol. 2, each instruction). */
enum undefined { ALL_DEFINED, LOGIC, BITS, SHIFTS };

struct form {
	const char *name;
	uint8_t escape; /* 0x0f or 0 */
	uint8_t opcode; /* with 1 in `sizes`: of the byte form, and one more for the others */
	int8_t digit;   /* in ModRM; -1 = a register */
	char imm;       /* 'b' = a byte, 'z' = as wide as the operand and 4 bytes at most */
	uint8_t sizes;  /* sum of sizes in bytes */
	bool writes, lockable;
	enum undefined undefined;
};

static const struct form forms[] = {
#define ALU(n, name, writes, undefined)                                           \
	{ name " r,rm", 0, 8 * (n), -1, 0, 15, writes, writes, undefined },       \
	{ name " rm,r", 0, 8 * (n) + 2, -1, 0, 15, false, false, undefined },     \
	{ name " i,rm", 0, 0x80, n, 'z', 15, writes, writes, undefined },         \
	{ name " i8,rm", 0, 0x83, n, 'b', 14, writes, writes, undefined }
	ALU(0, "add", true, ALL_DEFINED), ALU(1, "or", true, LOGIC), ALU(2, "adc", true, ALL_DEFINED),
	ALU(3, "sbb", true, ALL_DEFINED), ALU(4, "and", true, LOGIC), ALU(5, "sub", true, ALL_DEFINED),
	ALU(6, "xor", true, LOGIC), ALU(7, "cmp", false, ALL_DEFINED),
	{ "test r,rm", 0, 0x84, -1, 0, 15, false, false, LOGIC },
	{ "test i,rm", 0, 0xf6, 0, 'z', 15, false, false, LOGIC },
	{ "not", 0, 0xf6, 2, 0, 15, true, true, ALL_DEFINED },
	{ "neg", 0, 0xf6, 3, 0, 15, true, true, ALL_DEFINED },
	{ "inc", 0, 0xfe, 0, 0, 15, true, true, ALL_DEFINED },
	{ "dec", 0, 0xfe, 1, 0, 15, true, true, ALL_DEFINED },
#define SHIFT(n, name)                                                            \
	{ name " i,rm", 0, 0xc0, n, 'b', 15, true, false, SHIFTS },               \
	{ name " 1,rm", 0, 0xd0, n, 0, 15, true, false, SHIFTS },                 \
	{ name " cl,rm", 0, 0xd2, n, 0, 15, true, false, SHIFTS }
	SHIFT(4, "shl"), SHIFT(5, "shr"), SHIFT(6, "shl (6)"), SHIFT(7, "sar"),
#define BIT(n, name, writes)                                                      \
	{ name " r,rm", 0x0f, 0x83 + 8 * (n), -1, 0, 14, writes, writes, BITS },  \
	{ name " i,rm", 0x0f, 0xba, n, 'b', 14, writes, writes, BITS }
	BIT(4, "bt", false), BIT(5, "bts", true), BIT(6, "btr", true), BIT(7, "btc", true),
	{ "xchg", 0, 0x86, -1, 0, 15, true, true, ALL_DEFINED },
	{ "xadd", 0x0f, 0xc0, -1, 0, 15, true, true, ALL_DEFINED },
	{ "cmpxchg", 0x0f, 0xb0, -1, 0, 15, true, true, ALL_DEFINED },
	{ "cmpxchg8b/16b", 0x0f, 0xc7, 1, 0, 12, true, true, ALL_DEFINED },
	{ "movnti", 0x0f, 0xc3, -1, 0, 12, true, false, ALL_DEFINED },
	{ "push", 0, 0xff, 6, 0, 10, false, false, ALL_DEFINED },
	{ "pop", 0, 0x8f, 0, 0, 10, true, false, ALL_DEFINED },
};
#define FORMS (sizeof forms / sizeof *forms)

static bool is(const struct form *f, const char *name) { return !strncmp(f->name, name, strlen(name)); }
static bool pair(const struct form *f) { return is(f, "cmpxchg8b"); }
static bool stack(const struct form *f) { return is(f, "push") || is(f, "pop"); }

/* One instruction with a memory operand at disp(base). */
struct code {
	uint8_t bytes[INSN_MAX];
	unsigned len, size, reg, base;
	uint64_t imm;
	bool lock, rex;
};

static void put(struct code *c, uint64_t value, unsigned n)
{
	memcpy(c->bytes + c->len, &value, n);
	c->len += n;
}

static void assemble(struct code *c, const struct form *f, int8_t disp)
{
	unsigned reg = f->digit >= 0 ? (unsigned)f->digit : c->reg;
	uint8_t rex = (c->size == 8 && !stack(f) ? 8 : 0) | (reg & 8) >> 1 | c->base >> 3;

	c->len = 0;
	if (c->lock)
		put(c, 0xf0, 1);
	if (c->size == 2)
		put(c, 0x66, 1);
	if (rex || c->rex)
		put(c, 0x40 | rex, 1);
	if (f->escape)
		put(c, f->escape, 1);
	put(c, f->opcode | ((f->sizes & 1) && c->size > 1), 1);
	put(c, 0x40 | (reg & 7) << 3 | (c->base & 7), 1);
	if ((c->base & 7) == RSP)
		put(c, 0x24, 1); /* SIB: no index */
	put(c, (uint8_t)disp, 1);
	if (f->imm)
		put(c, c->imm, f->imm == 'b' ? 1 : c->size < 4 ? c->size : 4);
}

/* --- random operands ---------------------------------------------------------------------------------------------------- */

/* splitmix64 (public domain, S. Vigna) */
static uint64_t rnd(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* Carries and overflows happen at the edges, so they come often. */
static uint64_t operand(void)
{
	static const uint64_t edges[] = { 0, 1, ~0ull, 0x8080808080808080, 0x7f7f7f7f7f7f7f7f, 0x80000000, 0x7fffffff,
					  1ull << 63, ~(1ull << 63), 0x8000, 0x7fff };
	uint64_t r = rnd();

	return r % 3 ? rnd() : edges[r / 3 % (sizeof edges / sizeof *edges)] + (r >> 32) % 2;
}

static uint64_t mask(unsigned size) { return size == 8 ? ~0ull : (1ull << 8 * size) - 1; }

static unsigned flags_undefined(const struct form *f, const struct code *c, uint64_t cl)
{
	unsigned count = (strstr(f->name, " 1,") ? 1 : f->imm ? c->imm : cl) & (c->size == 8 ? 63 : 31);

	switch (f->undefined) {
	case LOGIC: return AF;
	case BITS: return OF | SF | AF | PF;
	case SHIFTS:
		if (!count)
			return 0;
		return AF | (count > 1 ? OF : 0) | (!is(f, "sar") && count >= 8 * c->size ? CF : 0);
	default: return 0;
	}
}

/* Chooses instruction and registers; `at` is where the operand lies in DATA. */
static void choose(const struct form *f, unsigned size, struct code *c, struct cpu *regs, unsigned *at)
{
	static const uint8_t bases[] = { RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, RSP };
	unsigned width = pair(f) ? 2 * size : size;

	memset(c, 0, sizeof *c);
	for (unsigned i = 0; i < 16; i++)
		regs->gpr[i] = operand();
	regs->rflags = (rnd() & ARITHMETIC) | FLAG_FIXED;
	c->size = size;
	/* Only an instruction of the stack's may have it moved into the data. */
	c->base = bases[rnd() % (sizeof bases - !stack(f))];
	do
		c->reg = rnd() % 16;
	while (c->reg == c->base);
	c->rex = rnd() & 1; /* without, registers 4 to 7 of a byte are AH to BH */
	c->imm = operand();
	c->lock = f->lockable && (rnd() & 1);
	*at = SPACE / 2 + rnd() % 64;
	if (c->lock || is(f, "xchg") || pair(f)) /* a lock over two cache lines may end the process */
		*at &= ~(width - 1);
	if (is(f, "bt") && f->digit < 0) {
		/* The offset has the operand's size, and what is above it in the register must not matter. */
		uint64_t offset = rnd() % 2000 - 1000;
		regs->gpr[c->reg] = (regs->gpr[c->reg] & ~mask(size)) | (offset & mask(size));
	}
	if (f->undefined == SHIFTS && rnd() & 1)
		regs->gpr[RCX] = rnd() % 34, c->imm = rnd() % 34;
}

static void differs(const struct code *c, const char *what, uint64_t expected, uint64_t seen)
{
	struct insn insn;
	char text[96] = "";

	if (!insn_decode(c->bytes, c->len, 64, &insn))
		insn_text(&insn, CODE, text, sizeof text);
	fail_msg("`%s`: %s is 0x%llx on the CPU and 0x%llx here", text, what, (unsigned long long)expected,
		 (unsigned long long)seen);
}

/* One instruction on the machine and here. */
static void compare(const struct form *f, unsigned size)
{
	static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	struct code c;
	struct cpu regs;
	unsigned at;
	int8_t disp = (int8_t)(rnd() % 128 - 64);
	uint8_t *guest = guest_range(&vm.mem, DATA, SPACE), *page = space + 4096;
	const uint64_t moved = (uint64_t)(uintptr_t)space - DATA, other = rnd() & (FLAG_IF | FLAG_ID | FLAG_IOPL);
	const uint64_t back = (uint64_t)(uintptr_t)native_back;

	choose(f, size, &c, &regs, &at);
	for (unsigned i = 0; i < SPACE; i += 8) {
		uint64_t word = operand();
		memcpy(space + i, &word, 8);
	}
	if (stack(f))
		regs.gpr[RSP] = DATA + 128 + rnd() % 64;
	/* Relative to a moved stack pointer, an operand may also lie elsewhere in DATA. */
	if (c.base != RSP)
		regs.gpr[c.base] = DATA + at - disp;
	if (is(f, "cmpxchg") && rnd() & 1) { /* equal, which is rare otherwise */
		if (pair(f))
			memcpy(&regs.gpr[RDX], space + at + size, size);
		memcpy(&regs.gpr[RAX], space + at, size);
	}
	assemble(&c, f, disp);
	memcpy(guest, space, SPACE);

	struct cpu native = regs;
	native.gpr[c.base] += moved;
	if (stack(f) && c.base != RSP)
		native.gpr[RSP] += moved;
	memcpy(page, c.bytes, c.len);
	memcpy(page + c.len, (const uint8_t[]){ 0xff, 0x25, 0, 0, 0, 0 }, 6); /* jmp *0(%rip) */
	memcpy(page + c.len + 6, &back, 8);
	native_run(&native, page);
	native.gpr[c.base] -= moved;
	if (stack(f) && c.base != RSP)
		native.gpr[RSP] -= moved;

	guest_write(&vm.mem, CODE, c.bytes, c.len);
	memcpy(v->gpr, regs.gpr, sizeof v->gpr);
	v->rip = CODE;
	v->rflags = regs.rflags | other;
	if (memory_emulate(v) || v->event.pending)
		differs(&c, "the exception", 0, v->event.vector);
	for (unsigned i = 0; i < 16; i++)
		if (v->gpr[i] != native.gpr[i])
			differs(&c, names[i], native.gpr[i], v->gpr[i]);
	uint64_t expected = (native.rflags & ARITHMETIC) | other | FLAG_FIXED;
	if ((v->rflags ^ expected) & ~(uint64_t)flags_undefined(f, &c, regs.gpr[RCX]))
		differs(&c, "rflags", expected, v->rflags);
	for (unsigned i = 0; i < SPACE; i++)
		if (guest[i] != space[i])
			differs(&c, "a byte of memory", space[i], guest[i]);
	assert_int_equal(v->rip, CODE + c.len);
}

static void test_as_the_cpu_does(void **state)
{
	(void)state;
	for (unsigned i = 0; i < FORMS; i++)
		for (unsigned size = 1; size <= 8; size *= 2)
			for (unsigned n = 0; n < ROUNDS && (forms[i].sizes & size); n++)
				compare(&forms[i], size);
}

/* --- faults and devices ------------------------------------------------------------------------------------------------- */

static struct {
	unsigned reads, writes, size;
	uint64_t value;
} device;

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev, (void)offset;
	device.reads++;
	device.size = size;
	return device.value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)dev, (void)offset;
	device.writes++;
	device.size = size;
	device.value = value;
}

/* Puts one instruction at CODE with its operand at gva. */
static void prepare(const struct form *f, unsigned size, unsigned base, uint64_t gva, struct code *c)
{
	struct cpu regs;
	unsigned at;

	choose(f, size, c, &regs, &at);
	c->base = base;
	c->reg = RDX;
	if (is(f, "bt"))
		regs.gpr[RDX] = c->imm = 0;
	memcpy(v->gpr, regs.gpr, sizeof v->gpr);
	v->rflags = regs.rflags | (v->rflags & FLAG_AC);
	v->gpr[RSP] = DATA + 64;
	v->gpr[base] = gva;
	v->rip = CODE;
	v->event = (struct event){ 0 };
	assemble(c, f, 0);
	guest_write(&vm.mem, CODE, c->bytes, c->len);
}

/* The instruction raises this exception and changes nothing. */
static void faults(const struct form *f, unsigned size, unsigned base, uint64_t gva, uint8_t vector, uint32_t error,
		   uint64_t cr2)
{
	struct code c;
	struct vcpu before;
	uint8_t memory[SPACE];

	prepare(f, size, base, gva, &c);
	guest_read(&vm.mem, DATA, memory, SPACE);
	memset(&device, 0, sizeof device);
	v->cr2 = 0;
	before = *v;
	assert_int_equal(memory_emulate(v), 0);
	if (!v->event.pending || v->event.vector != vector || v->event.error != error || v->cr2 != cr2)
		fail_msg("%s, %u bytes at 0x%llx: vector %u, error 0x%x, cr2 0x%llx instead of %u, 0x%x, 0x%llx", f->name,
			 size, (unsigned long long)gva, v->event.vector, v->event.error, (unsigned long long)v->cr2, vector,
			 error, (unsigned long long)cr2);
	before.event = v->event;
	before.cr2 = v->cr2;
	assert_memory_equal(v, &before, sizeof before);
	assert_memory_equal(guest_range(&vm.mem, DATA, SPACE), memory, SPACE);
	assert_int_equal(device.reads + device.writes, 0);
}

static void test_a_fault_changes_nothing(void **state)
{
	const uint64_t hole = 1ull << 47;

	(void)state;
	for (unsigned i = 0; i < FORMS; i++)
		for (unsigned size = 1; size <= 8; size *= 2) {
			const struct form *f = &forms[i];
			unsigned width = pair(f) ? 2 * size : size;
			uint32_t write = f->writes ? PF_W : 0;
			if (!(f->sizes & size))
				continue;
			faults(f, size, RDI, FLAT_LIMIT, VEC_PF, write, FLAT_LIMIT);
			faults(f, size, RDI, hole, VEC_GP, 0, 0);
			faults(f, size, RBP, hole, VEC_SS, 0, 0);
			v->cpl = 3;
			faults(f, size, RDI, FLAT_LIMIT, VEC_PF, write | PF_U, FLAT_LIMIT);
			v->cr0 |= CR0_AM;
			v->rflags |= FLAG_AC;
			if (width == 16)
				faults(f, size, RDI, DATA + 256 + 8, VEC_GP, 0, 0);
			else if (width > 1)
				faults(f, size, RDI, DATA + 256 + 1, VEC_AC, 0, 0);
			v->rflags &= ~FLAG_AC;
			v->cpl = 0;
			/* One byte is still the device's: it must not hear of it. */
			if (width > 1 && width < 16)
				faults(f, size, RDI, FLAT_LIMIT - 1, VEC_PF, write, FLAT_LIMIT);
		}
}

static const struct form *form(const char *name)
{
	for (unsigned i = 0; i < FORMS; i++)
		if (is(&forms[i], name))
			return &forms[i];
	fail_msg("no form %s", name);
	return NULL;
}

static void test_a_fault_on_the_stack_changes_nothing(void **state)
{
	struct code c;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		prepare(form(i ? "pop" : "push"), 8, RDI, DATA + 256, &c);
		v->gpr[RSP] = 1ull << 47 | 0x1000;
		struct vcpu before = *v;
		assert_int_equal(memory_emulate(v), 0);
		assert_true(v->event.pending);
		assert_int_equal(v->event.vector, VEC_SS);
		before.event = v->event;
		assert_memory_equal(v, &before, sizeof before);
	}
}

static void test_a_device_is_read_once_and_written_once(void **state)
{
	struct code c;

	(void)state;
	for (unsigned i = 0; i < FORMS; i++)
		for (unsigned size = 1; size <= 8; size *= 2) {
			const struct form *f = &forms[i];
			if (!(f->sizes & size))
				continue;
			memset(&device, 0, sizeof device);
			prepare(f, size, RDI, DEVICE, &c);
			v->gpr[RAX] = 1; /* CMPXCHG: not what the device says, and written nevertheless */
			assert_int_equal(memory_emulate(v), 0);
			assert_false(v->event.pending);
			unsigned words = pair(f) && size == 8 ? 2 : 1;
			if (device.reads != (is(f, "movnti") || is(f, "pop") ? 0 : words) ||
			    device.writes != (f->writes ? words : 0))
				fail_msg("%s, %u bytes: %u reads and %u writes", f->name, size, device.reads, device.writes);
			assert_int_equal(device.size, pair(f) ? 8 : size);
		}
}

static void test_others_stop_the_vm(void **state)
{
	static const uint8_t code[][4] = {
		{ 0x0f, 0xa4, 0x07, 1 }, /* shld $1,%eax,(%rdi) */
		{ 0xd0, 0x07 },          /* rolb (%rdi) */
		{ 0x50 },                /* push %rax: memory is its stack only */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof code / sizeof *code; i++) {
		vm.stopping = 0;
		v->rip = CODE;
		v->event = (struct event){ 0 };
		guest_write(&vm.mem, CODE, code[i], sizeof code[i]);
		assert_int_equal(memory_emulate(v), -ECANCELED);
		assert_true(vm.stopping);
		assert_int_equal(v->rip, CODE);
	}
	/* LOCK where the manual forbids it. */
	vm.stopping = 0;
	guest_write(&vm.mem, CODE, (const uint8_t[]){ 0xf0, 0x39, 0x07 }, 3);
	assert_int_equal(memory_emulate(v), 0);
	assert_int_equal(v->event.vector, VEC_UD);
}

static int setup(void **state)
{
	static const struct device_ops ops = { "counter", device_read, device_write };

	(void)state;
	memset(&vm, 0, sizeof vm);
	v->vm = &vm;
	pthread_mutex_init(&vm.lock, NULL);
	bus_init(&vm.mmio, "address");
	v->cr0 = CR0_PE | CR0_PG;
	v->efer = EFER_LME | EFER_LMA;
	space = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return space == MAP_FAILED || bus_add(&vm.mmio, DEVICE, 4096, &ops, NULL) || guest_mem_create(&vm.mem, 4 * MiB);
}

static int teardown(void **state)
{
	(void)state;
	munmap(space, 8192);
	guest_mem_destroy(&vm.mem);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_as_the_cpu_does, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_fault_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_fault_on_the_stack_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_device_is_read_once_and_written_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_others_stop_the_vm, setup, teardown),
	};
	const char *given = getenv("TRAPDOOR_SEED");

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("test_rmw: TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests_name("rmw", tests, NULL, NULL);
}
