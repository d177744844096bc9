/*
 * What of a guest on the trap and hvm engines is neither in struct vcpu nor in its memory, but in the machine that it runs on: the FPU, the
 * time stamp counter; and which pages the machine's CPU has written.
 */
#ifndef HV_MACHINE_STATE_H
#define HV_MACHINE_STATE_H

#include "machine.h"
#include "state_io.h"

/* x87 and SSE as FXSAVE lays them out in 64-bit mode (SDM vol. 1, table 10-2). There is no more: neither engine gives its guest XSAVE, and
 * without CR4.OSXSAVE there is no AVX. */
struct fpu_state {
	uint16_t fcw, fsw;
	uint8_t ftw, zero;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask; /* mask: the CPU's, not the guest's; 0 here */
	uint8_t st[8][16], xmm[16][16];
};

/* The machine's, as it stands. 0 or -errno. */
int machine_fpu_get(const struct machine *m, struct fpu_state *f);
/* -EINVAL: MXCSR has bits that this CPU lacks. */
int machine_fpu_put(const struct machine *m, const struct fpu_state *f);
/* As bytes. Every value is possible but reserved bits of MXCSR, which fail. */
void fpu_state_io(struct fpu_state *f, struct state_io *io);

/* clock_io() of both engines: the time stamp counter goes on vm->gap_ns later, at the speed that it had. */
void machine_clock_io(struct vm *vm, struct state_io *io);

/*
 * KVM's dirty log of a memory slot. It names what the machine's CPU has written (and the guest on it), not what hv writes through its own
 * mapping. All return 0 or -errno.
 */
struct machine_slot {
	unsigned slot;
	uint64_t ma, size;
	void *hva;
};
int machine_log_start(const struct machine *m, const struct machine_slot *s);
void machine_log_stop(const struct machine *m, const struct machine_slot *s);
/* Sets the bits of `pages` pages from the slot's page `first` on that were written; the whole slot's log begins anew. */
int machine_log_fetch(const struct machine *m, const struct machine_slot *s, uint64_t first, uint64_t pages,
		      uint64_t *bitmap);

#endif
