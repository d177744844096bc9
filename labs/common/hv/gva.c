#include "gva.h"
#include "engine.h"
#include "lab2.h"
#include "legacy_walk.h"
#include "segment.h"
#include "trapengine.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

bool raise_exception(struct vcpu *v, uint8_t vector)
{
	v->event = (struct event){ .pending = true, .kind = EVENT_EXCEPTION, .vector = vector };
	return false;
}

bool raise_error(struct vcpu *v, uint8_t vector, uint32_t error)
{
	v->event = (struct event){
		.pending = true, .kind = EVENT_EXCEPTION, .vector = vector, .has_error = true, .error = error
	};
	if (v->vm->all_modes && !(v->cr0 & CR0_PE))
		v->event.has_error = false;
	return false;
}

bool raise_page_fault(struct vcpu *v, uint64_t gva, uint32_t error)
{
	v->cr2 = gva;
	return raise_error(v, VEC_PF, error);
}

/* Do the guest's page tables count? */
static bool guest_paging(const struct vcpu *v)
{
	return v->vm->all_modes ? v->cr0 & CR0_PG : v->vm->shadow != NULL;
}

/* Are they those of the modes before long mode? Asked only when they count. */
static bool guest_legacy(const struct vcpu *v)
{
	return v->vm->all_modes && legacy_paging(v);
}

int gva_translate(const struct vcpu *v, uint64_t gva, uint64_t *gpa)
{
	struct walk w;

	if (!guest_paging(v)) {
		*gpa = gva;
		return gva < FLAT_LIMIT ? 0 : -EFAULT;
	}
	if (!canonical(gva) || (guest_legacy(v) ? legacy_walk(v, gva, &w) : guest_walk(v, gva, &w)))
		return -EFAULT;
	*gpa = w.gpa;
	return 0;
}

unsigned gva_peek(const struct vcpu *v, uint64_t gva, void *dst, unsigned len)
{
	unsigned done = 0;
	uint64_t gpa;

	while (done < len && !gva_translate(v, gva + done, &gpa)) {
		uint64_t left = PAGE - gpa % PAGE;
		unsigned n = len - done < left ? len - done : (unsigned)left;
		if (guest_read(&v->vm->mem, gpa, (uint8_t *)dst + done, n))
			break;
		done += n;
	}
	return done;
}

/* Bytes that nothing but the device bus can answer; the bus takes naturally sized pieces. */
static void mmio(struct vm *vm, uint64_t gpa, uint8_t *buf, unsigned len, bool write)
{
	pthread_mutex_lock(&vm->lock);
	while (len) {
		unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
		uint64_t value = 0;
		if (write) {
			memcpy(&value, buf, n);
			bus_write(&vm->mmio, gpa, n, value);
		} else {
			bus_read(&vm->mmio, gpa, n, &value);
			memcpy(buf, &value, n);
		}
		gpa += n;
		buf += n;
		len -= n;
	}
	pthread_mutex_unlock(&vm->lock);
}

/* One page of an access: where it is. false: the fault is queued. */
static bool translate_page(struct vcpu *v, uint64_t gva, unsigned access, uint64_t *gpa)
{
	struct walk w;

	if (!guest_paging(v)) {
		uint32_t error = (access & ACCESS_WRITE ? PF_W : 0) | (access & ACCESS_USER ? PF_U : 0);
		return !gva_translate(v, gva, gpa) || raise_page_fault(v, gva, error);
	}
	bool legacy = guest_legacy(v);
	if (legacy ? legacy_translate(v, gva, access, &w) : guest_translate(v, gva, access, &w))
		return raise_page_fault(v, gva, w.error);
	if (legacy)
		legacy_mark(v, &w, access);
	else
		walk_mark(v, &w, access);
	*gpa = w.gpa;
	return true;
}

/* An access is in two pages at most. first: how many bytes are in the first of them. */
struct place {
	uint64_t gpa[2];
	unsigned first;
};

/* Both pages are looked at before anything is written: an access that faults half way has no effect. */
static bool check_gva(struct vcpu *v, uint64_t gva, unsigned len, unsigned access, struct place *at)
{
	uint64_t last = gva + len - 1, second = (gva | (PAGE - 1)) + 1;

	if (!canonical(gva) || !canonical(last))
		return raise_error(v, VEC_GP, 0);
	uint64_t align = len & -len; /* of a structure, what its smallest part needs; nothing needs more than 8 */
	if ((access & ACCESS_USER) && (v->cr0 & CR0_AM) && (v->rflags & FLAG_AC) && gva % (align < 8 ? align : 8))
		return raise_error(v, VEC_AC, 0);
	at->first = second - gva < len ? (unsigned)(second - gva) : len;
	if (v->vm->all_modes && !(v->efer & EFER_LMA)) /* linear addresses have 32 bits: behind the last comes 0 */
		second = (uint32_t)second;
	return translate_page(v, gva, access, &at->gpa[0]) && (at->first == len || translate_page(v, second, access, &at->gpa[1]));
}

