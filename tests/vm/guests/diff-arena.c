/* The memory of a sequence: tables with every kind of descriptor and gate, stacks, data; and the registers it starts with. */
#include "diff.h"

#include "io.h"
#include "pic.h"
#include "string.h"

#define CR0_START 0x80010031ull  /* PG WP NE ET PE */
#define CR4_START 0x620ull       /* OSXMMEXCPT OSFXSR PAE */
#define EFER_START 0x501ull      /* LMA LME SCE */
#define STAR_START ((uint64_t)SEL_USER_BASE << 48 | (uint64_t)SEL_KCODE << 32)

#define DESC_BASE(base) (((base) & 0xffffff) << 16 | ((base) >> 24 & 0xff) << 56)
#define SYSTEM(type, base, limit) ((limit) | DESC_BASE((uint64_t)(base)) | (0x80ull | (type)) << 40)
#define ABSENT (1ull << 47)
#define TSS_TYPE 9
#define LDT_TYPE 2

#define GATE(target, selector, attr, ist)                                                                             \
	{ ((uint64_t)(target) & 0xffff) | (uint64_t)(selector) << 16 | (uint64_t)(ist) << 32 | (uint64_t)(attr) << 40 |   \
		  ((uint64_t)(target) >> 16 & 0xffff) << 48,                                                              \
	  (uint64_t)(target) >> 32 }
#define INTERRUPT 0x8e
#define TRAP 0x8f
#define DPL3 0x60

struct arena arena;
static struct arena pristine;
static uint64_t cr3;
bool irq_raised;

static uint64_t stack_top(unsigned stack)
{
	return (uint64_t)arena.stack[stack + 1];
}

/* A 16-byte system descriptor (SDM vol. 3, figure 8-4). */
static void system_descriptor(unsigned selector, unsigned type, uint64_t base, unsigned limit)
{
	pristine.gdt[0][selector / 8] = SYSTEM(type, base, limit);
	pristine.gdt[0][selector / 8 + 1] = base >> 32;
}

static void init_gdt(void)
{
	static const struct {
		unsigned selector;
		uint64_t descriptor;
	} flat[] = {
		{ SEL_KCODE, DESC_KCODE }, { SEL_KDATA, DESC_KDATA }, { SEL_UDATA, DESC_UDATA }, { SEL_UCODE, DESC_UCODE },
		/* Code, and what goes into SS with IRETQ, is marked as accessed: TCG does not do that (SDM vol. 3, 3.4.5.1). */
		{ SEL_DATA_RO, 0x00cf90000000ffff }, { SEL_DATA3_FRESH, 0x00cff2000000ffff },
		{ SEL_DATA_DOWN, 0x00cf96000000ffff }, { SEL_CODE_XO, 0x00af99000000ffff },
		{ SEL_CODE3, 0x00affb000000ffff }, { SEL_CONF0, 0x00af9f000000ffff }, { SEL_CONF3, 0x00afff000000ffff },
		{ SEL_DATA_ABSENT, 0x00cf12000000ffff }, { SEL_CODE_ABSENT, 0x00af1b000000ffff },
		{ SEL_DATA1, 0x00cfb3000000ffff }, { SEL_DATA2, 0x00cfd3000000ffff },
		{ SEL_CODE1, 0x00afbb000000ffff }, { SEL_CODE2, 0x00afdb000000ffff },
		{ SEL_DATA_BASE, 0x12cf92345678ffff }, { SEL_DATA3_BASE, 0x9acff2bcdef0ffff },
		{ SEL_DATA3_ABSENT, 0x00cf72000000ffff }, { SEL_NONSENSE, 0x0000800000000000 },
	};
	uint64_t *gdt = pristine.gdt[0];

	for (unsigned i = 0; i < sizeof(flat) / sizeof(*flat); i++)
		gdt[flat[i].selector / 8] = flat[i].descriptor;
	system_descriptor(SEL_TSS, TSS_TYPE, (uint64_t)arena.tss[0], TSS_LIMIT);
	system_descriptor(SEL_TSS_B, TSS_TYPE, (uint64_t)arena.tss[1], TSS_LIMIT);
	system_descriptor(SEL_TSS_SHORT, TSS_TYPE, (uint64_t)arena.tss[0], 0x23);
	system_descriptor(SEL_TSS_ABSENT, TSS_TYPE, (uint64_t)arena.tss[0], TSS_LIMIT);
	gdt[SEL_TSS_ABSENT / 8] &= ~ABSENT;
	system_descriptor(SEL_LDT, LDT_TYPE, (uint64_t)arena.ldt, sizeof(arena.ldt) - 1);
	system_descriptor(SEL_LDT_HIGH, LDT_TYPE, 2 * ABOVE_4G, sizeof(arena.ldt) - 1);
	system_descriptor(SEL_LDT_ABSENT, LDT_TYPE, (uint64_t)arena.ldt, sizeof(arena.ldt) - 1);
	gdt[SEL_LDT_ABSENT / 8] &= ~ABSENT;
	memcpy(pristine.gdt[1], gdt, sizeof(pristine.gdt[0]));

	/* The first entry of an LDT can be used, unlike the GDT's. */
	static const uint64_t ldt[LDT_ENTRIES] = { 0x34cff2345678ffff, DESC_KDATA, DESC_KCODE, DESC_UCODE, 0x00cf12000000ffff, 0 };
	memcpy(pristine.ldt, ldt, sizeof(ldt));
}

