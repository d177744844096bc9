#include "dump_tables.h"
#include "dump_html.h"
#include "dump_nested.h"
#include "dump_walk.h"
#include "engine.h"
#include "trapengine.h"

#include <errno.h>

#define RUNS_MAX 200 /* lines for ranges, and for shadow pages */
#define SHADOW_LINES_MAX 100

static const char *on_off(bool on) { return on ? "on" : "off"; }

/* What the tables are read with, and what there is beside them. */
static void head(const struct dump *d, FILE *out)
{
	const struct vcpu *v = &d->v;

	fprintf(out, "cr3 0x%llx; CR0.WP %s, EFER.NXE %s, CR4.SMEP %s, CR4.SMAP %s, CR4.PGE %s, RFLAGS.AC %s\n",
		(unsigned long long)v->cr3, on_off(v->cr0 & CR0_WP), on_off(v->efer & EFER_NXE), on_off(v->cr4 & CR4_SMEP),
		on_off(v->cr4 & CR4_SMAP), on_off(v->cr4 & CR4_PGE), on_off(v->rflags & FLAG_AC));
	if (d->shadow)
		fprintf(out, "--shadow=%s: ma = gpa + 0x%llx; a shadow's upper entries allow everything, its leaves (4 KiB each) decide\n",
			d->shadow->mode == SHADOW_VTLB ? "vtlb" : "cached", GUEST_MA);
	else if (d->vm->engine == &engine_trap)
		fprintf(out, "memory is flat (--shadow=off): gpa = gva below 4 GiB, ma = gpa + 0x%llx; the guest's tables are not used\n",
			GUEST_MA);
	else
		fputs("the machine walks the guest's tables itself: there is no shadow, and ma = gpa\n", out);
}

/* Where an entry lies, what it holds, and in words. */
static void entry_columns(FILE *out, const char *whose, const char *space, uint64_t at, uint64_t entry, unsigned level)
{
	fprintf(out, "  %-14s %3s 0x%-10llx  0x%016llx  %s", whose, space, (unsigned long long)at, (unsigned long long)entry,
		dump_bits(entry, level).s);
}

static void shadow_line(const struct dump *d, const struct dump_path *path, unsigned level, enum dump_whose whose, FILE *out)
{
	const struct dump_side *side = &path->side[whose];
	const struct spage *p = side->at[level];
	char name[20];

	if (!p)
		return;
	unsigned slot = level_index(path->gva, level);
	snprintf(name, sizeof name, "shadow, %s", dump_whose_names[whose]);
	entry_columns(out, name, "ma", p->ma + slot * 8, p->table[slot], level);
	fprintf(out, "  (%s; %s)%s\n", dump_shadow_of(d->shadow, p).s, dump_role(d->shadow, p).s,
		p->table[slot] && !spt_present(d->shadow, p, slot) ? ", leads to the monitor only" : "");
}

/* What the way leads to, and who may do what there. */
static void guest_result(const struct dump_path *path, FILE *out)
{
	uint64_t gpa = path->w.gpa;

	if (path->err) {
		fprintf(out, "  %-14s no translation: %s, a page fault for every access\n", "guest", dump_fault(&path->w));
		return;
	}
	fprintf(out, "  %-14s gpa 0x%llx%s", "guest", (unsigned long long)gpa,
		path->memory ? "" : " (no memory there: a device's address, or nobody's)");
	if (path->memory)
		fprintf(out, ", hva: guest memory + 0x%llx", (unsigned long long)gpa);
	fprintf(out, "; kernel %s, user %s\n", dump_rights(path->side[DUMP_KERNEL].guest).s, dump_rights(path->side[DUMP_USER].guest).s);
}

static void shadow_result(const struct dump_path *path, enum dump_whose whose, FILE *out)
{
	const struct dump_side *side = &path->side[whose];
	char name[20];

	snprintf(name, sizeof name, "shadow, %s", dump_whose_names[whose]);
	fprintf(out, "  %-14s ", name);
	if (side->leaf) {
		uint64_t gpa = dump_leaf_gpa(side, path->gva);
		fprintf(out, "ma 0x%llx = gpa 0x%llx + 0x%llx; ", (unsigned long long)(gpa + GUEST_MA), (unsigned long long)gpa, GUEST_MA);
	}
	fprintf(out, "%s %s: it %s\n", dump_whose_names[whose], dump_rights(side->shadow).s, dump_verdict(side->verdict));
}

void dump_print_way(struct dump *d, uint64_t gva, FILE *out)
{
	struct dump_path path;

	dump_path(d, gva, &path);
	fprintf(out, "Tables of 0x%llx, at the guest's end\n", (unsigned long long)gva);
	head(d, out);
	for (unsigned level = PT_LEVELS; level >= 1; level--) {
		bool guest = path.err != -ECANCELED && level >= path.w.level;
		if (!guest && !path.side[DUMP_KERNEL].at[level] && !path.side[DUMP_USER].at[level])
			continue;
		fprintf(out, "%s[%u]\n", dump_level_names[level], level_index(gva, level));
		if (guest)
			entry_columns(out, "guest", "gpa", path.w.at[level].gpa, path.w.at[level].entry, level);
		else if (path.err != -ECANCELED)
			fprintf(out, "  %-14s none: %s", "guest", path.err ? "the walk has ended" : "a piece of the large page above");
		fputs(path.err != -ECANCELED ? "\n" : "", out);
		for (enum dump_whose whose = 0; whose < DUMP_SIDES; whose++)
			shadow_line(d, &path, level, whose, out);
	}
	fputs("page\n", out);
	if (path.err != -ECANCELED)
		guest_result(&path, out);
	if (!d->shadow && d->vm->engine == &engine_trap && gva < 4 * GiB)
		fprintf(out, "  %-14s ma 0x%llx = gpa 0x%llx + 0x%llx\n", "flat memory", (unsigned long long)(gva + GUEST_MA),
			(unsigned long long)gva, GUEST_MA);
	for (enum dump_whose whose = 0; d->shadow && whose < DUMP_SIDES; whose++)
		shadow_result(&path, whose, out);
}

