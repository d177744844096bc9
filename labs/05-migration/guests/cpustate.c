/*
 * Checkpoints 5.6 and 5.7: a CPU with something in every register. Runs on the kvm engine, is saved and restored (or moved) while it says
 * "ready", and says what it finds then. It judges nothing.
 *
 * Command line: seed=HEX mode=MODE ms=N. What it says, on the debug console, is lines `key=hexvalue`:
 *
 *	a.KEY=..   each part of its state before "ready", read back by the CPU
 *	ready      from now on it may be stopped
 *	b.KEY=..   the same afterwards: each line has to be the a.KEY of the same name, but for those under "time" below
 *	done       the end; exit code 0
 *
 * Modes:
 *	oneshot    the local APIC's timer runs, N ms in one-shot mode. The guest looks at the UART until there is a byte; send one to the
 *	           restored VM. Then it waits for the timer and reports.
 *	deadline   the same with the timer in TSC-deadline mode (CPUID 1 ECX bit 24)
 *	halt       the same timer as deadline, but the guest is in HLT until it is woken by it: no byte is needed
 *	nmi        ready is said in the handler of an NMI. Behind the byte comes a second NMI, which has to wait for the first's IRET
 *	step       ready is said with TF set, in a loop that looks at the UART: each instruction ends with a #DB, also the IN that hv does
 *
 * In the modes with a timer:
 *	fired=..   the TSC, in the handler: one such line in all, over both hv's. If it came before the VM was saved, the machine was
 *	           slow and the run says nothing of the timer: again, with more ms.
 *	b.fires    how often it fired: 1. b.early: how many cycles too soon, 0 (oneshot: no more than khz can be off, a hundredth of
 *	           ms * khz). b.wakes (halt): how often HLT ended, 1
 *	b.ipis     how often the interrupt came that was pending all the time behind the task priority, 1; a.ipis 0
 *	time: a.tsc b.tsc, the counter; a.kvmclock b.kvmclock, in ns, and KVM's flags (bit 1: KVM has told the guest that it was stopped)
 *	      when CPUID 0x40000001 EAX bit 3 offers it; khz, cycles of the TSC in a ms.
 *	      b.back, how often one of the two went backwards from one look to the next, 0; b.gap.tsc and b.gap.kvmclock, the largest step
 *	      forwards (cycles, ns) between two looks that follow each other at once.
 * nmi:	b.nmis 2; b.nested, how many of them came while one was handled, 0. a.nmis 1.
 * step: b.loops, b.traps = 19 * loops + 3; b.silent, how many of these #DB did not have DR6.BS, 0.
 *
 * So 5.6 compares a.* with b.*; 5.7: b.kvmclock - a.kvmclock is the time that both hv's ran (files: what passes between them does not
 * count; moved: it does), b.tsc - a.tsc the same in cycles, nothing went back.
 */
#include "cpuregs.h"
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "random.h"
#include "start_info.h"
#include "string.h"

#include <stdbool.h>
#include <stddef.h>

#define DB_VECTOR 1
#define NMI_VECTOR 2
#define PIC_VECTORS 0x20
#define IPI_VECTOR 0x51 /* TASK_PRIORITY holds it back */
#define TIMER_VECTOR 0x71

#define UART_DATA 0x3f8
#define UART_STATUS 0x3fd

/* Local APIC (SDM vol. 3, table 11-1) */
#define EOI 0xb0
#define ICR 0x300
#define LVT_TIMER 0x320
#define TIMER_COUNT 0x380
#define TIMER_NOW 0x390
#define TIMER_DIVIDE 0x3e0
#define SELF (1u << 18)
#define DELIVER_NMI (4u << 8)
#define MASKED (1u << 16)
#define ONE_SHOT 0u
#define DEADLINE (2u << 17)
#define BY_ONE 0xb /* KVM's timer then counts ns */

/* MSRs (SDM vol. 4; Linux, Documentation/virt/kvm/x86/msr.rst) */
#define TSC_DEADLINE 0x6e0
#define KVM_SYSTEM_TIME 0x4b564d01

#define DR6_BS (1u << 14)

/* --- what to do ------------------------------------------------------------------------------------------------------------------ */

static enum { MODE_ONESHOT, MODE_DEADLINE, MODE_HALT, MODE_NMI, MODE_STEP } mode;
static uint64_t ms = 1000;

static const char *word(const char *line, const char *name)
{
	for (size_t n = strlen(name); *line; line++)
		if (!strncmp(line, name, n))
			return line + n;
	return "";
}

static uint64_t number(const char *s, unsigned base)
{
	uint64_t v = 0;

	for (; (*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'f'); s++)
		v = v * base + (uint64_t)(*s <= '9' ? *s - '0' : *s - 'a' + 10);
	return v;
}

