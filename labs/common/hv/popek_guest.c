#include "popek_guest.h"

#include <string.h>

/* Two places with the same layout: the guest's own, and where "somebody else's" tables lie. */
#define PLACE_HOME 0x20000
#define PLACE_MOVED 0x30000
#define GDT 0x0
#define IDT 0x1000
#define TSS 0x2000
#define TSS2 0x2800
#define LDT 0x3000
#define LDT2 0x3800

#define STUBS 0x40000
#define STUB_SIZE 16
#define CODE 0x50000
#define KERNEL_STACK 0x53800
#define MOVED_CR3 0x55000
#define GUEST_END 0x56000

#define GDT_LIMIT 0x9f
#define TSS_LIMIT 0x67

/* Descriptors (SDM vol. 3, 3.4.5). AVL tells the places apart and means nothing to the CPU. */
#define CODE64 0x00af9b000000ffffull
#define CONFORMING 0x00af9f000000ffffull
#define EXECUTE_ONLY 0x00af99000000fffeull /* and a smaller limit */
#define FLAT_DATA 0x00cf93000000ffffull
#define DPL3 (3ull << 45)
#define AVL (1ull << 52)
#define BASE(a) (((a) & 0xffffffull) << 16 | ((a) >> 24 & 0xff) << 56)

static uint64_t place_of(bool moved) { return moved ? PLACE_MOVED : PLACE_HOME; }

static void put(struct guest_mem *mem, uint64_t gpa, uint64_t value, unsigned size) { guest_write(mem, gpa, &value, size); }

/* A 16-byte descriptor of a system segment. */
static void put_system(struct guest_mem *mem, uint64_t gpa, uint64_t type, uint64_t base, uint64_t limit)
{
	put(mem, gpa, limit | BASE(base) | (type | 0x80) << 40, 8);
	put(mem, gpa + 8, base >> 32, 8);
}

static void write_place(struct guest_mem *mem, bool moved)
{
	uint64_t at = place_of(moved), mark = moved ? AVL : 0;

	put(mem, at + GDT + SEL_KCODE, CODE64 | mark, 8);
	put(mem, at + GDT + SEL_KDATA, FLAT_DATA | mark, 8);
	put(mem, at + GDT + SEL_UDATA, FLAT_DATA | DPL3 | mark, 8);
	put(mem, at + GDT + SEL_UCODE, CODE64 | DPL3 | mark, 8);
	put(mem, at + GDT + SEL_CONFORMING, CONFORMING | mark, 8);
	/* LAR, LSL, VERR and VERW ask about this one, POP and MOV load the other. */
	put(mem, at + GDT + SEL_EXAMINED, moved ? EXECUTE_ONLY : FLAT_DATA, 8);
	put(mem, at + GDT + SEL_FS, FLAT_DATA | DPL3 | BASE(moved ? 0x220000ull : 0x110000ull), 8);
	/* In the moved place, the other TSS and LDT are in use (type 11: busy). */
	put_system(mem, at + GDT + SEL_TSS, moved ? 9 : 11, at + TSS, TSS_LIMIT);
	put_system(mem, at + GDT + SEL_TSS2, moved ? 11 : 9, at + TSS2, TSS_LIMIT);
	put_system(mem, at + GDT + SEL_LDT, 2, at + LDT, 15);
	put_system(mem, at + GDT + SEL_LDT2, 2, at + LDT2, 15);
	for (uint64_t tss = at + TSS; tss <= at + TSS2; tss += TSS2 - TSS) {
		put(mem, tss + 4, KERNEL_STACK, 8);
		put(mem, tss + 0x66, TSS_LIMIT + 1, 2); /* no port is open to CPL 3 */
	}
	for (unsigned vector = 0; vector < 256; vector++) /* 64-bit interrupt gates, DPL 0 */
		put(mem, at + IDT + 16 * vector, (STUBS + vector * STUB_SIZE) % 0x10000 | SEL_KCODE << 16 | 0x8eull << 40 |
		    (uint64_t)(STUBS + vector * STUB_SIZE) / 0x10000 << 48, 8);
}

