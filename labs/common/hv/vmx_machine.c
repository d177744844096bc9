/*
 * The VMX back end: is everything there, VMX operation and the host's part of the VMCS, and the way into the guest and out of it. What the
 * guest is left for, what an exit means and how an event goes in is Lab 3's vmx.c.
 */
#include "lab3.h"
#include "vmx_state.h"

#include <stdlib.h>
#include <sys/ioctl.h>

#define MSR_FEATURE_CONTROL 0x3a
#define FEATURE_CONTROL_LOCKED 1ull
#define FEATURE_CONTROL_VMX (1ull << 2) /* outside SMX operation */
#define MSR_VMX_BASIC 0x480
#define VMX_BASIC_TRUE_CONTROLS (1ull << 55)
#define MSR_VMX_PROC_CONTROLS 0x482
#define MSR_VMX_EPT 0x48c

/* IA32_VMX_EPT_VPID_CAP (SDM vol. 3, A.10). */
#define EPT_EXEC_ONLY (1ull << 0)
#define EPT_WALK_4 (1ull << 6)
#define EPT_WB (1ull << 14)
#define EPT_2M (1ull << 16)
#define EPT_1G (1ull << 17)
#define EPT_INVEPT (1ull << 20)
#define EPT_ACCESSED_DIRTY (1ull << 21)
#define EPT_INVEPT_SINGLE (1ull << 25)

#define CPUID1_VMX (1u << 5) /* leaf 1, ECX */
#define PAT_RESET 0x0007040600070406ull

/* What nearly every exit needs. A VMREAD of a field that KVM does not keep in a shadow VMCS for the machine (SDM vol. 3, 24.10) is an exit
 * of the machine's, so nothing else is read each time. It keeps all of these (Linux 6.1): an exit of the guest is three of the machine. */
static const uint16_t exit_fields[] = {
	VMCS_EXIT_REASON, VMCS_EXIT_QUALIFICATION, VMCS_EXIT_GPA, VMCS_EXIT_GVA, VMCS_EXIT_EVENT, VMCS_EXIT_ERROR,
	VMCS_INTERRUPTED_EVENT, VMCS_INTERRUPTED_ERROR, VMCS_EXIT_INSN_LEN, VMCS_RIP, VMCS_RSP, VMCS_RFLAGS,
	VMCS_INTERRUPTIBILITY, VMCS_ACCESS_CS, VMCS_ACCESS_SS, VMCS_CR0, VMCS_CR3, VMCS_CR4
};
#define EXIT_FIELDS (sizeof exit_fields / sizeof *exit_fields)

static bool cpuid_has_vmx(const struct hvm *h)
{
	for (unsigned i = 0; i < h->m.cpuid->nent; i++)
		if (h->m.cpuid->entries[i].function == 1)
			return h->m.cpuid->entries[i].ecx & CPUID1_VMX;
	return false;
}

/* The machine's firmware is hv: it allows VMX and locks the register. (SDM vol. 3, 23.7) */
static bool enable_vmx(struct hvm *h)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} msr = { .head.nmsrs = 1,
		  .entry[0] = { .index = MSR_FEATURE_CONTROL, .data = FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX } };

	return ioctl(h->m.vcpu_fd, KVM_SET_MSRS, &msr) == 1;
}

