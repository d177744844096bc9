#include "dump_walk.h"
#include "engine.h"
#include "lab2.h"
#include "vm_life.h"

#include <stdarg.h>

/* Walks and looks at shadow entries before dump_runs() gives up: enough for 1 GiB in pages of 4 KiB, and a second in the test host. */
#define STEPS_MAX (1u << 18)

#define CR4_LA57 (1ull << 12)

const char *const dump_level_names[PT_LEVELS + 1] = { "page", "PT", "PD", "PDPT", "PML4" };
const char *const dump_whose_names[DUMP_SIDES] = { "kernel", "user" };

/* Was the last call of a lab's function answered by a step that is not written? */
static bool step_missing(struct dump *d)
{
	bool missing = d->lab.stopping;

	if (missing && !d->step[0])
		snprintf(d->step, sizeof d->step, "%.*s", (int)sizeof d->step - 1, d->lab.reason);
	d->lab.stopping = 0;
	return missing;
}

/* The root that the machine would use at this level now. Where the lab does not know yet which one that is, nothing can have run. */
static struct spage *find_root(struct dump *d, unsigned cpl)
{
	uint64_t key = d->shadow->mode == SHADOW_CACHED ? (d->v.cr3 & PTE_ADDR) / PAGE : 0;
	uint32_t mode;

	d->v.cpl = cpl;
	mode = shadow_mode_role(&d->v);
	if (d->lab.stopping) {
		d->lab.stopping = 0;
		return NULL;
	}
	return spt_find(d->shadow, key, mode | ROLE_MONITOR | PT_LEVELS);
}

void dump_begin(struct dump *d, struct vm *vm)
{
	*d = (struct dump){ .vm = vm, .v = { .vm = vm }, .shadow = vm->shadow };
	if (vm->engine->get_state(vm, &d->v))
		d->unwalkable = "the state of the guest's CPU cannot be read";
	else if (!(d->v.cr0 & CR0_PG) || !(d->v.efer & EFER_LMA))
		d->unwalkable = "the guest is not in 64-bit mode with paging on";
	else if (d->v.cr4 & CR4_LA57)
		d->unwalkable = "the guest's tables have five levels (CR4.LA57), and the walk of Lab 2 knows four";
	d->lab.opt = vm->opt;
	d->lab.mem = vm->mem;
	d->lab.phys_bits = vm->phys_bits;
	d->lab.shadow = vm->shadow;
	vm_init(&d->lab);
	d->v.vm = &d->lab;
	if (d->shadow) {
		d->root[DUMP_KERNEL] = find_root(d, 0);
		d->root[DUMP_USER] = find_root(d, 3);
	}
}

/* guest_walk(), whose answers may be wrong in a student's tree: levels that do not exist must not lead us astray. */
static int walk(struct dump *d, uint64_t gva, struct walk *w)
{
	int err = guest_walk(&d->v, gva, w);

	if (step_missing(d))
		return -ECANCELED;
	if (w->level < 1 || w->level > PT_LEVELS) {
		if (!d->step[0])
			snprintf(d->step, sizeof d->step, "guest_walk() in walk.c ends at level %u, and there are 1 to 4", w->level);
		return -ECANCELED;
	}
	return err;
}

static unsigned guest_rights(struct dump *d, const struct walk *w, enum dump_whose whose)
{
	unsigned user = whose == DUMP_USER ? ACCESS_USER : 0, rights;

	d->v.cpl = whose == DUMP_USER ? 3 : 0;
	rights = (walk_allows(&d->v, w, user) ? DUMP_R : 0) | (walk_allows(&d->v, w, user | ACCESS_WRITE) ? DUMP_W : 0) |
		 (walk_allows(&d->v, w, user | ACCESS_FETCH) ? DUMP_X : 0);
	return step_missing(d) ? 0 : rights;
}

/* The machine's CPL is 3 whatever the guest's is, so without U a leaf allows nothing. */
static unsigned leaf_rights(uint64_t leaf)
{
	if (!(leaf & PTE_P) || !(leaf & PTE_U))
		return 0;
	return DUMP_R | (leaf & PTE_W ? DUMP_W : 0) | (leaf & PTE_NX ? 0 : DUMP_X);
}

