#include "hvm_monitor.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define STUB_SIZE 16
#define STUBS 32

static uint64_t *words(struct hvm *h, uint64_t ma) { return (uint64_t *)(h->mon + ma); }

static void write_stubs(struct hvm *h)
{
	uint64_t *idt = words(h, HVM_IDT_MA);

	for (unsigned v = 0; v < STUBS; v++) {
		uint64_t at = HVM_STUBS_MA + v * STUB_SIZE;
		/* Only the NMI's stub ever returns, and an NMI has no error code. */
		uint8_t code[STUB_SIZE] = { 0xe6, (uint8_t)v, 0x48, 0xcf }; /* out %al,$v; iretq */
		memcpy(h->mon + at, code, sizeof code);
		idt[2 * v] = (at & 0xffff) | (uint64_t)HVM_CS << 16 | 0x8eull << 40 | (at >> 16 & 0xffff) << 48;
		idt[2 * v + 1] = at >> 32;
	}
}

void hvm_monitor_write(struct hvm *h)
{
	uint64_t *gdt = words(h, HVM_GDT_MA), *pml4 = words(h, HVM_PML4_MA), *pdpt = pml4 + PT_ENTRIES, *pd = pdpt + PT_ENTRIES;
	/* rsi: addresses, rcx: how many. again: jrcxz done; mov (%rsi),%rdi; mov (%rdi),%rax; mov %rax,(%rdi); add $8,%rsi; dec %rcx;
	 * jmp again; done: out %al,$HVM_PORT_REPLAYED */
	static const uint8_t replay[] = { 0xe3, 0x12, 0x48, 0x8b, 0x3e, 0x48, 0x8b, 0x07, 0x48, 0x89, 0x07, 0x48, 0x83, 0xc6, 0x08,
					  0x48, 0xff, 0xc9, 0xeb, 0xec, 0xe6, HVM_PORT_REPLAYED };

	gdt[HVM_CS / 8] = 0x00af9b000000ffff; /* 64-bit code */
	gdt[HVM_DS / 8] = 0x00cf93000000ffff;
	gdt[HVM_TR / 8] = 0x67 | (uint64_t)HVM_TSS_MA << 16 | 0x8bull << 40;
	pml4[0] = (HVM_PML4_MA + PAGE) | PTE_P | PTE_W;
	pdpt[0] = (HVM_PML4_MA + 2 * PAGE) | PTE_P | PTE_W;
	for (uint64_t ma = 0; ma < HVM_IDENTITY; ma += 2 * MiB)
		pd[ma / (2 * MiB)] = ma | PTE_P | PTE_W | PTE_PS;
	write_stubs(h);
	memcpy(h->mon + HVM_REPLAY_MA, replay, sizeof replay);
}

