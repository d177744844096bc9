/*
 * Checkpoint 5.6: a guest that has something in every piece of its vCPU's state (kvm engine). It sets registers of all kinds from its seed,
 * leaves an interrupt pending that it does not take, arms the local APIC's timer, and waits for a byte of the UART inside of an NMI, where
 * further NMIs are held back. Then it says what it finds. What it had set is known outside (checks/restore.py).
 */
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "random.h"
#include "start_info.h"

#include "../../01-trap-emulate/guests/probe.h"

PARAMS;

#define COM1 0x3f8
#define UART_LSR (COM1 + 5)
#define LSR_RX_READY 0x01

#define LAPIC 0xfee00000ul
enum {
	TPR = 0x80,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	EOI = 0xb0,
	ICR = 0x300,
	TIMER = 0x320,
	LINT0 = 0x350,
	ERROR = 0x370,
	INITIAL = 0x380,
	DIVIDE = 0x3e0
};
#define SVR_ENABLE 0x100
#define SELF (1u << 18)
#define ICR_NMI 0x400
#define MASKED (1u << 16)
#define DEADLINE (2u << 17)
#define VEC_NMI 2
#define VEC_PENDING 0x61
#define VEC_TIMER 0x72
#define MSR_DEADLINE 0x6e0
#define DEADLINE_TICKS 3000000000ull
#define PATIENCE_TICKS 10000000000ull /* behind which the timer counts as lost */
#define ONE_SHOT_COUNT 400000000u
#define SPINS 200000

#define XCR0_AVX 7
#define CR4_OSXSAVE (1ull << 18)

/* MSRs that keep any canonical value (SDM vol. 4; APM vol. 2, appendix A). */
static const struct {
	const char *name;
	uint32_t msr;
	uint64_t mask;
} msrs[] = {
	{ "star", 0xc0000081, ~0ull },
	{ "lstar", 0xc0000082, 0x7fffffffffff },
	{ "cstar", 0xc0000083, 0x7fffffffffff },
	{ "sfmask", 0xc0000084, 0xffffffff },
	{ "fsbase", 0xc0000100, 0x7fffffffffff },
	{ "gsbase", 0xc0000101, 0x7fffffffffff },
	{ "kgsbase", 0xc0000102, 0x7fffffffffff },
	{ "syscs", 0x174, 0xffff },
	{ "sysesp", 0x175, 0x7fffffffffff },
	{ "syseip", 0x176, 0x7fffffffffff },
};
#define MSRS (sizeof msrs / sizeof *msrs)

struct vectors {
	uint8_t x87[512] __attribute__((aligned(16))); /* FXSAVE: x87, MXCSR, XMM */
	uint8_t high[16][16];			       /* upper halves of YMM */
};
static struct vectors put, got;

static volatile unsigned nmis, nested, pending, ticks;
static bool has_avx, has_deadline;

static volatile uint32_t *lapic(unsigned reg)
{
	return (volatile uint32_t *)(LAPIC + reg);
}

static void spin(void)
{
	for (volatile unsigned i = 0; i < SPINS; i++)
		;
}

static void on_nmi(struct trap_frame *f)
{
	(void)f;
	if (++nmis > 1)
		return;
	dputs("ready\n");
	while (!(inb(UART_LSR) & LSR_RX_READY))
		;
	inb(COM1);
	*lapic(ICR) = SELF | ICR_NMI; /* held until IRET */
	spin();
	nested = nmis - 1;
}

static void on_pending(struct trap_frame *f)
{
	(void)f;
	pending++;
	*lapic(EOI) = 0;
}

static void on_timer(struct trap_frame *f)
{
	(void)f;
	ticks++;
	*lapic(EOI) = 0;
}

/* --- vectors ----------------------------------------------------------------------------------------------------------------- */

static void avx_on(void)
{
	uint32_t a = 1, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	has_deadline = c >> 24 & 1;
	has_avx = (c >> 26 & 1) && (c >> 28 & 1); /* XSAVE, AVX */
	if (!has_avx)
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	asm volatile("xsetbv" : : "a"(XCR0_AVX), "d"(0), "c"(0));
}

