/*
 * The fields of the VMCS as hv sees them: what it knows of them, what is still to be written, and the runs of the machine that read others.
 */
#include "vmx_state.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* IA32_VMX_TRUE_..._CTLS, IA32_VMX_PROCBASED_CTLS2 (SDM vol. 3, A.3 to A.5). */
uint32_t vmx_capability_msr(enum vmcs_field f)
{
	switch (f) {
	case VMCS_PIN_CONTROLS: return 0x48d;
	case VMCS_PROC_CONTROLS: return 0x48e;
	case VMCS_PROC2_CONTROLS: return 0x48b;
	case VMCS_EXIT_CONTROLS: return 0x48f;
	default: return 0x490;
	}
}

int vmx_read_msr(struct hvm *h, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} msr = { .head.nmsrs = 1, .entry[0].index = index };

	if (ioctl(h->m.vcpu_fd, KVM_GET_MSRS, &msr) != 1)
		return vm_stop(h->vm, HV_HOST, "the machine has no MSR 0x%x, which tells what its VMX can do", index);
	*value = msr.entry[0].data;
	return 0;
}

bool vmx_allows(struct vmx *s, enum vmcs_field f, uint32_t bits)
{
	uint64_t cap = 0;

	return !vmx_read_msr(s->h, vmx_capability_msr(f), &cap) && !(bits & ~(uint32_t)(cap >> 32));
}

int vmx_control(struct vmx *s, enum vmcs_field f, uint32_t bits)
{
	uint64_t cap;

	if (vmx_read_msr(s->h, vmx_capability_msr(f), &cap))
		return -ECANCELED;
	if (bits & ~(uint32_t)(cap >> 32))
		return vm_stop(s->h->vm, HV_STOPPED, "this CPU does not allow bits 0x%x in field 0x%x of the VMCS (MSR 0x%x)",
			       bits & ~(uint32_t)(cap >> 32), f, vmx_capability_msr(f));
	vmx_write(s, f, bits | (uint32_t)cap);
	return 0;
}

void vmx_msr_pass(struct vmx *s, uint32_t index)
{
	/* Four bitmaps of 1 KiB: reads of low MSRs, reads of high ones, writes of low ones, writes of high ones. */
	uint32_t bit = index & 0x1fff, high = index >= 0xc0000000 ? 0x400 : 0;

	if ((index & ~0x1fffu) != (high ? 0xc0000000 : 0))
		return; /* no bit stands for it: it always exits */
	s->msr_bitmap[high + bit / 8] &= (uint8_t)~(1u << bit % 8);
	s->msr_bitmap[0x800 + high + bit / 8] &= (uint8_t)~(1u << bit % 8);
}

void vmx_write(struct vmx *s, enum vmcs_field f, uint64_t value)
{
	struct vmx_mailbox *box = s->box;
	unsigned slot = vmcs_slot(f);

	if (s->known[slot] && s->value[slot] == value)
		return;
	s->known[slot] = true;
	s->value[slot] = value;
	if (!s->pending[slot]) {
		if (box->nwrites == VMX_LIST) {
			vm_stop(s->h->vm, HV_STOPPED, "more fields of the VMCS are written at once than it has");
			return;
		}
		s->pending[slot] = (uint16_t)++box->nwrites;
	}
	box->writes[s->pending[slot] - 1] = (struct vmx_pair){ f, value };
}

uint64_t vmx_read(struct vmx *s, enum vmcs_field f)
{
	unsigned slot = vmcs_slot(f);
	uint16_t field = (uint16_t)f;

	if (!s->known[slot] && vmx_look(s, &field, 1))
		return 0;
	return s->value[slot];
}

void vmx_written(struct vmx *s)
{
	for (uint64_t i = 0; i < s->box->nwrites; i++)
		s->pending[vmcs_slot((enum vmcs_field)s->box->writes[i].field)] = 0;
	s->box->nwrites = 0;
}