void hvm_monitor_sregs(struct kvm_sregs *s, uint64_t cr4, uint64_t efer)
{
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = HVM_PML4_MA;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | cr4;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE | efer;
	s->gdt.base = HVM_GDT_MA;
	s->gdt.limit = HVM_TR + 15;
	s->idt.base = HVM_IDT_MA;
	s->idt.limit = STUBS * 16 - 1;
	s->cs = (struct kvm_segment){ .limit = ~0u, .selector = HVM_CS, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	s->ss = (struct kvm_segment){ .limit = ~0u, .selector = HVM_DS, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	s->ds = s->es = s->ss;
}

int hvm_forget_tables(struct hvm *h)
{
	struct kvm_userspace_memory_region slot = { .slot = 0, .userspace_addr = (uintptr_t)h->mon };

	/* Deleting a slot makes KVM drop all that it derived from any memory. */
	if (ioctl(h->m.vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return machine_error(&h->m, "KVM_SET_USER_MEMORY_REGION");
	return machine_add_memory(&h->m, 0, 0, h->mon, HVM_MONITOR_SIZE + HVM_POOL_SIZE);
}

int hvm_replay(struct hvm *h)
{
	struct nested *n = &h->nested;
	struct machine_exit x;
	bool kicked = false;
	unsigned count = n->nchanges <= NESTED_CHANGES ? n->nchanges : 0;

	if (n->nchanges > NESTED_CHANGES && hvm_forget_tables(h))
		return -ECANCELED;
	n->nchanges = 0;
	if (!count)
		return 0;
	for (unsigned i = 0; i < count; i++)
		words(h, HVM_LIST_MA)[i] = n->pool_ma + (uint64_t)((uint8_t *)n->change[i] - n->pool);
	h->m.run->s.regs.regs = (struct kvm_regs){
		.rip = HVM_REPLAY_MA, .rsi = HVM_LIST_MA, .rcx = count, .rsp = HVM_STACK_MA, .rflags = FLAG_FIXED
	};
	h->m.run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	do {
		h->m.run->immediate_exit = 0;
		if (machine_run(&h->m, &x))
			return -ECANCELED;
		if (x.kind == MACHINE_IO && x.addr == HVM_PORT_REPLAYED) {
			h->m.run->immediate_exit |= kicked; /* whoever wanted the CPU still does */
			return 0;
		}
		kicked |= x.kind == MACHINE_KICKED;
	} while (x.kind == MACHINE_KICKED || (x.kind == MACHINE_IO && hvm_monitor_stub(h, &x)));
	return vm_stop(h->vm, HV_STOPPED, "the monitor did not come back from storing the nested tables' entries (kind %d)", x.kind);
}

bool hvm_monitor_stub(struct hvm *h, const struct machine_exit *x)
{
	if (x->write && x->size == 1 && x->addr == HVM_PORT_NMI)
		return true;
	if (x->write && x->size == 1 && x->addr < STUBS)
		vm_stop(h->vm, HV_STOPPED,
			"the monitor itself faulted (%s, machine's rsp 0x%llx): the control structure holds something impossible",
			vector_name((uint8_t)x->addr), (unsigned long long)h->m.run->s.regs.regs.rsp);
	else
		vm_stop(h->vm, HV_STOPPED, "the guest reached a real port of the machine (0x%llx): the I/O bitmap has a hole",
			(unsigned long long)x->addr);
	return false;
}

void hvm_gpr_to_kvm(struct kvm_regs *r, const uint64_t *g)
{
	r->rcx = g[RCX], r->rdx = g[RDX], r->rbx = g[RBX], r->rbp = g[RBP], r->rsi = g[RSI], r->rdi = g[RDI];
	r->r8 = g[R8], r->r9 = g[R9], r->r10 = g[R10], r->r11 = g[R11];
	r->r12 = g[R12], r->r13 = g[R13], r->r14 = g[R14], r->r15 = g[R15];
}

void hvm_gpr_from_kvm(uint64_t *g, const struct kvm_regs *r)
{
	g[RCX] = r->rcx, g[RDX] = r->rdx, g[RBX] = r->rbx, g[RBP] = r->rbp, g[RSI] = r->rsi, g[RDI] = r->rdi;
	g[R8] = r->r8, g[R9] = r->r9, g[R10] = r->r10, g[R11] = r->r11;
	g[R12] = r->r12, g[R13] = r->r13, g[R14] = r->r14, g[R15] = r->r15;
}

int hvm_msrs(struct hvm *h, bool read)
{
	struct vcpu *v = &h->vm->vcpu;
	static const uint32_t index[] = { MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK, MSR_KERNEL_GS_BASE };
	uint64_t *const value[] = { &v->msr.star, &v->msr.lstar, &v->msr.cstar, &v->msr.sfmask, &v->msr.kernel_gs_base };
	enum { COUNT = sizeof index / sizeof *index };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[COUNT];
	} msrs = { .head.nmsrs = COUNT };

	for (unsigned i = 0; i < COUNT; i++)
		msrs.entry[i] = (struct kvm_msr_entry){ .index = index[i], .data = *value[i] };
	if (ioctl(h->m.vcpu_fd, read ? KVM_GET_MSRS : KVM_SET_MSRS, &msrs) != COUNT)
		return machine_error(&h->m, read ? "KVM_GET_MSRS" : "KVM_SET_MSRS");
	for (unsigned i = 0; i < COUNT && read; i++)
		*value[i] = msrs.entry[i].data;
	return 0;
}
