/*
 * Events under observation, for the guests of checkpoints 1.11 to 1.18.
 *
 * A few instructions (a snippet) are copied to an address that the grader chose and started there with chosen registers and
 * stack. All 256 gates of the IDT lead to a recorder. It keeps what the CPU pushed, where, and every register, and then goes
 * on as planned: with another snippet, which plays the handler's part and finds registers and stack as the CPU left them, or
 * with the end of the trial. What was recorded is printed afterwards, raw.
 *
 * With MODE 0 in the params a guest reports the same on every engine of hv. MODE 1 has the cases in which the CPU below the
 * kvm engine deviates from the manual where that CPU is QEMU's TCG (7.2): error codes that name a gate are computed with 16
 * bytes a gate and have no EXT bit; an IST clears SS at CPL 0 too; SYSCALL clears DF and the arithmetic flags; IRETQ and SYSRET
 * accept addresses that are not canonical, and SYSRET the flag VM; a #GP that KVM takes and gives back does not count for a
 * double fault; a timer interrupt can come in the shadow of STI or of a load of SS.
 */
#ifndef GUEST_EVENT_H
#define GUEST_EVENT_H

#include "desc.h"
#include "io.h"
#include "probe.h"
#include "string.h"

/* Selectors of tables_load()'s GDT beyond those of desc.h. The second sets are the same descriptors at other places. */
#define SEL_ABSENT_DATA 0x48
#define SEL_ABSENT_CODE 0x50
#define SEL_KCODE2 0x58
#define SEL_USER_BASE2 0x6b /* as SEL_USER_BASE: data behind it, then code */
#define SEL_USER_RO 0x80     /* data of DPL 3 that cannot be written */
#define DESC_PRESENT (1ull << 47)

#define GATE_INTERRUPT 0xe
#define GATE_TRAP 0xf
#define GATE_PRESENT 0x80

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, attr;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
};

static struct gate idt[256];

/* The first params of every guest here; its own begin with EVENT_PARAMS. */
enum { SEED, CODE, STACK, EVENT_PARAMS };
extern volatile uint64_t params[16];

/* The I/O permission map covers the first 2048 ports and ends with the byte of ones that it needs (SDM vol. 1, 19.5.2). */
#define IO_MAP_PORTS 2048
static struct __attribute__((packed)) {
	uint32_t reserved0;
	uint64_t rsp[3], reserved1, ist[7], reserved2;
	uint16_t reserved3, io_map;
	uint8_t map[IO_MAP_PORTS / 8 + 1];
} tss;

static uint64_t gdt[17] = {
	[SEL_KCODE / 8] = DESC_KCODE,
	[SEL_KDATA / 8] = DESC_KDATA,
	[SEL_UDATA / 8] = DESC_UDATA,
	[SEL_UCODE / 8] = DESC_UCODE,
	[SEL_ABSENT_DATA / 8] = DESC_KDATA & ~DESC_PRESENT,
	[SEL_ABSENT_CODE / 8] = DESC_KCODE & ~DESC_PRESENT,
	[SEL_KCODE2 / 8] = DESC_KCODE,
	[SEL_KCODE2 / 8 + 1] = DESC_KDATA,
	[SEL_USER_BASE2 / 8 + 1] = DESC_UDATA,
	[SEL_USER_BASE2 / 8 + 2] = DESC_UCODE,
	[SEL_USER_RO / 8] = DESC_UDATA & ~(1ull << 41),
};

/* What the recorder keeps of one event. */
#define FRAME_WORDS 6 /* one more than there is without an error code */
struct seen {
	uint64_t vector, at, frame[FRAME_WORDS], extra; /* at: RSP at the handler's first instruction; extra: CR2 or DR6 */
	struct regs regs;
};

#define MAX_EVENTS 8
static struct seen seen[MAX_EVENTS];
static unsigned events;
static uint64_t plan[MAX_EVENTS]; /* where event i goes on; 0: the trial ends */

/* How a trial begins. cs is 0 for a jump at CPL 0, else IRETQ leads there. */
struct start {
	struct regs in;
	uint64_t rip, cs, rflags, rsp, ss;
};

void trial_enter(const struct start *s);
extern const uint8_t event_stubs[256][16];
extern uint64_t trial_host, trial_next;
uint8_t recorder_stack[4096] __attribute__((aligned(16)));