/* ymmN's upper half through memory: VEXTRACTF128 and VINSERTF128 need a register by name. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define INSERT(n) asm volatile("vinsertf128 $1, %0, %%ymm" #n ", %%ymm" #n : : "m"(put.high[n]));
#define EXTRACT(n) asm volatile("vextractf128 $1, %%ymm" #n ", %0" : "=m"(got.high[n]));

static void vectors_put(void)
{
	asm volatile("fninit; fld1; fldpi; fldl2e; fxsave64 %0" : "=m"(put.x87));
	*(uint32_t *)(put.x87 + 24) = 0x1f80 | (params[1] & 0x6000); /* MXCSR: how it rounds */
	for (unsigned i = 0; i < 256 / 8; i++)
		((uint64_t *)(put.x87 + 160))[i] = random64();
	for (unsigned i = 0; i < 16 * 2; i++)
		((uint64_t *)put.high)[i] = random64();
	asm volatile("fxrstor64 %0" : : "m"(put.x87));
	if (has_avx) {
		EACH(INSERT)
	}
}

static void vectors_get(void)
{
	asm volatile("fxsave64 %0" : "=m"(got.x87));
	if (has_avx) {
		EACH(EXTRACT)
	}
}

/* --- everything --------------------------------------------------------------------------------------------------------------- */

static uint64_t tsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

static void debug_put(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	asm volatile("mov %0, %%dr0; mov %1, %%dr1; mov %2, %%dr2; mov %3, %%dr3" : : "r"(a), "r"(b), "r"(c), "r"(d));
}

static void say(void)
{
	uint64_t v;
	uint32_t lo, hi;

	vectors_get();
	for (unsigned i = 0; i < 48; i++) /* x87 without what FXSAVE leaves undefined, MXCSR, XMM */
		report("fx", ((uint64_t *)got.x87)[i + 4]);
	report("fcw", *(uint32_t *)got.x87);
	report("mxcsr", *(uint32_t *)(got.x87 + 24));
	if (has_avx) {
		for (unsigned i = 0; i < 32; i++)
			report("ymm", ((uint64_t *)got.high)[i]);
		asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		report("xcr0", (uint64_t)hi << 32 | lo);
	}
	for (unsigned i = 0; i < MSRS; i++)
		report(msrs[i].name, rdmsr(msrs[i].msr));
#define SAY(name, reg)                               \
	asm volatile("mov %%" reg ", %0" : "=r"(v)); \
	report(name, v);
	SAY("dr", "dr0")
	SAY("dr", "dr1")
	SAY("dr", "dr2")
	SAY("dr", "dr3")
	SAY("cr2", "cr2")
	SAY("cr8", "cr8")
	report("ldr", *lapic(LDR));
	report("svr", *lapic(SVR));
	report("error", *lapic(ERROR));
	report("divide", *lapic(DIVIDE));
}

int guest_main(const struct hvm_start_info *info);
int guest_main(const struct hvm_start_info *info)
{
	(void)info;
	gdt_init();
	idt_init();
	trap_handlers[VEC_NMI] = on_nmi;
	trap_handlers[VEC_PENDING] = on_pending;
	trap_handlers[VEC_TIMER] = on_timer;
	random_state = params[0];
	avx_on();
	vectors_put();
	for (unsigned i = 0; i < MSRS; i++)
		wrmsr(msrs[i].msr, random64() & msrs[i].mask);
	uint64_t d0 = random64() & 0x7fffffffffff, d1 = random64() & 0x7fffffffffff;
	debug_put(d0, d1, d0 ^ d1, d0 ^ 1);
	asm volatile("mov %0, %%cr2" : : "r"(random64()));
	*lapic(SVR) = SVR_ENABLE | 0xff;
	*lapic(LDR) = (uint32_t)random64() & 0xff000000;
	*lapic(ERROR) = MASKED | (0x80 + (random64() & 0x3f));
	*lapic(LINT0) = MASKED;
	*lapic(DIVIDE) = 0xb;
	*lapic(TPR) = 0x70; /* the pending interrupt is of a lower class */
	*lapic(ICR) = SELF | VEC_PENDING;
	*lapic(TIMER) = VEC_TIMER | (has_deadline ? DEADLINE : 0);
	if (has_deadline)
		wrmsr(MSR_DEADLINE, tsc() + DEADLINE_TICKS);
	else
		*lapic(INITIAL) = ONE_SHOT_COUNT;
	*lapic(ICR) = SELF | ICR_NMI;
	spin();
	say();
	report("nested", nested);
	report("nmis", nmis);
	report("early", pending);
	*lapic(TPR) = 0;
	sti();
	spin();
	report("pending", pending);
	report("deadline", has_deadline);
	for (uint64_t begin = tsc(); !ticks && tsc() - begin < PATIENCE_TICKS;)
		asm volatile("pause");
	report("ticks", ticks);
	return 0;
}