struct listing {
	FILE *out;
	bool shadow;
	uint64_t runs, older, broken;
	bool scattered; /* one that is shown is */
};

/* "12, 3 w": so many leaves, so many of these writable. */
static struct dump_text count_text(const struct dump_count *c)
{
	struct dump_text t = { "-" };

	if (c->leaves)
		snprintf(t.s, sizeof t.s, "%llu, %llu w%s", (unsigned long long)c->leaves, (unsigned long long)c->writable,
			 c->broken ? " !!" : c->older ? " !" : "");
	return t;
}

static void run_line(void *opaque, const struct dump_run *run)
{
	static const char *const sizes[] = { "", "", "4K", "", "2M", "", "2M+4K", "", "1G", "", "1G+4K", "", "1G+2M", "", "all" };
	struct listing *l = opaque;

	for (enum dump_whose whose = 0; whose < DUMP_SIDES; whose++) {
		l->older += run->count[whose].older;
		l->broken += run->count[whose].broken;
	}
	if (l->runs++ >= RUNS_MAX)
		return;
	l->scattered |= run->scattered;
	fprintf(l->out, "%016llx-%016llx ", (unsigned long long)run->gva, (unsigned long long)(run->gva + run->size - 1));
	if (run->mapped)
		fprintf(l->out, "%9llx%c%-9llx r%c%c %-6s %s", (unsigned long long)run->gpa, run->scattered ? '~' : '-',
			(unsigned long long)run->last, run->writable ? 'w' : '-', run->nx ? '-' : 'x', run->user ? "user" : "kernel",
			sizes[run->levels & 14]);
	else
		fputs("              -      ---        -", l->out);
	fputs(run->mapped && !run->memory ? " (no memory)" : "", l->out);
	if (l->shadow)
		fprintf(l->out, "  | kernel %s | user %s", count_text(&run->count[DUMP_KERNEL]).s, count_text(&run->count[DUMP_USER]).s);
	fputc('\n', l->out);
}

static void shadow_pages(const struct dump *d, FILE *out)
{
	const struct shadow *s = d->shadow;
	unsigned used = s->npages - s->free, shown = 0;

	fprintf(out, "shadow pages: %u of %u in use\n%-10s %-5s %7s  %s\n", used, s->npages, "ma", "level", "entries",
		"shadow of; role");
	for (unsigned level = PT_LEVELS; level >= 1; level--)
		for (unsigned i = 0; i < s->npages; i++) {
			const struct spage *p = &s->pages[i];
			if (p->used && role_level(p->role) == level && shown++ < SHADOW_LINES_MAX)
				fprintf(out, "0x%-8llx %-5s %7u  %s; %s\n", (unsigned long long)p->ma, dump_level_names[level], p->entries,
					dump_shadow_of(s, p).s, dump_role(s, p).s);
		}
	if (used > SHADOW_LINES_MAX)
		fprintf(out, "... and %u more shadow pages\n", used - SHADOW_LINES_MAX);
}

static void dump_all(struct dump *d, FILE *out)
{
	struct listing l = { .out = out, .shadow = d->shadow };
	uint64_t next;

	fputs("Tables of the whole address space, at the guest's end\n", out);
	head(d, out);
	if (!d->unwalkable) {
		fprintf(out, "%-33s %13s %12s %s%s\n", "gva", "gpa", "rights", "pages",
			d->shadow ? "  | shadows: leaves, writable ones" : "");
		bool whole = dump_runs(d, run_line, &l, &next);
		if (l.scattered)
			fputs("~ the pages lie in this range, but not in this order or not all of it\n", out);
		if (l.runs > RUNS_MAX)
			fprintf(out, "... and %llu more ranges\n", (unsigned long long)(l.runs - RUNS_MAX));
		if (!whole && !d->step[0])
			fprintf(out, "... and more from gva 0x%llx on: these tables map too much to be listed\n", (unsigned long long)next);
	}
	if (l.older)
		fprintf(out, "! %llu shadow entries are older than the guest's tables: each %s\n", (unsigned long long)l.older,
			dump_verdict(DUMP_OLDER));
	if (l.broken)
		fprintf(out, "!! %llu shadow entries: each %s\n", (unsigned long long)l.broken, dump_verdict(DUMP_BROKEN));
	if (d->shadow)
		shadow_pages(d, out);
}

void dump_tables(struct vm *vm, FILE *out, FILE *html)
{
	static struct dump d; /* a struct vm is large */

	dump_begin(&d, vm);
	bool nested = vm->engine == &engine_hvm && !vm->shadow && vm->engine_state;
	if (nested && vm->opt.dump == DUMP_ALL)
		dump_nested_all(&d, out);
	else if (nested)
		dump_nested_way(&d, vm->opt.dump_gva, out);
	else if (vm->opt.dump == DUMP_ALL)
		dump_all(&d, out);
	else
		dump_print_way(&d, vm->opt.dump_gva, out);
	if (d.unwalkable)
		fprintf(out, "no walk: %s\n", d.unwalkable);
	if (d.step[0])
		fprintf(out, "no walk: %s\n", d.step);
	if (html) /* without an address: where the guest was */
		dump_html(&d, vm->opt.dump == DUMP_ALL ? d.v.rip : vm->opt.dump_gva, html);
}
