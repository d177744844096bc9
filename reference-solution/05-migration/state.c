/*
 * Lab 5, checkpoints 5.5 to 5.8: state. What is taken first and what is put back first, whether this CPU can go on where another one
 * stopped, and what time it is then.
 */
#include "lab5.h"

#include <stdio.h>

int machine_save(struct vm *vm, struct stream *s)
{
	// SOLUTION 5.5
	struct state_part part[PARTS_MAX];
	unsigned n = vm_parts(vm, part);
	int err = 0;

	for (enum part_group group = GROUP_CLOCK; group <= GROUP_CPUS; group++)
		for (unsigned i = 0; i < n && !err; i++)
			if (part[i].group == group)
				err = part_save(vm, &part[i], s);
	return err ? err : section_write(s, SECTION_END, 0, NULL, 0);
	// STARTER 5.5: save all of vm_parts(), group by group, and end with SECTION_END. Hint: enum part_group says who needs whom;
	// part_save() writes one.
	//	(void)vm;
	//	return stream_todo(s, "5.5", "machine_save() in state.c: all state, in order");
	// END
}

// SOLUTION 5.5
static int find_part(const struct state_part *part, unsigned n, const struct section_header *h)
{
	for (unsigned i = 0; i < n; i++)
		if (part[i].id == h->instance && (part[i].group == GROUP_CPUS) == (h->type == SECTION_CPU))
			return (int)i;
	return -1;
}
// END

int machine_load(struct vm *vm, struct stream *s, const struct section *first)
{
	// SOLUTION 5.5
	struct state_part part[PARTS_MAX];
	bool seen[PARTS_MAX] = { false };
	unsigned n = vm_parts(vm, part);
	enum part_group group = GROUP_CLOCK;
	struct section sec = *first;
	int err = 0;

	while (sec.header.type != SECTION_END) {
		int i = sec.header.type == SECTION_PART || sec.header.type == SECTION_CPU ? find_part(part, n, &sec.header) : -1;

		if (i < 0)
			return stream_fail(s, EPROTO, "section %u (type %u, number %u) is nothing that this VM has", sec.header.sequence,
					   sec.header.type, sec.header.instance);
		if (seen[i])
			return stream_fail(s, EPROTO, "the state of %s comes twice", part[i].name);
		if (part[i].group < group)
			return stream_fail(s, EPROTO, "the state of %s comes too late: others need it", part[i].name);
		seen[i] = true;
		group = part[i].group;
		err = part_load(vm, &part[i], s, &sec);
		if (!err)
			err = section_read(s, &sec);
		if (err)
			return err;
	}
	for (unsigned i = 0; i < n; i++)
		if (!seen[i])
			return stream_fail(s, EPROTO, "the state of %s is missing", part[i].name);
	return sec.header.length ? stream_fail(s, EPROTO, "its end is not empty") : 0;
	// STARTER 5.5: load the parts that come until SECTION_END. Hint: `first` is read already, section_read() gets the next;
	// which part a section belongs to say its type (SECTION_CPU or SECTION_PART) and instance. Refuse with
	// stream_fail(EPROTO) what is unknown, comes twice, comes behind a part of a later group, or is missing at the end.
	//	(void)vm;
	//	(void)first;
	//	return stream_todo(s, "5.5", "machine_load() in state.c: all state, back again");
	// END
}

int kvm_cpu_take(struct kvm_cpu *cpu, struct kvm_cpu_state *state)
{
	// SOLUTION 5.6
	static const enum kvm_piece order[PIECES] = {
		/* KVM_GET_MP_STATE carries out an INIT or SIPI that waits, which changes all that follows. */
		PIECE_MP_STATE, PIECE_REGS, PIECE_SREGS, PIECE_XCRS, PIECE_XSAVE, PIECE_DEBUGREGS, PIECE_LAPIC, PIECE_MSRS,
		/* What reading the others left pending. */
		PIECE_EVENTS
	};
	int err = 0;

	for (unsigned i = 0; i < PIECES && !err; i++)
		err = kvm_piece_take(cpu, order[i], state);
	return err;
	// STARTER 5.6: take all pieces of the vCPU, in an order in which taking one does not change what was taken before. Hint:
	// kvm_piece_take(); KVM_GET_MP_STATE handles an INIT that waits, and events are what is left when all else was read.
	//	(void)state;
	//	lab_todo(kvm_cpu_vm(cpu), "5.6", "kvm_cpu_take() in state.c: a vCPU's pieces");
	//	return -ENOSYS;
	// END
}

int kvm_cpu_put(struct kvm_cpu *cpu, const struct kvm_cpu_state *state)
{
	// SOLUTION 5.6
	static const enum kvm_piece order[PIECES] = {
		/* The APIC base and CR4.OSXSAVE are in the special registers: whether there is a local APIC, and in which mode, and
		 * whether XCR0 may be set. */
		PIECE_SREGS,
		/* XCR0 says which parts of the XSAVE area count. */
		PIECE_XCRS, PIECE_XSAVE, PIECE_REGS, PIECE_DEBUGREGS,
		/* The timer's mode is in the local APIC: before it is in TSC-deadline mode, writes to the deadline are dropped. */
		PIECE_LAPIC, PIECE_MSRS, PIECE_MP_STATE,
		/* An injected event would be taken back by setting registers. */
		PIECE_EVENTS
	};
	int err = 0;

	for (unsigned i = 0; i < PIECES && !err; i++)
		err = kvm_piece_put(cpu, order[i], state);
	return err;
	// STARTER 5.6: put all pieces back. Hint: special registers before what they switch on (XCR0, the local APIC), XCR0 before the
	// XSAVE area that it describes, the local APIC before the MSR of its TSC deadline, events at the very end.
	//	(void)state;
	//	lab_todo(kvm_cpu_vm(cpu), "5.6", "kvm_cpu_put() in state.c: a vCPU's pieces, back");
	//	return -ENOSYS;
	// END
}

