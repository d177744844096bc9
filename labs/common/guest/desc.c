/* GDT, TSS and IDT (SDM vol. 3, chapters 3.5, 6.10 and 8.7). */
#include "desc.h"

#include "dbg.h"
#include "io.h"

static struct __attribute__((packed)) {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t ist[8]; /* ist[0] is reserved: slot numbers begin at 1 */
	uint64_t reserved1;
	uint16_t reserved2, iomap;
} tss;

static uint64_t gdt[9] = {
	[SEL_KCODE / 8] = DESC_KCODE,
	[SEL_KDATA / 8] = DESC_KDATA,
	[SEL_UDATA / 8] = DESC_UDATA,
	[SEL_UCODE / 8] = DESC_UCODE,
};

static struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, attr;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
} idt[256];

#define GATE_INTERRUPT 0x8e   /* present, 64-bit interrupt gate */
#define TSS_AVAILABLE 0x89ull /* present, 64-bit TSS, not busy */

extern const uint8_t trap_stubs[256][16];
trap_handler trap_handlers[256];

/*
 * CS is reloaded by a far return, the one way that also works where the guest is not really at ring 0. DS to GS get the user
 * data segment: the kernel may use it as well, while IRETQ to user mode would clear a kernel one (SDM vol. 2, IRET).
 */
static void reload_segments(void)
{
	asm volatile("push %0\n\t"
		     "lea 1f(%%rip), %%rax\n\t"
		     "push %%rax\n\t"
		     "lretq\n"
		     "1:\tmov %1, %%ss\n\t"
		     "mov %2, %%ds\n\t"
		     "mov %2, %%es\n\t"
		     "mov %2, %%fs\n\t"
		     "mov %2, %%gs"
		     :
		     : "i"(SEL_KCODE), "r"(SEL_KDATA), "r"(SEL_UDATA)
		     : "rax", "memory");
}

void gdt_init(void)
{
	struct table_register gdtr = { sizeof(gdt) - 1, (uint64_t)gdt };
	uint64_t base = (uint64_t)&tss, limit = sizeof(tss) - 1;

	tss.iomap = sizeof(tss); /* beyond the limit: user mode may use no port */
	gdt[SEL_TSS / 8] = limit | (base & 0xffffff) << 16 | TSS_AVAILABLE << 40 | (base >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = base >> 32;
	asm volatile("lgdt %0" : : "m"(gdtr));
	reload_segments();
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
}

void idt_gate(unsigned vector, unsigned dpl, unsigned ist)
{
	uint64_t stub = (uint64_t)trap_stubs[vector];

	idt[vector] = (struct gate){
		.offset_low = stub,
		.offset_mid = stub >> 16,
		.offset_high = stub >> 32,
		.selector = SEL_KCODE,
		.ist = ist,
		.attr = GATE_INTERRUPT | dpl << 5,
	};
}

void idt_init(void)
{
	struct table_register idtr = { sizeof(idt) - 1, (uint64_t)idt };

	for (unsigned v = 0; v < 256; v++)
		idt_gate(v, 0, 0);
	asm volatile("lidt %0" : : "m"(idtr));
}

void tss_set_rsp0(uint64_t top)
{
	tss.rsp[0] = top;
}

void tss_set_ist(unsigned ist, uint64_t top)
{
	tss.ist[ist] = top;
}

void user_frame(struct trap_frame *f, uint64_t rip, uint64_t rsp)
{
	*f = (struct trap_frame){
		.rip = rip,
		.cs = SEL_UCODE,
		.rflags = RFLAGS_FIXED | RFLAGS_IF,
		.rsp = rsp,
		.ss = SEL_UDATA,
	};
}

static _Noreturn void unhandled(const struct trap_frame *f)
{
	dputs("unhandled trap\n");
	report("vector", f->vector);
	report("error", f->error);
	report("rip", f->rip);
	guest_exit(UNHANDLED_TRAP);
}

/* Called by trap_common; the frame is changed in place by handlers that want another continuation. */
void trap_dispatch(struct trap_frame *f)
{
	if (!trap_handlers[f->vector])
		unhandled(f);
	trap_handlers[f->vector](f);
}
