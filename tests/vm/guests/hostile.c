/* The choice of an attack, and what attacks share. */
#include "hostile.h"

#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "options.h"
#include "start_info.h"

uint64_t memory, variant, faults[256];
/* In a copy of the file that is to be another guest's neighbour the test writes other options here: the command line is the same for both. */
static volatile char other_options[64] = "@other options";
static uint64_t random_state, completed;
static uint8_t fault_stack[4096] __attribute__((aligned(16)));

uint64_t random64(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dull;
}

bool attempt_asm(void (*fn)(uint64_t), uint64_t arg, uint64_t rsp);
extern const uint8_t attempt_ended[];
asm("attempt_asm:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, attempt_rsp\n"
    "mov %rdi, %rax; mov %rsi, %rdi\n"
    "test %rdx, %rdx; cmovnz %rdx, %rsp\n"
    "call *%rax\n"
    "mov $1, %eax; jmp 1f\n"
    "attempt_ended: xor %eax, %eax\n"
    "1: cli; cld; mov attempt_rsp, %rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    ".bss; .balign 8; attempt_rsp: .skip 8; .text");
extern uint64_t attempt_rsp;

bool attempt_on(void (*fn)(uint64_t), uint64_t arg, uint64_t rsp)
{
	bool done = attempt_asm(fn, arg, rsp);

	completed += done;
	return done;
}

static void end_attempt(struct trap_frame *f)
{
	faults[f->vector]++;
	if (f->vector >= 0x20 && f->vector < 0x28)
		outb(0x20, 0x20);
	f->rip = (uint64_t)attempt_ended;
	f->rsp = attempt_rsp;
	f->cs = SEL_KCODE;
	f->ss = SEL_KDATA;
	f->rflags = RFLAGS_FIXED;
}

void report_faults(void)
{
	for (unsigned v = 0; v < 256; v++) {
		char name[] = "vector_00";

		if (!faults[v])
			continue;
		name[7] = "0123456789abcdef"[v >> 4];
		name[8] = "0123456789abcdef"[v & 15];
		report(name, faults[v]);
	}
	report("completed", completed);
}

void gate_set(uint64_t (*idt)[2], unsigned vector, uint64_t target, unsigned ist)
{
	idt[vector][0] = (target & 0xffff) | SEL_KCODE << 16 | (uint64_t)ist << 32 | 0x8eull << 40 | (target >> 16 & 0xffff) << 48;
	idt[vector][1] = target >> 32;
}

void load_idt(uint64_t base, uint16_t limit)
{
	struct table_register r = { limit, base };

	asm volatile("lidt %0" : : "m"(r));
}

void load_gdt(uint64_t base, uint16_t limit)
{
	struct table_register r = { limit, base };

	asm volatile("lgdt %0" : : "m"(r));
}

static bool run(const struct attack *attacks, const char *options)
{
	for (; attacks->name; attacks++) {
		if (!option_word(options, attacks->name))
			continue;
		attacks->run();
		return true;
	}
	return false;
}

int guest_main(const struct hvm_start_info *info)
{
	const char *options = other_options[0] == '@' ? start_info_cmdline(info) : (const char *)other_options;

	memory = option_number(options, "mem", 64) << 20;
	variant = option_number(options, "n", 0);
	random_state = option_number(options, "seed", 1) * 0x9e3779b97f4a7c15ull | 1;
	gdt_init();
	idt_init();
	/* Every handler gets a good stack, whatever the attack did with RSP. */
	tss_set_ist(1, (uint64_t)fault_stack + sizeof(fault_stack));
	for (unsigned v = 0; v < 256; v++) {
		idt_gate(v, 0, 1);
		trap_handlers[v] = end_attempt;
	}
	if (run(memory_attacks, options) || run(state_attacks, options) || run(paging_attacks, options) || run(hvm_attacks, options))
		return 0;
	dputs("no such attack\n");
	return 99;
}
