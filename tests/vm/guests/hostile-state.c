/* Attacks by the state of the processor and the devices: tables, stacks, registers, interrupts, ports, code that is noise. */
#include "hostile.h"

#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pic.h"
#include "string.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define EFER 0xc0000080
#define LSTAR 0xc0000082

static uint64_t own_idt[256][2] __attribute__((aligned(16)));

static void ud2(uint64_t a)
{
	(void)a;
	asm volatile("ud2");
}

/* Addresses at which no table and no stack can lie, or only a bad one. */
static const uint64_t nowhere[] = { ABOVE_4G + 0x1000, MONITOR, MONITOR + 0x1000, MONITOR + 0x4000, NO_MEMORY, 0xfffffff8, ~0ull, ~0ull - 0xfff,
				    0x7fffffffffff, 0xffff800000000000, 0, 0x10 };

/* --- time ----------------------------------------------------------------------------------------------------------------- */

static void endless(void)
{
	if (variant)
		asm volatile("sti");
	asm volatile("1: jmp 1b");
}

static void sleep_forever(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	asm volatile("sti; 1: hlt; jmp 1b");
}

/* 2^63 elements, to a port, from a port, and to where no memory is. */
static void huge_repetition(void)
{
	uint64_t count = 1ull << 63, at = 0;

	if (variant == 0)
		asm volatile("1: rep outsb; jmp 1b" : "+c"(count), "+S"(at) : "d"(0x80) : "memory");
	else if (variant == 1)
		asm volatile("1: insb; sub %%rcx, %%rdi; rep insb; jmp 1b" : "+c"(count), "+D"(at) : "d"(0x80) : "memory");
	else
		asm volatile("1: mov $0xd0000000, %%edi; rep stosb; jmp 1b" : "+c"(count), "+D"(at) : "a"(0) : "memory");
}

/* --- tables and stacks ---------------------------------------------------------------------------------------------------- */

static void bad_idt(void)
{
	load_idt(nowhere[variant % COUNT(nowhere)], 0xfff);
	asm volatile("ud2");
}

static void bad_gdt(void)
{
	load_gdt(nowhere[variant % COUNT(nowhere)], 0xffff);
	asm volatile("mov %0, %%ds; ud2" : : "r"(8));
}

/* A task state segment wherever the variant says: its stacks are where the next exception goes. */
static void bad_tss(void)
{
	static uint64_t gdt[6] = { 0, 0, DESC_KCODE, DESC_KDATA };
	uint64_t base = nowhere[variant % COUNT(nowhere)];

	gdt[4] = 0x67 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[5] = base >> 32;
	load_gdt((uint64_t)gdt, sizeof(gdt) - 1);
	asm volatile("ltr %w0; ud2" : : "r"(0x20));
}

static void survived(void)
{
	guest_exit(1);
}

/* The handlers use the present stack, and it is nowhere. */
static void bad_stack(void)
{
	for (unsigned v = 0; v < 32; v++)
		gate_set(own_idt, v, (uint64_t)survived, 0);
	load_idt((uint64_t)own_idt, sizeof(own_idt) - 1);
	asm volatile("mov %0, %%rsp; ud2" : : "r"(nowhere[variant % COUNT(nowhere)]));
}

/* The same stacks, but handlers have a good one: each exception can be survived. */
static void bad_stack_ist(void)
{
	for (unsigned i = 0; i < COUNT(nowhere); i++)
		for (unsigned k = 1; k < 20 && (nowhere[i] >= ABOVE_4G || nowhere[i] < 0x1000); k++)
			attempt_on(ud2, 0, nowhere[i] + k);
	report_faults();
}

/* The handler of #UD is UD2, on a stack that ends at address 0. */
static void nested_exceptions(void)
{
	for (unsigned v = 0; v < 32; v++)
		gate_set(own_idt, v, (uint64_t)ud2, 0);
	load_idt((uint64_t)own_idt, sizeof(own_idt) - 1);
	asm volatile("mov $0x6000, %rsp; ud2");
}

static void load_tr(uint64_t selector) { asm volatile("ltr %w0" : : "r"(selector)); }
static void load_ldt(uint64_t selector) { asm volatile("lldt %w0" : : "r"(selector)); }
static void load_ss(uint64_t selector) { asm volatile("mov %w0, %%ss" : : "r"(selector)); }
static void load_es(uint64_t selector) { asm volatile("mov %w0, %%es" : : "r"(selector)); }

