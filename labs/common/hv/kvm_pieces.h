/*
 * The state of a vCPU of KVM's, as KVM gives and takes it: in pieces, one ioctl each. In which order they are taken and put back is
 * Lab 5's business (state.c); the pieces themselves are here (kvm_pieces.c).
 */
#ifndef HV_KVM_PIECES_H
#define HV_KVM_PIECES_H

#include "state_io.h"

#include <linux/kvm.h>
#include <stdint.h>

struct kvm_cpu;
struct vm;

#define KVM_MSRS_MAX 256
#define KVM_XSAVE_MAX 12288

enum kvm_piece {
	PIECE_MP_STATE,  /* KVM_GET_MP_STATE: runs, halted, waits for INIT or SIPI */
	PIECE_REGS,      /* KVM_GET_REGS */
	PIECE_SREGS,     /* KVM_GET_SREGS: segments, control registers, EFER, APIC base */
	PIECE_XCRS,      /* KVM_GET_XCRS: XCR0 */
	PIECE_XSAVE,     /* KVM_GET_XSAVE(2): x87, SSE, AVX, ... */
	PIECE_DEBUGREGS, /* KVM_GET_DEBUGREGS */
	PIECE_LAPIC,     /* KVM_GET_LAPIC */
	PIECE_MSRS,      /* KVM_GET_MSRS: all that a guest can write; the TSC's deadline is among them, the TSC is not (kvm_clock.c) */
	PIECE_EVENTS,    /* KVM_GET_VCPU_EVENTS: what is injected, pending, masked */
	PIECES
};

struct kvm_cpu_state {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	uint32_t xsave_size;
	uint8_t xsave[KVM_XSAVE_MAX];
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	uint64_t lapic_at; /* clock_ns() when it was taken: its timer runs on */
	uint32_t nmsrs;
	struct kvm_msr_entry msr[KVM_MSRS_MAX];
	struct kvm_vcpu_events events;
};

/* The VM that it belongs to. */
struct vm *kvm_cpu_vm(struct kvm_cpu *cpu);
/* Takes or puts one piece. 0, or -errno with a sentence in cpu->err: KVM refused. Of MSRs it is said which one. */
int kvm_piece_take(struct kvm_cpu *cpu, enum kvm_piece piece, struct kvm_cpu_state *state);
int kvm_piece_put(struct kvm_cpu *cpu, enum kvm_piece piece, const struct kvm_cpu_state *state);
/* The pieces as bytes of SECTION_CPU (kvm_state_io.c). Loading: *state is all zeros before. */
void kvm_cpu_state_io(struct kvm_cpu_state *state, struct state_io *io);

#endif
