/*
 * The kvm engine's time: each vCPU's time stamp counter (TSC), and kvmclock, nanoseconds that KVM lets a guest compute from the TSC.
 * Both run on while the VM stands still, so it is of no use to keep what they are; what is kept is where they were at the moment
 * io->now_ns, and they are put where they would be now had that moment been io->now_ns of the loading side.
 *
 * A guest of several vCPUs relies on their TSCs being equal. Written as MSRs one after another, they would differ by the time between
 * two writes, or by what KVM makes of it: it takes some values as a wish for equality (kvm_synchronize_tsc() in arch/x86/kvm/x86.c). So
 * only vCPU 0's counter is looked at, and the others keep their distance from it. KVM has each as an offset from the host's counter,
 * KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst, 4.1).
 */
#include "kvm_engine.h"
#include "state_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_TSC 0x10

/* Two clocks are compared by reading one of them twice, around the other. When the thread loses its CPU in between, the result is off by
 * that time; so it is done again, and the narrowest try counts. */
#define TRIES 10
#define NARROW_NS 20000

/* How far apart the frequencies of two TSCs that are the same may have been measured to be: Linux gives itself 500 millionths each time
 * (quick_pit_calibrate() in arch/x86/kernel/tsc.c). */
#define TOLERANCE 1000

struct time_state {
	uint32_t khz;		     /* of the TSCs */
	uint64_t kvmclock;	     /* ns */
	uint64_t tsc;		     /* of vCPU 0 */
	uint64_t ahead[VM_CPUS_MAX]; /* how far each vCPU's TSC is ahead of that, modulo 2^64 */
};

static int read_tsc(struct kvm_engine *e, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry.index = MSR_TSC };

	if (ioctl(e->cpu[0].m.vcpu_fd, KVM_GET_MSRS, &m) != 1)
		return -EIO;
	*value = m.entry.data;
	return 0;
}

static int read_kvmclock(struct kvm_engine *e, uint64_t *value)
{
	struct kvm_clock_data data = { 0 };

	if (ioctl(e->cpu[0].m.vm_fd, KVM_GET_CLOCK, &data) < 0)
		return -errno;
	*value = data.clock;
	return 0;
}

/* *value and the moment at which it was read. */
static int read_at(struct kvm_engine *e, int (*read)(struct kvm_engine *e, uint64_t *value), uint64_t *value, uint64_t *when)
{
	uint64_t best = ~0ull;

	for (unsigned i = 0; i < TRIES && best > NARROW_NS; i++) {
		uint64_t v = 0, before = clock_ns();
		int err = read(e, &v);
		uint64_t width = clock_ns() - before;

		if (err)
			return err;
		if (width >= best)
			continue;
		best = width;
		*value = v;
		*when = before + width / 2;
	}
	return 0;
}

/* Puts kvmclock where it is at the moment of the call `ns` ahead of clock_ns(). */
static int set_kvmclock(struct kvm_engine *e, uint64_t ns)
{
	uint64_t width = ~0ull;

	for (unsigned i = 0; i < TRIES && width > NARROW_NS; i++) {
		uint64_t before = clock_ns();
		struct kvm_clock_data data = { .clock = before + ns };

		if (ioctl(e->cpu[0].m.vm_fd, KVM_SET_CLOCK, &data) < 0)
			return -errno;
		width = clock_ns() - before;
	}
	return 0;
}

static int tsc_offset(const struct kvm_cpu *c, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset };

	return ioctl(c->m.vcpu_fd, request, &attr) < 0 ? -errno : 0;
}

/* A distance in time (two's complement) in cycles of a TSC. */
static uint64_t cycles(uint64_t ns, uint32_t khz)
{
	return (uint64_t)((__int128)(int64_t)ns * khz / 1000000);
}