static void init_idt(void)
{
	const uint8_t *target = stubs[ODD_GATES];
	const uint64_t odd[16][2] = {
		GATE(target, SEL_KCODE, INTERRUPT | DPL3, 0),
		GATE(target, SEL_KCODE, TRAP | DPL3, 0),
		GATE(target, SEL_KCODE, INTERRUPT, 0),
		GATE(target, SEL_KCODE, (INTERRUPT | DPL3) & ~0x80, 0),   /* not present */
		GATE(target, SEL_KCODE, 0x8c | DPL3, 0),                  /* a call gate */
		GATE(target, SEL_KCODE, 0x9e | DPL3, 0),                  /* not a system descriptor */
		GATE(target, 0, INTERRUPT | DPL3, 0),                     /* null selector */
		GATE(target, SEL_KDATA, INTERRUPT | DPL3, 0),             /* data */
		GATE(target, GDT_ENTRIES * 8, INTERRUPT | DPL3, 0),       /* behind the limit */
		GATE(target, SEL_CODE_ABSENT, INTERRUPT | DPL3, 0),
		GATE(target, SEL_CONF0, INTERRUPT, 0),                    /* DPL 0: the handler must end up at CPL 0 */
		GATE(target, SEL_CODE1, INTERRUPT, 0),                    /* less privileged than CPL 0 */
		GATE(target, SEL_KCODE, INTERRUPT | DPL3, 1),
		GATE(target, SEL_KCODE, TRAP | DPL3, 2),
		GATE(target, 0, 0, 0),
		GATE(target, 2 * 8 | 4 | 3, INTERRUPT | DPL3, 0),         /* in the LDT, with an RPL that does not count */
	};

	for (unsigned v = 0; v < 256; v++) {
		unsigned dpl = v == END || v == 3 ? DPL3 : 0;
		const uint64_t a[2] = GATE(stubs[v], SEL_KCODE, INTERRUPT | dpl, v == 8);
		/* The second table: trap gates, some handlers on stacks of their own, and one behind a selector with an RPL. */
		unsigned ist = v == 8 || v == 6 ? 1 : v == 14 ? 2 : 0;
		const uint64_t b[2] = GATE(stubs[v], SEL_KCODE | (v == 13 ? 3 : 0), (v & 1 ? TRAP : INTERRUPT) | dpl, ist);

		memcpy(pristine.idt[0][v], a, sizeof(a));
		memcpy(pristine.idt[1][v], b, sizeof(b));
	}
	for (unsigned i = 0; i < 16; i++) {
		memcpy(pristine.idt[0][ODD_GATES + i], odd[i], sizeof(odd[i]));
		memcpy(pristine.idt[1][ODD_GATES + i], odd[(i + 5) % 16], sizeof(odd[i]));
	}
}

static void init_tss(unsigned which, unsigned rsp0, unsigned ist1, unsigned ist2)
{
	uint8_t *tss = pristine.tss[which];
	uint64_t tops[3] = { stack_top(rsp0) - which * 8, stack_top(ist1) - 24, stack_top(ist2) };
	uint16_t iomap = TSS_IOMAP;

	memcpy(tss + 4, &tops[0], 8);
	memcpy(tss + 0x24, &tops[1], 16);
	memcpy(tss + 0x66, &iomap, 2);
	memset(tss + TSS_IOMAP, 0xff, TSS_LIMIT + 1 - TSS_IOMAP);
	tss[TSS_IOMAP + 0x3ff / 8] = which ? 0x7e : 0x7f; /* the UART's scratch register is open, and in the second TSS its neighbour */
	tss[TSS_IOMAP + 0x80 / 8] = 0xf0;                /* 0x80 to 0x83 */
	tss[TSS_IOMAP + 0x86 / 8] &= 0x3f;               /* 0x86 to 0x88: across the bytes of the map */
	tss[TSS_IOMAP + 0x88 / 8] = 0xfe;
}

