#include "machine_state.h"
#include "loop.h"
#include "mem.h"
#include "trapengine.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* --- FPU --------------------------------------------------------------------------------------------------------------------- */

/* The XSAVE area: FXSAVE's 512 bytes, then the header, which begins with the mask of what is not in its initial state (SDM vol. 1,
 * 13.4). */
#define XSTATE_BV 512
#define XSTATE_X87 1u
#define XSTATE_SSE 2u
#define FCW_INIT 0x37f
#define MXCSR_INIT 0x1f80u
#define MXCSR_DEFINED 0xffffu

_Static_assert(sizeof(struct fpu_state) == 416, "FXSAVE's layout, up to XMM15");

int machine_fpu_get(const struct machine *m, struct fpu_state *f)
{
	struct kvm_xsave x;
	uint64_t used;

	if (ioctl(m->vcpu_fd, KVM_GET_XSAVE, &x) < 0)
		return -errno;
	memcpy(f, x.region, sizeof *f);
	memcpy(&used, (uint8_t *)x.region + XSTATE_BV, sizeof used);
	/* Of a part that is in its initial state an area may hold anything (SDM vol. 1, 13.6). */
	if (!(used & XSTATE_X87)) {
		f->fcw = FCW_INIT;
		f->fsw = f->fop = 0;
		f->ftw = 0;
		f->fip = f->fdp = 0;
		memset(f->st, 0, sizeof f->st);
	}
	if (!(used & XSTATE_SSE)) {
		f->mxcsr = MXCSR_INIT;
		memset(f->xmm, 0, sizeof f->xmm);
	}
	f->zero = 0;
	f->mxcsr_mask = 0;
	return 0;
}

int machine_fpu_put(const struct machine *m, const struct fpu_state *f)
{
	struct kvm_xsave x = { 0 };
	uint64_t used = XSTATE_X87 | XSTATE_SSE;

	memcpy(x.region, f, sizeof *f);
	memcpy((uint8_t *)x.region + XSTATE_BV, &used, sizeof used);
	return ioctl(m->vcpu_fd, KVM_SET_XSAVE, &x) < 0 ? -errno : 0;
}

void fpu_state_io(struct fpu_state *f, struct state_io *io)
{
	STATE(io, f->fcw);
	STATE(io, f->fsw);
	STATE(io, f->ftw);
	STATE(io, f->fop);
	STATE(io, f->fip);
	STATE(io, f->fdp);
	STATE(io, f->mxcsr);
	state_bytes(io, f->st, sizeof f->st);
	state_bytes(io, f->xmm, sizeof f->xmm);
	if (io->loading)
		f->zero = 0, f->mxcsr_mask = 0;
	state_check(io, !(f->mxcsr & ~MXCSR_DEFINED), "MXCSR is 0x%x, which has reserved bits", f->mxcsr);
}

/* --- time -------------------------------------------------------------------------------------------------------------------- */

/*
 * Two machines whose counters ought to run at the same speed have measured it, each for itself: this far apart (in parts per million)
 * counts as the same. KVM's own tolerance is 250; a kernel on an emulated CPU measures worse.
 */
#define TSC_PPM 1000

static uint64_t tsc_khz(const struct machine *m)
{
	int khz = ioctl(m->vcpu_fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint64_t)khz : 0;
}

/* Makes the machine's counter run at that speed. true: it does, as far as anybody can measure. */
static bool tsc_set_khz(const struct machine *m, uint64_t khz)
{
	uint64_t ours = tsc_khz(m), apart = ours > khz ? ours - khz : khz - ours;

	if (apart * 1000000 <= khz * TSC_PPM)
		return true;
	/* Without scaling KVM accepts a faster counter, too, and then only corrects it now and then. */
	return ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0 &&
	       !ioctl(m->vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)khz);
}

static uint64_t cycles(uint64_t ns, uint64_t khz)
{
	return (uint64_t)((unsigned __int128)ns * khz / 1000000);
}

void machine_clock_io(struct vm *vm, struct state_io *io)
{
	const struct machine *m = vm->machine;
	uint64_t khz = tsc_khz(m), tsc = 0;

	if (!io->loading) /* as it was when the VM stood still, not now */
		tsc = trap_machine_tsc(&vm->vcpu) - cycles(clock_ns() - io->now_ns, khz);
	STATE(io, khz);
	STATE(io, tsc);
	/* A host that does not know its counter's speed says 0: it may go on where that is all that is known, too. */
	if (!io->loading ||
	    !state_check(io, khz < 1ull << 32, "its time stamp counter runs at %llu kHz", (unsigned long long)khz))
		return;
	if (!state_check(io, tsc_set_khz(m, khz),
			 "the guest's time stamp counter runs at %llu kHz, the one here at %llu kHz, and this machine "
			 "cannot change that",
			 (unsigned long long)khz, (unsigned long long)tsc_khz(m)))
		return;
	trap_set_tsc(&vm->vcpu, tsc + cycles(vm->gap_ns, khz));
}

/* --- which pages were written ------------------------------------------------------------------------------------------------- */

/* The slot as it is; only its flags change (KVM API 4.35). */
static int set_flags(const struct machine *m, const struct machine_slot *s, uint32_t flags)
{
	struct kvm_userspace_memory_region r = { .slot = s->slot,
						 .flags = flags,
						 .guest_phys_addr = s->ma,
						 .memory_size = s->size,
						 .userspace_addr = (uintptr_t)s->hva };

	return ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

int machine_log_start(const struct machine *m, const struct machine_slot *s)
{
	return set_flags(m, s, KVM_MEM_LOG_DIRTY_PAGES);
}

void machine_log_stop(const struct machine *m, const struct machine_slot *s)
{
	set_flags(m, s, 0);
}

int machine_log_fetch(const struct machine *m, const struct machine_slot *s, uint64_t first, uint64_t pages,
		      uint64_t *bitmap)
{
	uint64_t *log = calloc(s->size / PAGE / 64 + 1, sizeof *log);
	struct kvm_dirty_log get = { .slot = s->slot, .dirty_bitmap = log };
	int err = 0;

	if (!log)
		return -ENOMEM;
	if (ioctl(m->vm_fd, KVM_GET_DIRTY_LOG, &get) < 0)
		err = -errno;
	for (uint64_t i = 0; i < pages && !err; i++) {
		uint64_t at = first + i;

		if (log[at / 64] >> at % 64 & 1)
			bitmap[i / 64] |= 1ull << i % 64;
		else if (!(at % 64) && !log[at / 64]) /* nothing in this word: on to the next */
			i += 63;
	}
	free(log);
	return err;
}