/* out %al, $port */
static void put_out(struct guest_mem *mem, uint64_t gpa, uint8_t port)
{
	put(mem, gpa, 0xe6 | port << 8, 2);
}

/* mov %al, address */
static void put_end(struct guest_mem *mem, uint64_t gpa, unsigned how)
{
	put(mem, gpa, 0x250488, 3);
	put(mem, gpa + 3, POPEK_DEVICE + how, 4);
}

static void put_far(struct guest_mem *mem, uint64_t gpa, uint32_t offset, uint16_t selector)
{
	put(mem, gpa, offset, 4);
	put(mem, gpa + 4, selector, 2);
}

void popek_guest_write(struct guest_mem *mem, const struct popek_probe *probe, struct boot_state *boot)
{
	uint64_t len = (uint64_t)(probe->end - probe->code);

	memset(guest_range(mem, PLACE_HOME, GUEST_END - PLACE_HOME), 0, GUEST_END - PLACE_HOME);
	boot_tables_write(mem);
	memcpy(guest_range(mem, POPEK_NEW_CR3, 4096), guest_range(mem, BOOT_PML4, 4096), 4096);
	memcpy(guest_range(mem, MOVED_CR3, 4096), guest_range(mem, BOOT_PML4, 4096), 4096);
	write_place(mem, false);
	write_place(mem, true);
	for (unsigned vector = 0; vector < 256; vector++)
		put_out(mem, STUBS + vector * STUB_SIZE, (uint8_t)vector);
	put_out(mem, STUBS + POPEK_PORT_SYSCALL * STUB_SIZE + STUB_SIZE / 2, POPEK_PORT_SYSCALL);
	guest_write(mem, CODE, probe->code, len);
	put_end(mem, CODE + len, POPEK_BEHIND);
	put_end(mem, POPEK_TARGET, POPEK_JUMPED);
	put_far(mem, POPEK_FAR_KERNEL, POPEK_TARGET, SEL_KCODE);
	put_far(mem, POPEK_FAR_CONFORMING, POPEK_TARGET, SEL_CONFORMING);
	put_far(mem, POPEK_FAR_FS, 0x4321, SEL_FS | 3);
	put(mem, POPEK_NEW_TABLE, 0x7f, 2);
	put(mem, POPEK_NEW_TABLE + 2, 0x60000, 8);
	put(mem, POPEK_BYTE, 0x42, 1);
	guest_write(mem, POPEK_STACK, probe->stack, sizeof probe->stack);
	*boot = (struct boot_state){ .kind = "probe", .mode = BOOT_LONG, .entry = CODE, .ncode = 1, .code[0] = { CODE, CODE + len } };
}

/* A segment register as loading it from the table would leave it. */
static struct segment segment(uint16_t selector, uint16_t attr, uint64_t base, uint32_t limit)
{
	return (struct segment){ .selector = selector, .attr = attr, .base = base, .limit = limit };
}

