#include "kvm_cpuid.h"
#include "machine.h"

#include <cpuid.h>

/* Leaf 1, ECX */
#define X2APIC (1u << 21)
#define TSC_DEADLINE (1u << 24)
#define HYPERVISOR (1u << 31)

void kvm_cpuid_features(struct kvm_cpuid2 *cpuid, bool tsc_deadline)
{
	for (unsigned i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx |= HYPERVISOR | X2APIC | (tsc_deadline ? TSC_DEADLINE : 0);
}

/* Replaces `width` bits from `shift` on. */
static void put(uint32_t *reg, unsigned shift, unsigned width, uint32_t value)
{
	uint32_t mask = ((1u << width) - 1) << shift;
	*reg = (*reg & ~mask) | (value << shift & mask);
}

/* Bits that an APIC id needs to number the cores. */
static unsigned id_bits(unsigned ncpus)
{
	unsigned bits = 0;
	while (1u << bits < ncpus)
		bits++;
	return bits;
}

/* Leaves 4 and 0x8000001d: one entry for each cache. The first two levels are each core's own; what lies behind them all share. */
static void cache_leaf(struct kvm_cpuid_entry2 *e, unsigned ids)
{
	unsigned type = e->eax & 0x1f, level = e->eax >> 5 & 7;

	if (type) /* 0: no more caches */
		put(&e->eax, 14, 12, level > 2 ? ids - 1 : 0);
}

/* Extended topology (SDM vol. 2, CPUID leaf 0xb; 0x1f has the same form): level 1 is the threads of a core, level 2 the cores. */
static void add_levels(struct kvm_cpuid2 *cpuid, uint32_t leaf, unsigned id, unsigned ncpus)
{
	const struct kvm_cpuid_entry2 level[] = {
		{ .index = 0, .eax = 0, .ebx = 1, .ecx = 1 << 8 | 0 },
		{ .index = 1, .eax = id_bits(ncpus), .ebx = ncpus, .ecx = 2 << 8 | 1 },
		{ .index = 2, .ecx = 2 },
	};

	for (unsigned i = 0; i < sizeof level / sizeof *level && cpuid->nent < MACHINE_CPUID_MAX; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[cpuid->nent++];
		*e = level[i];
		e->function = leaf;
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->edx = id;
	}
}

static void correct(struct kvm_cpuid_entry2 *e, bool amd, unsigned id, unsigned ncpus)
{
	unsigned ids = 1u << id_bits(ncpus);

	switch (e->function) {
	case 1: /* initial APIC id, APIC ids in this package, and whether their number counts (HTT) */
		put(&e->ebx, 24, 8, id);
		put(&e->ebx, 16, 8, ids);
		put(&e->edx, 28, 1, ncpus > 1);
		break;
	case 4: /* Intel: cores in the package too */
		cache_leaf(e, ids);
		if (e->eax & 0x1f)
			put(&e->eax, 26, 6, ids - 1);
		break;
	case 0x80000001: /* AMD's CmpLegacy: what HTT counts are cores (APM vol. 3, appendix E) */
		put(&e->ecx, 1, 1, amd && ncpus > 1);
		break;
	case 0x80000008: /* AMD: cores less one, bits of their numbers */
		put(&e->ecx, 0, 8, amd ? ncpus - 1 : 0);
		put(&e->ecx, 12, 4, amd ? id_bits(ncpus) : 0);
		break;
	case 0x8000001d: cache_leaf(e, ids); break;
	case 0x8000001e: /* APIC id; core id, no further thread; node 0 of one */
		e->eax = id;
		put(&e->ebx, 0, 16, id);
		put(&e->ecx, 0, 11, 0);
		break;
	default: break;
	}
}

void kvm_cpuid_topology(struct kvm_cpuid2 *cpuid, unsigned id, unsigned ncpus)
{
	unsigned kept = 0, max = 0;
	bool amd = false;

	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 e = cpuid->entries[i];
		if (e.function == 0) { /* the first there is */
			max = e.eax;
			amd = e.ebx == signature_AMD_ebx;
		}
		if (e.function == 0xb || e.function == 0x1f || e.function == 0x80000026)
			continue; /* the number of their levels is the host's: made anew below, AMD's own form of it not at all */
		correct(&e, amd, id, ncpus);
		cpuid->entries[kept++] = e;
	}
	cpuid->nent = kept;
	if (max >= 0xb)
		add_levels(cpuid, 0xb, id, ncpus);
	if (max >= 0x1f)
		add_levels(cpuid, 0x1f, id, ncpus);
}
