/*
 * Checkpoints 3.16 to 3.20: uses memory as its script says, and comes to the stages of a plan that it does not know. The script is the RAM
 * disk: a list of struct op, made from the seed (checks/touchscript.py). What it saw is checked in blocks, by a hash, because output is
 * slow; of a block whose hash is not what the script says, every value is printed.
 */
#include "hypercall.h"
#include "io.h"
#include "start_info.h"

#define PORT_DEBUG 0xe9
#define BLOCK_MAX 1024

enum { END, STAGE, CHECK, READ, WRITE, ADD, MOVUPS, PUSH, COPY, FILL, INS, CALL, SUM, WARM, ROOT, INVLPG, OPS };

struct op {
	uint64_t what; /* low byte: which; second byte: size of the access */
	uint64_t a, b, c;
};

struct module {
	uint64_t gpa, size, cmdline, reserved;
};

/* The accesses, one instruction each, whose address the grader learns: (rdi = where, rsi, rdx), result in RAX. */
uint64_t do_read1(uint64_t), do_read2(uint64_t), do_read4(uint64_t), do_read8(uint64_t);
uint64_t do_write1(uint64_t, uint64_t), do_write2(uint64_t, uint64_t), do_write4(uint64_t, uint64_t), do_write8(uint64_t, uint64_t);
uint64_t do_add(uint64_t, uint64_t), do_movups(uint64_t, uint64_t), do_push(uint64_t, uint64_t), do_ins(uint64_t);
uint64_t do_copy(uint64_t, uint64_t, uint64_t), do_fill(uint64_t, uint64_t, uint64_t);
extern const char at_movups[], at_push[], at_copy[], at_fill[], at_ins[];

asm(".text\n"
    "do_read1: movzbl (%rdi), %eax; ret\n"
    "do_read2: movzwl (%rdi), %eax; ret\n"
    "do_read4: mov (%rdi), %eax; ret\n"
    "do_read8: mov (%rdi), %rax; ret\n"
    "do_write1: mov %sil, (%rdi); ret\n"
    "do_write2: mov %si, (%rdi); ret\n"
    "do_write4: mov %esi, (%rdi); ret\n"
    "do_write8: mov %rsi, (%rdi); ret\n"
    "do_add: lock add %rsi, (%rdi); ret\n"
    "do_movups: movq %rsi, %xmm0; punpcklqdq %xmm0, %xmm0\n"
    "at_movups: movups %xmm0, (%rdi); ret\n"
    "do_push: mov %rsp, %rax; lea 8(%rdi), %rsp\n"
    "at_push: push %rsi; mov %rax, %rsp; ret\n"
    "do_copy: mov %rdx, %rcx\n"
    "at_copy: rep movsb; ret\n"
    "do_fill: mov %rsi, %rax; mov %rdx, %rcx\n"
    "at_fill: rep stosq; ret\n"
    "do_ins: mov $0xe9, %edx\n"
    "at_ins: insb; ret\n");

static const struct {
	const char *name;
	const void *at;
} instructions[] = {
	{ "read1", do_read1 }, { "read2", do_read2 }, { "read4", do_read4 }, { "read8", do_read8 }, { "write1", do_write1 },
	{ "write2", do_write2 }, { "write4", do_write4 }, { "write8", do_write8 }, { "add", do_add }, { "movups", at_movups },
	{ "push", at_push }, { "copy", at_copy }, { "fill", at_fill }, { "ins", at_ins },
};

/* --- output, a line with one REP OUTSB ---------------------------------------------------------------------------------------------- */

static char line[80], *line_end = line;

static void put_text(const char *s)
{
	while (*s)
		*line_end++ = *s++;
}

static void put_hex(uint64_t v)
{
	if (v >> 4)
		put_hex(v >> 4);
	*line_end++ = "0123456789abcdef"[v & 15];
}

static void put_value(uint64_t value)
{
	const char *from = line;

	*line_end++ = '=';
	put_hex(value);
	*line_end++ = '\n';
	uint64_t count = line_end - line;
	asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(PORT_DEBUG) : "memory");
	line_end = line;
}

/* --- what was seen ------------------------------------------------------------------------------------------------------------------- */

static uint64_t value[BLOCK_MAX], values, block, hash;

static void saw(uint64_t v)
{
	if (values < BLOCK_MAX)
		value[values] = v;
	values++;
	hash = (hash ^ v) * 0x9e3779b97f4a7c15;
	hash ^= hash >> 32;
}

static void check(uint64_t expected)
{
	put_text("block");
	put_hex(block);
	put_value(hash);
	for (uint64_t i = 0; hash != expected && i < values && i < BLOCK_MAX; i++) {
		put_text("block");
		put_hex(block);
		put_text(".");
		put_hex(i);
		put_value(value[i]);
	}
	block++;
	hash = values = 0;
}

/* --- the script ---------------------------------------------------------------------------------------------------------------------- */

static void warm(uint64_t from, uint64_t to)
{
	for (; from < to; from += 4096)
		asm volatile("lock orq $0, (%0)" : : "r"(from) : "memory");
}

static void sum(uint64_t from, uint64_t words)
{
	for (; words; words--, from += 8)
		saw(*(volatile uint64_t *)from);
}

static void access(const struct op *op)
{
	switch (op->what) {
	case READ | 1 << 8: saw(do_read1(op->a)); break;
	case READ | 2 << 8: saw(do_read2(op->a)); break;
	case READ | 4 << 8: saw(do_read4(op->a)); break;
	case READ | 8 << 8: saw(do_read8(op->a)); break;
	case WRITE | 1 << 8: do_write1(op->a, op->b); break;
	case WRITE | 2 << 8: do_write2(op->a, op->b); break;
	case WRITE | 4 << 8: do_write4(op->a, op->b); break;
	case WRITE | 8 << 8: do_write8(op->a, op->b); break;
	case ADD: do_add(op->a, op->b); break;
	case MOVUPS: do_movups(op->a, op->b); break;
	case PUSH: do_push(op->a, op->b); break;
	case COPY: do_copy(op->a, op->b, op->c); break;
	case FILL: do_fill(op->a, op->b, op->c); break;
	case INS: do_ins(op->a); break;
	case CALL: saw(((uint64_t (*)(uint64_t))op->a)(op->b)); break;
	}
}

int guest_main(const struct hvm_start_info *info);
int guest_main(const struct hvm_start_info *info)
{
	const struct module *module = (const struct module *)info->modules;
	uint64_t cr3;

	for (unsigned i = 0; i < sizeof instructions / sizeof *instructions; i++) {
		put_text("rip.");
		put_text(instructions[i].name);
		put_value((uint64_t)instructions[i].at);
	}
	asm("mov %%cr3, %0" : "=r"(cr3));
	for (const struct op *op = (const struct op *)module->gpa;; op++) {
		switch ((uint8_t)op->what) {
		case END: return 0;
		case STAGE: saw(stage(op->a)); break;
		case CHECK: check(op->a); break;
		case SUM: sum(op->a, op->b); break;
		case WARM: warm(op->a, op->b); break;
		case ROOT: ((volatile uint64_t *)cr3)[op->a] = op->b; break;
		case INVLPG: asm volatile("invlpg (%0)" : : "r"(op->a) : "memory"); break;
		default: access(op);
		}
	}
}