static int take(struct kvm_engine *e, struct time_state *t, uint64_t now)
{
	uint64_t first, offset, when = 0;
	int khz = ioctl(e->cpu[0].m.vcpu_fd, KVM_GET_TSC_KHZ, 0);
	int err = khz <= 0 ? -ENOSYS : tsc_offset(&e->cpu[0], KVM_GET_DEVICE_ATTR, &first);

	t->khz = (uint32_t)khz;
	/* Not vCPU 0 once more: where TSCs are not stable, KVM moves the offset of a vCPU whose thread comes to another CPU. */
	for (unsigned i = 1; i < e->ncpus && !err; i++) {
		err = tsc_offset(&e->cpu[i], KVM_GET_DEVICE_ATTR, &offset);
		t->ahead[i] = offset - first;
	}
	if (err || (err = read_at(e, read_tsc, &t->tsc, &when)))
		return err;
	t->tsc -= cycles(when - now, t->khz);
	err = read_at(e, read_kvmclock, &t->kvmclock, &when);
	t->kvmclock -= when - now;
	return err;
}

/* The vCPUs' TSCs run as fast as they did where they come from, or very nearly. */
static int put_frequency(struct kvm_engine *e, uint32_t khz, struct state_io *io)
{
	const struct machine *m = &e->cpu[0].m;
	int here = ioctl(m->vcpu_fd, KVM_GET_TSC_KHZ, 0), err = 0;
	uint64_t apart = here > (int)khz ? (uint64_t)here - khz : khz - (uint64_t)here;

	if (here <= 0)
		return -ENOSYS;
	if (apart * 1000000 <= (uint64_t)khz * TOLERANCE)
		return 0;
	/* Without the hardware for it KVM_SET_TSC_KHZ would make a faster counter out of a slower one by setting it forward at
	 * each entry. */
	if (ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0) {
		state_fail(
			io,
			"the guest's time stamp counter runs at %u kHz, this CPU's at %d kHz, and it cannot be scaled here",
			khz, here);
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < e->ncpus && !err; i++)
		err = ioctl(e->cpu[i].m.vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0 ? -errno : 0;
	return err;
}

static int put(struct kvm_engine *e, const struct time_state *t, uint64_t now, struct state_io *io)
{
	uint64_t tsc = 0, first, when = 0;
	int err = put_frequency(e, t->khz, io);

	if (err || (err = tsc_offset(&e->cpu[0], KVM_GET_DEVICE_ATTR, &first)) || (err = read_at(e, read_tsc, &tsc, &when)))
		return err;
	first += t->tsc + cycles(when - now, t->khz) - tsc;
	for (unsigned i = 0; i < e->ncpus && !err; i++) {
		uint64_t offset = first + t->ahead[i];
		err = tsc_offset(&e->cpu[i], KVM_SET_DEVICE_ATTR, &offset);
	}
	/* Behind the TSCs: KVM looks at them whether kvmclock can be the same on all vCPUs. */
	return err ? err : set_kvmclock(e, t->kvmclock - now);
}

void kvm_clock_io(struct vm *vm, struct state_io *io)
{
	struct kvm_engine *e = vm->engine_state;
	struct time_state t = { 0 };
	int err = io->loading ? 0 : take(e, &t, io->now_ns);

	STATE(io, t.khz);
	STATE(io, t.kvmclock);
	STATE(io, t.tsc);
	for (unsigned i = 0; i < e->ncpus; i++)
		STATE(io, t.ahead[i]);
	/* kvmclock counts from 0 and signed: one that is about to wrap around is nobody's. */
	state_check(io, t.khz >= 1000 && t.khz <= 100000000, "a time stamp counter of %u kHz", t.khz);
	state_check(io, t.kvmclock < 1ull << 62, "kvmclock is at 0x%llx", (unsigned long long)t.kvmclock);
	state_check(io, !t.ahead[0], "vCPU 0 is ahead of itself");
	if (io->loading && !state_failed(io))
		err = put(e, &t, io->now_ns, io);
	if (err)
		state_fail(
			io,
			"KVM does not let go on the guest's clocks (KVM_VCPU_TSC_OFFSET, KVM_SET_CLOCK; Linux 5.16 can): %s",
			strerror(-err));
}