static int vmx_check(struct hvm *h)
{
	struct vm *vm = h->vm;
	struct vmx s = { .h = h };
	struct nested_caps *caps = &h->nested.caps;
	uint64_t basic, proc, ept = 0;

	/* VMX itself. KVM leaves it out of its CPUID table unless it was loaded with nested=1. (SDM vol. 3, 23.6) */
	if (!cpuid_has_vmx(h))
		return vm_stop(vm, HV_HOST, "this /dev/kvm's machine has no VMX (on Intel: kvm-intel must be loaded with nested=1)");

	/* IA32_FEATURE_CONTROL: without it VMXON is a #GP. */
	if (!enable_vmx(h))
		return vm_stop(vm, HV_HOST, "the machine's IA32_FEATURE_CONTROL does not let VMX be used");

	/* The "true" capability MSRs: the older ones say that controls must be set which need not be. (SDM vol. 3, A.2) */
	if (vmx_read_msr(h, MSR_VMX_BASIC, &basic))
		return -ECANCELED;
	if (!(basic & VMX_BASIC_TRUE_CONTROLS))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no IA32_VMX_TRUE_..._CTLS MSRs, which hv reads");

	/* An NMI is how hv gets the CPU back, and the guest's own must not be confused with it. (SDM vol. 3, 24.6.1) */
	if (!vmx_allows(&s, VMCS_PIN_CONTROLS, PIN_NMI | PIN_VIRTUAL_NMIS))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no NMI exiting with virtual NMIs");

	/* Windows: to be told when the guest takes an interrupt or an NMI. Bitmaps: exits for single ports and MSRs.
	 * (SDM vol. 3, 24.6.2) */
	if (!vmx_allows(&s, VMCS_PROC_CONTROLS, PROC_IRQ_WINDOW | PROC_NMI_WINDOW))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no interrupt-window and NMI-window exiting");
	if (!vmx_allows(&s, VMCS_PROC_CONTROLS, PROC_IO_BITMAPS | PROC_MSR_BITMAPS | PROC_HLT))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no I/O bitmaps, MSR bitmaps or HLT exiting");

	/* EFER and the PAT change with each entry and exit by themselves. (SDM vol. 3, 24.7.1, 24.8.1) */
	if (!vmx_allows(&s, VMCS_ENTRY_CONTROLS, ENTRY_LOAD_EFER | ENTRY_LOAD_PAT | ENTRY_LONG_MODE) ||
	    !vmx_allows(&s, VMCS_EXIT_CONTROLS, EXIT_LOAD_EFER | EXIT_SAVE_EFER | EXIT_LOAD_PAT | EXIT_HOST_64))
		return vm_stop(vm, HV_HOST, "the machine's VMX does not switch IA32_EFER and IA32_PAT, or has no 64-bit mode");

	/* Nested paging is optional only with --shadow, where the CPU walks Lab 2's tables. */
	*caps = (struct nested_caps){ .phys_bits = vm->phys_bits };
	if (h->shadow)
		return 0;

	/* Secondary controls: EPT, and a guest in real mode or without paging. The second control needs the first. (SDM vol. 3, 24.6.2) */
	if (vmx_read_msr(h, MSR_VMX_PROC_CONTROLS, &proc))
		return -ECANCELED;
	if (!(proc >> 32 & PROC_SECONDARY) || !vmx_allows(&s, VMCS_PROC2_CONTROLS, PROC2_EPT))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no EPT (kvm-intel must have ept=1); --shadow=cached works without it");
	if (!vmx_allows(&s, VMCS_PROC2_CONTROLS, PROC2_UNRESTRICTED))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no unrestricted guest (kvm-intel must have unrestricted_guest=1)");

	/* Four levels of write-back tables. (SDM vol. 3, A.10) */
	if (vmx_read_msr(h, MSR_VMX_EPT, &ept))
		return -ECANCELED;
	if (!(ept & EPT_WALK_4) || !(ept & EPT_WB))
		return vm_stop(vm, HV_HOST, "the machine's EPT does not walk four levels of tables in write-back memory");

	/* Without INVEPT a changed entry may never be noticed. (SDM vol. 3, 28.4.3.3) */
	if (!(ept & EPT_INVEPT) || !(ept & EPT_INVEPT_SINGLE))
		return vm_stop(vm, HV_HOST, "the machine's VMX has no INVEPT for a single context");

	/* The rest is taken as it is: nested tables are made without what is missing. */
	caps->exec_only = ept & EPT_EXEC_ONLY;
	caps->page_2m = ept & EPT_2M;
	caps->page_1g = ept & EPT_1G;
	caps->accessed_dirty = ept & EPT_ACCESSED_DIRTY;
	return 0;
}

/* Where the machine's CPU goes on when the guest is left: in the monitor, with the state that it has now. (SDM vol. 3, 24.5) */
static void write_host_state(struct vmx *s, const struct kvm_sregs *r)
{
	vmx_write(s, VMCS_HOST_CR0, r->cr0);
	vmx_write(s, VMCS_HOST_CR3, r->cr3);
	vmx_write(s, VMCS_HOST_CR4, r->cr4);
	vmx_write(s, VMCS_HOST_EFER, r->efer);
	vmx_write(s, VMCS_HOST_PAT, PAT_RESET);
	vmx_write(s, VMCS_HOST_CS, HVM_CS);
	for (unsigned f = VMCS_HOST_ES; f <= VMCS_HOST_GS; f += 2)
		if (f != VMCS_HOST_CS)
			vmx_write(s, f, HVM_DS);
	vmx_write(s, VMCS_HOST_TR, HVM_TR);
	vmx_write(s, VMCS_HOST_FS_BASE, 0);
	vmx_write(s, VMCS_HOST_GS_BASE, 0);
	vmx_write(s, VMCS_HOST_TR_BASE, HVM_TSS_MA);
	vmx_write(s, VMCS_HOST_GDTR_BASE, r->gdt.base);
	vmx_write(s, VMCS_HOST_IDTR_BASE, r->idt.base);
	vmx_write(s, VMCS_HOST_SYSENTER_CS, 0);
	vmx_write(s, VMCS_HOST_SYSENTER_ESP, 0);
	vmx_write(s, VMCS_HOST_SYSENTER_EIP, 0);
	vmx_write(s, VMCS_HOST_RSP, HVM_STACK_MA);
	vmx_write(s, VMCS_HOST_RIP, vmx_monitor_exit);
}

