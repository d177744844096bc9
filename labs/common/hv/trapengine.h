/*
 * The trap engine's frame: what the lab's emulation code may ask of the machine underneath. See engine_trap.c.
 */
#ifndef HV_TRAPENGINE_H
#define HV_TRAPENGINE_H

#include "machine.h"
#include "mem.h"
#include "vcpu.h"

/* The monitor's place in the guest's address space: the last 2 MiB. */
#define MONITOR_GVA 0xffffffffffe00000ull
#define MONITOR_SIZE (2 * MiB)
#define MONITOR_MA 0ull
#define POOL_MA (2 * MiB)     /* page tables of the machine */
#define POOL_SIZE (2 * MiB)
#define GUEST_MA (4 * MiB)    /* machine address of gpa 0: a forgotten translation shows at once */
#define TRAP_GUEST_SLOT 1     /* the memory slot of guest RAM */

/* Offsets in the monitor's memory. */
#define MON_TSS 0x3000
#define MON_IDT 0x4000
#define MON_STUBS 0x5000      /* 256 stubs of MON_STUB_SIZE bytes */
#define MON_STUB_SIZE 32
#define MON_SYSCALL 0x7000    /* LSTAR */
#define MON_RESUME 0x7040     /* where every stub ends: CR3 perhaps, then iretq */
#define MON_CR2 0x7800        /* the #PF stub leaves CR2 here */
#define MON_NEXT_CR3 0x7810   /* what MON_RESUME loads into CR3, which also flushes the TLB; 0 = nothing */
#define MON_STACK_TOP 0x9000  /* rsp0: the trap frame ends here */
#define MON_GDT 0x10000       /* 64 KiB */

/* The machine's own selectors are the last ones that exist; all descriptors below are absent. */
#define MON_CS 0xffd0
#define MON_SS 0xffd8
#define GUEST_SS (0xffe0 | 3)
#define GUEST_CS (0xffe8 | 3)
#define MON_TR 0xfff0
#define MON_GDT_LIMIT 0xffff

/* The port that the syscall stub writes to; the exception stubs write to the port of their vector. */
#define MON_PORT_SYSCALL 0xf0

/* The trap frame as the CPU pushes it (SDM vol. 3, figure 6-9). */
struct trap_frame {
	uint64_t error; /* only where the vector has one */
	uint64_t rip, cs, rflags, rsp, ss;
};

/* Writes the monitor (GDT, TSS, IDT, stubs) into its memory, which is zeroed (as from mmap: touching all of it costs time). */
void monitor_write(uint8_t *mon);
/* Writes the machine's page tables into pool (zeroed too): guest RAM of guest_size bytes one to one from gva 0, the monitor at MONITOR_GVA.
 * Returns the machine address for CR3. */
uint64_t monitor_tables_write(uint8_t *pool, uint64_t guest_size);
/* The frame of the last trap. */
static inline struct trap_frame *monitor_frame(uint8_t *mon)
{
	return (struct trap_frame *)(mon + MON_STACK_TOP - sizeof(struct trap_frame));
}

/* What MON_RESUME loads into CR3. */
static inline uint64_t *monitor_next_cr3(uint8_t *mon) { return (uint64_t *)(mon + MON_NEXT_CR3); }

/* Fetches what the guest can change without a trap (bases of FS and GS after loading a null selector) into v. */
void trap_refresh_segments(struct vcpu *v);
/* Say that state changed that the machine must know: control registers, EFER or segment bases; debug registers. */
void trap_special_changed(struct vcpu *v);
void trap_debugregs_changed(struct vcpu *v);
/* The machine's time stamp counter now. */
uint64_t trap_machine_tsc(struct vcpu *v);
/* Makes RDTSC in the guest read `value` now. */
void trap_set_tsc(struct vcpu *v, uint64_t value);

/* What the machine's own CPUID would answer (KVM's supported table). */
struct cpuid_result trap_host_cpuid(const struct vcpu *v, uint32_t leaf, uint32_t subleaf);

#define CPUID7_SMEP (1u << 7)   /* leaf 7, EBX */
#define CPUID7_SMAP (1u << 20)
#define CPUID81_1GIB (1u << 26) /* leaf 0x80000001, EDX */

/* Which bits of CR4 and EFER a guest may set here; others cause #GP, as on a CPU without the feature. */
uint64_t trap_cr4_allowed(const struct vcpu *v);
#define TRAP_EFER_ALLOWED (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

/* Port I/O with the bus's lock. */
uint32_t port_in(struct vcpu *v, uint16_t port, unsigned size);
void port_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t value);

/* A note for --trace exits about what was done with the present trap ("port 0xe9 write 0x48"); printf style. */
void trap_note(struct vcpu *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