static void access_gpa(struct vm *vm, uint64_t gpa, uint8_t *buf, unsigned len, bool write)
{
	uint8_t *p = guest_range(&vm->mem, gpa, len);

	if (!p) {
		mmio(vm, gpa, buf, len, write);
	} else if (!write) {
		memcpy(buf, p, len);
	} else {
		memcpy(p, buf, len);
		guest_written(&vm->mem, gpa, len);
		if (vm->shadow) /* the guest may have meant one of its page tables */
			shadow_written(&vm->vcpu, gpa, len);
		else if (vm->engine && vm->engine->memory_written) /* writes may be logged */
			vm->engine->memory_written(vm, gpa, len);
	}
}

static bool access_gva(struct vcpu *v, uint64_t gva, void *buf, unsigned len, unsigned access)
{
	struct place at;

	if (!len)
		return true;
	if (!check_gva(v, gva, len, access, &at))
		return false;
	access_gpa(v->vm, at.gpa[0], buf, at.first, access & ACCESS_WRITE);
	if (at.first < len)
		access_gpa(v->vm, at.gpa[1], (uint8_t *)buf + at.first, len - at.first, access & ACCESS_WRITE);
	return true;
}

/* The guest's own accesses are its level's. */
static unsigned level_of(const struct vcpu *v) { return v->cpl == 3 ? ACCESS_USER : 0; }

bool gva_read(struct vcpu *v, uint64_t gva, void *dst, unsigned len)
{
	return access_gva(v, gva, dst, len, level_of(v));
}

bool gva_write(struct vcpu *v, uint64_t gva, const void *src, unsigned len)
{
	return access_gva(v, gva, (void *)src, len, ACCESS_WRITE | level_of(v));
}

static bool stack_fault(struct vcpu *v)
{
	return v->event.vector == VEC_GP ? raise_error(v, VEC_SS, 0) : false;
}

bool stack_read(struct vcpu *v, uint64_t offset, void *dst, unsigned len)
{
	uint64_t gva;

	return segment_gva(v, SS, offset, len, false, &gva) && (gva_read(v, gva, dst, len) || stack_fault(v));
}

bool stack_write(struct vcpu *v, uint64_t offset, const void *src, unsigned len)
{
	uint64_t gva;

	return segment_gva(v, SS, offset, len, true, &gva) && (gva_write(v, gva, src, len) || stack_fault(v));
}

bool gva_writable(struct vcpu *v, uint64_t gva, unsigned len)
{
	struct place at;

	return check_gva(v, gva, len, ACCESS_WRITE | level_of(v), &at);
}

bool gva_read_system(struct vcpu *v, uint64_t gva, void *dst, unsigned len)
{
	return access_gva(v, gva, dst, len, ACCESS_SYSTEM);
}

bool gva_write_system(struct vcpu *v, uint64_t gva, const void *src, unsigned len)
{
	return access_gva(v, gva, (void *)src, len, ACCESS_WRITE | ACCESS_SYSTEM);
}

/*
 * Decoding costs more than anything else between two traps, and a guest traps at the same few places again and again. So
 * decoded instructions are remembered by address, and used again as long as the bytes there are the same.
 */
#define CACHE_SLOTS 1024
static struct insn cache[CACHE_SLOTS];

/* The page at gva, for fetching: its bytes in *bytes, how many in *avail. false: an exception is queued, or the VM is stopped. */
static bool fetch_page(struct vcpu *v, uint64_t gva, const uint8_t **bytes, uint64_t *avail)
{
	struct guest_mem *mem = &v->vm->mem;
	uint64_t gpa;

	/* Lab 1's flat memory, and nothing there; or an instruction that reaches over the end of memory. Without NX a CPU does not say that
	 * it was a fetch (SDM vol. 3, 4.7). */
	if (!v->vm->all_modes && !v->vm->shadow && (gva >= FLAT_LIMIT || (gva >= mem->size && gva != v->rip)))
		return raise_page_fault(v, gva, (v->efer & EFER_NXE ? PF_I : 0) | (v->cpl == 3 ? PF_U : 0));
	if (!translate_page(v, gva, ACCESS_FETCH | level_of(v), &gpa))
		return false;
	if (gpa >= mem->size) {
		vm_stop(v->vm, HV_STOPPED, "the guest jumped to 0x%llx, where there is no memory", (unsigned long long)gva);
		return false;
	}
	*avail = PAGE - gpa % PAGE;
	*bytes = guest_range(mem, gpa, *avail);
	return true;
}

