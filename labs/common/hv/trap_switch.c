/*
 * The world switch of the trap engine: struct vcpu into the machine, and out of it again.
 */
#include "trap_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* The machine's MSRs. A syscall arrives through LSTAR; CPUID at CPL 3 faults where KVM offers that. */
#define MSR_MISC_FEATURES_ENABLES 0x140
#define CPUID_FAULTING 1

static int write_msrs(struct trap_engine *e)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[3];
	} msrs = {
		.head.nmsrs = 3,
		.entry = { { .index = MSR_STAR, .data = (uint64_t)MON_SS << 48 | (uint64_t)MON_CS << 32 },
			   { .index = MSR_LSTAR, .data = MONITOR_GVA + MON_SYSCALL },
			   { .index = MSR_SFMASK, .data = FLAGS_DEFINED & ~FLAG_FIXED } },
	};
	if (ioctl(e->m.vcpu_fd, KVM_SET_MSRS, &msrs) != 3)
		return machine_error(&e->m, "KVM_SET_MSRS");
	msrs.head.nmsrs = 1;
	msrs.entry[0] = (struct kvm_msr_entry){ .index = MSR_MISC_FEATURES_ENABLES, .data = CPUID_FAULTING };
	/* Without it `cpuid` is answered by KVM and the policy is not asked; `make doctor` says so. */
	ioctl(e->m.vcpu_fd, KVM_SET_MSRS, &msrs);
	return 0;
}