static void read_command_line(const char *line)
{
	static const char *const modes[] = { "oneshot", "deadline", "halt", "nmi", "step" };

	random_state = number(word(line, "seed="), 16);
	for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
		if (!strncmp(word(line, "mode="), modes[i], strlen(modes[i])))
			mode = i;
	if (*word(line, "ms="))
		ms = number(word(line, "ms="), 10);
}

/* Without TSC-deadline mode, the modes that want it do with the other. */
static bool by_deadline(void)
{
	return (mode == MODE_DEADLINE || mode == MODE_HALT) && cpuid(1, 0).ecx >> 24 & 1;
}

static bool has_timer(void)
{
	return mode <= MODE_HALT;
}

/* --- time --------------------------------------------------------------------------------------------------------- */

static struct __attribute__((aligned(32))) {
	volatile uint32_t version; /* odd: it is being written */
	uint32_t pad;
	volatile uint64_t tsc_then, ns_then;
	volatile uint32_t factor;
	volatile int8_t shift;
	volatile uint8_t flags;
	uint8_t pad2[2];
} system_time;

static bool has_kvmclock(void)
{
	struct leaf l = cpuid(0x40000000, 0);

	return l.ebx == 0x4b4d564b && l.ecx == 0x564b4d56 && cpuid(0x40000001, 0).eax >> 3 & 1; /* "KVMKVMKVM" */
}

/* Both at one moment. */
struct times {
	uint64_t tsc, kvmclock;
};

static struct times times(void)
{
	uint32_t version;
	struct times t;

	if (!has_kvmclock())
		return (struct times){ .tsc = rdtsc() };
	do {
		version = system_time.version;
		t.tsc = rdtsc();
		uint64_t cycles = t.tsc - system_time.tsc_then;
		cycles = system_time.shift < 0 ? cycles >> -system_time.shift : cycles << system_time.shift;
		t.kvmclock = system_time.ns_then + (uint64_t)((unsigned __int128)cycles * system_time.factor >> 32);
	} while (version & 1 || version != system_time.version);
	return t;
}

static void say_times(const struct times *t)
{
	say("tsc", t->tsc);
	if (has_kvmclock()) {
		say("kvmclock", t->kvmclock);
		say("kvmclock.flags", system_time.flags);
	}
}

/* --- events ------------------------------------------------------------------------------------------------------- */

static volatile uint64_t fires, fired_at, due, ipis;

static void on_timer(struct trap_frame *f)
{
	(void)f;
	fired_at = rdtsc();
	fires++;
	report("fired", fired_at);
	*lapic(EOI) = 0;
}

static void on_ipi(struct trap_frame *f)
{
	(void)f;
	ipis++;
	*lapic(EOI) = 0;
}

/* The timer's count and the TSC at one moment: not when the vCPU stood still in between. */
static uint64_t count_at(uint32_t *count)
{
	uint64_t tsc;

	do {
		*count = *lapic(TIMER_NOW);
		tsc = rdtsc();
	} while (*count - *lapic(TIMER_NOW) > 1000000);
	return tsc;
}

/* KVM's timer counts ns. It is stopped before it is over: KVM keeps an interrupt that was masked, if the mask goes soon enough. */
static uint64_t cycles_per_ms(void)
{
	uint32_t first, last;
	uint64_t before, after;

	*lapic(LVT_TIMER) = MASKED | ONE_SHOT | TIMER_VECTOR;
	*lapic(TIMER_COUNT) = ~0u;
	before = count_at(&first);
	do
		after = count_at(&last);
	while (first - last < 50000000);
	*lapic(TIMER_COUNT) = 0;
	return (after - before) * 1000000 / (first - last);
}

static void start_timer(uint64_t khz)
{
	due = rdtsc() + ms * khz;
	if (by_deadline()) {
		*lapic(LVT_TIMER) = DEADLINE | TIMER_VECTOR;
		asm volatile("mfence"); /* SDM vol. 3, 11.5.4.1: else the MSR may be written first */
		wrmsr(TSC_DEADLINE, due);
	} else {
		*lapic(LVT_TIMER) = ONE_SHOT | TIMER_VECTOR;
		*lapic(TIMER_COUNT) = ms * 1000000;
	}
}

static bool byte_came(void)
{
	if (!(inb(UART_STATUS) & 1))
		return false;
	inb(UART_DATA);
	return true;
}

/* Looks at the clocks again and again until there is a byte and the timer has fired. */
static struct times wait(struct times last, uint64_t *back, struct times *gap)
{
	bool byte = false;

