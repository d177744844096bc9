#include "gdbregs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum reg_kind { VALUE, SELECTOR, ABSENT };

struct reg {
	const char *name, *type;
	uint8_t bits;
	enum reg_kind kind;
	size_t offset; /* in struct vcpu */
};

#define AT(field) offsetof(struct vcpu, field)
#define GPR(name, index, type) { name, type, 64, VALUE, AT(gpr[index]) }
#define SEG(name, index) { name, "int32", 32, SELECTOR, AT(seg[index].selector) }
#define CTL(name, field) { name, "int64", 64, VALUE, AT(field) }
#define X87(name) { name, "i387_ext", 80, ABSENT, 0 }
#define X87_CTL(name) { name, "int32", 32, ABSENT, 0 }

/*
 * The debugger wants all registers of a feature that it knows, hence the x87 ones; their values are sent as unavailable.
 * It takes registers in the order given and numbers them from 0.
 */
static const struct reg regs[] = {
	GPR("rax", RAX, "int64"),
	GPR("rbx", RBX, "int64"),
	GPR("rcx", RCX, "int64"),
	GPR("rdx", RDX, "int64"),
	GPR("rsi", RSI, "int64"),
	GPR("rdi", RDI, "int64"),
	GPR("rbp", RBP, "data_ptr"),
	GPR("rsp", RSP, "data_ptr"),
	GPR("r8", R8, "int64"),
	GPR("r9", R9, "int64"),
	GPR("r10", R10, "int64"),
	GPR("r11", R11, "int64"),
	GPR("r12", R12, "int64"),
	GPR("r13", R13, "int64"),
	GPR("r14", R14, "int64"),
	GPR("r15", R15, "int64"),
	{ "rip", "code_ptr", 64, VALUE, AT(rip) },
	{ "eflags", "i386_eflags", 32, VALUE, AT(rflags) },
	SEG("cs", CS),
	SEG("ss", SS),
	SEG("ds", DS),
	SEG("es", ES),
	SEG("fs", FS),
	SEG("gs", GS),
	X87("st0"),
	X87("st1"),
	X87("st2"),
	X87("st3"),
	X87("st4"),
	X87("st5"),
	X87("st6"),
	X87("st7"),
	X87_CTL("fctrl"),
	X87_CTL("fstat"),
	X87_CTL("ftag"),
	X87_CTL("fiseg"),
	X87_CTL("fioff"),
	X87_CTL("foseg"),
	X87_CTL("fooff"),
	X87_CTL("fop"),
	CTL("fs_base", seg[FS].base),
	CTL("gs_base", seg[GS].base),
	CTL("k_gs_base", msr.kernel_gs_base),
	CTL("cr0", cr0),
	CTL("cr2", cr2),
	CTL("cr3", cr3),
	CTL("cr4", cr4),
	CTL("cr8", cr8),
	CTL("efer", efer),
};
#define NREGS (sizeof(regs) / sizeof(regs[0]))

/* Which feature begins with which register. The last one is our own: the debugger shows it without knowing it. */
static const struct feature {
	const char *first, *name;
} features[] = {
	{ "rax", "org.gnu.gdb.i386.core" },
	{ "fs_base", "org.gnu.gdb.i386.segments" },
	{ "k_gs_base", "org.trapdoor.system" },
};
#define NFEATURES (sizeof(features) / sizeof(features[0]))

static const struct flag {
	const char *name;
	unsigned bit;
} eflags[] = {
	{ "CF", 0 },  { "PF", 2 },  { "AF", 4 },  { "ZF", 6 },	{ "SF", 7 },  { "TF", 8 },   { "IF", 9 },   { "DF", 10 },
	{ "OF", 11 }, { "NT", 14 }, { "RF", 16 }, { "VM", 17 }, { "AC", 18 }, { "VIF", 19 }, { "VIP", 20 }, { "ID", 21 },
};
#define NFLAGS (sizeof(eflags) / sizeof(eflags[0]))

unsigned gdb_reg_count(void)
{
	return NREGS;
}

size_t gdb_reg_size(unsigned n)
{
	return regs[n].bits / 8;
}

bool gdb_reg_get(const struct vcpu *v, unsigned n, uint8_t out[GDB_REG_BYTES_MAX])
{
	const struct reg *r = &regs[n];
	const uint8_t *field = (const uint8_t *)v + r->offset;

	if (r->kind == ABSENT)
		return false;
	memset(out, 0, GDB_REG_BYTES_MAX);
	memcpy(out, field, r->kind == SELECTOR ? sizeof(uint16_t) : gdb_reg_size(n));
	return true;
}

int gdb_reg_set(struct vcpu *v, unsigned n, const uint8_t *in)
{
	const struct reg *r = &regs[n];
	uint8_t now[GDB_REG_BYTES_MAX];
	uint64_t value = 0;

	if (!gdb_reg_get(v, n, now))
		return -EINVAL;
	if (r->kind == SELECTOR)
		return memcmp(now, in, gdb_reg_size(n)) ? -EINVAL : 0;
	memcpy(&value, in, gdb_reg_size(n));
	switch (r->offset) {
	case AT(rflags): value = (value & FLAGS_DEFINED) | FLAG_FIXED; break;
	case AT(cr0):
		if (value & ~CR0_DEFINED)
			return -EINVAL;
		break;
	case AT(cr8):
		if (value > 15)
			return -EINVAL;
		break;
	default: break;
	}
	memcpy((uint8_t *)v + r->offset, &value, sizeof(value));
	return 0;
}

size_t gdb_target_xml(char xml[GDB_XML_MAX])
{
	FILE *f = fmemopen(xml, GDB_XML_MAX, "w");
	if (!f)
		abort(); /* out of memory */

	fprintf(f, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n"
		   "<architecture>i386:x86-64</architecture>\n<osabi>none</osabi>\n");
	for (unsigned i = 0; i < NREGS; i++) {
		for (unsigned k = 0; k < NFEATURES; k++) {
			if (!strcmp(regs[i].name, features[k].first))
				fprintf(f, "%s<feature name=\"%s\">\n", i ? "</feature>\n" : "", features[k].name);
		}
		if (i == 0) {
			fprintf(f, "<flags id=\"i386_eflags\" size=\"4\">\n");
			for (unsigned k = 0; k < NFLAGS; k++)
				fprintf(f, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>\n", eflags[k].name, eflags[k].bit,
					eflags[k].bit);
			fprintf(f, "</flags>\n");
		}
		fprintf(f, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>\n", regs[i].name, regs[i].bits, regs[i].type);
	}
	fprintf(f, "</feature>\n</target>\n");
	long len = ftell(f);
	/* A full buffer shows as an error or as a missing 0 when the stream is closed: the table outgrew GDB_XML_MAX. */
	if (fclose(f) || len < 0 || len >= GDB_XML_MAX)
		abort();
	return (size_t)len;
}