void popek_guest_cpu(const struct popek_probe *probe, bool moved, unsigned cpl, struct vcpu *v)
{
	uint64_t at = place_of(moved);
	uint16_t mark = moved ? 0x1000 : 0, dpl = cpl ? SEG_DPL : 0, rpl = cpl ? 3 : 0;
	/* Somebody else's segments in the moved place, and at CPL 3 only what CPL 3 may have. */
	uint16_t data = cpl ? SEL_UDATA | 3 : moved ? SEL_UDATA : SEL_KDATA;
	struct segment flat = segment(data, 0xc093 | mark | (cpl || moved ? SEG_DPL : 0), 0, ~0u);
	struct vm *vm = v->vm;

	*v = (struct vcpu){
		.vm = vm, .rip = CODE, .cpl = cpl,
		/* IOPL 1 is the guest's wish, and lets CPL 3 do nothing that IOPL 0 would not. Whoever has the machine keeps IOPL 0, and
		 * interrupts on. */
		.rflags = FLAG_FIXED | (moved ? FLAG_IF : 1ull << 12 | (probe->if_off ? 0 : FLAG_IF)),
		.cr0 = moved ? POPEK_CR0 & ~(CR0_TS | CR0_MP | CR0_AM) : POPEK_CR0,
		.cr3 = moved ? MOVED_CR3 : BOOT_PML4,
		.cr4 = POPEK_CR4 | probe->set_cr4 | (moved ? CR4_MCE : 0),
		.efer = EFER_SCE | EFER_LME | EFER_LMA,
		.gdtr = { at + GDT, GDT_LIMIT }, .idtr = { at + IDT, 0xfff },
		.dr = { [0] = at, [6] = 0xffff0ff0, [7] = 0x400 },
		.seg = { flat, flat, flat, flat, flat, flat },
		.msr = { .star = 0x18ull << 48 | (uint64_t)SEL_KCODE << 32, .lstar = STUBS + POPEK_PORT_SYSCALL * STUB_SIZE,
			 .sfmask = FLAG_IF, .kernel_gs_base = at, .pat = 0x0007040600070406, .misc_enable = 1 },
	};
	if (moved) /* another address that leads to the same */
		v->msr.lstar += STUB_SIZE / 2;
	v->gpr[RAX] = probe->rax;
	v->gpr[RCX] = probe->rcx;
	v->gpr[RDX] = probe->rdx;
	v->gpr[RSI] = probe->rsi;
	v->gpr[RDI] = probe->rdi;
	v->gpr[R11] = probe->r11;
	v->gpr[RSP] = POPEK_STACK;
	v->seg[CS] = segment((cpl ? SEL_UCODE : SEL_KCODE) | rpl, 0xa09b | mark | dpl, 0, ~0u);
	v->seg[SS] = segment((cpl ? SEL_UDATA : SEL_KDATA) | rpl, 0xc093 | mark | dpl, 0, ~0u);
	v->ldtr = segment(moved ? SEL_LDT2 : SEL_LDT, 0x82, at + (moved ? LDT2 : LDT), 15);
	v->tr = segment(moved ? SEL_TSS2 : SEL_TSS, 0x8b, at + (moved ? TSS2 : TSS), TSS_LIMIT);
}

/* What is looked at. Of the flags, those that any program may change are results. Descriptors' accessed bits and time are not
 * looked at, nor is rip: how a trial ended says it. */
