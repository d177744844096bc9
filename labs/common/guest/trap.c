/*
 * Whatever interrupts the running program arrives at trap(): their mistake kills them, our mistake stops the machine, and
 * an interrupt is nobody's mistake. Nor are most page faults: they are how a process asks for memory that it was promised.
 */
#include "trap.h"

#include "console.h"
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "irq.h"
#include "proc.h"

#define VEC_DF 8
#define VEC_PF 14

/* A double fault often means that RSP points nowhere, so its handler gets a stack of its own (SDM vol. 3, 6.14.5). */
#define IST_DF 1
static uint8_t df_stack[4096] __attribute__((aligned(16)));

static const char *const names[] = {
	[0] = "#DE divide error",
	[1] = "#DB debug",
	[2] = "NMI",
	[3] = "#BP breakpoint",
	[4] = "#OF overflow",
	[5] = "#BR bound range exceeded",
	[6] = "#UD invalid opcode",
	[7] = "#NM no FPU",
	[VEC_DF] = "#DF double fault",
	[10] = "#TS invalid TSS",
	[11] = "#NP segment not present",
	[12] = "#SS stack fault",
	[13] = "#GP general protection",
	[VEC_PF] = "#PF page fault",
	[16] = "#MF x87 error",
	[17] = "#AC alignment check",
	[18] = "#MC machine check",
	[19] = "#XM SIMD error",
};

static const char *trap_name(unsigned vector)
{
	return vector < sizeof(names) / sizeof(names[0]) && names[vector] ? names[vector] : "?";
}

_Noreturn void panic(const char *why)
{
	irq_save();
	kprintf("kernel panic: %s\n", why);
	guest_exit(EXIT_PANIC);
}

static _Noreturn void panic_at(const struct trap_frame *f)
{
	kprintf("kernel oops: %s at rip 0x%lx, error code 0x%lx\n", trap_name(f->vector), f->rip, f->error);
	kprintf("rsp %016lx rflags %lx process %d\n", f->rsp, f->rflags, current ? current->pid : 0);
	kprintf("rax %016lx rbx %016lx rcx %016lx rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
	kprintf("rsi %016lx rdi %016lx rbp %016lx r8  %016lx\n", f->rsi, f->rdi, f->rbp, f->r8);
	kprintf("r9  %016lx r10 %016lx r11 %016lx r12 %016lx\n", f->r9, f->r10, f->r11, f->r12);
	kprintf("r13 %016lx r14 %016lx r15 %016lx\n", f->r13, f->r14, f->r15);
	if (f->vector == VEC_PF)
		kprintf("cr2 %016lx\n", read_cr2());
	panic("its own code is at fault");
}

/*
 * The message goes where the process' own output goes, so that it is read in order. Registers are left out: some hold flags
 * that the manuals leave undefined, and the transcript has to be the same on every CPU.
 */
static _Noreturn void kill(const struct trap_frame *f)
{
	proc_printf("oops: %s at rip 0x%lx, error code 0x%lx", trap_name(f->vector), f->rip, f->error);
	if (f->vector == VEC_PF)
		proc_printf(", address 0x%lx", read_cr2());
	if (space_may_read(f->rip, 1))
		proc_printf(", first byte there %02x", *(const uint8_t *)f->rip);
	proc_printf("\n");
	proc_exit(-1, f->vector);
}

/* Every vector's handler. Interrupts are off: all gates are interrupt gates. */
static void trap(struct trap_frame *f)
{
	irq_follow(false);
	if (f->vector >= IRQ_BASE && f->vector < IRQ_BASE + IRQ_LINES)
		irq_handle(f->vector - IRQ_BASE);
	else if (f->vector == VEC_PF && space_fault(read_cr2(), f->error))
		; /* the instruction is tried again */
	else if (from_user(f))
		kill(f);
	else
		panic_at(f);

	if (from_user(f))
		proc_before_user();
	else
		irq_follow(f->rflags & RFLAGS_IF);
}

void trap_init(void)
{
	gdt_init();
	idt_init();
	tss_set_ist(IST_DF, (uint64_t)df_stack + sizeof(df_stack));
	idt_gate(VEC_DF, 0, IST_DF);
	for (unsigned v = 0; v < 256; v++)
		trap_handlers[v] = trap;
}