bool insn_fetch(struct vcpu *v, struct insn *insn)
{
	const uint8_t *bytes, *more;
	uint8_t both[2 * INSN_MAX];
	uint64_t avail, n, gva = insn_gva(v);
	unsigned mode = insn_mode(v);

	if (!canonical(gva))
		return raise_error(v, VEC_GP, 0);
	if (!fetch_page(v, gva, &bytes, &avail))
		return false;
	struct insn *c = &cache[(gva ^ gva >> 10) % CACHE_SLOTS];
	if (c->len && c->len <= avail && c->mode == mode && !memcmp(c->bytes, bytes, c->len)) {
		*insn = *c;
		return true;
	}
	int err = insn_decode(bytes, avail, mode, insn);
	if (err == -E2BIG) { /* it ends in the next page */
		memcpy(both, bytes, avail);
		if (!fetch_page(v, mode == 64 ? gva + avail : (uint32_t)(gva + avail), &more, &n))
			return false;
		memcpy(both + avail, more, INSN_MAX);
		return !insn_decode(both, avail + INSN_MAX, mode, insn) || raise_exception(v, VEC_UD);
	}
	if (err)
		return raise_exception(v, VEC_UD);
	*c = *insn;
	return true;
}

uint64_t gpr_read(const struct vcpu *v, unsigned reg, unsigned size)
{
	uint64_t mask = size >= 8 ? ~0ull : (1ull << size * 8) - 1;
	return v->gpr[reg] & mask;
}

void gpr_write(struct vcpu *v, unsigned reg, unsigned size, uint64_t value)
{
	if (size >= 4) {
		v->gpr[reg] = size == 4 ? (uint32_t)value : value;
	} else {
		uint64_t mask = (1ull << size * 8) - 1;
		v->gpr[reg] = (v->gpr[reg] & ~mask) | (value & mask);
	}
}

/* Where an operand in memory is. */
static bool operand_place(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size, bool write, uint64_t *gva)
{
	return segment_gva(v, o->segment, operand_offset(v, insn, o), size, write, gva);
}

bool operand_read(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size, uint64_t *value)
{
	uint64_t gva;

	*value = 0;
	switch (o->kind) {
	case OPND_GPR:
		*value = o->high8 ? gpr_read(v, o->reg, 2) >> 8 : gpr_read(v, o->reg, size);
		return true;
	case OPND_IMM:
		*value = o->imm;
		return true;
	case OPND_MEM:
		/* RSP and RBP as base mean the stack (SDM vol. 1, table 3-5). */
		return operand_place(v, insn, o, size, false, &gva) &&
		       (gva_read(v, gva, value, size) || (o->segment == SS && stack_fault(v)));
	default:
		return raise_exception(v, VEC_UD);
	}
}

bool operand_write(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size, uint64_t value)
{
	uint64_t gva;

	switch (o->kind) {
	case OPND_GPR:
		if (o->high8)
			gpr_write(v, o->reg, 2, gpr_read(v, o->reg, 1) | (value & 0xff) << 8);
		else
			gpr_write(v, o->reg, size, value);
		return true;
	case OPND_MEM:
		return operand_place(v, insn, o, size, true, &gva) &&
		       (gva_write(v, gva, &value, size) || (o->segment == SS && stack_fault(v)));
	default:
		return raise_exception(v, VEC_UD);
	}
}

bool operand_writable(struct vcpu *v, const struct insn *insn, const struct operand *o, unsigned size)
{
	uint64_t gva;

	if (o->kind != OPND_MEM)
		return o->kind == OPND_GPR || raise_exception(v, VEC_UD);
	return operand_place(v, insn, o, size, true, &gva) && (gva_writable(v, gva, size) || (o->segment == SS && stack_fault(v)));
}

bool descriptor_read(struct vcpu *v, uint16_t selector, bool wide, uint8_t vector, struct descriptor *d)
{
	unsigned offset = selector & ~7u, len = wide ? 16 : 8;
	uint64_t base = v->gdtr.base, limit = v->gdtr.limit;

	if (selector & 4) { /* TI: the LDT (SDM vol. 3, 3.4.2) */
		base = v->ldtr.base;
		limit = v->ldtr.attr & SEG_P ? v->ldtr.limit : 0;
	}
	if (offset + len - 1 > limit)
		return raise_error(v, vector, selector & 0xfffc);
	d->gva = base + offset;
	d->hi = 0;
	return gva_read_system(v, d->gva, &d->lo, 8) && (!wide || gva_read_system(v, d->gva + 8, &d->hi, 8));
}

void segment_from_descriptor(struct segment *s, uint16_t selector, const struct descriptor *d)
{
	s->selector = selector;
	s->attr = descriptor_attr(d);
	s->base = (d->lo >> 16 & 0xffffff) | (d->lo >> 32 & 0xff000000) | d->hi << 32;
	s->limit = (d->lo & 0xffff) | (d->lo >> 32 & 0xf0000);
	if (s->attr & SEG_G)
		s->limit = s->limit << 12 | 0xfff;
}
