/*
 * The fragments. Left out on purpose:
 *  - what a deprivileged guest is known to see differently: popf that changes IF, pushf under another IOPL than 0, reading a
 *    selector, sgdt sidt sldt smsw str, lar lsl verr verw (Robin and Irvine, 2000);
 *  - what the trap engine refuses in a sentence: 32-bit code, call gates; hlt with nothing that could ever wake it;
 *  - what differs from host to host: cpuid, time stamps, mwait, vmmcall and the other SVM and VMX instructions; MOV to SS of null
 *    with another RPL than the level's (refused by the SDM; TCG takes it, and it leads to CPL 0); single steps over STI (its shadow keeps #DB off on
 *    AMD's CPUs, not on Intel's) and over LSS; LSS, LFS and LGS with REX.W (64 bits on Intel's CPUs);
 *  - what TCG 7.2 does not do as the manuals say. int1 stops QEMU itself. LTR of null is not refused, and QEMU aborts soon after.
 *    Not refused either: non-canonical values for LGDT, LIDT, WRMSR, SYSRET, for RIP in IRETQ, for stacks in a TSS; too large
 *    ones for CR8. SYSENTER_CS has 16 bits. The PAT is not switched between a nested guest and its host. SYSCALL clears the status
 *    flags whatever SFMASK says. Stack accesses raise #GP instead of #SS, an absent stack segment in far returns #NP instead of #SS;
 *  - where KVM errs on AMD CPUs without decode assists: bits above 31 in CR0 and CR4 are ignored, sysenter cannot be emulated, a
 *    single step over INS or OUTS ends one instruction or one repetition late.
 */
#include "diff.h"

#include "string.h"

#define FLAGS_LEGAL 0x244ed7ull /* all but TF, IOPL, RF, VM, VIF and VIP, which TCG loads where the manuals do not */

#define L0 1
#define L3 8
#define ALL 15

asm(".text\n.globl landing\nlanding: int $0x81\n");

#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define PICK(a) ((a)[below(COUNT(a))])

static uint64_t *data(unsigned offset)
{
	return (uint64_t *)(arena.data + offset);
}

/* A random subset of bits. */
static uint64_t some(uint64_t bits)
{
	return random64() & random64() & bits;
}

/* --- control and debug registers ------------------------------------------------------------------------------------------ */

static void prepare_cr0(struct trap_frame *f)
{
	/* Legal, then: PE off, NW without CD, PG off, bits that are ignored. */
	static const uint64_t odd[] = { 0x80000030, 0xa0000031, 0x31, 0x9ffb8031 };

	f->rax = 0x80000011 | some(0x1002e); /* without AM: TCG checks no alignment */
	if (one_in(6))
		f->rax |= 0x40000000 | (one_in(2) ? 0x20000000 : 0);
	if (one_in(4))
		f->rax = PICK(odd);
	f->rbx = (uint64_t)data(0);
	*data(0) = random64() & ~(one_in(2) ? 1ull : 0);
}

static void prepare_cr3(struct trap_frame *f)
{
	static const uint64_t flags[] = { 0, 8, 0x10, 0x18 };

	f->rax = PICK(flags);
}

static void prepare_cr4(struct trap_frame *f)
{
	/* PAE off; bits that no CPU has. */
	static const uint64_t odd[] = { 0x600, 0, 0x620 | 1u << 31, 0x620 | 1 << 15 };

	f->rax = 0x20 | some(0x69c); /* TSD DE PSE PGE OSFXSR OSXMMEXCPT */
	if (one_in(4))
		f->rax = PICK(odd);
}

static void prepare_cr8(struct trap_frame *f)
{
	f->rax = below(16);
	if (irq_raised) /* QEMU 7.2 aborts when a nested guest writes CR8 while it has an interrupt to wait for */
		f->rip = (uint64_t)landing;
}

static void prepare_dr(struct trap_frame *f)
{
	/* Enabled breakpoints and GD do nothing in a nested guest of TCG, and bits that are always 0 are not: neither is tried. */
	f->rax = (uint32_t)random64() & ~0x1000u;
	f->rbx = f->rax & ~0xf4ffull;
	f->rsi = random64();
}

/* --- tables and segments -------------------------------------------------------------------------------------------------- */