/* Every selector that a guest might try, those of the machine's own table included. */
static void all_selectors(void)
{
	for (uint64_t s = 0; s < 0x400; s++) {
		attempt(load_es, s);
		attempt(load_ss, s);
		attempt(load_tr, s);
		attempt(load_ldt, s);
	}
	report_faults();
}

/* Descriptors and gates of random bits, and everything that uses them. */
static void random_tables(void)
{
	static uint64_t gdt[64];

	for (unsigned i = 0; i < 300; i++) {
		for (unsigned k = 0; k < 64; k++)
			gdt[k] = random64() | (k % 2 ? 1ull << 47 | 1ull << 53 : 0);
		gdt[SEL_KCODE / 8] = DESC_KCODE;
		gdt[SEL_KDATA / 8] = DESC_KDATA;
		load_gdt((uint64_t)gdt, sizeof(gdt) - 1);
		attempt(load_es, random64() & 0x1ff);
		attempt(load_ss, random64() & 0x1ff);
		attempt(load_ldt, random64() & 0x1ff);
	}
	report_faults();
}

/* --- returns and calls ---------------------------------------------------------------------------------------------------- */

static uint64_t frame[8];

static void iret(uint64_t a)
{
	(void)a;
	asm volatile("mov $frame, %rsp; iretq");
}

static void bad_iret(void)
{
	static const uint16_t selectors[] = { SEL_KCODE, SEL_UCODE, SEL_KDATA, SEL_UDATA, 0, 3, SEL_KCODE | 3, SEL_TSS };

	for (unsigned i = 0; i < 3000; i++) {
		for (unsigned k = 0; k < COUNT(frame); k++)
			frame[k] = random64() >> random64() % 64;
		/* What runs afterwards must be an exception, not whatever lies there. */
		frame[0] = i % 2 ? (uint64_t)ud2 : frame[0] | ABOVE_4G;
		if (i % 3) {
			frame[1] = selectors[random64() % COUNT(selectors)];
			frame[4] = selectors[random64() % COUNT(selectors)];
		}
		if (i % 5)
			frame[2] &= ~(1ull << 14); /* NT would refuse each of them at once */
		attempt(iret, 0);
	}
	report_faults();
}

static void do_syscall(uint64_t a)
{
	(void)a;
	asm volatile("syscall" : : : "rcx", "r11", "memory");
}

static void set_lstar(uint64_t a) { wrmsr(LSTAR, a); }

static void bad_syscall(void)
{
	wrmsr(EFER, rdmsr(EFER) | 1);
	wrmsr(0xc0000081, (uint64_t)SEL_USER_BASE << 48 | (uint64_t)SEL_KCODE << 32);
	for (unsigned i = 0; i < COUNT(nowhere); i++) {
		if (nowhere[i] < ABOVE_4G && nowhere[i] > 0x1000)
			continue; /* a jump to where no memory is ends the guest: jump_nowhere */
		attempt(set_lstar, nowhere[i]);
		if (nowhere[i] > 0x1000)
			attempt(do_syscall, 0);
	}
	attempt(set_lstar, NON_CANONICAL);
	attempt(set_lstar, MONITOR_SYSCALL);
	attempt(do_syscall, 0);
	report_faults();
}

/* --- registers ------------------------------------------------------------------------------------------------------------ */

static void set_cr0(uint64_t v) { asm volatile("mov %0, %%cr0" : : "r"(v)); }
static void set_cr2(uint64_t v) { asm volatile("mov %0, %%cr2" : : "r"(v)); }
static void set_cr3(uint64_t v) { asm volatile("mov %0, %%cr3" : : "r"(v)); }
static void set_cr4(uint64_t v) { asm volatile("mov %0, %%cr4" : : "r"(v)); }
static void set_cr8(uint64_t v) { asm volatile("mov %0, %%cr8" : : "r"(v)); }
static void set_dr0(uint64_t v) { asm volatile("mov %0, %%db0" : : "r"(v)); }
static void set_dr1(uint64_t v) { asm volatile("mov %0, %%db1" : : "r"(v)); }
static void set_dr6(uint64_t v) { asm volatile("mov %0, %%db6" : : "r"(v)); }
static void set_dr7(uint64_t v) { asm volatile("mov %0, %%db7" : : "r"(v)); }
static void read_msr(uint64_t msr) { rdmsr((uint32_t)msr); }
static void write_msr(uint64_t v) { wrmsr((uint32_t)(v >> 32), v); }
static void use_fpu(uint64_t v)
{
	(void)v;
	asm volatile("fninit; movups %xmm0, %xmm1");
}