/* Fields that hv sets once and never looks at again. */
static void write_constants(struct vmx *s)
{
	vmx_write(s, VMCS_LINK_POINTER, ~0ull); /* no shadow VMCS (SDM vol. 3, 24.4.2) */
	vmx_write(s, VMCS_DEBUGCTL, 0);
	vmx_write(s, VMCS_ACTIVITY, 0); /* active: HLT always exits */
	vmx_write(s, VMCS_PF_ERROR_MASK, 0);
	vmx_write(s, VMCS_PF_ERROR_MATCH, 0);
	vmx_write(s, VMCS_CR3_TARGETS, 0);
	vmx_write(s, VMCS_EXIT_MSR_STORES, 0);
	vmx_write(s, VMCS_EXIT_MSR_LOADS, 0);
	vmx_write(s, VMCS_ENTRY_MSR_LOADS, 0);
}

static int machine_registers(struct hvm *h, struct kvm_sregs *r)
{
	if (ioctl(h->m.vcpu_fd, KVM_GET_SREGS, r) < 0)
		return machine_error(&h->m, "KVM_GET_SREGS");
	hvm_monitor_sregs(r, CR4_VMXE, 0);
	r->fs = r->gs = r->ds;
	r->tr = (struct kvm_segment){ .base = HVM_TSS_MA, .limit = 0x67, .selector = HVM_TR, .type = 11, .present = 1 };
	if (ioctl(h->m.vcpu_fd, KVM_SET_SREGS, r) < 0)
		return machine_error(&h->m, "KVM_SET_SREGS");
	return 0;
}

static int vmx_create(struct hvm *h)
{
	struct vmx *s = calloc(1, sizeof *s);
	struct kvm_sregs r;
	uint64_t basic;

	h->state = s;
	if (!s)
		return vm_stop(h->vm, HV_HOST, "the host has not enough memory");
	s->h = h;
	s->first = true;
	s->box = (struct vmx_mailbox *)(h->mon + VMX_MAILBOX_MA);
	s->io_bitmap = h->mon + (s->io_bitmap_ma = VMX_IO_BITMAP_MA);
	s->msr_bitmap = h->mon + (s->msr_bitmap_ma = VMX_MSR_BITMAP_MA);
	memset(s->io_bitmap, 0xff, 2 * PAGE);
	memset(s->msr_bitmap, 0xff, PAGE);
	hvm_monitor_write(h);
	vmx_monitor_write(h);
	if (vmx_read_msr(h, MSR_VMX_BASIC, &basic) || machine_registers(h, &r) || vmx_put_machine(s))
		return -ECANCELED;

	/* Both regions begin with the revision of VMX that they are for; the rest is the CPU's. (SDM vol. 3, 24.2, 24.11.5) */
	*(uint32_t *)(h->mon + VMX_VMXON_MA) = *(uint32_t *)(h->mon + VMX_VMCS_MA) = (uint32_t)basic & 0x7fffffff;
	s->box->vmxon_ma = VMX_VMXON_MA;
	s->box->vmcs_ma = VMX_VMCS_MA;
	for (unsigned i = 0; i < EXIT_FIELDS; i++)
		s->box->exit_reads[i].field = exit_fields[i];
	if (vmx_monitor_run(s, true))
		return -ECANCELED;
	write_host_state(s, &r);
	write_constants(s);
	if (vmx_controls(s))
		return -ECANCELED;
	s->exceptions = (uint32_t)vmx_read(s, VMCS_EXCEPTIONS);
	s->trap_flag = vmx_allows(s, VMCS_PROC_CONTROLS, PROC_TRAP_FLAG);
	return h->vm->stopping ? -ECANCELED : 0;
}

/* The CPU must forget what it knows of the nested tables. */
static int flush(struct vmx *s)
{
	struct hvm *h = s->h;

	if (hvm_replay(h))
		return -ECANCELED;
	s->at_start = true;
	s->box->invept = 1;
	s->box->invept_operand[0] = vmx_read(s, VMCS_EPT_POINTER);
	nested_flushed(&h->nested);
	return 0;
}