static void table_register(unsigned at, uint64_t base, uint16_t limit)
{
	memcpy((uint8_t *)data(0) + at, &limit, 2);
	memcpy((uint8_t *)data(0) + at + 2, &base, 8);
}

static void prepare_gdt(struct trap_frame *f)
{
	f->rbx = (uint64_t)data(0) + 6;
	table_register(6, (uint64_t)arena.gdt[below(2)], one_in(4) ? SEL_LDT + 15 : sizeof(arena.gdt[0]) - 1);
}

static void prepare_idt(struct trap_frame *f)
{
	f->rbx = (uint64_t)data(0) + 6;
	table_register(6, (uint64_t)arena.idt[below(2)], one_in(3) ? IDT_SHORT_LIMIT : sizeof(arena.idt[0]) - 1);
}

static void prepare_lldt(struct trap_frame *f)
{
	static const uint16_t selectors[] = { 0, 1, SEL_LDT, SEL_LDT | 3, SEL_LDT_ABSENT, SEL_LDT_HIGH, SEL_TSS, SEL_KDATA, SEL_NONSENSE,
					      SEL_LDT | 4, GDT_ENTRIES * 8, GDT_ENTRIES * 8 - 8 };

	f->rax = (f->rax & ~0xffffull) | PICK(selectors);
	f->rbx = (uint64_t)data(0);
	*data(0) = f->rax;
}

static void prepare_ltr(struct trap_frame *f)
{
	static const uint16_t selectors[] = { SEL_TSS, SEL_TSS_B, SEL_TSS_B | 3, SEL_TSS_ABSENT, SEL_LDT, SEL_UDATA, SEL_NONSENSE,
					      SEL_TSS | 4, GDT_ENTRIES * 8 };

	f->rax = (f->rax & ~0xffffull) | PICK(selectors);
	f->rbx = (uint64_t)data(0);
	*data(0) = f->rax;
}

static void prepare_ltr_short(struct trap_frame *f)
{
	f->rax = SEL_TSS_SHORT;
}

static uint16_t selector(void)
{
	/* Those that a kernel uses come up often enough for the good cases. */
	static const uint16_t usual[] = { 0, 3, SEL_KDATA, SEL_UDATA, SEL_KCODE, SEL_UCODE, SEL_DATA_BASE, SEL_DATA3_BASE | 3, 4, 12 };

	if (one_in(2))
		return PICK(usual);
	if (one_in(6))
		return (uint16_t)(below(LDT_ENTRIES + 2) * 8 | 4 | below(4));
	return (uint16_t)(below(GDT_ENTRIES + 2) * 8 | below(4));
}

static void prepare_selector(struct trap_frame *f)
{
	f->rax = (f->rax & ~0xffffull) | selector();
	f->rbx = (uint64_t)data(8);
	*data(8) = f->rax;
}

/* SS is loaded with what can be loaded more often than not. */
static void prepare_ss(struct trap_frame *f)
{
	prepare_selector(f);
	if (one_in(2) || !(f->rax & 0xfffc)) /* TCG takes null with any RPL, and makes CPL 0 of it */
		f->rax = one_in(4) && f->cs == SEL_KCODE ? 0 : f->ss;
	*data(8) = f->rax;
}

static void prepare_pop_selector(struct trap_frame *f)
{
	uint64_t value = (random64() & ~0xffffull) | selector();

	memcpy((void *)f->rsp, &value, 8);
}

/* A far pointer in memory, 32 or 64 bits and a selector. */
static void far_pointer(struct trap_frame *f, uint64_t offset, uint16_t sel, unsigned size)
{
	f->rbx = (uint64_t)data(8) + 3;
	memcpy((void *)f->rbx, &offset, size);
	memcpy((void *)(f->rbx + size), &sel, 2);
}

static void prepare_load_pointer32(struct trap_frame *f) { far_pointer(f, random64(), selector(), 4); }
static void prepare_load_pointer16(struct trap_frame *f) { far_pointer(f, random64(), selector(), 2); }
static void prepare_load_ss(struct trap_frame *f)
{
	uint16_t s = selector();

	far_pointer(f, random64(), one_in(2) || !(s & 0xfffc) ? f->ss : s, 4);
}

