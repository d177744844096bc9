/*
 * Checkpoint 2.11: addresses where there is no memory, through the guest's own mappings. Nothing answers there: loads read ones, stores
 * are lost, and hv counts both by address. With TABLES_TOO (in params) there is an entry that leads to a page table in such a place, which
 * the CPU below the kvm engine does not survive.
 */
#include "paging.h"

PARAMS;

enum { NUMBER = 1, DEVICE, DEVICE_LARGE, TABLES_TOO };

#define LARGE (2ull << 20)
#define STRIDE 16 /* each operation has an address of its own, so that its reads and writes can be counted */

/* RSI points to the device, RAX has a value, ECX is 5; the flags are those of equal values. */
#define OPERATIONS(X)                                                                                              \
	X("mov (%rsi), %rax") X("mov (%rsi), %eax") X("mov (%rsi), %ax") X("mov (%rsi), %al")                      \
	X("movzbl (%rsi), %eax") X("movswq (%rsi), %rax")                                                          \
	X("mov %rax, (%rsi)") X("mov %eax, (%rsi)") X("mov %ax, (%rsi)") X("mov %al, (%rsi)") X("movl $9, (%rsi)") \
	X("add %eax, (%rsi)") X("or %al, (%rsi)") X("xor %rax, (%rsi)") X("incw (%rsi)") X("negl (%rsi)")          \
	X("notb (%rsi)") X("xchg %eax, (%rsi)") X("xadd %rax, (%rsi)") X("lock cmpxchg %ecx, (%rsi)")              \
	X("btsl $5, (%rsi)") X("test %eax, (%rsi)") X("cmpq $-1, (%rsi)") X("and (%rsi), %rax")                    \
	X("mov %rsi, %rdi; rep stosb") X("push (%rsi); pop %rax") X("push %rax; pop (%rsi)")

#define OPERATION(insn)                                               \
	"1: mov %rdi, %rax; mov $5, %ecx; cmp %ecx, %ecx\n" insn "\n" \
	"pushfq; pop operation_flags; ret\n"                          \
	".pushsection .rodata; .quad 1b; .popsection\n"

extern uint64_t (*const operations[])(uint64_t rax, uint64_t rsi);
extern uint64_t (*const operations_end[])(uint64_t rax, uint64_t rsi);
uint64_t operation_flags;

asm(".section .rodata\n.balign 8\n.globl operations, operations_end\noperations:\n"
    ".text\n" OPERATIONS(OPERATION) ".section .rodata\noperations_end:\n.text\n");

#define FLAGS_TOLD 0xc1ull /* SF, ZF, CF */

static void operate(const char *name, unsigned i, uint64_t at)
{
	tag(name, i);
	say("", operations[i](params[NUMBER], at));
	say("flags", operation_flags & FLAGS_TOLD);
}

int guest_main(void)
{
	paging_init();
	user_init();
	uint64_t small = random_gva(), large = random_gva() & ~(LARGE - 1), both = random_gva() & ~PAGE;
	uint64_t inside = random64() % 0x1ff000 & ~7ull;
	unsigned count = operations_end - operations;

	map(small, params[DEVICE], KERNEL);
	for (unsigned i = 0; i < count; i++)
		operate("small", i, small + STRIDE * i);
	*entry_at(large, 2) = params[DEVICE_LARGE] | ALL | PTE_PS;
	for (unsigned i = 0; i < count; i += 5)
		operate("large", i, large + inside + STRIDE * i);
	for (unsigned kind = READ; kind <= WRITE; kind++) {
		tag("program", kind);
		try_and_say(kind | USER, large + 0x1ff800 + 8 * kind, params[NUMBER]);
	}
	tag("marks", 0);
	say("", (*entry_at(small, 1) & (PTE_A | PTE_D)) | (*entry_at(large, 2) & (PTE_A | PTE_D)) << 8);

	/* Half of it is memory. */
	map(both, frame(0), KERNEL);
	map(both + PAGE, params[DEVICE] + PAGE, KERNEL);
	*word(frame(0) + PAGE - 8) = params[NUMBER] << 32;
	for (unsigned kind = READ; kind <= WRITE; kind++) {
		tag("both", kind);
		try_and_say(kind, both + PAGE - 4, ~params[NUMBER]);
		say("memory", *word(frame(0) + PAGE - 8));
	}

	/* The guest's rights count here too. */
	uint64_t forbidden = random_gva();
	map(forbidden, params[DEVICE] + 2 * PAGE, PTE_P);
	tag("forbidden", WRITE);
	try_and_say(WRITE, forbidden, 0);
	tag("forbidden", USER);
	try_and_say(READ | USER, forbidden, 0);

	if (params[TABLES_TOO]) {
		uint64_t gva = random_gva();
		*entry_at(gva, 3) = params[DEVICE_LARGE] | ALL;
		tag("table", 0);
		try_and_say(READ, gva, 0);
	}
	return 0;
}