/* Is there a shadow that relies on this guest page's content? */
static bool protected(struct shadow *s, uint64_t gfn)
{
	for (struct spage *p = spt_next_of(s, gfn, NULL); p; p = spt_next_of(s, gfn, p))
		if (!p->unsync)
			return s->mode == SHADOW_CACHED;
	return false;
}

/* A leaf that is there. w NULL: the guest's tables have no translation. */
static enum dump_verdict judge_leaf(struct dump *d, const struct walk *w, uint64_t gpa, unsigned guest, const struct spage *p,
				    unsigned slot)
{
	unsigned shadow = leaf_rights(p->table[slot]);

	if (d->step[0] || d->unwalkable)
		return DUMP_UNKNOWN;
	if (!w || spt_leaf_gpa(p, slot) != (gpa & ~(PAGE - 1)) || (shadow & ~guest) || ((shadow & DUMP_W) && !w->dirty))
		return d->shadow->mode == SHADOW_CACHED && !p->unsync ? DUMP_BROKEN : DUMP_OLDER;
	if (!(guest & ~shadow))
		return DUMP_SAME;
	if ((guest & ~shadow) != DUMP_W)
		return DUMP_NARROWER;
	return !w->dirty ? DUMP_NOT_DIRTY : protected(d->shadow, gpa / PAGE) ? DUMP_TABLE : DUMP_NARROWER;
}

static void shadow_side(struct dump *d, enum dump_whose whose, struct dump_path *path)
{
	struct dump_side *side = &path->side[whose];
	const struct spage *p = d->root[whose];

	for (; p; p = spt_child(d->shadow, p, level_index(path->gva, side->level))) {
		side->level = role_level(p->role);
		side->at[side->level] = p;
		if (side->level == 1)
			break;
	}
	side->leaf = p && spt_present(d->shadow, p, level_index(path->gva, 1));
	if (side->leaf)
		side->shadow = leaf_rights(p->table[level_index(path->gva, 1)]);
	if (side->leaf)
		side->verdict = judge_leaf(d, path->err ? NULL : &path->w, path->w.gpa, side->guest, p, level_index(path->gva, 1));
	else if (d->step[0] || d->unwalkable)
		side->verdict = DUMP_UNKNOWN;
	else if (!side->guest)
		side->verdict = DUMP_SAME;
	else if (path->gva >= MONITOR_GVA)
		side->verdict = DUMP_MONITOR;
	else if (!path->memory)
		side->verdict = DUMP_DEVICE;
	else
		side->verdict = d->root[whose] ? DUMP_NOT_FILLED : DUMP_NO_ROOT;
}

void dump_path(struct dump *d, uint64_t gva, struct dump_path *path)
{
	*path = (struct dump_path){ .gva = gva, .err = -ECANCELED };
	if (!d->unwalkable)
		path->err = walk(d, gva, &path->w);
	path->memory = !path->err && guest_range(&d->vm->mem, path->w.gpa & ~(PAGE - 1), PAGE);
	for (enum dump_whose whose = 0; whose < DUMP_SIDES; whose++) {
		if (!path->err)
			path->side[whose].guest = guest_rights(d, &path->w, whose);
		if (d->shadow)
			shadow_side(d, whose, path);
	}
}

uint64_t dump_leaf_gpa(const struct dump_side *side, uint64_t gva)
{
	return spt_leaf_gpa(side->at[1], level_index(gva, 1)) | (gva & (PAGE - 1));
}

/* --- all of the address space -------------------------------------------------------------------------------------------- */

struct survey {
	struct dump *d;
	unsigned steps;
	struct dump_run run; /* size 0: none yet */
	void (*fn)(void *opaque, const struct dump_run *run);
	void *opaque;
};

/* Counts the leaves in `slots` slots of p from `slot` on. They are pieces of the page that w maps, or should not be there (w NULL). */
static void count_leaves(struct survey *s, enum dump_whose whose, const struct spage *p, unsigned slot, unsigned slots,
			 const struct walk *w, uint64_t gpa, unsigned guest, struct dump_count *count)
{
	uint64_t size = level_size(role_level(p->role));

	for (; slots && s->steps < STEPS_MAX; slots--, slot++, gpa += size) {
		s->steps++;
		if (!spt_present(s->d->shadow, p, slot))
			continue;
		if (role_level(p->role) > 1) {
			count_leaves(s, whose, spt_child(s->d->shadow, p, slot), 0, PT_ENTRIES, w, gpa, guest, count);
			continue;
		}
		enum dump_verdict verdict = judge_leaf(s->d, w, gpa, guest, p, slot);
		count->leaves++;
		count->writable += !!(p->table[slot] & PTE_W);
		count->older += verdict == DUMP_OLDER;
		count->broken += verdict == DUMP_BROKEN;
	}
}