/* Whether a second shadow follows the first is left open (SDM vol. 3, 6.8.3), so nothing may be waiting for its end. */
static void prepare_ss_sti(struct trap_frame *f)
{
	prepare_ss(f);
	if (irq_raised)
		f->rip = (uint64_t)landing;
}

/* --- far transfers -------------------------------------------------------------------------------------------------------- */

static uint16_t code_selector(const struct trap_frame *f)
{
	static const uint16_t usual[] = { SEL_KCODE, SEL_UCODE, SEL_CODE3 | 3, SEL_CODE_XO, SEL_CONF0, SEL_CONF3 | 3, SEL_CODE1 | 1,
					  SEL_CODE2 | 2, SEL_CONF0 | 3, 20, 31 };

	if (one_in(3))
		return (uint16_t)f->cs;
	return one_in(4) ? selector() : PICK(usual);
}

static uint64_t target(void)
{
	return one_in(10) ? ABOVE_4G + 8 : (uint64_t)landing;
}

static void prepare_far32(struct trap_frame *f) { far_pointer(f, (uint64_t)landing, code_selector(f), 4); }
static void prepare_far64(struct trap_frame *f) { far_pointer(f, target(), code_selector(f), 8); }

static uint64_t other_stack(void)
{
	return (uint64_t)arena.stack[one_in(2) ? STACK_USER : STACK_KERNEL] + STACK_SIZE / 2 + below(64);
}

static uint64_t stack_segment(uint64_t cs)
{
	static const uint16_t usual[4] = { SEL_KDATA, SEL_DATA1 | 1, SEL_DATA2 | 2, SEL_UDATA };
	static const uint16_t odd[] = { 0, 1, 2, 3 };

	if (one_in(6))
		return PICK(odd);
	if (!one_in(6))
		return usual[cs & 3];
	uint16_t s = selector();
	/* TCG raises #NP for an absent one (SDM vol. 2, IRET: #SS), and marks SS as accessed when MOV loads it, but not here
	 * (vol. 3, 3.4.5.1). */
	for (unsigned i = 0; i < 2 && s > 3; i++) {
		uint64_t *table = s & 4 ? arena.ldt : arena.gdt[i], none = 0;
		uint64_t *d = s < (s & 4 ? sizeof(arena.ldt) : sizeof(arena.gdt[0])) ? &table[s / 8] : &none;

		if ((*d >> 44 & 9) == 1) /* S without P */
			return usual[cs & 3];
		if (*d >> 44 & 1)
			*d |= 1ull << 40;
	}
	return s;
}

static void far_return(struct trap_frame *f, unsigned size, unsigned pop)
{
	uint64_t cs = code_selector(f), values[4] = { size == 8 ? target() : (uint64_t)landing, cs, other_stack(), stack_segment(cs) };

	for (unsigned i = 0; i < 4; i++)
		memcpy((void *)(f->rsp + i * size + (i > 1 ? pop : 0)), &values[i], size);
}

static void prepare_lret32(struct trap_frame *f) { far_return(f, 4, 0); }
static void prepare_lret64(struct trap_frame *f) { far_return(f, 8, 0); }
static void prepare_lret_pop(struct trap_frame *f) { far_return(f, 8, 24); }

static void prepare_iret(struct trap_frame *f)
{
	uint64_t cs = code_selector(f);
	uint64_t frame[5] = { target(), cs, (random64() & FLAGS_LEGAL) | RFLAGS_FIXED, other_stack(), stack_segment(cs) };

	if (one_in(12) && !irq_raised)
		frame[3] = one_in(2) ? NON_CANONICAL : ABOVE_4G + 0x1000;
	if (!one_in(6))
		frame[2] &= ~(uint64_t)RFLAGS_NT;
	if (one_in(8))
		frame[2] |= 0x3000; /* IOPL 3 */
	memcpy((void *)f->rsp, frame, sizeof(frame));
}

static void prepare_sysret(struct trap_frame *f)
{
	f->rcx = (uint64_t)landing;
	f->r11 &= FLAGS_LEGAL;
}

/* --- MSRs ----------------------------------------------------------------------------------------------------------------- */

