#include "segment.h"
#include "gva.h"

/* Bits of a code or data segment's type (SDM vol. 3, 3.4.5.1). */
#define TYPE_CODE 8u
#define TYPE_DOWN 4u /* data: expands down, the limit is its lower end */
#define TYPE_RW 2u   /* data: may be written; code: may be read */

static bool within_limit(const struct segment *s, uint64_t offset, unsigned len)
{
	uint64_t last = offset + len - 1; /* neither wraps: an offset has 32 bits here */

	if ((s->attr & (TYPE_CODE | TYPE_DOWN)) == TYPE_DOWN)
		return offset > s->limit && last <= (s->attr & SEG_DB ? ~0u : 0xffff);
	return last <= s->limit;
}

/* In real and virtual-8086 mode only the limit counts (SDM vol. 3, 20.1.1 and 20.2). */
static bool type_allows(const struct vcpu *v, const struct segment *s, bool write)
{
	if (!(v->cr0 & CR0_PE) || (v->rflags & FLAG_VM))
		return true;
	if (!(s->attr & SEG_P)) /* how a null selector is kept */
		return false;
	if (s->attr & TYPE_CODE)
		return !write && (s->attr & TYPE_RW);
	return !write || (s->attr & TYPE_RW);
}

bool segment_gva(struct vcpu *v, unsigned sreg, uint64_t offset, unsigned len, bool write, uint64_t *gva)
{
	const struct segment *s = &v->seg[sreg];

	if (insn_mode(v) == 64) {
		*gva = sreg == FS || sreg == GS ? offset + segment_base(v, sreg) : offset;
		return true;
	}
	if (!type_allows(v, s, write) || !within_limit(s, offset, len))
		return raise_error(v, sreg == SS ? VEC_SS : VEC_GP, 0);
	*gva = (uint32_t)(s->base + offset);
	return true;
}