	while (!byte || !fires) {
		struct times now = times();
		*back += now.tsc < last.tsc || now.kvmclock < last.kvmclock;
		if (now.tsc > last.tsc && now.tsc - last.tsc > gap->tsc)
			gap->tsc = now.tsc - last.tsc;
		if (now.kvmclock > last.kvmclock && now.kvmclock - last.kvmclock > gap->kvmclock)
			gap->kvmclock = now.kvmclock - last.kvmclock;
		byte = byte || byte_came();
		last = times();
	}
	return last;
}

static void run_timer(void)
{
	struct times before, after, gap = { 0 };
	uint64_t khz = cycles_per_ms(), wakes = 0, back = 0;

	report("khz", khz);
	start_timer(khz);
	say_registers(mode == MODE_STEP);
	before = times();
	say_times(&before);
	say("ipis", ipis);
	dputs("ready\n");
	if (mode == MODE_HALT) {
		for (; !fires; wakes++)
			sti_hlt();
		after = times();
		back = after.tsc < before.tsc || after.kvmclock < before.kvmclock;
	} else {
		sti();
		after = wait(before, &back, &gap);
	}
	/* Would it fire again? */
	while (rdtsc() - fired_at < 20 * khz)
		;
	cli();
	when = 'b';
	say_fpu(); /* before anything else can use these registers */
	say_registers(mode == MODE_STEP);
	say_times(&after);
	say("back", back);
	if (mode == MODE_HALT) {
		say("wakes", wakes);
	} else {
		say("gap.tsc", gap.tsc);
		say("gap.kvmclock", gap.kvmclock);
	}
	say("fires", fires);
	say("early", fired_at < due ? due - fired_at : 0);
	asm volatile("mov %0, %%cr8; sti; nop; cli" : : "r"(0ul) : "memory");
	say("ipis", ipis);
}

static volatile uint64_t nmis, nested, handling;

static void on_nmi(struct trap_frame *f)
{
	(void)f;
	nested += handling;
	if (nmis++)
		return;
	handling = 1;
	say("nmis", nmis);
	dputs("ready\n");
	while (!byte_came())
		;
	*lapic(ICR) = SELF | DELIVER_NMI;
	for (volatile unsigned i = 0; i < 10000; i++)
		;
	handling = 0;
}

static void run_nmi(void)
{
	say_registers(mode == MODE_STEP);
	*lapic(ICR) = SELF | DELIVER_NMI;
	while (nmis < 2)
		;
	when = 'b';
	say_fpu();
	say_registers(mode == MODE_STEP);
	say("nmis", nmis);
	say("nested", nested);
}

static uint64_t traps, silent;

static void on_debug(struct trap_frame *f)
{
	uint64_t dr6;

	(void)f;
	asm volatile("mov %%dr6, %0" : "=r"(dr6));
	traps++;
	silent += !(dr6 & DR6_BS);
	asm volatile("mov %0, %%dr6" : : "r"((uint64_t)DR6_NONE));
}

static void run_step(void)
{
	uint64_t loops = 0;

	say_registers(mode == MODE_STEP);
	dputs("ready\n");
	/* The instruction behind the POPF that sets TF is the first to trap, the POPF that clears it the last: 19 each time, three at
	 * the end. Most of them are IN, so that it is mostly one of these behind which the guest is stopped. */
	asm volatile("pushfq; orq %[tf], (%%rsp); popfq\n"
		     "1:\t.rept 16; inb %%dx, %%al; .endr; inc %[loops]; test $1, %%al; jz 1b\n\t"
		     "pushfq; andq %[no_tf], (%%rsp); popfq"
		     : [loops] "+r"(loops)
		     : "d"(UART_STATUS), [tf] "i"(RFLAGS_TF), [no_tf] "i"(~RFLAGS_TF)
		     : "rax", "cc", "memory");
	when = 'b';
	say_fpu();
	say_registers(mode == MODE_STEP);
	say("loops", loops);
	say("traps", traps);
	say("silent", silent);
}

int guest_main(const struct hvm_start_info *info)
{
	gdt_init();
	idt_init();
	pic_init(PIC_VECTORS); /* all its lines are masked */
	read_command_line(start_info_cmdline(info));
	trap_handlers[DB_VECTOR] = on_debug;
	trap_handlers[NMI_VECTOR] = on_nmi;
	trap_handlers[TIMER_VECTOR] = on_timer;
	trap_handlers[IPI_VECTOR] = on_ipi;
	*lapic(0xf0) = 0x1ff; /* on; spurious vector 0xff */
	*lapic(TIMER_DIVIDE) = BY_ONE;
	if (has_kvmclock())
		wrmsr(KVM_SYSTEM_TIME, (uint64_t)&system_time | 1);
	fill_registers();
	*lapic(ICR) = SELF | IPI_VECTOR;
	fill_fpu();
	say_fpu();
	if (has_timer())
		run_timer();
	else if (mode == MODE_NMI)
		run_nmi();
	else
		run_step();
	dputs("done\n");
	return 0;
}