static void prepare_rdmsr(struct trap_frame *f)
{
	static const uint32_t msrs[] = { 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102,
					 0x174, 0x175, 0x176, 0x12345678 };

	f->rcx = (f->rcx & ~0xffffffffull) | PICK(msrs);
}

static void set_msr(struct trap_frame *f, uint32_t msr, uint64_t value)
{
	f->rcx = (f->rcx & ~0xffffffffull) | msr;
	f->rax = (f->rax & ~0xffffffffull) | (uint32_t)value;
	f->rdx = (f->rdx & ~0xffffffffull) | value >> 32;
}

static void prepare_wrmsr(struct trap_frame *f)
{
	static const uint32_t addresses[] = { 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102, 0x175, 0x176 };
	uint64_t address = (uint64_t)((int64_t)random64() >> 17); /* canonical */

	if (one_in(4))
		address = NON_CANONICAL - 1;
	set_msr(f, PICK(addresses), address);
}

static void prepare_wrmsr_value(struct trap_frame *f)
{
	static const uint32_t efer[] = { 0x501, 0x500, 0xd01, 0xd00, 0x901, 0x101, 0x503, 0x1, 0x401 };

	switch (below(5)) {
	case 0: set_msr(f, 0xc0000081, (uint64_t)SEL_USER_BASE << 48 | (uint64_t)SEL_KCODE << 32 | (uint32_t)random64()); break;
	case 1: set_msr(f, 0xc0000084, (random64() & 0x3f7fd5) | SFMASK_START); break;
	case 2: set_msr(f, 0x174, (uint16_t)random64()); break;
	case 3: set_msr(f, 0x12345678, random64()); break;
	default: set_msr(f, 0xc0000080, PICK(efer));
	}
}

/* --- ports ---------------------------------------------------------------------------------------------------------------- */

static void prepare_port(struct trap_frame *f)
{
	/* The UART's scratch register, the debug console, and ports that nothing answers. */
	static const uint16_t ports[] = { 0x3ff, 0x3ff, 0x3ff, 0x3fe, 0x80, 0x83, 0x84, 0x86, 0x88, 0x89, 0x1234, 0xffff, 0x400 };

	f->rdx = (f->rdx & ~0xffffull) | PICK(ports);
	f->rcx = one_in(8) ? 0 : 1 + below(20);
	f->rsi = (uint64_t)data(128) + below(64);
	f->rdi = (uint64_t)data(256) + 100 + below(64);
}

/* For the forms with 32-bit addresses: what lies above bit 31 does not count. */
static void prepare_port32(struct trap_frame *f)
{
	prepare_port(f);
	f->rsi |= random64() << 32;
	f->rdi |= random64() << 32;
	f->rcx |= random64() << 32;
}

static uint64_t bad_address(void)
{
	static const uint64_t bad[] = { ABOVE_4G, 5 * ABOVE_4G + 0x123, NON_CANONICAL, NON_CANONICAL + 0x1001, 0xfffe000000000000,
					0x7ffffffff000, 0xffff800000000000 };

	return PICK(bad);
}

static void prepare_port_fault(struct trap_frame *f)
{
	prepare_port(f);
	f->rdx = (f->rdx & ~0xffffull) | 0x3ff;
	f->rsi = bad_address();
	f->rdi = bad_address();
	f->rcx = 3;
}

static void prepare_raise(struct trap_frame *f)
{
	f->rdx = 0x3f9;
	f->rax = 2;
	/* Where the instruction is refused nothing is raised; arena_reset() then does a little too much. */
	irq_raised = true;
}

/* --- memory --------------------------------------------------------------------------------------------------------------- */

static void prepare_bad(struct trap_frame *f)
{
	f->rax = bad_address();
}

static void prepare_data(struct trap_frame *f)
{
	f->rbx = (uint64_t)data(8 * below(40));
}

/* ---------------------------------------------------------------------------------------------------------------------------- */

