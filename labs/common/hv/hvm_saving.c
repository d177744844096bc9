/*
 * The hvm engine's hooks for saving and migration. The VM stands in vm_park(): the guest was left, its state is in struct vcpu behind
 * hvm_fetch(), and what was on its way into the guest is in struct hvm.
 */
#include "lab3.h"
#include "vcpu_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* DR0 to DR3 are the machine's own while the guest runs: no control structure has fields for them. */
static int breakpoints_get(struct hvm *h, uint64_t *dr)
{
	struct kvm_debugregs d;

	if (ioctl(h->m.vcpu_fd, KVM_GET_DEBUGREGS, &d) < 0)
		return machine_error(&h->m, "KVM_GET_DEBUGREGS");
	memcpy(dr, d.db, sizeof d.db);
	return 0;
}

static int breakpoints_put(struct hvm *h, const uint64_t *dr)
{
	struct kvm_debugregs d;

	if (ioctl(h->m.vcpu_fd, KVM_GET_DEBUGREGS, &d) < 0)
		return -errno;
	memcpy(d.db, dr, sizeof d.db);
	return ioctl(h->m.vcpu_fd, KVM_SET_DEBUGREGS, &d) < 0 ? -errno : 0;
}

/* An event whose delivery was interrupted is one that waits. Not both at once: with h->again set, nothing that is done about an exit
 * raises an exception, because hvm_deliver() takes it out of there first. */
static void take_interrupted(const struct hvm *h, struct vcpu *v)
{
	const struct hvm_event *e = &h->again;

	if (e->valid && !v->event.pending)
		v->event = (struct event){ .pending = true,
					   .kind = e->type == HVM_EXT_INTR ? EVENT_INTERRUPT : EVENT_EXCEPTION,
					   .vector = e->vector,
					   .has_error = e->has_error,
					   .error = e->error };
}

/* Back to where it came from. An exception may as well be one that hv has raised. */
static void put_interrupted(struct hvm *h, struct vcpu *v)
{
	const struct event *e = &v->event;

	if (!e->pending || (e->kind == EVENT_EXCEPTION && e->vector != VEC_NMI))
		return;
	h->again = (struct hvm_event){ .valid = true,
				       .type = e->kind == EVENT_INTERRUPT ? HVM_EXT_INTR : HVM_NMI,
				       .vector = e->vector };
	if (h->again.type == HVM_NMI) /* no second one before this one's IRET */
		h->nmi_blocked = true;
	v->event = (struct event){ 0 };
}

void hvm_cpu_io(struct vm *vm, unsigned cpu, struct state_io *io)
{
	struct hvm *h = vm->engine_state;
	struct vcpu_state s;
	int err;

	(void)cpu; /* there is one */
	if (!io->loading && hvm_fetch(&vm->vcpu))
		return;
	vcpu_state_of(vm, &s);
	if (!io->loading) {
		if (breakpoints_get(h, s.cpu.dr))
			return;
		if (machine_fpu_get(&h->m, &s.fpu)) {
			machine_error(&h->m, "KVM_GET_XSAVE");
			return;
		}
		take_interrupted(h, &s.cpu);
		s.nmi_pending = h->nmi_pending;
		s.nmi_blocked = h->nmi_blocked;
	}
	vcpu_state_io(&s, io);
	if (!io->loading || state_failed(io))
		return;
	if ((err = machine_fpu_put(&h->m, &s.fpu)) || (err = breakpoints_put(h, s.cpu.dr))) {
		state_check(io, false, "KVM does not take its FPU or debug registers: %s", strerror(-err));
		return;
	}
	h->nmi_pending = s.nmi_pending;
	h->nmi_blocked = s.nmi_blocked;
	put_interrupted(h, &s.cpu);
	vm->vcpu = s.cpu;
	state_check(io, !h->backend->store(h), "%s", vm->reason);
}

/* --- which pages were written ------------------------------------------------------------------------------------------------- */

/* The machine's slot has the memory of both VMs where there are two. */
static struct machine_slot slot_of(const struct hvm *h, uint64_t *first)
{
	const struct vm *vm = h->vm;
	uint64_t before = vm->neighbour.index * vm->mem.size;

	*first = before / PAGE;
	return (struct machine_slot){ .slot = HVM_GUEST_SLOT,
				      .ma = h->guest_ma - before,
				      .hva = vm->mem.hva - before,
				      .size = vm->neighbour.block ? 2 * vm->mem.size : vm->mem.size };
}

/*
 * With nested tables Lab 3's log: what they do not allow to be written cannot be written without an exit. Under shadows, which are not
 * nested tables, the log of the machine's memory slot has the same answer.
 */
int hvm_log_start(struct vm *vm)
{
	struct hvm *h = vm->engine_state;
	uint64_t first;

	if (h->shadow) {
		struct machine_slot slot = slot_of(h, &first);
		return machine_log_start(&h->m, &slot);
	}
	if (h->dirty->on) /* by --plan, which wants to fetch it, too */
		return -EBUSY;
	int err = dirty_start(&h->nested, h->dirty);
	/* No table left to split a page with: what is not mapped needs none, and comes back protected. */
	if (err == -ENOMEM && !(err = hvm_out_of_tables(&vm->vcpu)))
		err = dirty_start(&h->nested, h->dirty);
	return err;
}

int hvm_log_fetch(struct vm *vm, uint64_t *bitmap)
{
	struct hvm *h = vm->engine_state;
	uint64_t first, words = h->dirty->pages / 64 + 1;

	if (h->shadow) {
		struct machine_slot slot = slot_of(h, &first);
		return machine_log_fetch(&h->m, &slot, first, h->dirty->pages, bitmap);
	}
	uint64_t *log = calloc(words, sizeof *log);
	int err = log ? dirty_fetch(&h->nested, h->dirty, log) : -ENOMEM;
	for (uint64_t i = 0; i < words && !err; i++)
		if (log[i]) /* the last word may not exist in the caller's */
			bitmap[i] |= log[i];
	free(log);
	return err;
}

void hvm_log_stop(struct vm *vm)
{
	struct hvm *h = vm->engine_state;
	uint64_t first;

	if (h->shadow) {
		struct machine_slot slot = slot_of(h, &first);
		machine_log_stop(&h->m, &slot);
	} else if (dirty_stop(&h->nested, h->dirty) == -ENOMEM && !hvm_out_of_tables(&vm->vcpu)) {
		h->dirty->on = false; /* nothing is mapped any more, so nothing is protected */
	}
}