static void random_registers(void)
{
	static void (*const set[])(uint64_t) = { set_cr0, set_cr2, set_cr3, set_cr4, set_cr8, set_dr0, set_dr1, set_dr6, set_dr7, use_fpu };

	for (unsigned i = 0; i < 6000; i++)
		attempt(set[random64() % COUNT(set)], random64() >> random64() % 64);
	report_faults();
}

static void random_msrs(void)
{
	for (uint64_t i = 0; i < 0x400; i++) {
		attempt(read_msr, i);
		attempt(read_msr, 0xc0000000 + i);
		attempt(read_msr, 0xc0010000 + i);
		attempt(read_msr, 0x40000000 + i);
	}
	for (unsigned i = 0; i < 4000; i++) {
		uint64_t msr = i % 2 ? 0xc0000080 + random64() % 0x90 : random64() % 0x300;

		attempt(write_msr, msr << 32 | (uint32_t)random64());
	}
	report_faults();
}

/* --- interrupts and devices ----------------------------------------------------------------------------------------------- */

static volatile uint64_t ticks, limit;

static void count_tick(struct trap_frame *f)
{
	(void)f;
	outb(0x20, 0x20);
	if (++ticks == limit) {
		dputs("enough\n");
		guest_exit(0);
	}
}

static void timer_storm(void)
{
	limit = 3000;
	pic_init(0x20);
	trap_handlers[0x20] = count_tick;
	pic_unmask(0);
	outb(0x43, 0x34); /* counter 0, mode 2, */
	outb(0x40, 2);    /* the shortest period there is: 1.7 microseconds */
	outb(0x40, 0);
	asm volatile("sti; 1: hlt; jmp 1b");
}

/* The transmitter is always empty, the line level-triggered, and nobody takes the reason away. */
static void uart_storm(void)
{
	limit = 20000;
	pic_init(0x20);
	trap_handlers[0x24] = count_tick;
	pic_unmask(4);
	outb(0x4d0, 0x10);
	outb(0x3fc, 0x0b);
	outb(0x3f9, 0x02);
	asm volatile("sti; 1: jmp 1b");
}

/* The handler of the interrupt never tells the controller that it is done, and turns interrupts on at once. */
static void nested_interrupts(void)
{
	pic_init(0x20);
	outb(0x4d0, 0x10);
	pic_unmask(4);
	extern const uint8_t reenter[];
	asm volatile(".pushsection .text; reenter: mov $0x20, %%al; out %%al, $0x20; sti; 1: jmp 1b; .popsection" : : : "memory");
	for (unsigned v = 0; v < 32; v++)
		gate_set(own_idt, v, (uint64_t)ud2, 0);
	gate_set(own_idt, 0x24, (uint64_t)reenter, 0);
	load_idt((uint64_t)own_idt, sizeof(own_idt) - 1);
	outb(0x3f9, 0x02);
	asm volatile("mov $0x8000, %rsp; sti; 1: jmp 1b");
}

static bool ends_the_guest(unsigned port)
{
	/* Exit, reset and power-off, as 4-byte accesses see them too. */
	return (port >= 0xf1 && port < 0xf8) || (port > 0x60 && port <= 0x64) || (port > 0x8e && port <= 0x92) ||
	       (port > 0x600 && port < 0x606);
}

static void all_ports(void)
{
	for (unsigned port = 0; port < 0x10000; port++) {
		/* Nothing lies above 0x1000: a part of those will do. */
		if (ends_the_guest(port) || (port >= 0x1000 && port % 7))
			continue;
		inb(port);
		outb(port, (uint8_t)(port >> 8 ^ port));
		if (port < 0x700 || !(port % 61)) {
			inw(port);
			outw(port, 0xffff);
			inl(port);
			outl(port, 0x12345678);
		}
	}
	outb(0x3fb, 3); /* the UART had its divisor latch open, and loops back */
	outb(0x3fc, 0);
	dputs("all ports\n");
}