/* X(name, what sets the registers, levels, flags, code) */
#define FRAGMENTS(X)                                                                                                          \
	X(cli, NULL, ALL, 0, "cli; nop")                                                                                      \
	X(sti, NULL, ALL, NO_TF, "sti; nop; nop; nop")                                                                        \
	X(sti_sti, NULL, ALL, NO_TF, "sti; sti; nop; nop")                                                                    \
	X(sti_cli, NULL, ALL, NO_TF, "sti; cli; nop")                                                                         \
	X(cli_sti_ss, prepare_ss_sti, L0, NO_TF, "cli; sti; mov %eax, %ss; nop; nop")                                             \
	X(raise, prepare_raise, L0, GOOD_RSP, "out %al, %dx; nop; nop")                                                       \
	X(raise_sti, prepare_raise, L0, NO_TF | GOOD_RSP, "cli; out %al, %dx; nop; sti; nop; nop; nop")                       \
	X(raise_hlt, prepare_raise, L0, NO_TF | GOOD_RSP, "cli; out %al, %dx; sti; hlt; nop; nop")                            \
	X(hlt, NULL, 14, 0, "hlt")                                                                                            \
	X(pushf, NULL, ALL, NO_TF, "pushfq; andl $~0x3000, (%rsp); pop %rax")                                                     \
	X(popf, NULL, ALL, NO_TF, "pushfq; xorl $0x240cd5 & ~0x200, (%rsp); popfq; movq $0, -8(%rsp)")                        \
	X(cr0_write, prepare_cr0, ALL, 0, "mov %rax, %cr0; mov %cr0, %rcx")                                                   \
	X(cr0_write2, prepare_cr0, L0, 0, "mov %rax, %cr0; mov %cr0, %r9")                                                    \
	X(cr0_read, NULL, ALL, 0, "mov %cr0, %r15")                                                                           \
	X(clts, NULL, ALL, 0, "clts; mov %cr0, %rbp")                                                                         \
	X(lmsw, NULL, ALL, 0, "lmsw %si; mov %cr0, %rbp")                                                                     \
	X(lmsw_memory, prepare_cr0, ALL, 0, "lmsw (%rbx); mov %cr0, %rbp")                                                    \
	X(cr2, NULL, ALL, 0, "mov %r9, %cr2; mov %cr2, %rdi")                                                                 \
	X(cr3, prepare_cr3, ALL, 0, "mov %cr3, %rcx; or %rcx, %rax; mov %rax, %cr3; mov %cr3, %rdx; mov %rcx, %cr3")          \
	X(cr4_write, prepare_cr4, ALL, 0, "mov %rax, %cr4; mov %cr4, %rcx")                                                   \
	X(cr4_read, NULL, ALL, 0, "mov %cr4, %r14")                                                                           \
	X(cr8, prepare_cr8, ALL, 0, "mov %rax, %cr8; mov %cr8, %rcx")                                                         \
	X(cr_none, NULL, L0, 0, ".byte 0x0f, 0x20, 0xc8")                                                                     \
	X(cr_none2, NULL, L0, 0, ".byte 0x0f, 0x22, 0xe8")                                                                    \
	X(dr0, prepare_dr, ALL, 0, "mov %rsi, %db0; mov %db0, %rcx")                                                          \
	X(dr3, prepare_dr, ALL, 0, "mov %rsi, %db3; mov %db1, %rcx; mov %db3, %rdx")                                          \
	X(dr6, prepare_dr, ALL, 0, "mov %rax, %db6; mov %db6, %rcx")                                                          \
	X(dr7, prepare_dr, ALL, 0, "mov %rbx, %db7; mov %db7, %rcx")                                                          \
	X(dr4, prepare_dr, ALL, 0, ".byte 0x0f, 0x21, 0xe0")                                                                  \
	X(dr5, prepare_dr, ALL, 0, ".byte 0x0f, 0x21, 0xe9")                                                                  \
	X(dr4_write, prepare_dr, L0, 0, ".byte 0x0f, 0x23, 0xe0")                                                             \
	X(lgdt, prepare_gdt, ALL, 0, "lgdt (%rbx)")                                                                           \
	X(lgdt_fault, prepare_bad, ALL, 0, "lgdt (%rax)")                                                                     \
	X(lidt, prepare_idt, ALL, 0, "lidt (%rbx)")                                                                           \
	X(lidt_fault, prepare_bad, ALL, 0, "lidt (%rax)")                                                                     \
	X(lldt, prepare_lldt, ALL, 0, "lldt %ax")                                                                             \
	X(lldt_memory, prepare_lldt, ALL, 0, "lldt (%rbx)")                                                                   \
	X(ltr, prepare_ltr, ALL, 0, "ltr %ax")                                                                                \
	X(ltr_memory, prepare_ltr, ALL, 0, "ltr (%rbx)")                                                                      \
	X(ltr_short, prepare_ltr_short, L0, SHORT_TR | GOOD_RSP, "ltr %ax; int $0x3c")                                        \
	X(ltr_short2, prepare_ltr_short, L0, SHORT_TR | GOOD_RSP, "ltr %ax; ud2")                                             \
	X(mov_ds, prepare_selector, ALL, 0, "mov %eax, %ds")                                                                  \
	X(mov_es, prepare_selector, ALL, 0, "mov (%rbx), %es")                                                                \
	X(mov_fs, prepare_selector, ALL, 0, "mov %eax, %fs")                                                                  \
	X(mov_gs, prepare_selector, ALL, 0, "mov %eax, %gs")                                                                  \
	X(mov_ss, prepare_ss, ALL, 0, "mov %eax, %ss; nop; nop")                                                              \
	X(mov_ss_sti, prepare_ss_sti, L0, NO_TF, "sti; mov (%rbx), %ss; nop; nop")                                                \
	X(mov_cs, prepare_selector, ALL, 0, ".byte 0x8e, 0xc8")                                                               \
	X(mov_fault, prepare_bad, ALL, 0, "mov (%rax), %es")                                                                  \
	X(pop_fs, prepare_pop_selector, ALL, GOOD_RSP, "pop %fs")                                                             \
	X(pop_gs, prepare_pop_selector, ALL, GOOD_RSP, "pop %gs")                                                             \
	X(pop_fs16, prepare_pop_selector, ALL, GOOD_RSP, "popw %fs")                                                          \
	X(lss, prepare_load_ss, ALL, NO_TF, "lss (%rbx), %ecx; nop")                                                          \
	X(lss_sti, prepare_load_ss, L0, NO_TF, "cli; sti; lss (%rbx), %ecx; nop; nop")                                        \
	X(lfs, prepare_load_pointer32, ALL, 0, "lfs (%rbx), %ecx")                                                            \
	X(lgs, prepare_load_pointer32, ALL, 0, "lgs (%rbx), %ecx")                                                            \
	X(lgs16, prepare_load_pointer16, ALL, 0, "lgs (%rbx), %cx")                                                           \
	X(fs_access, prepare_data, ALL, 0, "mov $0xc0000100, %ecx; mov %ebx, %eax; xor %edx, %edx; wrmsr; addq $3, %fs:8;"  \
	  "outb %al, $0x80")                                                                                                  \
	X(gs_outs, prepare_data, L0, 0, "mov $0xc0000101, %ecx; mov %ebx, %eax; xor %edx, %edx; wrmsr; mov $16, %esi;"        \
	  "mov $0x3ff, %edx; .byte 0x65; outsb; in %dx, %al")                                                                 \
	X(ljmp32, prepare_far32, ALL, GOOD_RSP, "ljmp *(%rbx)")                                                               \
	X(ljmp64, prepare_far64, ALL, GOOD_RSP, "rex.w ljmp *(%rbx)")                                                         \
	X(lcall32, prepare_far32, ALL, GOOD_RSP, "lcall *(%rbx)")                                                             \
	X(lcall64, prepare_far64, ALL, GOOD_RSP, "rex.w lcall *(%rbx)")                                                       \
	X(lret32, prepare_lret32, ALL, GOOD_RSP, "lretl")                                                                     \
	X(lret64, prepare_lret64, ALL, GOOD_RSP, "lretq")                                                                     \
	X(lret_pop, prepare_lret_pop, ALL, GOOD_RSP, "lretq $24")                                                             \
	X(iretq, prepare_iret, ALL, GOOD_RSP, "iretq")                                                                        \
	X(iretq2, prepare_iret, L0, GOOD_RSP, "iretq")                                                                        \
	X(syscall, NULL, ALL, 0, "syscall")                                                                                   \
	X(sysret, prepare_sysret, ALL, 0, "sysretq")                                                                          \
	X(sce_off, NULL, L0, 0, "mov $0xc0000080, %ecx; mov $0x500, %eax; xor %edx, %edx; wrmsr; syscall")                    \
	X(rdmsr, prepare_rdmsr, ALL, 0, "rdmsr")                                                                              \
	X(wrmsr, prepare_wrmsr, ALL, 0, "wrmsr; rdmsr")                                                                       \
	X(wrmsr_value, prepare_wrmsr_value, ALL, 0, "wrmsr; rdmsr")                                                           \
	X(swapgs, NULL, ALL, 0, "swapgs")                                                                                     \
	X(in_al, prepare_port, ALL, 0, "in %dx, %al")                                                                         \
	X(in_ax, prepare_port, ALL, 0, "in %dx, %ax")                                                                         \
	X(in_eax, prepare_port, ALL, 0, "in %dx, %eax")                                                                       \
	X(in_imm, NULL, ALL, 0, "in $0xe9, %al; in $0x80, %ax; in $0x80, %eax")                                               \
	X(out_al, prepare_port, ALL, 0, "out %al, %dx; in %dx, %al")                                                          \
	X(out_ax, prepare_port, ALL, 0, "out %ax, %dx")                                                                       \
	X(out_eax, prepare_port, ALL, 0, "out %eax, %dx")                                                                     \
	X(out_imm, NULL, ALL, 0, "out %al, $0x80; out %ax, $0x81; out %eax, $0x80")                                           \
	X(insb, prepare_port, ALL, NO_TF, "insb")                                                                             \
	X(insw, prepare_port, ALL, NO_TF, "rep insw")                                                                         \
	X(insl, prepare_port, ALL, NO_TF, "rep insl")                                                                         \
	X(outsb, prepare_port, ALL, NO_TF, "outsb; in %dx, %al")                                                              \
	X(rep_outsb, prepare_port, ALL, NO_TF, "rep outsb; in %dx, %al")                                                      \
	X(rep_outsw, prepare_port, ALL, NO_TF, "rep outsw")                                                                   \
	X(rep_insb32, prepare_port32, ALL, NO_TF, "rep insb %dx, %es:(%edi)")                                                 \
	X(rep_outsl32, prepare_port32, ALL, NO_TF, "rep outsl %ds:(%esi), %dx")                                               \
	X(insb_fault, prepare_port_fault, ALL, NO_TF, "insb")                                                                 \
	X(rep_insw_fault, prepare_port_fault, ALL, NO_TF, "rep insw")                                                         \
	X(outsb_fault, prepare_port_fault, ALL, NO_TF, "outsb")                                                               \
	X(rep_outsl_fault, prepare_port_fault, ALL, NO_TF, "rep outsl")                                                       \
	X(invlpg, NULL, ALL, 0, "invlpg (%rax)")                                                                              \
	X(wbinvd, NULL, ALL, 0, "wbinvd")                                                                                     \
	X(invd, NULL, 14, 0, "invd")                                                                                          \
	X(rdtsc, NULL, ALL, NO_TF, "rdtsc; xor %eax, %eax; xor %edx, %edx")                                                   \
	X(int3, NULL, ALL, 0, "int3")                                                                                         \
	X(int_3, NULL, ALL, 0, "int $3")                                                                                      \
	X(int_4, NULL, ALL, 0, "int $4")                                                                                      \
	X(int_13, NULL, ALL, 0, "int $13")                                                                                    \
	X(int_14, NULL, ALL, 0, "int $14")                                                                                    \
	X(int_30, NULL, ALL, 0, "int $0x30")                                                                                  \
	X(int_31, NULL, ALL, 0, "int $0x31")                                                                                  \
	X(int_32, NULL, ALL, 0, "int $0x32")                                                                                  \
	X(int_33, NULL, ALL, 0, "int $0x33")                                                                                  \
	X(int_34, NULL, ALL, 0, "int $0x34")                                                                                  \
	X(int_35, NULL, ALL, 0, "int $0x35")                                                                                  \
	X(int_36, NULL, ALL, 0, "int $0x36")                                                                                  \
	X(int_37, NULL, ALL, 0, "int $0x37")                                                                                  \
	X(int_38, NULL, ALL, 0, "int $0x38")                                                                                  \
	X(int_39, NULL, ALL, 0, "int $0x39")                                                                                  \
	X(int_3a, NULL, ALL, 0, "int $0x3a")                                                                                  \
	X(int_3b, NULL, ALL, 0, "int $0x3b")                                                                                  \
	X(int_3c, NULL, ALL, 0, "int $0x3c")                                                                                  \
	X(int_3d, NULL, ALL, 0, "int $0x3d")                                                                                  \
	X(int_3e, NULL, ALL, 0, "int $0x3e")                                                                                  \
	X(int_3f, NULL, ALL, 0, "int $0x3f")                                                                                  \
	X(int_ff, NULL, ALL, 0, "int $0xff")                                                                                  \
	X(into, NULL, ALL, 0, ".byte 0xce")                                                                                   \
	X(ud2, NULL, ALL, 0, "ud2")                                                                                           \
	X(div, NULL, ALL, 0, "xor %ecx, %ecx; div %ecx")                                                                      \
	X(idiv, NULL, ALL, 0, "mov $0x80000000, %eax; mov $-1, %edx; mov $-1, %ecx; idiv %ecx")                               \
	X(read_fault, prepare_bad, ALL, 0, "mov (%rax), %rcx")                                                                \
	X(write_fault, prepare_bad, ALL, 0, "addl $1, (%rax)")                                                                \
	X(jump_fault, prepare_bad, ALL, 0, "jmp *%rax")                                                                       \
	X(call_fault, prepare_bad, ALL, GOOD_RSP, "call *%rax")                                                               \
	X(push_pop, NULL, ALL, 0, "push %rax; push %rbx; pop %rcx; pop %rdx")                                                 \
	X(nop, NULL, ALL, 0, "nop; nop; cmc; nop")                                                                            \
	X(fnop, NULL, ALL, 0, "fnop")                                                                                         \
	X(fwait, NULL, ALL, 0, "fwait")                                                                                       \
	X(sse, NULL, ALL, 0, "movaps %xmm0, %xmm0")                                                                           \
	X(xgetbv, NULL, ALL, 0, "xor %ecx, %ecx; xgetbv")                                                                     \
	X(xsetbv, NULL, L0, 0, "xor %ecx, %ecx; xsetbv")                                                                      \
	X(rdfsbase, NULL, ALL, 0, "rdfsbase %rax")                                                                            \
	X(int_80, NULL, ALL, 0, "int $0x80")

