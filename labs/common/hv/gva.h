/*
 * What an emulator needs around the instruction itself: registers of every width, guest memory by guest virtual address,
 * descriptors, exceptions. The kvm engine has KVM for this.
 *
 * On the trap engine without shadow paging (Lab 1), and on any other while CR0.PG is 0, memory is flat: the first 4 GiB of virtual
 * addresses are the physical ones, everything above faults, whatever the guest's own page tables say. Else each access goes through the
 * guest's tables as they are now: Lab 2's walk in long mode, legacy_walk.h before it.
 *
 * A gva here is what the manuals call a linear address. What an instruction names is an offset in a segment: operand_read() and its
 * siblings begin there (segment.h).
 */
#ifndef HV_GVA_H
#define HV_GVA_H

#include "decode.h"
#include "paging.h"
#include "vcpu.h"

#include <stdbool.h>
#include <stdint.h>

#define FLAT_LIMIT (4ull << 30)

/* True when all bits above 47 equal bit 47 (SDM vol. 1, 3.3.7.1). */
static inline bool canonical(uint64_t gva)
{
	return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}

/*
 * Reads or writes guest memory as an instruction at the present CPL would. true when all of it was done. false when the
 * access faults: the exception (#PF with CR2; #GP for a non-canonical address, which an instruction that works on its stack turns
 * into #SS; #AC at CPL 3 where CR0.AM and RFLAGS.AC are on) is then queued in v->event and nothing was written. Addresses without RAM
 * go to the device bus.
 */
bool gva_read(struct vcpu *v, uint64_t gva, void *dst, unsigned len);
bool gva_write(struct vcpu *v, uint64_t gva, const void *src, unsigned len);
/* Would gva_write() succeed? For instructions that must know before they do something else. Nothing is written. */
bool gva_writable(struct vcpu *v, uint64_t gva, unsigned len);
/* The same on the stack, at an offset in SS, where an address that is not canonical or outside the segment is #SS(0). */
bool stack_read(struct vcpu *v, uint64_t offset, void *dst, unsigned len);
bool stack_write(struct vcpu *v, uint64_t offset, const void *src, unsigned len);
/* The same as the CPU accesses its own tables (IDT, GDT, TSS, stack of a handler): as CPL 0 whatever v->cpl is. */
bool gva_read_system(struct vcpu *v, uint64_t gva, void *dst, unsigned len);
bool gva_write_system(struct vcpu *v, uint64_t gva, const void *src, unsigned len);
/* 0 or -EFAULT; no exception is queued, rights are not asked for. For the debugger. */
int gva_translate(const struct vcpu *v, uint64_t gva, uint64_t *gpa);
/* Reads up to len bytes of RAM without any effect on the guest, as far as there are any. Returns how many. */
unsigned gva_peek(const struct vcpu *v, uint64_t gva, void *dst, unsigned len);

/* Fetches and decodes the instruction at v->rip. false when there is none: an exception is queued (#PF, #UD), or the VM is
 * stopped because the guest runs where there is no memory. */
bool insn_fetch(struct vcpu *v, struct insn *insn);

/* Queue an exception for delivery; false, so that `return raise(...)` reads well in functions that return bool. In real mode none has
 * an error code (SDM vol. 3, 20.1.4). */
bool raise_exception(struct vcpu *v, uint8_t vector);
bool raise_error(struct vcpu *v, uint8_t vector, uint32_t error);
bool raise_page_fault(struct vcpu *v, uint64_t gva, uint32_t error);

/* General registers with the rules of 64-bit mode: a 4-byte write clears the upper half, 1- and 2-byte writes keep the rest. */
uint64_t gpr_read(const struct vcpu *v, unsigned reg, unsigned size);
void gpr_write(struct vcpu *v, unsigned reg, unsigned size, uint64_t value);
/* An operand that is a register, memory or an immediate. false when memory faulted, or lies outside its segment. */
bool operand_read(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size, uint64_t *value);
bool operand_write(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size, uint64_t value);
/* Would operand_write() succeed? If not, its fault is queued, as a write's. Nothing is written. */
bool operand_writable(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size);
/* The low size bytes (1 to 8) as a signed number. */
static inline int64_t sign_extend(uint64_t value, unsigned size)
{
	return (int64_t)(value << (64 - 8 * size)) >> (64 - 8 * size);
}

/* A descriptor as it lies in a table (SDM vol. 3, figure 3-8). lo is the first 8 bytes, hi the second 8 of a system one. */
struct descriptor {
	uint64_t lo, hi;
	uint64_t gva; /* where it lies */
};
/* Reads the descriptor of a selector from the GDT or LDT. wide: 16 bytes (TSS, LDT and gates in 64-bit mode). false: the
 * given vector (#GP, #NP, #TS, #SS; the selector is its error code) is queued because the selector is outside its table. */
bool descriptor_read(struct vcpu *v, uint16_t selector, bool wide, uint8_t vector, struct descriptor *d);
/* The hidden part of a segment register as the descriptor gives it. */
void segment_from_descriptor(struct segment *s, uint16_t selector, const struct descriptor *d);
static inline unsigned descriptor_attr(const struct descriptor *d)
{
	return (d->lo >> 40) & 0xf0ff;
}

/* The base of FS or GS. A guest can load a null selector without a trap, which clears the base on some CPUs: this asks the
 * machine first. */
uint64_t segment_base(struct vcpu *v, unsigned sreg);

#endif