/* Random accesses to the devices' registers while interrupts are on. */
static void device_noise(void)
{
	static const uint16_t bases[] = { 0x20, 0x21, 0xa0, 0xa1, 0x40, 0x42, 0x43, 0x61, 0x70, 0x71, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc,
					  0x3fd, 0x3fe, 0x600 };

	for (unsigned v = 0; v < 256; v++)
		trap_handlers[v] = count_tick;
	asm volatile("sti");
	for (unsigned i = 0; i < 25000; i++) {
		unsigned port = bases[random64() % COUNT(bases)];
		uint64_t value = random64();

		switch (random64() % 6) {
		case 0: inb(port); break;
		case 1: inw(port); break;
		case 2: outw(port, (uint16_t)value); break;
		case 3: outl(port, (uint32_t)value & ~0x2000u); break;
		default: outb(port, (uint8_t)value);
		}
	}
	asm volatile("cli");
	dputs("\ndone\n");
}

/* --- noise as code -------------------------------------------------------------------------------------------------------- */

#define NOISE 0x400000

static void run_noise(uint64_t a)
{
	asm volatile("mov %0, %%rax; mov $0x600000, %%esp; mov %%esp, %%ebp; mov %%esp, %%ebx; mov %%esp, %%ecx; mov %%esp, %%edx\n"
		     "mov %%esp, %%esi; mov %%esp, %%edi; sti; jmp *%%rax" : : "r"(a) : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "memory");
}

static void noise(void)
{
	/* Opcodes that reach hv come up more often than among random bytes. */
	static const uint8_t starts[][3] = { { 0x0f, 0x20 }, { 0x0f, 0x22 }, { 0x0f, 0x23 }, { 0x0f, 0x01 }, { 0x0f, 0x00 }, { 0x0f, 0x30 }, { 0x0f, 0x32 },
					     { 0x8e }, { 0x48, 0xcf }, { 0xcb }, { 0xff }, { 0x48, 0xff }, { 0x0f, 0xb2 }, { 0x6c }, { 0xf3, 0x6e },
					     { 0xec }, { 0xed }, { 0xfa }, { 0xfb }, { 0xcd }, { 0xcc }, { 0x0f, 0x05 }, { 0x0f, 0x07 }, { 0x9d }, { 0x0f, 0xa1 },
					     { 0x0f, 0xa2 }, { 0x0f, 0xc7 }, { 0x0f, 0xae }, { 0x67, 0x6d } };

	pic_init(0x20);
	pic_unmask(0);
	pit_start(1000); /* what loops comes to an end unless interrupts are off */
	for (unsigned i = 0; i < 4000; i++) {
		uint8_t *code = (uint8_t *)NOISE + i % 64 * 64;

		/* Many zeros, or most displacements would lead to where no memory is, and that would be the end. */
		for (unsigned k = 0; k < 64; k++)
			code[k] = random64() >> 40 & 1 ? (uint8_t)(random64() >> 24) : 0;
		for (unsigned at = 0; at < 48; at += 1 + (unsigned)(random64() >> 33) % 12)
			memcpy(code + at, starts[(random64() >> 33) % COUNT(starts)], 2);
		for (unsigned k = 0; k < 64; k++) {
			if (code[k] == 0xf1) /* int1, at which QEMU stops as for its own debugger */
				code[k] = 0x90;
			if (code[k] == 0xcf && !(k && code[k - 1] == 0x48)) /* a return to 32-bit code, at which hv gives up */
				code[k] = 0xf8;
			if (code[k] == 0xf4 && k && code[k - 1] >= 0xe4 && code[k - 1] <= 0xe7) /* the guest's exit */
				code[k] = 0x80;
		}
		attempt(run_noise, (uint64_t)code);
	}
	report_faults();
}

const struct attack state_attacks[] = {
	{ "endless", endless }, { "sleep_forever", sleep_forever }, { "huge_repetition", huge_repetition }, { "bad_idt", bad_idt },
	{ "bad_gdt", bad_gdt }, { "bad_tss", bad_tss }, { "bad_stack", bad_stack }, { "bad_stack_ist", bad_stack_ist },
	{ "nested_exceptions", nested_exceptions }, { "all_selectors", all_selectors }, { "random_tables", random_tables },
	{ "bad_iret", bad_iret }, { "bad_syscall", bad_syscall }, { "random_registers", random_registers },
	{ "random_msrs", random_msrs }, { "timer_storm", timer_storm }, { "uart_storm", uart_storm },
	{ "nested_interrupts", nested_interrupts }, { "all_ports", all_ports }, { "device_noise", device_noise }, { "noise", noise },
	{ 0 },
};