uint64_t clock_gap(bool live, uint64_t stopped_at, uint64_t now)
{
	// SOLUTION 5.7
	/* The longest time that a VM stands still on its way; what is longer is two hosts whose clocks disagree. */
	const uint64_t most = 10000000000ull;

	if (!live || now < stopped_at)
		return 0;
	return now - stopped_at < most ? now - stopped_at : most;
	// STARTER 5.7: how far the guest's clocks go on while nobody runs it. Hint: a VM from a file goes on where it stopped, however
	// long ago that was: 0. One that moved was away for now - stopped_at; but the two times are of two hosts, so less than 0 counts
	// as 0, and more than 10 s as 10 s.
	//	(void)live;
	//	(void)stopped_at;
	//	(void)now;
	//	return 0;
	// END
}

// SOLUTION 5.8
/* The leaves whose bits are features that a guest may have found (SDM vol. 2, CPUID; APM vol. 3, appendix E): it uses them for ever. */
static const struct feature_leaf {
	uint32_t function, index;
	bool eax, ebx, ecx, edx;
} feature_leaves[] = {
	{ .function = 1, .ecx = true, .edx = true },
	{ .function = 7, .ebx = true, .ecx = true, .edx = true },
	{ .function = 7, .index = 1, .eax = true, .ebx = true, .ecx = true, .edx = true },
	{ .function = 0xd, .eax = true, .edx = true }, /* the bits that XCR0 may have */
	{ .function = 0xd, .index = 1, .eax = true },
	{ .function = 0x40000001, .eax = true }, /* KVM's own: kvmclock and others */
	{ .function = 0x80000001, .ecx = true, .edx = true },
	{ .function = 0x80000008, .ebx = true },
};

static const struct kvm_cpuid_entry2 *find_leaf(const struct cpuid_table *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->entry[i].function == function && t->entry[i].index == index)
			return &t->entry[i];
	return NULL;
}

static int missing(char *err, size_t errlen, const struct feature_leaf *leaf, const char *name, uint32_t have, uint32_t seen)
{
	uint32_t lost = seen & ~have;

	if (!lost)
		return 0;
	snprintf(err, errlen, "this host lacks a feature that the guest has seen: CPUID 0x%x.%u %s bit %d", leaf->function, leaf->index,
		 name, __builtin_ctz(lost));
	return -ENOTSUP;
}
// END

int cpuid_covers(const struct cpuid_table *have, const struct cpuid_table *seen, char *err, size_t errlen)
{
	// SOLUTION 5.8
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *h = find_leaf(have, 0, 0), *s = find_leaf(seen, 0, 0);

	/* Errata, microcode and MSRs go by vendor: what a kernel has found out about the one is wrong on the other. */
	if (h && s && (h->ebx != s->ebx || h->ecx != s->ecx || h->edx != s->edx)) {
		snprintf(err, errlen, "the guest began on a CPU of another vendor (CPUID 0x0)");
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < sizeof feature_leaves / sizeof *feature_leaves; i++) {
		const struct feature_leaf *leaf = &feature_leaves[i];

		h = find_leaf(have, leaf->function, leaf->index), s = find_leaf(seen, leaf->function, leaf->index);
		h = h ? h : &none, s = s ? s : &none;
		if ((leaf->eax && missing(err, errlen, leaf, "EAX", h->eax, s->eax)) ||
		    (leaf->ebx && missing(err, errlen, leaf, "EBX", h->ebx, s->ebx)) ||
		    (leaf->ecx && missing(err, errlen, leaf, "ECX", h->ecx, s->ecx)) ||
		    (leaf->edx && missing(err, errlen, leaf, "EDX", h->edx, s->edx)))
			return -ENOTSUP;
	}
	h = find_leaf(have, 0x80000008, 0), s = find_leaf(seen, 0x80000008, 0);
	if (s && (s->eax & 0xff) > (h ? h->eax & 0xff : 36)) {
		snprintf(err, errlen,
			 "the guest has seen physical addresses of %u bits (CPUID 0x80000008 EAX), this host has %u",
			 s->eax & 0xff, h ? h->eax & 0xff : 36);
		return -ENOTSUP;
	}
	return 0;
	// STARTER 5.8: may a guest that has seen `seen` go on where there is `have`? Hint: each feature bit that it has seen must be
	// there (leaves 1, 7.0, 7.1, 0xd.0, 0xd.1, 0x40000001, 0x80000001, 0x80000008 EBX), the vendor (leaf 0) must be the same, and
	// physical addresses (0x80000008 EAX bits 0-7) at least as wide. More features than it knows of do no harm. A table without an
	// entry has none of its features.
	//	(void)have;
	//	(void)seen;
	//	snprintf(err, errlen, "step 5.8 is not written yet: cpuid_covers() in state.c");
	//	return -ENOSYS;
	// END
}