static const struct field {
	const char *name;
	enum popek_kind kind;
	uint32_t offset; /* in struct vcpu, or a gpa */
	uint8_t size;    /* bytes; 0: what the devices saw */
	bool memory;
	uint64_t mask;
} fields[] = {
#define VCPU(name, kind, member, mask) { name, SEEN_##kind, offsetof(struct vcpu, member), sizeof((struct vcpu *)0)->member, false, mask }
#define MEM(name, gpa, size) { name, SEEN_RESULT, gpa, size, true, ~0ull }
	VCPU("ZF", RESULT, rflags, FLAG_ZF),
	VCPU("rax", RESULT, gpr[RAX], ~0ull), VCPU("rbx", RESULT, gpr[RBX], ~0ull), VCPU("rcx", RESULT, gpr[RCX], ~0ull),
	VCPU("rdx", RESULT, gpr[RDX], ~0ull), VCPU("rsi", RESULT, gpr[RSI], ~0ull), VCPU("rdi", RESULT, gpr[RDI], ~0ull),
	VCPU("rbp", RESULT, gpr[RBP], ~0ull), VCPU("r11", RESULT, gpr[R11], ~0ull),
	MEM("base", POPEK_DATA + 2, 8), MEM("memory", POPEK_DATA, 2),
	MEM("pushed", POPEK_STACK - 4, 4), MEM("stack", POPEK_STACK - 8, 4), MEM("pushed 2", POPEK_STACK - 16, 8),
	MEM("pushed 3", POPEK_STACK - 24, 8), MEM("pushed 4", POPEK_STACK - 32, 8), MEM("pushed 5", POPEK_STACK - 40, 8),
	VCPU("CPL", PRIVILEGED, cpl, ~0ull), VCPU("IF", PRIVILEGED, rflags, FLAG_IF), VCPU("IOPL", PRIVILEGED, rflags, FLAG_IOPL),
	VCPU("halted", PRIVILEGED, halted, ~0ull), { "device", SEEN_PRIVILEGED, 0, 0, false, ~0ull },
	VCPU("CR0", PRIVILEGED, cr0, ~0ull), VCPU("CR2", PRIVILEGED, cr2, ~0ull), VCPU("CR3", PRIVILEGED, cr3, ~0ull),
	VCPU("CR4", PRIVILEGED, cr4, ~0ull), VCPU("CR8", PRIVILEGED, cr8, ~0ull), VCPU("EFER", PRIVILEGED, efer, ~0ull),
	VCPU("GDTR", PRIVILEGED, gdtr.base, ~0ull), VCPU("GDTR limit", PRIVILEGED, gdtr.limit, ~0ull),
	VCPU("IDTR", PRIVILEGED, idtr.base, ~0ull), VCPU("IDTR limit", PRIVILEGED, idtr.limit, ~0ull),
	VCPU("LDTR", PRIVILEGED, ldtr.selector, ~0ull), VCPU("TR", PRIVILEGED, tr.selector, ~0ull),
	VCPU("DR0", PRIVILEGED, dr[0], ~0ull), VCPU("DR6", PRIVILEGED, dr[6], ~0ull), VCPU("DR7", PRIVILEGED, dr[7], ~0ull),
	VCPU("STAR", PRIVILEGED, msr.star, ~0ull), VCPU("LSTAR", PRIVILEGED, msr.lstar, ~0ull),
	VCPU("SFMASK", PRIVILEGED, msr.sfmask, ~0ull), VCPU("KGS base", PRIVILEGED, msr.kernel_gs_base, ~0ull),
	VCPU("FS base", SEGMENT, seg[FS].base, ~0ull), VCPU("GS base", SEGMENT, seg[GS].base, ~0ull),
	VCPU("rsp", RESULT, gpr[RSP], ~0ull), VCPU("flags", RESULT, rflags, 0x244dd5 & ~FLAG_ZF),
	VCPU("CS", SEGMENT, seg[CS].selector, ~0ull), VCPU("SS", SEGMENT, seg[SS].selector, ~0ull),
	VCPU("DS", SEGMENT, seg[DS].selector, ~0ull), VCPU("ES", SEGMENT, seg[ES].selector, ~0ull),
	VCPU("FS", SEGMENT, seg[FS].selector, ~0ull), VCPU("GS", SEGMENT, seg[GS].selector, ~0ull),
#undef VCPU
#undef MEM
};
const unsigned popek_nfields = sizeof fields / sizeof *fields;
_Static_assert(sizeof fields / sizeof *fields <= POPEK_FIELDS_MAX, "POPEK_FIELDS_MAX");

const char *popek_field_name(unsigned field) { return fields[field].name; }
enum popek_kind popek_field_kind(unsigned field) { return fields[field].kind; }

void popek_guest_look(const struct vcpu *v, const struct guest_mem *mem, uint64_t device, uint64_t field[POPEK_FIELDS_MAX])
{
	for (unsigned i = 0; i < popek_nfields; i++) {
		const struct field *f = &fields[i];
		uint64_t value = f->size ? 0 : device;

		if (f->memory)
			guest_read(mem, f->offset, &value, f->size);
		else if (f->size)
			memcpy(&value, (const uint8_t *)v + f->offset, f->size);
		/* A field of several bits counts from its lowest. */
		field[i] = (value & f->mask) >> __builtin_ctzll(f->mask);
	}
}