static int vmx_enter(struct hvm *h)
{
	struct vmx *s = h->state;

	if (!h->shadow && h->nested.flush && flush(s))
		return -ECANCELED;
	h->shadow_flush = false; /* without VPIDs each entry forgets the linear addresses (SDM vol. 3, 28.4.3.1) */
	if (vmx_put_state(s))
		return -ECANCELED;
	vmx_inject(s, &h->inject);
	vmx_windows(s, h->irq_window, h->nmi_window);
	if (s->trap_flag) /* the guest does not notice this step as it would one by RFLAGS.TF (SDM vol. 3, 25.5.2) */
		vmx_write(s, VMCS_PROC_CONTROLS,
			  (vmx_read(s, VMCS_PROC_CONTROLS) & ~(uint64_t)PROC_TRAP_FLAG) | (h->step ? PROC_TRAP_FLAG : 0));
	else
		vmx_write(s, VMCS_EXCEPTIONS, s->exceptions | (h->step ? 1u << VEC_DB : 0));
	if (h->vm->stopping)
		return -ECANCELED;
	s->box->command = VMX_ENTER;
	s->box->status = VMX_BUSY;
	s->box->reads_ma = VMX_MAILBOX_MA + offsetof(struct vmx_mailbox, exit_reads);
	s->box->nreads = EXIT_FIELDS;
	if (s->at_start)
		vmx_stand_at_loop(s);
	return 0;
}

/*
 * IRET ends the blocking of NMIs before it is complete: when it then faults, the CPU reports a guest that takes NMIs although it is still
 * in its handler. (SDM vol. 3, 27.2.3)
 */
static void block_nmis_again(struct vmx *s, const struct hvm_exit *x)
{
	bool unblocked = x->kind == HVM_EXCEPTION ? (vmx_read(s, VMCS_EXIT_EVENT) & VMX_EVENT_UNBLOCKED) && x->exception.vector != VEC_DF
						  : (x->info & QUAL_EPT_UNBLOCKED) && !x->interrupted.valid;

	if ((x->kind != HVM_EXCEPTION && x->kind != HVM_VIOLATION) || !unblocked)
		return;
	vmx_write(s, VMCS_INTERRUPTIBILITY, vmx_read(s, VMCS_INTERRUPTIBILITY) | BLOCKING_NMI);
	s->h->nmi_blocked = true;
}

/* An entry that the CPU began and gave up. */
static void explain_entry(struct vmx *s, const struct hvm_exit *x)
{
	const struct vcpu *v = &s->h->vm->vcpu;

	vm_stop(s->h->vm, HV_STOPPED,
		"the CPU does not enter the guest: its state in the VMCS is invalid (exit reason %llu, qualification %llu; the checks: "
		"SDM vol. 3, 26.3.1) at rip 0x%llx, cr0 0x%llx, cr4 0x%llx, efer 0x%llx", (unsigned long long)(x->raw & 0xffff),
		(unsigned long long)x->info, (unsigned long long)v->rip, (unsigned long long)v->cr0, (unsigned long long)v->cr4,
		(unsigned long long)v->efer);
}

static bool vmx_left(struct hvm *h, const struct machine_exit *m, struct hvm_exit *x)
{
	struct vmx *s = h->state;
	struct vmx_mailbox *box = s->box;

	if (!m->write || m->size != 1 || m->addr != HVM_PORT_EXIT || box->status == VMX_BUSY) {
		hvm_monitor_stub(h, m);
		return false;
	}
	if (box->status == VMX_KICKED) {
		/* The guest was not entered: the event that was to go in is still to go in. */
		*x = (struct hvm_exit){ .kind = HVM_KICK, .interrupted = h->inject };
		return true;
	}
	vmx_written(s);
	if (box->status == VMX_FAILED) {
		*x = (struct hvm_exit){ .kind = HVM_REFUSED, .raw = box->error };
		vmx_failed(s);
		return true;
	}
	box->invept = 0;
	vmx_forget(s);
	vmx_learn(s, box->exit_reads, EXIT_FIELDS);
	if (vmx_take_state(s))
		return false;
	*x = (struct hvm_exit){ .kind = HVM_UNKNOWN, .raw = vmx_read(s, VMCS_EXIT_REASON), .info = vmx_read(s, VMCS_EXIT_QUALIFICATION) };
	if (x->raw & REASON_FAILED_ENTRY) {
		x->kind = HVM_REFUSED;
		explain_entry(s, x);
		return true;
	}
	box->launched = 1;
	if (x->raw == REASON_TRAP_FLAG)
		x->kind = HVM_STEP;
	else
		vmx_decode_exit(s, x);
	if (h->step && x->kind == HVM_EXCEPTION && x->exception.vector == VEC_DB)
		x->kind = HVM_STEP;
	block_nmis_again(s, x);
	return true;
}

static int vmx_fetch(struct hvm *h) { return vmx_take_rest(h->state); }

static int vmx_store(struct hvm *h) { return vmx_put_machine(h->state); }

static void vmx_destroy(struct hvm *h) { free(h->state); }

const struct hvm_backend hvm_vmx = {
	.name = "vmx",
	.format = &format_ept,
	.check = vmx_check,
	.create = vmx_create,
	.enter = vmx_enter,
	.left = vmx_left,
	.fetch = vmx_fetch,
	.store = vmx_store,
	.destroy = vmx_destroy,
};