/* Out of a trial, back to who called trial_enter(). */
#define TRIAL_END "mov trial_host, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n"

asm(".bss\n.balign 8\n"
    ".globl trial_host, trial_next\n"
    "trial_host: .skip 8\n"
    "trial_next: .skip 8\n"
    ".text\n"
    ".balign 16\n"
    ".globl event_stubs\n"
    "event_stubs:\n"
    ".set vector, 0\n"
    ".rept 256\n"
    ".balign 16\n"
    "push $vector\n"
    "jmp recorder\n"
    ".set vector, vector + 1\n"
    ".endr\n"

    /* struct regs is built on the handler's stack; the C function runs on one of its own. */
    "recorder:\n"
    "pushfq\n"
    ".irp r, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax\n"
    "push %\\r\n"
    ".endr\n"
    "mov %rsp, %rdi\n"
    "mov %rsp, %rbx\n"
    "mov $recorder_stack + 4096, %esp\n"
    "cld\n"
    "call event_record\n"
    "test %rax, %rax\n"
    "jz 1f\n"
    "mov %rax, trial_next\n"
    "mov %rbx, %rsp\n"
    ".irp r, rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15\n"
    "pop %\\r\n"
    ".endr\n"
    "popfq\n"
    "lea 8(%rsp), %rsp\n"
    "jmp *trial_next\n"
    "1: " TRIAL_END

    /* The trial's stack is loaded last and nothing is pushed on it. */
    ".macro load_registers rsp\n"
    "mov (%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx; mov 32(%rdi), %rbp; mov 40(%rdi), %rsi\n"
    "mov 56(%rdi), %r8; mov 64(%rdi), %r9; mov 72(%rdi), %r10; mov 80(%rdi), %r11; mov 88(%rdi), %r12; mov 96(%rdi), %r13\n"
    "mov 104(%rdi), %r14; mov 112(%rdi), %r15\n"
    "\\rsp\n"
    "mov 48(%rdi), %rdi\n"
    ".endm\n"
    ".globl trial_enter\n"
    "trial_enter:\n"
    "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, trial_host\n"
    "mov 128(%rdi), %rax\n"
    "mov %rax, trial_next\n"
    "cmpq $0, 136(%rdi)\n"
    "jne 2f\n"
    "push 144(%rdi); popfq\n"
    "load_registers \"mov 152(%rdi), %rsp\"\n"
    "jmp *trial_next\n"
    "2: push 160(%rdi); push 152(%rdi); push 144(%rdi); push 136(%rdi); push 128(%rdi)\n"
    "load_registers\n"
    "iretq\n");

#define VEC_DB 1
#define VEC_PF 14
#define DR6_CLEAR 0xffff0ff0ull

uint64_t event_record(const struct regs *regs);
uint64_t event_record(const struct regs *regs)
{
	const uint64_t *above = (const uint64_t *)(regs + 1); /* the stub's vector, then the CPU's frame */
	struct seen *e = &seen[events];

	e->regs = *regs;
	e->vector = above[0];
	e->at = (uint64_t)(above + 1);
	memcpy(e->frame, above + 1, sizeof e->frame);
	if (e->vector == VEC_PF)
		e->extra = read_cr2();
	if (e->vector == VEC_DB) { /* its bits stay until software clears them */
		asm volatile("mov %%dr6, %0" : "=r"(e->extra));
		asm volatile("mov %0, %%dr6" : : "r"(DR6_CLEAR));
	}
	return ++events < MAX_EVENTS ? plan[events - 1] : 0;
}

/* attr: type, DPL << 5 and GATE_PRESENT. */
static inline void set_gate_to(unsigned vector, const uint8_t *handler, unsigned attr, unsigned ist)
{
	uint64_t at = (uint64_t)handler;

	idt[vector] = (struct gate){
		.offset_low = at, .offset_mid = at >> 16, .offset_high = at >> 32, .selector = SEL_KCODE, .ist = ist, .attr = attr,
	};
}

/* To the recorder. */
static inline void set_gate(unsigned vector, unsigned attr, unsigned ist)
{
	set_gate_to(vector, event_stubs[vector], attr, ist);
}

static inline void idt_load(uint16_t limit)
{
	struct table_register idtr = { limit, (uint64_t)idt };

	asm volatile("lidt %0" : : "m"(idtr));
}