static int write_sregs(struct trap_engine *e, uint64_t cr3)
{
	struct kvm_sregs s;
	struct kvm_segment data = {
		.limit = ~0u, .selector = GUEST_SS, .type = 3, .present = 1, .dpl = 3, .s = 1, .db = 1, .g = 1
	};

	if (ioctl(e->m.vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_GET_SREGS");
	s.cr3 = cr3;
	s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	s.cr4 = CR4_PAE;
	s.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	s.gdt.base = MONITOR_GVA + MON_GDT;
	s.gdt.limit = MON_GDT_LIMIT;
	s.idt.base = MONITOR_GVA + MON_IDT;
	s.idt.limit = 4095;
	s.tr = (struct kvm_segment){
		.base = MONITOR_GVA + MON_TSS, .limit = 0x67, .selector = MON_TR, .type = 11, .present = 1
	};
	s.ss = s.ds = s.es = s.fs = s.gs = data;
	s.cs = data;
	s.cs.selector = GUEST_CS;
	s.cs.type = 11;
	s.cs.db = 0;
	s.cs.l = 1;
	if (ioctl(e->m.vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_SET_SREGS");
	e->special = (struct special){ .cr0 = s.cr0, .cr4 = s.cr4, .efer = s.efer };
	e->special_changed = true; /* what the guest has beyond that: in trap_enter() */
	return 0;
}

/* The machine's first tables: flat, or a shadow in which there is nothing yet but the monitor. 0 or negative, VM stopped. */
static int create_tables(struct trap_engine *e, struct vm *vm, uint64_t *cr3)
{
	if (vm->opt.shadow == SHADOW_OFF) {
		*cr3 = monitor_tables_write(e->mon + POOL_MA, vm->mem.size);
		return 0;
	}
	vm->shadow = calloc(1, sizeof *vm->shadow);
	if (!vm->shadow || spt_create(vm->shadow, vm, (enum shadow_mode)vm->opt.shadow, e->mon + POOL_MA, vm->opt.shadow_pages,
				      true))
		return vm_stop(vm, HV_HOST, "the host has not enough memory for the shadow page tables");
	struct spage *root = shadow_root(&vm->vcpu);
	if (!root)
		return -ECANCELED;
	*cr3 = vm->shadow->cr3 = root->ma;
	return 0;
}

int trap_machine_create(struct trap_engine *e, struct vm *vm, const struct boot_state *boot)
{
	struct machine *m = &e->m;
	uint64_t cr3 = 0;

	if (machine_open(m, vm))
		return -ENODEV;
	e->mon = mmap(NULL, MONITOR_SIZE + POOL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (e->mon == MAP_FAILED) {
		e->mon = NULL;
		return machine_error(m, "reserving memory for the monitor");
	}
	monitor_write(e->mon);
	boot_vcpu(&vm->vcpu, boot);
	if (create_tables(e, vm, &cr3) || machine_create(m) || machine_add_memory(m, 0, 0, e->mon, MONITOR_SIZE + POOL_SIZE) ||
	    machine_add_memory(m, TRAP_GUEST_SLOT, GUEST_MA, vm->mem.hva, vm->mem.size) || machine_add_vcpu(m))
		return -ECANCELED;
	machine_native_tsc(m);
	if (write_msrs(e) || write_sregs(e, cr3))
		return -ECANCELED;
	m->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	e->where = IN_REGS;
	return 0;
}

/* The flags that the machine runs the guest with. IOPL stays 0 (or cli would not trap), IF may show the virtual one. */
static uint64_t machine_rflags(const struct vcpu *v, const struct trap_engine *e)
{
	uint64_t f = v->rflags & FLAGS_DEFINED & ~(FLAG_IF | FLAG_IOPL | FLAG_VM | FLAG_VIF | FLAG_VIP);
	if (v->vm->opt.mirror_if)
		f |= v->rflags & FLAG_IF;
	if (e->step)
		f |= FLAG_TF;
	return f | FLAG_FIXED;
}

/* What the guest's flags are now: most are the machine's, which the guest changes freely; IF and IOPL are virtual. */
static void take_rflags(struct vcpu *v, struct trap_engine *e, uint64_t f)
{
	uint64_t virtual = FLAG_IF | FLAG_IOPL | FLAG_VIF | FLAG_VIP | (e->step ? FLAG_TF : 0);
	v->rflags = (f & ~virtual) | (v->rflags & virtual) | FLAG_FIXED;
}

static int put_special(struct vcpu *v, struct trap_engine *e)
{
	/* The FPU's bits and CR4's are the guest's own business, so the machine follows them. Alignment checks happen only
	 * at CPL 3, and the machine is always there: AM follows only while the guest is in its own CPL 3. */
	struct special want = {
		.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP | (v->cr0 & (CR0_TS | CR0_EM | CR0_MP)) |
		       (v->cpl == 3 ? v->cr0 & CR0_AM : 0),
		.cr4 = CR4_PAE | (v->cr4 & (CR4_DE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_TSD)),
		/* Only a syscall that the guest may use can be told from one that it may not: RCX and R11 are lost otherwise. */
		.efer = EFER_LME | EFER_LMA | EFER_NXE | (v->efer & EFER_SCE),
		.fs = v->seg[FS].base,
		.gs = v->seg[GS].base,
	};
	struct kvm_sregs s;

	e->special_changed = false;
	if (!memcmp(&want, &e->special, sizeof want))
		return 0;
	/* Read first: the machine may stand in a stub, at CPL 0, and its segment registers must stay as they are. */
	if (ioctl(e->m.vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_GET_SREGS");
	/* A base that hv did not change may have been changed by the guest, with a null selector. */
	if (want.fs == e->special.fs)
		want.fs = v->seg[FS].base = s.fs.base;
	if (want.gs == e->special.gs)
		want.gs = v->seg[GS].base = s.gs.base;
	s.cr0 = want.cr0;
	s.cr4 = want.cr4;
	s.efer = want.efer;
	s.fs.base = want.fs;
	s.gs.base = want.gs;
	if (ioctl(e->m.vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_SET_SREGS");
	e->special = want;
	return 0;
}

static int put_debugregs(struct vcpu *v, struct trap_engine *e)
{
	struct kvm_debugregs d = { .db = { v->dr[0], v->dr[1], v->dr[2], v->dr[3] }, .dr6 = v->dr[6], .dr7 = v->dr[7] };
	e->debugregs_changed = false;
	if (ioctl(e->m.vcpu_fd, KVM_SET_DEBUGREGS, &d) < 0)
		return machine_error(&e->m, "KVM_SET_DEBUGREGS");
	return 0;
}

static void gpr_to_kvm(struct kvm_regs *r, const uint64_t *g)
{
	r->rax = g[RAX], r->rcx = g[RCX], r->rdx = g[RDX], r->rbx = g[RBX];
	r->rbp = g[RBP], r->rsi = g[RSI], r->rdi = g[RDI];
	r->r8 = g[R8], r->r9 = g[R9], r->r10 = g[R10], r->r11 = g[R11];
	r->r12 = g[R12], r->r13 = g[R13], r->r14 = g[R14], r->r15 = g[R15];
}

/* All but RSP, which is in the frame. */
static void gpr_from_kvm(uint64_t *g, const struct kvm_regs *r)
{
	g[RAX] = r->rax, g[RCX] = r->rcx, g[RDX] = r->rdx, g[RBX] = r->rbx;
	g[RBP] = r->rbp, g[RSI] = r->rsi, g[RDI] = r->rdi;
	g[R8] = r->r8, g[R9] = r->r9, g[R10] = r->r10, g[R11] = r->r11;
	g[R12] = r->r12, g[R13] = r->r13, g[R14] = r->r14, g[R15] = r->r15;
}

/* Makes the machine stand before MON_RESUME, at CPL 0: where it stands when a stub is done. */
static int enter_monitor(struct trap_engine *e, uint64_t cr3)
{
	struct kvm_segment code = { .limit = ~0u, .selector = MON_CS, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = MON_SS, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs s;

	if (ioctl(e->m.vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_GET_SREGS");
	s.cs = code;
	s.ss = data;
	s.cr3 = cr3;
	if (ioctl(e->m.vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return machine_error(&e->m, "KVM_SET_SREGS");
	e->where = IN_MONITOR;
	return 0;
}

/* With shadow paging: the tables for the guest's present mode, and no memory of what they were before. */
static int put_root(struct vcpu *v, struct trap_engine *e)
{
	struct shadow *s = v->vm->shadow;

	if (!s)
		return 0;
	struct spage *root = shadow_root(v);
	if (!root || v->vm->stopping)
		return -ECANCELED;
	uint64_t cr3 = root->ma;
	if (cr3 == s->cr3 && !s->flush)
		return 0;
	/* Behind a kick the machine is in the guest's code, and the way to CR3 leads through the monitor. In a stub it is there already,
	 * but that way ends if what is in CR3 is no root any more: the pool may have given the page to somebody else. */
	if ((e->where == IN_REGS || !s->cr3) && enter_monitor(e, cr3))
		return -ECANCELED;
	s->cr3 = *monitor_next_cr3(e->mon) = cr3;
	s->flush = false;
	s->count.cr3_loads++;
	return 0;
}

int trap_enter(struct vcpu *v, struct trap_engine *e)
{
	struct kvm_run *run = e->m.run;
	struct kvm_regs *r = &run->s.regs.regs;
	struct trap_frame *f = monitor_frame(e->mon);
	bool dirty = false;

	if (v->cpl != e->cpl) { /* alignment checks come and go with the level: see put_special() */
		e->cpl = v->cpl;
		e->special_changed = true;
	}
	if ((e->special_changed && put_special(v, e)) || (e->debugregs_changed && put_debugregs(v, e)) || put_root(v, e))
		return -ECANCELED;
	/* Comparing is cheaper than making KVM load 16 registers after each trap that changed none. */
	uint64_t rsp = v->gpr[RSP];
	e->gpr_in[RSP] = rsp;
	if (memcmp(v->gpr, e->gpr_in, sizeof v->gpr)) {
		gpr_to_kvm(r, v->gpr);
		dirty = true;
	}
	if (e->where == IN_REGS) {
		r->rip = v->rip;
		r->rsp = rsp;
		r->rflags = machine_rflags(v, e);
		dirty = true;
	} else {
		f->rip = v->rip;
		f->cs = GUEST_CS;
		f->rflags = machine_rflags(v, e);
		f->rsp = rsp;
		f->ss = GUEST_SS;
		if (e->where == IN_MONITOR) {
			r->rip = MONITOR_GVA + MON_RESUME;
			r->rsp = MONITOR_GVA + MON_STACK_TOP - 40;
			r->rflags = FLAG_FIXED;
			dirty = true;
		}
	}
	if (dirty)
		run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	e->entry_rip = v->rip;
	return 0;
}

void trap_leave_by_frame(struct vcpu *v, struct trap_engine *e)
{
	struct trap_frame *f = monitor_frame(e->mon);

	*monitor_next_cr3(e->mon) = 0;
	gpr_from_kvm(v->gpr, &e->m.run->s.regs.regs);
	v->gpr[RSP] = f->rsp;
	v->rip = f->rip;
	/* A fault set RF for the instruction that will be tried again. It is emulated, or its exception goes to the guest, in whose frame
	 * RF is set anew: what comes behind it must not have RF (SDM vol. 3, 17.3.1.1). */
	take_rflags(v, e, f->rflags & ~FLAG_RF);
	memcpy(e->gpr_in, v->gpr, sizeof v->gpr);
	e->where = IN_FRAME;
}

static void leave_by_regs(struct vcpu *v, struct trap_engine *e, uint64_t rip, uint64_t rflags)
{
	*monitor_next_cr3(e->mon) = 0;
	gpr_from_kvm(v->gpr, &e->m.run->s.regs.regs);
	v->gpr[RSP] = e->m.run->s.regs.regs.rsp;
	v->rip = rip;
	take_rflags(v, e, rflags);
	memcpy(e->gpr_in, v->gpr, sizeof v->gpr);
}

void trap_leave_by_syscall(struct vcpu *v, struct trap_engine *e)
{
	struct kvm_regs *r = &e->m.run->s.regs.regs;

	/* SYSCALL put the return address into RCX and the flags into R11 (SDM vol. 2); the instruction is two bytes long. */
	leave_by_regs(v, e, r->rcx - 2, r->r11);
	e->where = IN_MONITOR;
}

void trap_leave_by_kick(struct vcpu *v, struct trap_engine *e)
{
	struct kvm_regs *r = &e->m.run->s.regs.regs;

	e->under_way = false;
	if (r->rip < MONITOR_GVA) {
		if (r->rip != e->entry_rip)
			v->shadow = false; /* at least one instruction has completed */
		leave_by_regs(v, e, r->rip, r->rflags);
		e->where = IN_REGS;
		return;
	}
	/* Before a stub's out the trap is still to come. Behind it (add or jmp: 48 83, e9) nothing of the guest has run since
	 * trap_enter(), and v is still what was brought in. */
	uint64_t at = r->rip - MONITOR_GVA;
	if (at < MON_SYSCALL)
		e->under_way = e->mon[at] != 0xe9 && (e->mon[at] != 0x48 || e->mon[at + 1] == 0xa3);
	else if (at < MON_RESUME)
		e->under_way = at == MON_SYSCALL;
	else {
		/* On the way back, perhaps with RAX in use: once more from its beginning. */
		e->where = IN_MONITOR;
		e->gpr_in[RAX] = ~v->gpr[RAX];
	}
}