void vmx_forget(struct vmx *s)
{
	/* Kinds 1 and 2: what the CPU says of an exit, and the guest's state (SDM vol. 3, table 24-21). */
	for (unsigned width = 0; width < 4; width++)
		memset(&s->known[width << 8 | 1 << 6], 0, 2 << 6);
	/* An event is delivered once (SDM vol. 3, 24.8.3). */
	s->value[vmcs_slot(VMCS_ENTRY_EVENT)] &= ~(uint64_t)VMX_EVENT_VALID;
}

void vmx_learn(struct vmx *s, const struct vmx_pair *list, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		unsigned slot = vmcs_slot((enum vmcs_field)list[i].field);
		s->value[slot] = list[i].value;
		s->known[slot] = true;
	}
}

/* The machine's CPU before an instruction of the monitor's. */
static void stand_at(struct hvm *h, uint64_t ma)
{
	h->m.run->s.regs.regs = (struct kvm_regs){ .rip = ma, .rsp = HVM_STACK_MA, .rflags = FLAG_FIXED };
	h->m.run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

void vmx_stand_at_loop(struct vmx *s)
{
	stand_at(s->h, vmx_monitor_loop);
	s->at_start = false;
}

int vmx_monitor_run(struct vmx *s, bool start)
{
	struct hvm *h = s->h;
	struct machine_exit x;
	bool kicked = false;

	if (start)
		stand_at(h, vmx_monitor_start);
	else if (s->at_start)
		vmx_stand_at_loop(s);
	s->box->command = VMX_LOOK;
	s->box->status = VMX_BUSY;
	for (;;) {
		if (machine_run(&h->m, &x))
			return -ECANCELED;
		if (x.kind == MACHINE_KICKED) {
			kicked = true;
			h->m.run->immediate_exit = 0;
			continue;
		}
		if (x.kind != MACHINE_IO || !x.write || x.addr != HVM_PORT_EXIT) {
			if (x.kind == MACHINE_IO)
				hvm_monitor_stub(h, &x);
			return vm_stop(h->vm, HV_STOPPED, "the monitor did not answer (kind %d)", x.kind);
		}
		if (s->box->status == VMX_KICKED) {
			kicked = true;
			continue;
		}
		/* This was no run of the guest's: who wants the CPU back wants it still. */
		h->m.run->immediate_exit = kicked;
		return s->box->status == VMX_DONE ? 0 : vmx_failed(s);
	}
}

int vmx_look(struct vmx *s, const uint16_t *fields, unsigned n)
{
	struct vmx_mailbox *box = s->box;

	for (unsigned i = 0; i < n; i++)
		box->look_reads[i].field = fields[i];
	box->reads_ma = VMX_MAILBOX_MA + offsetof(struct vmx_mailbox, look_reads);
	box->nreads = n;
	if (vmx_monitor_run(s, false))
		return -ECANCELED;
	vmx_written(s);
	vmx_learn(s, box->look_reads, n);
	return 0;
}

int vmx_failed(struct vmx *s)
{
	/* SDM vol. 3, 30.4. */
	static const char *const errors[] = {
		[4] = "VMLAUNCH with a VMCS that is not clear",
		[5] = "VMRESUME with a VMCS that was not launched",
		[7] = "a control field is invalid (SDM vol. 3, 26.2.1)",
		[8] = "a field of the host's state is invalid (SDM vol. 3, 26.2.2)",
		[26] = "entry while events are blocked by MOV SS",
		[28] = "invalid operand to INVEPT or INVVPID",
	};
	uint64_t e = s->box->error;

	if (s->box->flags & FLAG_CF)
		return vm_stop(s->h->vm, HV_STOPPED, "the CPU does not take the region of VMXON or the VMCS, or no VMCS is current");
	if (e == 12 || e == 13)
		return vm_stop(s->h->vm, HV_STOPPED,
			       "the VMCS has no field 0x%llx, or none that can be written (VM-instruction error %llu)",
			       (unsigned long long)s->box->failed, (unsigned long long)e);
	return vm_stop(s->h->vm, HV_STOPPED, "the CPU does not take the VMCS: VM-instruction error %llu, %s", (unsigned long long)e,
		       e < sizeof errors / sizeof *errors && errors[e] ? errors[e] : "see SDM vol. 3, 30.4");
}