/* No device may interrupt; every vector has an interrupt gate of DPL 0. */
static inline void events_begin(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (unsigned v = 0; v < 256; v++)
		set_gate(v, GATE_PRESENT | GATE_INTERRUPT, 0);
	idt_load(sizeof idt - 1);
}

/* The limit says how much of the TSS there is. The descriptor is written anew, because LTR refuses a busy one. */
static inline void tss_load(unsigned limit)
{
	uint64_t base = (uint64_t)&tss;

	gdt[SEL_TSS / 8] = limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = base >> 32;
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
}

/* A GDT with segments for CPL 3 and a TSS whose map allows no port. Kernel code and data are where they were. */
static inline void tables_load(void)
{
	struct table_register gdtr = { sizeof gdt - 1, (uint64_t)gdt };

	memset(tss.map, 0xff, sizeof tss.map);
	tss.io_map = (uint64_t)tss.map - (uint64_t)&tss;
	asm volatile("lgdt %0" : : "m"(gdtr));
	tss_load(sizeof tss - 1);
}

/* Puts SS, IOPL and the other flags back after a trial that changed them: an event at CPL 3 leaves a null selector in SS, and
 * only IRETQ changes IOPL. */
static inline void reset_state(void)
{
	asm volatile("mov %%rsp, %%rax; push %0; push %%rax; push $2; push %1; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
		     :
		     : "i"(SEL_KDATA), "i"(SEL_KCODE)
		     : "rax", "memory", "cc");
}

/* --- snippets ------------------------------------------------------------------------------------------------------ */

#define SNIPPET(name, insns)                     \
	extern const uint8_t name[], name##_end[]; \
	asm(".text\n" #name ": " insns "\n" #name "_end:\n")

/* Each has 64 bytes from the address on that the grader chose. The CPU is told of new code by the jump to it. */
static inline uint64_t place_bytes(uint64_t at, const void *from, uint64_t len)
{
	memcpy((void *)at, from, len);
	return at;
}
#define PLACE(at, name) place_bytes(at, name, name##_end - name)

/* --- trials -------------------------------------------------------------------------------------------------------- */

static struct start trial;

/* Registers from a seed. rflags are those of the seed with these bits added. */
static inline void trial_set(uint64_t seed, uint64_t rip, uint64_t rsp, uint64_t flags)
{
	memset(&trial, 0, sizeof trial);
	fill(&trial.in, seed);
	trial.rip = rip;
	trial.rsp = rsp;
	trial.rflags = trial.in.r[R_FLAGS] = trial.in.r[R_FLAGS] | flags;
	memset(plan, 0, sizeof plan);
}

static unsigned trials;

/* The next trial, at CODE. From each to the next seed and stack pointer grow by one, as in checks/trials.py. */
static inline void trial_start(uint64_t flags)
{
	trial_set(params[SEED] + trials, params[CODE], params[STACK] + trials, flags);
	trials++;
}

/* The same as a program at CPL 3. */
static inline void trial_start_user(uint64_t flags)
{
	trial_start(flags);
	trial.cs = SEL_UCODE;
	trial.ss = SEL_UDATA;
}

static inline void show_event(const char *name, unsigned i)
{
	const struct seen *e = &seen[i];
	char key[24];
	unsigned n = 0;

	while (n < sizeof key - 2 && name[n]) {
		key[n] = name[n];
		n++;
	}
	key[n++] = '0' + i;
	key[n] = 0;
	dputs(key), report(".vector", e->vector);
	dputs(key), report(".at", e->at);
	for (unsigned k = 0; k < FRAME_WORDS; k++)
		dputs(key), report(".frame", e->frame[k]);
	dputs(key), report(".entry", e->regs.r[R_FLAGS]);
	if (e->vector == VEC_PF)
		dputs(key), report(".cr2", e->extra);
	if (e->vector == VEC_DB)
		dputs(key), report(".dr6", e->extra);
	report_regs(key, &trial.in, &e->regs);
}

/* Runs what trial_set() and its caller put into `trial` and `plan`, and prints what was seen. At CPL 0 the interrupt flag is
 * set by STI first: a deprivileged POPF cannot. */
static inline void trial_run(const char *name)
{
	events = 0;
	if (!trial.cs && (trial.rflags & FLAGS_IF))
		sti();
	trial_enter(&trial);
	cli();
	dputs(name), report(".events", events);
	for (unsigned i = 0; i < events; i++)
		show_event(name, i);
}

#endif
