/*
 * The hvm engine with --shadow: nested paging is off, and the CPU walks Lab 2's shadows while the guest runs.
 *
 * Lab 2 was written for a guest that never leaves CPL 3, and makes two sets of tables: one with the kernel's rights, one with the
 * programs'. Here the guest changes its CPL without an exit, so the wrong set may be in use. Both are safe then: in the kernel's no
 * leaf has the U bit, in the programs' there is nothing that CPL 3 may not touch but what spt_set_leaf() is told to make for the CPU's
 * own accesses. An access that only the other set allows faults, and the set is changed: one exit for most changes of CPL, which is the
 * price of using these tables here.
 *
 * The machine's CR0.WP and EFER.NXE are always on, whatever the guest's are: Lab 2's leaves rely on them. Its CR4.SMEP is the guest's, so
 * that the kernel does not execute a program's page in the programs' tables. SMAP is not offered: STAC and CLAC do not exit, and the set
 * to use would depend on AC.
 */
#include "lab1.h"
#include "lab3.h"
#include "shadow_paging.h"

#include <stdlib.h>

_Static_assert(HVM_POOL_MA == POOL_MA && HVM_POOL_SIZE == POOL_SIZE, "the shadows' pool lies where the nested tables' does");

int hvm_shadow_create(struct hvm *h)
{
	struct vm *vm = h->vm;

	vm->shadow = calloc(1, sizeof *vm->shadow);
	if (!vm->shadow || spt_create(vm->shadow, vm, (enum shadow_mode)vm->opt.shadow, h->mon + HVM_POOL_MA, vm->opt.shadow_pages, false))
		return vm_stop(vm, HV_HOST, "the host has not enough memory for the shadow page tables");
	h->shadow_cr4 = vm->vcpu.cr4;
	h->shadow_efer = vm->vcpu.efer;
	return 0;
}

void hvm_shadow_destroy(struct hvm *h)
{
	if (h->vm->shadow)
		spt_destroy(h->vm->shadow);
	free(h->vm->shadow);
	h->vm->shadow = NULL;
}

/* The root for the guest's present level, or the kernel's. */
static struct spage *choose_root(struct vcpu *v, bool kernel)
{
	unsigned cpl = v->cpl;

	if (kernel)
		v->cpl = 0;
	struct spage *root = shadow_root(v);
	v->cpl = cpl;
	return v->vm->stopping ? NULL : root;
}

int hvm_shadow_root(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);
	struct shadow *s = shadow_of(v);

	if (!(v->cr0 & CR0_PG) || !(v->efer & EFER_LMA))
		return vm_stop(v->vm, HV_STOPPED,
			       "at rip 0x%llx the guest runs without page tables of four levels, and Lab 2's shadows are made of such "
			       "tables only: without --shadow the hvm engine runs it", (unsigned long long)v->rip);
	/* What a CPU's TLB would notice. (CR3: hvm_set_cr()) */
	if (v->cr4 != h->shadow_cr4 || v->efer != h->shadow_efer)
		shadow_control_changed(v, v->cr4 ^ h->shadow_cr4, v->efer ^ h->shadow_efer);
	h->shadow_cr4 = v->cr4;
	h->shadow_efer = v->efer;
	if (h->inject.valid) /* the handler's instructions come first, not the one that may store to a page of tables */
		shadow_store_over(v);
	/* An event that comes at CPL 3 is delivered with accesses of the kernel's. */
	struct spage *root = choose_root(v, h->inject.valid);
	if (!root)
		return -ECANCELED;
	if (root->ma != s->cr3 || s->flush) {
		h->shadow_cr3 = s->cr3 = root->ma;
		h->shadow_flush = true;
		s->flush = false;
		s->count.cr3_loads++;
	}
	return 0;
}

/* The CPU's own accesses at CPL 3 (to the GDT, when a program loads a segment register) need the kernel's rights while the program's
 * instruction is fetched: a leaf among the programs' that CPL 3 cannot reach. */
static int fill_system(struct vcpu *v, uint64_t gva, unsigned access)
{
	struct shadow *s = shadow_of(v);
	struct walk w;

	if (guest_translate(v, gva, access, &w))
		return v->vm->stopping ? -ECANCELED : 0;
	w.user = true; /* or there would be no leaf */
	w.writable |= !(v->cr0 & CR0_WP);
	s->system = true;
	int err = shadow_fill(v, gva, &w);
	s->system = false;
	return err;
}

