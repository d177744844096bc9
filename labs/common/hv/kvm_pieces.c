#include "kvm_pieces.h"
#include "kvm_engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define SIZE(p) (sizeof(p) / sizeof *(p))

/* MSRs (SDM vol. 4; APM vol. 2, appendix A). */
#define MSR_TSC 0x10
#define MSR_MTRR_PHYSBASE0 0x200 /* eight pairs */
#define MSR_MTRR_FIX64K 0x250
#define MSR_MTRR_FIX16K 0x258 /* two */
#define MSR_MTRR_FIX4K 0x268  /* eight */
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MSR_MC0_CTL 0x400 /* of 32 banks, each 4 further on */
#define MC_BANKS 32
#define MSR_HYPERV 0x40000000 /* to 0x400001ff */

struct kvm_msr_list_room {
	struct kvm_msr_list list;
	uint32_t index[2 * KVM_MSRS_MAX];
};
struct kvm_msrs_room {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[KVM_MSRS_MAX];
};
_Static_assert(offsetof(struct kvm_msrs_room, entry) == sizeof(struct kvm_msrs), "the entries follow their number at once");

struct vm *kvm_cpu_vm(struct kvm_cpu *cpu)
{
	return cpu->vm;
}

/* Says in cpu->err that a call did not work. Returns -errno. */
static int refused(struct kvm_cpu *cpu, const char *call)
{
	int err = errno;

	snprintf(cpu->err, sizeof cpu->err, "KVM refuses %s of vCPU %u: %s", call, cpu->id, strerror(err));
	return -err;
}

static int call(struct kvm_cpu *cpu, unsigned long request, const char *name, void *arg)
{
	return ioctl(cpu->m.vcpu_fd, request, arg) < 0 ? refused(cpu, name) : 0;
}
#define CALL(cpu, request, arg) call(cpu, request, #request, (void *)(arg))

/* --- registers with an area of variable size ----------------------------------------------------------------------------------------- */