/* Counts what the shadows hold of a range of level_size(level) bytes. */
static void count_range(struct survey *s, uint64_t gva, unsigned level, const struct walk *w, struct dump_run *run)
{
	for (enum dump_whose whose = 0; whose < DUMP_SIDES; whose++) {
		const struct spage *p = s->d->root[whose];
		while (p && role_level(p->role) > level)
			p = spt_child(s->d->shadow, p, level_index(gva, role_level(p->role)));
		if (p)
			count_leaves(s, whose, p, level_index(gva, level), 1, w, w ? w->gpa : 0,
				     w ? guest_rights(s->d, w, whose) : 0, &run->count[whose]);
	}
}

/* May b be told in one breath with a, which lies before it? */
static bool continues(const struct dump_run *a, const struct dump_run *b)
{
	return a->size && a->mapped == b->mapped && a->gva + a->size == b->gva &&
	       (!a->mapped || (a->writable == b->writable && a->user == b->user && a->nx == b->nx && a->memory == b->memory));
}

static void end_run(struct survey *s)
{
	if (s->run.size)
		s->fn(s->opaque, &s->run);
	s->run.size = 0;
}

static void add_range(struct survey *s, const struct dump_run *next)
{
	if (!continues(&s->run, next)) {
		end_run(s);
		s->run = *next;
		return;
	}
	s->run.scattered |= s->run.last + 1 != next->gpa;
	s->run.gpa = next->gpa < s->run.gpa ? next->gpa : s->run.gpa;
	s->run.last = next->last > s->run.last ? next->last : s->run.last;
	s->run.size += next->size;
	s->run.levels |= next->levels;
	for (enum dump_whose whose = 0; whose < DUMP_SIDES; whose++) {
		struct dump_count *to = &s->run.count[whose];
		const struct dump_count *from = &next->count[whose];
		to->leaves += from->leaves;
		to->writable += from->writable;
		to->older += from->older;
		to->broken += from->broken;
	}
}

bool dump_runs(struct dump *d, void (*fn)(void *opaque, const struct dump_run *run), void *opaque, uint64_t *next)
{
	struct survey s = { .d = d, .fn = fn, .opaque = opaque };
	uint64_t at = 0, end = 1ull << 48; /* in order without the sign bits, which are the same as bit 47 */

	while (at < end && s.steps++ < STEPS_MAX) {
		uint64_t gva = (uint64_t)((int64_t)(at << 16) >> 16);
		struct walk w;
		int err = walk(d, gva, &w);
		if (err == -ECANCELED)
			break;
		struct dump_run run = { .gva = gva, .size = level_size(w.level), .mapped = !err };
		if (!err) {
			run.gpa = w.gpa;
			run.last = w.gpa + run.size - 1;
			run.writable = w.writable;
			run.user = w.user;
			run.nx = w.nx;
			run.levels = 1u << w.level;
			run.memory = guest_range(&d->vm->mem, w.gpa, PAGE);
		}
		if (d->shadow)
			count_range(&s, gva, w.level, err ? NULL : &w, &run);
		if (!err || run.count[DUMP_KERNEL].leaves || run.count[DUMP_USER].leaves)
			add_range(&s, &run);
		at = (at | (run.size - 1)) + 1;
	}
	end_run(&s);
	*next = (uint64_t)((int64_t)(at << 16) >> 16);
	return at >= end;
}

/* --- words --------------------------------------------------------------------------------------------------------------- */

/* Adds words, with a blank between them. */
static __attribute__((format(printf, 2, 3))) void add(struct dump_text *t, const char *fmt, ...)
{
	size_t used = strlen(t->s);
	va_list ap;

	if (used && used + 1 < sizeof t->s)
		t->s[used++] = ' ';
	va_start(ap, fmt);
	vsnprintf(t->s + used, sizeof t->s - used, fmt, ap);
	va_end(ap);
}

