/*
 * Checkpoint 2.7: page faults that no load or store of the guest's raised: in the middle of an instruction that hv carries out, and while
 * the CPU delivers an exception. The CPU's own accesses are the kernel's; a second page fault while the first is delivered is a double
 * fault (SDM vol. 3, table 6-5).
 */
#include "paging.h"

PARAMS;

#define LENGTH 64
#define SEL_OTHER 0x48 /* only in the GDT that is loaded here */
#define IST_DF 2
#define IST_ABSENT 3

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, attr;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
};
extern const uint8_t trap_stubs[256][16];

/* An instruction with up to four registers as arguments; where it faults is name_at. */
#define TRIAL(name, front, insn)                                           \
	void name(uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t rcx); \
	extern const uint8_t name##_at[];                                  \
	asm(".text\n" #name ": mov %rsp, access_sp\n" front "\n" #name "_at: " insn "\nret\n")
#define RUN(name, rdi, rsi, rdx, rcx)             \
	do {                                      \
		seen.faults = 0;                  \
		name(rdi, rsi, rdx, rcx);         \
		access_sp = 0;                    \
		seen.value = 0;                   \
		say_seen_at((uint64_t)name##_at); \
	} while (0)

TRIAL(string_out, "mov %edi, %eax", "rep outsb");
TRIAL(string_in, "", "rep insw");
TRIAL(load_gdt, "", "lgdt (%rdi)");
TRIAL(load_ds, "", "mov %edi, %ds");
/* The frame at RSI, mapped at RDI, leads back to the caller. */
TRIAL(iret_on, "mov %rsp, 24(%rsi); mov %rdi, %rsp", "iretq");
TRIAL(undefined_on, "mov %rdi, %rsp", "ud2");

/* A page that is mapped, and the next one that will be, when the handler is asked to. */
static uint64_t half_mapped(uint64_t first, uint64_t second, uint64_t bits)
{
	uint64_t gva = random_gva() & ~PAGE;

	map(gva, first, KERNEL);
	*entry_at(gva + PAGE, 1) = bits ? second | bits : 0;
	repair_at = entry_at(gva + PAGE, 1);
	repair_with = second | KERNEL;
	return gva;
}

static void strings(void)
{
	static const char text[] = "outs0=123456789\n";
	uint64_t half = 8, length = sizeof text - 1, gva = half_mapped(frame(0), frame(1), 0);
	uint8_t sum = 0;

	for (unsigned i = 0; i < length; i++)
		sum += text[i];
	memcpy((void *)(frame(0) + PAGE - half), text, half);
	memcpy((void *)frame(1), text + half, length - half);
	tag("outs.fault", 0);
	RUN(string_out, sum, gva + PAGE - half, 0xe9, length);
	say("rcx", seen.rcx);
	say("rsi", seen.rsi - gva);

	/* The second page may be read. */
	gva = half_mapped(frame(2), frame(3), PTE_P);
	tag("ins", 0);
	RUN(string_in, gva + PAGE - 16, 0, params[2], LENGTH);
	say("rcx", seen.rcx);
	say("rdi", seen.rdi - gva);
	say("first", *word(frame(2) + PAGE - 8));
	say("last", *word(frame(3) + 2 * LENGTH - 24));
	say("behind", *word(frame(3) + 2 * LENGTH - 16));
}

static void descriptors(void)
{
	uint64_t table = half_mapped(frame(5), frame(6), 0), *second = repair_at;
	uint64_t gva = half_mapped(frame(3), frame(4), 0);
	struct table_register gdtr = { SEL_OTHER + 7, table + PAGE - SEL_OTHER };

	memcpy((void *)(frame(3) + PAGE - 4), &gdtr, 4);
	memcpy((void *)frame(4), (uint8_t *)&gdtr + 4, 6);
	tag("lgdt", 0);
	RUN(load_gdt, gva + PAGE - 4, 0, 0, 0);

	/* The code segment of the handler is on the first page of the new GDT, the descriptor that is loaded begins the second. */
	*word(frame(5) + PAGE - SEL_OTHER + SEL_KCODE) = DESC_KCODE;
	*word(frame(5) + PAGE - SEL_OTHER + SEL_KDATA) = DESC_KDATA;
	*word(frame(6)) = DESC_KDATA;
	repair_at = second;
	repair_with = frame(6) | KERNEL;
	tag("load", 0);
	RUN(load_ds, SEL_OTHER, 0, 0, 0);
	gdt_init();
}

static void stacks(void)
{
	/* Of the frame so many bytes are on the page that is there. */
	for (unsigned on_first = 0; on_first <= 24; on_first += 24) {
		uint64_t gva = half_mapped(frame(7), frame(8), 0);
		uint64_t in[5] = { (uint64_t)access_end, SEL_KCODE, RFLAGS_FIXED, 0, SEL_KDATA };

		memcpy((void *)(frame(7) + PAGE - on_first), in, on_first);
		memcpy((void *)frame(8), (uint8_t *)in + on_first, sizeof in - on_first);
		tag("iretq", on_first);
		/* RSP of the frame is stored in the second page, in its place behind the first three words. */
		RUN(iret_on, gva + PAGE - on_first, frame(8) - on_first, 0, 0);
	}

	/* The handler of #UD has no stack; when it has one it is called. */
	uint64_t gva = random_gva();
	repair_at = entry_at(gva, 1);
	repair_with = frame(9) | KERNEL;
	tag("push", 0);
	RUN(undefined_on, gva + 2052, 0, 0, 0);

	/* The handler of #PF has none. */
	uint64_t stack = random_gva();
	entry_at(stack, 1);
	gva = random_gva();
	tss_set_ist(IST_DF, (uint64_t)user_kernel_stack + sizeof user_kernel_stack);
	tss_set_ist(IST_ABSENT, stack + 64);
	idt_gate(VEC_DF, 0, IST_DF);
	idt_gate(VEC_PF, 0, IST_ABSENT);
	tag("double", 0);
	try(READ, gva, 0);
	say("vector", seen.vector);
	say("error", seen.error);
	say("cr2", seen.cr2);
	idt_gate(VEC_PF, 0, 1);
}

static void set_gate(struct gate *g, unsigned vector, unsigned ist)
{
	uint64_t stub = (uint64_t)trap_stubs[vector];

	*g = (struct gate){ stub, SEL_KCODE, ist, 0x8e, stub >> 16, stub >> 32, 0 };
}

/* An IDT on two pages, of which one is absent. */
static uint64_t idt_on(uint64_t first_page_bytes)
{
	static struct gate gates[VEC_PF + 1];
	uint64_t gva = random_gva() & ~PAGE;
	struct table_register idtr = { sizeof gates - 1, gva + PAGE - first_page_bytes };

	set_gate(&gates[6], 6, 0);
	set_gate(&gates[VEC_DF], VEC_DF, IST_DF);
	set_gate(&gates[VEC_PF], VEC_PF, 1);
	memcpy((void *)(frame(10) + PAGE - first_page_bytes), gates, first_page_bytes);
	memcpy((void *)frame(11), (uint8_t *)gates + first_page_bytes, sizeof gates - first_page_bytes);
	asm volatile("lidt %0" : : "m"(idtr));
	return gva;
}

static void gates_absent(void)
{
	uint64_t gva = idt_on(16 * VEC_DF); /* the gate of #UD is on the first page, those of #DF and #PF on the second */

	map(gva + PAGE, frame(11), KERNEL);
	repair_at = entry_at(gva, 1);
	repair_with = frame(10) | KERNEL;
	tag("gate", 0);
	RUN(undefined_on, (uint64_t)user_kernel_stack + 2048, 0, 0, 0);

	gva = idt_on(16 * (VEC_DF + 1)); /* that of #DF on the first, that of #PF on the second */
	map(gva, frame(10), KERNEL);
	tag("nogate", 0);
	try(READ, random_gva(), 0);
	say("vector", seen.vector);
	say("error", seen.error);
	say("cr2", seen.cr2);
	gates_init();
}

int guest_main(void)
{
	paging_init();
	strings();
	descriptors();
	stacks();
	gates_absent();
	return 0;
}