#define OBSERVERS(X)                                                                                                          \
	X(see_cr, NULL, L0, 0, "mov %cr0, %rax; mov %cr2, %rcx; mov %cr3, %rdx; mov %cr4, %rbx; mov %cr8, %rbp")              \
	X(see_dr, NULL, L0, 0, "mov %db0, %rax; mov %db1, %rcx; mov %db2, %rdx; mov %db3, %rbx; mov %db6, %rsi; mov %db7, %rdi")\
	X(see_msr, NULL, L0, 0,                                                                                               \
	  READ_MSR("0xc0000080", "r8") READ_MSR("0xc0000081", "r9") READ_MSR("0xc0000082", "r10") READ_MSR("0xc0000083", "r11") \
	  READ_MSR("0xc0000084", "r12") READ_MSR("0xc0000100", "r13") READ_MSR("0xc0000101", "r14") READ_MSR("0xc0000102", "r15")) \
	X(see_msr2, NULL, L0, 0,                                                                                              \
	  READ_MSR("0x174", "r8") READ_MSR("0x175", "r9") READ_MSR("0x176", "r10")                    \
	  "mov $0x3ff, %edx; in %dx, %al")
#define READ_MSR(number, to) "mov $" number ", %ecx; rdmsr; shl $32, %rdx; or %rdx, %rax; mov %rax, %" to ";"

#define CODE(name, prepare, levels, flags, code)                    \
	extern const uint8_t f_##name[], f_##name##_end[];          \
	asm(".text\nf_" #name ":\n" code "\nint $0x81\nf_" #name "_end:\n");
#define ROW(name, prepare, levels, flags, code) { #name, f_##name, f_##name##_end, prepare, levels, flags },

FRAGMENTS(CODE)
OBSERVERS(CODE)

const struct fragment fragments[] = { FRAGMENTS(ROW) };
const unsigned nfragments = COUNT(fragments);
const struct fragment observers[] = { OBSERVERS(ROW) };
const unsigned nobservers = COUNT(observers);