/* What KVM_GET_XSAVE2 gives and KVM_SET_XSAVE takes: what the host's CPU has, which with AMX is more than a page. */
static uint32_t xsave_size(const struct kvm_cpu *cpu)
{
	int size = ioctl(cpu->m.vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return size > (int)sizeof(struct kvm_xsave) ? (uint32_t)size : sizeof(struct kvm_xsave);
}

static int take_xsave(struct kvm_cpu *cpu, struct kvm_cpu_state *s)
{
	s->xsave_size = xsave_size(cpu);
	if (s->xsave_size > sizeof s->xsave) {
		errno = E2BIG;
		return refused(cpu, "KVM_GET_XSAVE2");
	}
	/* The older call knows the first page only. */
	return s->xsave_size > sizeof(struct kvm_xsave) ? CALL(cpu, KVM_GET_XSAVE2, s->xsave)
							: CALL(cpu, KVM_GET_XSAVE, s->xsave);
}

static int put_xsave(struct kvm_cpu *cpu, const struct kvm_cpu_state *s)
{
	uint32_t room = xsave_size(cpu);

	/* Behind what there is, s->xsave has zeros: registers as they are after a reset. */
	if (s->xsave_size > room || room > sizeof s->xsave) {
		snprintf(cpu->err, sizeof cpu->err, "the XSAVE area of vCPU %u has %u bytes, this CPU's has %u", cpu->id,
			 s->xsave_size, room);
		return -ENOTSUP;
	}
	return CALL(cpu, KVM_SET_XSAVE, s->xsave);
}

/* --- MSRs --------------------------------------------------------------------------------------------------------- */

static bool wanted(uint32_t index)
{
	/* The TSC runs on: an old value would turn it back, so where it stands is the clock's business (kvm_clock.c). Hyper-V's are there
	 * for guests that were told of Hyper-V, which no CPUID of hv's does; and one of them is a clock as well. */
	return index != MSR_TSC && (index < MSR_HYPERV || index > MSR_HYPERV + 0x1ff);
}

static bool listed(const uint32_t *index, unsigned n, uint32_t msr)
{
	for (unsigned i = 0; i < n; i++)
		if (index[i] == msr)
			return true;
	return false;
}

static void add(uint32_t *index, unsigned *n, uint32_t first, unsigned count, unsigned step)
{
	for (unsigned i = 0; i < count && *n < KVM_MSRS_MAX; i++)
		if (!listed(index, *n, first + i * step))
			index[(*n)++] = first + i * step;
}

/*
 * The MSRs that guests of this machine may have written, in KVM's order. Returns how many, or -errno. KVM's list leaves out those that come
 * in arrays: the memory types' ranges, and which errors of the machine the guest wants to hear of.
 */
static int msr_list(struct kvm_cpu *cpu, uint32_t index[KVM_MSRS_MAX])
{
	struct kvm_msr_list_room room = { .list.nmsrs = SIZE(room.index) };
	unsigned n = 0;

	if (ioctl(cpu->m.kvm_fd, KVM_GET_MSR_INDEX_LIST, &room.list) < 0)
		return refused(cpu, "KVM_GET_MSR_INDEX_LIST");
	for (uint32_t i = 0; i < room.list.nmsrs; i++)
		if (wanted(room.list.indices[i]))
			add(index, &n, room.list.indices[i], 1, 0);
	add(index, &n, MSR_MTRR_PHYSBASE0, 16, 1);
	add(index, &n, MSR_MTRR_FIX64K, 1, 0);
	add(index, &n, MSR_MTRR_FIX16K, 2, 1);
	add(index, &n, MSR_MTRR_FIX4K, 8, 1);
	add(index, &n, MSR_MTRR_DEF_TYPE, 1, 0);
	add(index, &n, MSR_MC0_CTL, MC_BANKS, 4);
	if (n < KVM_MSRS_MAX)
		return (int)n;
	errno = E2BIG;
	return refused(cpu, "KVM_GET_MSR_INDEX_LIST");
}

/* KVM stops at the first MSR that it cannot read: one that this vCPU's CPUID does not announce. The guest cannot have written it either. */
static int take_msrs(struct kvm_cpu *cpu, struct kvm_cpu_state *s)
{
	uint32_t index[KVM_MSRS_MAX];
	int n = msr_list(cpu, index), done;
	struct kvm_msrs_room m;

	s->nmsrs = 0;
	for (int at = 0; at < n; at += done + 1) {
		m.head = (struct kvm_msrs){ .nmsrs = (uint32_t)(n - at) };
		for (int i = at; i < n; i++)
			m.entry[i - at] = (struct kvm_msr_entry){ .index = index[i] };
		done = ioctl(cpu->m.vcpu_fd, KVM_GET_MSRS, &m);
		if (done < 0)
			return refused(cpu, "KVM_GET_MSRS");
		memcpy(&s->msr[s->nmsrs], m.entry, (size_t)done * sizeof m.entry[0]);
		s->nmsrs += (uint32_t)done;
	}
	return n < 0 ? n : 0;
}

static int put_msrs(struct kvm_cpu *cpu, const struct kvm_cpu_state *s)
{
	uint32_t index[KVM_MSRS_MAX];
	int n = msr_list(cpu, index), done;
	struct kvm_msrs_room m = { .head.nmsrs = s->nmsrs };

	if (n < 0)
		return n;
	/* KVM would take others too, some of which are no state of a vCPU. */
	for (uint32_t i = 0; i < s->nmsrs; i++)
		if (!listed(index, (unsigned)n, s->msr[i].index)) {
			snprintf(cpu->err, sizeof cpu->err, "vCPU %u has an MSR 0x%x, which there is not here", cpu->id,
				 s->msr[i].index);
			return -ENOTSUP;
		}
	memcpy(m.entry, s->msr, s->nmsrs * sizeof m.entry[0]);
	done = ioctl(cpu->m.vcpu_fd, KVM_SET_MSRS, &m);
	if (done < 0)
		return refused(cpu, "KVM_SET_MSRS");
	if ((uint32_t)done == s->nmsrs)
		return 0;
	snprintf(cpu->err, sizeof cpu->err, "KVM does not take 0x%llx for MSR 0x%x of vCPU %u", s->msr[done].data,
		 s->msr[done].index, cpu->id);
	return -EINVAL;
}

/* --- all pieces --------------------------------------------------------------------------------------------------- */

int kvm_piece_take(struct kvm_cpu *cpu, enum kvm_piece piece, struct kvm_cpu_state *s)
{
	switch (piece) {
	case PIECE_MP_STATE: return CALL(cpu, KVM_GET_MP_STATE, &s->mp_state);
	case PIECE_REGS: return CALL(cpu, KVM_GET_REGS, &s->regs);
	case PIECE_SREGS: return CALL(cpu, KVM_GET_SREGS, &s->sregs);
	case PIECE_XCRS: return CALL(cpu, KVM_GET_XCRS, &s->xcrs);
	case PIECE_XSAVE: return take_xsave(cpu, s);
	case PIECE_DEBUGREGS: return CALL(cpu, KVM_GET_DEBUGREGS, &s->debugregs);
	case PIECE_LAPIC: s->lapic_at = clock_ns(); return CALL(cpu, KVM_GET_LAPIC, &s->lapic);
	case PIECE_MSRS: return take_msrs(cpu, s);
	case PIECE_EVENTS: return CALL(cpu, KVM_GET_VCPU_EVENTS, &s->events);
	case PIECES: break;
	}
	return -EINVAL;
}

int kvm_piece_put(struct kvm_cpu *cpu, enum kvm_piece piece, const struct kvm_cpu_state *s)
{
	switch (piece) {
	case PIECE_MP_STATE: return CALL(cpu, KVM_SET_MP_STATE, &s->mp_state);
	case PIECE_REGS: return CALL(cpu, KVM_SET_REGS, &s->regs);
	case PIECE_SREGS: return CALL(cpu, KVM_SET_SREGS, &s->sregs);
	case PIECE_XCRS: return CALL(cpu, KVM_SET_XCRS, &s->xcrs);
	case PIECE_XSAVE: return put_xsave(cpu, s);
	case PIECE_DEBUGREGS: return CALL(cpu, KVM_SET_DEBUGREGS, &s->debugregs);
	case PIECE_LAPIC: return CALL(cpu, KVM_SET_LAPIC, &s->lapic);
	case PIECE_MSRS: return put_msrs(cpu, s);
	case PIECE_EVENTS: return CALL(cpu, KVM_SET_VCPU_EVENTS, &s->events);
	case PIECES: break;
	}
	return -EINVAL;
}