void arena_init(void)
{
	init_gdt();
	init_idt();
	init_tss(0, STACK_RSP0, STACK_IST1, STACK_IST2);
	init_tss(1, STACK_RSP0_B, STACK_IST2, STACK_IST1);
	asm volatile("mov %%cr3, %0" : "=r"(cr3));
	pic_init(IRQ_BASE);
	pic_unmask(4);
	/* Behind a firmware the clock would tick: counter 0 stands still in this mode until it is given a count. */
	outb(0x43, 0x30);
}

static void load_table(bool gdt, const void *table, uint16_t limit)
{
	struct table_register r = { limit, (uint64_t)table };

	if (gdt)
		asm volatile("lgdt %0" : : "m"(r));
	else
		asm volatile("lidt %0" : : "m"(r));
}

void arena_repair_tr(void)
{
	arena.gdt[0][SEL_TSS / 8] = pristine.gdt[0][SEL_TSS / 8]; /* LTR wants it not busy */
	arena.gdt[1][SEL_TSS / 8] = pristine.gdt[1][SEL_TSS / 8];
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
}

#define UART_IER 0x3f9
#define UART_IIR 0x3fa

void irq_acknowledge(void)
{
	inb(UART_IIR);
	outb(UART_IER, 0);
	pic_eoi(4);
	irq_raised = false;
}

static void reset_devices(void)
{
	outb(0x3ff, 0x5a);
	if (!irq_raised)
		return;
	/* An 8259 need not forget a request whose line fell, so it is set up anew. */
	outb(UART_IER, 0);
	inb(UART_IIR);
	pic_init(IRQ_BASE);
	pic_unmask(4);
	irq_raised = false;
	/* KVM also forgets that it waits for the interrupt flag: QEMU 7.2 cannot bear a write to CR8 meanwhile. */
	asm volatile("sti; nop; cli" : : : "memory");
}

static void reset_registers(void)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
	} msrs[] = {
		{ 0xc0000080, EFER_START }, { 0xc0000081, STAR_START }, { 0xc0000082, (uint64_t)landing },
		{ 0xc0000083, (uint64_t)landing }, { 0xc0000084, SFMASK_START }, { 0xc0000102, 0x1111 }, { 0x174, 0 }, { 0x175, 0 },
		{ 0x176, 0 },
	};

	load_table(true, arena.gdt[0], sizeof(arena.gdt[0]) - 1);
	load_table(false, arena.idt[0], sizeof(arena.idt[0]) - 1);
	asm volatile("mov %0, %%ss; mov %1, %%ds; mov %1, %%es; mov %1, %%fs; mov %1, %%gs" : : "r"(SEL_KDATA), "r"(SEL_UDATA));
	asm volatile("ltr %w0; lldt %w1" : : "r"(SEL_TSS), "r"(SEL_LDT));
	asm volatile("mov %0, %%cr0; mov %1, %%cr4; mov %2, %%cr3; mov %3, %%cr2; mov %3, %%cr8"
		     : : "r"(CR0_START), "r"(CR4_START), "r"(cr3), "r"(0ull));
	asm volatile("mov %0, %%db7; mov %1, %%db6; mov %2, %%db0; mov %2, %%db1; mov %2, %%db2; mov %2, %%db3"
		     : : "r"(0x400ull), "r"(0xffff0ff0ull), "r"(0ull));
	for (unsigned i = 0; i < sizeof(msrs) / sizeof(*msrs); i++)
		wrmsr(msrs[i].msr, msrs[i].value);
}

void arena_reset(uint64_t stack_fill)
{
	memcpy(&arena, &pristine, sizeof(arena));
	memset(arena.stack, (int)stack_fill, sizeof(arena.stack));
	memset(arena.data, (int)(stack_fill >> 8), sizeof(arena.data));
	reset_devices();
	reset_registers();
}

const char *const arena_part_names[ARENA_PARTS] = { "gdt", "ldt", "idt", "tss", "data", "stacks" };

uint64_t arena_hash(unsigned part)
{
	static const uint32_t at[ARENA_PARTS + 1] = {
		offsetof(struct arena, gdt), offsetof(struct arena, ldt), offsetof(struct arena, idt), offsetof(struct arena, tss),
		offsetof(struct arena, data), offsetof(struct arena, stack), sizeof(struct arena)
	};
	uint64_t h = 0;

	for (uint32_t i = at[part]; i < at[part + 1]; i += 8)
		h = (h ^ *(const uint64_t *)((const uint8_t *)&arena + i)) * 0x9e3779b97f4a7c15ull + (h >> 29);
	return h;
}