/* Lab 1 carries the instruction out: int n, or a load of a segment register. */
static int carry_out(struct vcpu *v)
{
	struct hvm *h = hvm_of(v);
	struct insn insn;

	if (hvm_fetch(v))
		return -ECANCELED;
	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	struct segment fs = v->seg[FS], gs = v->seg[GS];
	if (emulate(v, &insn))
		return -ECANCELED;
	/* The back ends bring these two in only when they are told. */
	bool changed = memcmp(&fs, &v->seg[FS], sizeof fs) || memcmp(&gs, &v->seg[GS], sizeof gs);
	return changed ? h->backend->store(h) : 0;
}

static int emulate_access(struct vcpu *v, uint64_t gva, unsigned access)
{
	uint64_t rip = v->rip;

	if (access & ACCESS_SYSTEM)
		return carry_out(v);
	if (hvm_fetch(v) || shadow_emulate(v, gva, access))
		return -ECANCELED;
	if (shadow_of(v)->store.armed)
		hvm_of(v)->hidden = true;
	else if (v->rip != rip)
		hvm_completed(v);
	return 0;
}

static bool allows(const uint64_t *leaf, unsigned access)
{
	return leaf && (!(access & ACCESS_WRITE) || (*leaf & PTE_W)) && (!(access & ACCESS_FETCH) || !(*leaf & PTE_NX)) &&
	       (!(access & ACCESS_USER) || (*leaf & PTE_U));
}

static int page_fault(struct vcpu *v, const struct hvm_exit *x)
{
	struct hvm *h = hvm_of(v);
	struct shadow *s = shadow_of(v);
	uint64_t gva = x->exception.address;
	bool user = x->exception.error & PF_U, system = v->cpl == 3 && !user;
	bool software = x->interrupted.type == HVM_SOFT_INTR || x->interrupted.type == HVM_SOFT_EXCEPTION;
	bool delivery = x->interrupted.valid && !software;
	unsigned access = (x->exception.error & PF_W ? ACCESS_WRITE : 0) | (x->exception.error & PF_I ? ACCESS_FETCH : 0) |
			  (user ? ACCESS_USER : system ? ACCESS_SYSTEM : 0);

	/* The program's instruction and the kernel's tables, code and stack: no set has both. */
	if (x->interrupted.valid && software)
		return carry_out(v);
	/* A handler at CPL 3: its stack is the program's, and the IDT is not. */
	if (delivery && user)
		return hvm_deliver(v);

	struct spage *before = s->root, *root = choose_root(v, delivery);
	if (!root)
		return -ECANCELED;
	if (root != before && allows(spt_leaf(s, root, gva), access)) {
		s->count.switches++;
		h->hidden = true;
		trap_note(v, "hidden: the other root has 0x%llx", (unsigned long long)gva);
		return 0;
	}
	unsigned cpl = v->cpl;
	if (system)
		v->cpl = 0;
	enum fault_action action = shadow_resolve(v, gva, access);
	v->cpl = cpl;
	switch (action) {
	case FAULT_RETRY:
		h->hidden = true;
		return system && !delivery ? fill_system(v, gva, access) : 0;
	case FAULT_RAISED:
		return delivery ? hvm_deliver(v) : 0;
	case FAULT_EMULATE:
		return delivery ? hvm_deliver(v) : emulate_access(v, gva, access);
	default:
		return -ECANCELED;
	}
}

static int invlpg(struct vcpu *v, const struct hvm_exit *x)
{
	struct insn insn;

	if (hvm_fetch(v))
		return -ECANCELED;
	if (!insn_fetch(v, &insn))
		return v->vm->stopping ? -ECANCELED : 0;
	switch (dispatch(v, &insn)) {
	case EMU_STOP: return -ECANCELED;
	case EMU_NEXT: return hvm_skip(v, x);
	default: return 0;
	}
}

int hvm_shadow_exit(struct vcpu *v, const struct hvm_exit *x)
{
	if (v->vm->shadow && x->kind == HVM_INVLPG)
		return invlpg(v, x);
	if (v->vm->shadow && x->kind == HVM_EXCEPTION && x->exception.vector == VEC_PF)
		return page_fault(v, x);
	return vm_stop(v->vm, HV_STOPPED, "the guest was left for %s at rip 0x%llx, which hv did not ask for",
		       x->kind == HVM_INVLPG ? "INVLPG" : vector_name(x->exception.vector), (unsigned long long)v->rip);
}