struct dump_text dump_bits(uint64_t entry, unsigned level)
{
	bool large = level > 1 && level < 4 && (entry & PTE_PS), leaf = level == 1 || large;
	const struct {
		const char *name;
		bool set;
	} bits[] = {
		{ "P", entry & PTE_P }, { "W", entry & PTE_W }, { "U", entry & PTE_U }, { "A", entry & PTE_A },
		{ "D", leaf && (entry & PTE_D) }, { "PS", large }, { "G", leaf && (entry & PTE_G) }, { "NX", entry & PTE_NX },
	};
	struct dump_text t = { "" };

	for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++)
		if (bits[i].set)
			add(&t, "%s", bits[i].name);
	return t.s[0] ? t : (struct dump_text){ "-" };
}

struct dump_text dump_rights(unsigned rights)
{
	struct dump_text t = { { rights & DUMP_R ? 'r' : '-', rights & DUMP_W ? 'w' : '-', rights & DUMP_X ? 'x' : '-' } };
	return t;
}

struct dump_text dump_shadow_of(const struct shadow *s, const struct spage *p)
{
	unsigned level = role_level(p->role);
	uint64_t size = level < PT_LEVELS ? level_size(level + 1) : 1ull << 48, first = p->key * size;
	struct dump_text t = { "" };

	if (s->mode == SHADOW_CACHED && (p->role & ROLE_DIRECT))
		add(&t, "pieces of a large page, gpa 0x%llx-0x%llx", (unsigned long long)(p->key * PAGE),
		    (unsigned long long)(p->key * PAGE + size - 1));
	else if (s->mode == SHADOW_CACHED)
		add(&t, "the guest's table in gfn 0x%llx", (unsigned long long)p->key);
	else if (level == PT_LEVELS)
		add(&t, "all of the address space");
	else
		add(&t, "gva 0x%llx-0x%llx", (unsigned long long)((int64_t)(first << 16) >> 16),
		    (unsigned long long)((int64_t)((first + size - 1) << 16) >> 16));
	return t;
}

struct dump_text dump_role(const struct shadow *s, const struct spage *p)
{
	const struct {
		uint32_t bit;
		const char *name;
	} roles[] = {
		{ ROLE_WP, "WP" }, { ROLE_SMEP, "SMEP" }, { ROLE_SMAP, "SMAP" }, { ROLE_NO_WRITE, "no-write" },
		{ ROLE_NO_USER, "no-user" }, { ROLE_NO_EXEC, "no-exec" }, { ROLE_CLEAN, "clean" },
	};
	struct dump_text t = { "" };

	add(&t, "%s", dump_whose_names[p->role & ROLE_USER ? DUMP_USER : DUMP_KERNEL]);
	for (unsigned i = 0; i < sizeof roles / sizeof *roles; i++)
		if (p->role & roles[i].bit)
			add(&t, "%s", roles[i].name);
	if (p->unsync)
		add(&t, "unsync");
	if (p == s->root)
		snprintf(t.s + strlen(t.s), sizeof t.s - strlen(t.s), ", in use");
	return t;
}

const char *dump_verdict(enum dump_verdict verdict)
{
	switch (verdict) {
	case DUMP_SAME: return "allows the same as the guest's tables";
	case DUMP_UNKNOWN: return "cannot be compared with the guest's tables";
	case DUMP_NO_ROOT: return "does not exist in the present mode: nothing has run there, or its root was given away";
	case DUMP_NOT_FILLED: return "is not filled here yet: the first access is a hidden fault";
	case DUMP_DEVICE: return "stays empty here: there is no memory at this gpa, hv carries such instructions out";
	case DUMP_MONITOR: return "belongs to the monitor here: the last 2 MiB are no guest's (address-space compression)";
	case DUMP_NOT_DIRTY: return "is read-only until the first write, which must set D in the guest's entry (not dirty yet)";
	case DUMP_TABLE: return "is write-protected here because this guest page is one of the guest's page tables";
	case DUMP_NARROWER: return "still has what the guest's tables allowed when it was filled: the next fault widens it";
	case DUMP_OLDER:
		return "has what the guest's tables do not allow any more: right if the guest has not flushed since, else the invariant is "
		       "violated";
	default: return "has what the guest's tables do not allow, and they have not changed unseen: the invariant is violated";
	}
}

const char *dump_fault(const struct walk *w)
{
	return w->error & PF_RSVD ? "a reserved bit is set" : "the entry is not present";
}
