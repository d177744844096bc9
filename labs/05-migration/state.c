/*
 * Lab 5, checkpoints 5.5 to 5.8: state. What is taken first and what is put back first, whether this CPU can go on where another one
 * stopped, and what time it is then.
 */
#include "lab5.h"

#include <stdio.h>

int machine_save(struct vm *vm, struct stream *s)
{
	// TODO 5.5: save all of vm_parts(), group by group, and end with SECTION_END. Hint: enum part_group says who
	// needs whom; part_save() writes one.
	(void)vm;
	return stream_todo(s, "5.5", "machine_save() in state.c: all state, in order");
}

int machine_load(struct vm *vm, struct stream *s, const struct section *first)
{
	// TODO 5.5: load the parts that come until SECTION_END. Hint: `first` is read already, section_read() gets the
	// next; which part a section belongs to say its type (SECTION_CPU or SECTION_PART) and instance. Refuse with
	// stream_fail(EPROTO) what is unknown, comes twice, comes behind a part of a later group, or is missing at the
	// end.
	(void)vm;
	(void)first;
	return stream_todo(s, "5.5", "machine_load() in state.c: all state, back again");
}

int kvm_cpu_take(struct kvm_cpu *cpu, struct kvm_cpu_state *state)
{
	// TODO 5.6: take all pieces of the vCPU, in an order in which taking one does not change what was taken before.
	// Hint: kvm_piece_take(); KVM_GET_MP_STATE handles an INIT that waits, and events are what is left when all
	// else was read.
	(void)state;
	lab_todo(kvm_cpu_vm(cpu), "5.6", "kvm_cpu_take() in state.c: a vCPU's pieces");
	return -ENOSYS;
}

int kvm_cpu_put(struct kvm_cpu *cpu, const struct kvm_cpu_state *state)
{
	// TODO 5.6: put all pieces back. Hint: special registers before what they switch on (XCR0, the local APIC),
	// XCR0 before the XSAVE area that it describes, the local APIC before the MSR of its TSC deadline, events at
	// the very end.
	(void)state;
	lab_todo(kvm_cpu_vm(cpu), "5.6", "kvm_cpu_put() in state.c: a vCPU's pieces, back");
	return -ENOSYS;
}

uint64_t clock_gap(bool live, uint64_t stopped_at, uint64_t now)
{
	// TODO 5.7: how far the guest's clocks go on while nobody runs it. Hint: a VM from a file goes on where it
	// stopped, however long ago that was: 0. One that moved was away for now - stopped_at; but the two times are of
	// two hosts, so less than 0 counts as 0, and more than 10 s as 10 s.
	(void)live;
	(void)stopped_at;
	(void)now;
	return 0;
}

int cpuid_covers(const struct cpuid_table *have, const struct cpuid_table *seen, char *err, size_t errlen)
{
	// TODO 5.8: may a guest that has seen `seen` go on where there is `have`? Hint: each feature bit that it has
	// seen must be there (leaves 1, 7.0, 7.1, 0xd.0, 0xd.1, 0x40000001, 0x80000001, 0x80000008 EBX), the vendor
	// (leaf 0) must be the same, and physical addresses (0x80000008 EAX bits 0-7) at least as wide. More features
	// than it knows of do no harm. A table without an entry has none of its features.
	(void)have;
	(void)seen;
	snprintf(err, errlen, "step 5.8 is not written yet: cpuid_covers() in state.c");
	return -ENOSYS;
}
