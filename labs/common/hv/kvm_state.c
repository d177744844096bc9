#include "kvm_state.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

struct segment segment_from_kvm(const struct kvm_segment *k)
{
	return (struct segment){
		.selector = k->selector,
		.base = k->base,
		.limit = k->limit,
		.attr = (uint16_t)(k->type | k->s << 4 | k->dpl << 5 | k->present << 7 | k->avl << 12 | k->l << 13 | k->db << 14 |
				   k->g << 15),
	};
}

struct kvm_segment segment_to_kvm(const struct segment *s)
{
	return (struct kvm_segment){
		.selector = s->selector, .base = s->base, .limit = s->limit, .type = s->attr & SEG_TYPE, .s = !!(s->attr & SEG_S),
		.dpl = (s->attr & SEG_DPL) >> 5, .present = !!(s->attr & SEG_P), .avl = s->attr >> 12 & 1, .l = !!(s->attr & SEG_L),
		.db = !!(s->attr & SEG_DB), .g = !!(s->attr & SEG_G), .unusable = !(s->attr & SEG_P),
	};
}

int kvm_get_vcpu(struct machine *m, struct vcpu *v)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	struct kvm_debugregs d;

	if (ioctl(m->vcpu_fd, KVM_GET_REGS, &r) < 0 || ioctl(m->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	uint64_t g[16] = { r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15 };
	memcpy(v->gpr, g, sizeof g);
	v->rip = r.rip;
	v->rflags = r.rflags;
	v->seg[ES] = segment_from_kvm(&s.es);
	v->seg[CS] = segment_from_kvm(&s.cs);
	v->seg[SS] = segment_from_kvm(&s.ss);
	v->seg[DS] = segment_from_kvm(&s.ds);
	v->seg[FS] = segment_from_kvm(&s.fs);
	v->seg[GS] = segment_from_kvm(&s.gs);
	v->ldtr = segment_from_kvm(&s.ldt);
	v->tr = segment_from_kvm(&s.tr);
	v->gdtr = (struct dtable){ s.gdt.base, s.gdt.limit };
	v->idtr = (struct dtable){ s.idt.base, s.idt.limit };
	v->cr0 = s.cr0;
	v->cr2 = s.cr2;
	v->cr3 = s.cr3;
	v->cr4 = s.cr4;
	v->cr8 = s.cr8;
	v->efer = s.efer;
	v->cpl = s.cs.dpl;
	if (ioctl(m->vcpu_fd, KVM_GET_DEBUGREGS, &d) == 0) {
		memcpy(v->dr, d.db, sizeof d.db);
		v->dr[6] = d.dr6;
		v->dr[7] = d.dr7;
	}
	return 0;
}

int kvm_set_vcpu(struct machine *m, const struct vcpu *v, const char **call)
{
	const uint64_t *g = v->gpr;
	struct kvm_regs r = {
		.rax = g[RAX], .rcx = g[RCX], .rdx = g[RDX], .rbx = g[RBX], .rsp = g[RSP], .rbp = g[RBP], .rsi = g[RSI], .rdi = g[RDI],
		.r8 = g[R8], .r9 = g[R9], .r10 = g[R10], .r11 = g[R11], .r12 = g[R12], .r13 = g[R13], .r14 = g[R14], .r15 = g[R15],
		.rip = v->rip, .rflags = v->rflags
	};
	struct kvm_sregs s;

	if (ioctl(m->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cr0 = v->cr0;
	s.cr2 = v->cr2;
	s.cr3 = v->cr3;
	s.cr4 = v->cr4;
	s.cr8 = v->cr8;
	s.efer = v->efer;
	s.es = segment_to_kvm(&v->seg[ES]), s.cs = segment_to_kvm(&v->seg[CS]), s.ss = segment_to_kvm(&v->seg[SS]);
	s.ds = segment_to_kvm(&v->seg[DS]), s.fs = segment_to_kvm(&v->seg[FS]), s.gs = segment_to_kvm(&v->seg[GS]);
	s.ldt = segment_to_kvm(&v->ldtr), s.tr = segment_to_kvm(&v->tr);
	s.gdt = (struct kvm_dtable){ .base = v->gdtr.base, .limit = v->gdtr.limit };
	s.idt = (struct kvm_dtable){ .base = v->idtr.base, .limit = v->idtr.limit };
	*call = "KVM_SET_SREGS";
	if (ioctl(m->vcpu_fd, KVM_SET_SREGS, &s) < 0)
		return -errno;
	*call = "KVM_SET_REGS";
	return ioctl(m->vcpu_fd, KVM_SET_REGS, &r) < 0 ? -errno : 0;
}

int kvm_translate_gva(struct machine *m, uint64_t gva, uint64_t *gpa)
{
	struct kvm_translation t = { .linear_address = gva };

	if (ioctl(m->vcpu_fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
		return -EFAULT;
	*gpa = t.physical_address;
	return 0;
}
