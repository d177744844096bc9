#include "dump_nested.h"
#include "lab3.h"

#define LINES_MAX 200

static struct hvm *hvm_of_dump(const struct dump *d) { return d->vm->engine_state; }

static const char *const sizes[] = { "", "4K", "2M", "1G" };

static struct dump_text nested_rights(unsigned rights)
{
	struct dump_text t;

	snprintf(t.s, sizeof t.s, "%c%c%c", rights & NESTED_R ? 'r' : '-', rights & NESTED_W ? 'w' : '-', rights & NESTED_X ? 'x' : '-');
	return t;
}

static void head(const struct dump *d, FILE *out)
{
	const struct hvm *h = hvm_of_dump(d);
	const struct nested *n = &h->nested;

	fprintf(out, "nested paging, %s: root %s 0x%llx, %u tables; gpa 0 is ma 0x%llx; cr3 0x%llx\n", h->backend->format->name,
		n->format == &format_ept ? "(EPT pointer)" : "(nCR3)", (unsigned long long)n->format->root(n), n->used,
		(unsigned long long)h->guest_ma, (unsigned long long)d->v.cr3);
}

/* The nested entries of one gpa, a line each, and how the walk ended. */
static void nested_lines(struct dump *d, uint64_t gpa, FILE *out)
{
	struct nested *n = &hvm_of_dump(d)->nested;
	struct nested_walk w;

	nested_walk(n, gpa, 0, &w);
	for (unsigned level = PT_LEVELS; w.level && level >= w.level; level--) {
		const struct nested_entry *e = &w.at[level];
		fprintf(out, "    nested %4s[%3u]  ma 0x%-9llx  0x%016llx  ", dump_level_names[level], level_index(gpa, level),
			(unsigned long long)nested_slot_ma(n, w.slot[level]), (unsigned long long)*w.slot[level]);
		switch (e->kind) {
		case NESTED_ABSENT: fputs("absent: the first access is a violation\n", out); break;
		case NESTED_INVALID: fputs("not valid\n", out); break;
		case NESTED_TABLE: fprintf(out, "table, %s\n", nested_rights(e->rights).s); break;
		case NESTED_PAGE:
			fprintf(out, "page of %s, %s%s%s -> ma 0x%llx\n", sizes[level], nested_rights(e->rights).s, e->accessed ? " A" : "",
				e->dirty ? " D" : "", (unsigned long long)w.ma);
		}
	}
}

static void guest_entry(struct dump *d, const struct walk *w, unsigned level, uint64_t gva, FILE *out)
{
	fprintf(out, "%s[%u]: guest's entry at gpa 0x%llx\n", dump_level_names[level], level_index(gva, level),
		(unsigned long long)w->at[level].gpa);
	nested_lines(d, w->at[level].gpa, out);
	fprintf(out, "    holds 0x%016llx  %s\n", (unsigned long long)w->at[level].entry, dump_bits(w->at[level].entry, level).s);
}

/* What both dimensions allow. */
static void combined(struct dump *d, const struct dump_path *path, FILE *out)
{
	struct nested *n = &hvm_of_dump(d)->nested;
	struct nested_walk w;

	nested_walk(n, path->w.gpa, 0, &w);
	if (!path->memory) {
		fprintf(out, "combined: no memory at gpa 0x%llx: a violation, and hv's device bus answers\n",
			(unsigned long long)path->w.gpa);
		return;
	}
	if (w.end != WALK_OK) {
		fprintf(out, "combined: gpa 0x%llx is not mapped now: the next access is a violation\n", (unsigned long long)path->w.gpa);
		return;
	}
	unsigned level = path->w.level < w.level ? path->w.level : w.level;
	fprintf(out, "combined: gva 0x%llx -> gpa 0x%llx -> ma 0x%llx; kernel %s, user %s; one TLB entry covers %s\n",
		(unsigned long long)path->gva, (unsigned long long)path->w.gpa, (unsigned long long)w.ma,
		dump_rights(path->side[DUMP_KERNEL].guest & w.rights).s,
		dump_rights(path->side[DUMP_USER].guest & w.rights).s, sizes[level]);
}

static void references(struct dump *d, uint64_t gva, FILE *out)
{
	struct reference refs[REFERENCES_MAX];
	struct nested *n = &hvm_of_dump(d)->nested;
	struct vm *vm = n->vm;

	n->vm = &d->lab; /* a step that is not written stops the copy */
	unsigned count = twodim_walk(&d->v, n, gva, refs), data = 0;
	n->vm = vm;
	if (d->lab.stopping) {
		fprintf(out, "references: %s\n", d->lab.reason);
		return;
	}
	fputs("references in order:", out);
	for (unsigned i = 0; i < count; i++) {
		const struct reference *r = &refs[i];
		if (r->what == REF_NESTED)
			fprintf(out, " n%u", r->level);
		else if (r->what == REF_GUEST)
			fprintf(out, " G%u", r->guest_level);
		else
			fputs(" data", out);
		data += r->what == REF_DATA;
	}
	fprintf(out, "\n%u references for the translation (G: an entry of the guest's, n: of the nested tables, by level)%s\n",
		count - data, data ? "" : ", which does not come to its end");
}

void dump_nested_way(struct dump *d, uint64_t gva, FILE *out)
{
	struct dump_path path;

	fprintf(out, "Tables of 0x%llx, at the guest's end\n", (unsigned long long)gva);
	head(d, out);
	if (d->unwalkable) { /* without paging, or with other tables: what the guest calls linear and physical */
		nested_lines(d, gva, out);
		return;
	}
	dump_path(d, gva, &path);
	if (path.err == -ECANCELED)
		return;
	for (unsigned level = PT_LEVELS; level >= path.w.level; level--)
		guest_entry(d, &path.w, level, gva, out);
	if (path.err) {
		fprintf(out, "guest: no translation: %s, a page fault for every access\n", dump_fault(&path.w));
	} else {
		fprintf(out, "page: gpa 0x%llx, page of %s; guest's tables: kernel %s, user %s\n", (unsigned long long)path.w.gpa,
			sizes[path.w.level], dump_rights(path.side[DUMP_KERNEL].guest).s, dump_rights(path.side[DUMP_USER].guest).s);
		nested_lines(d, path.w.gpa, out);
		combined(d, &path, out);
	}
	references(d, gva, out);
}

struct range {
	uint64_t gpa, size, ma;
	unsigned level, rights;
	uint64_t accessed, dirty; /* pages with that bit */
};

static void range_line(const struct range *r, unsigned *lines, FILE *out)
{
	uint64_t pages = r->level ? r->size / level_size(r->level) : 0;

	if (!r->level || (*lines)++ >= LINES_MAX)
		return;
	fprintf(out, "%012llx-%012llx  %012llx  %s  %s  %7llu %8llu %8llu\n", (unsigned long long)r->gpa,
		(unsigned long long)(r->gpa + r->size - 1), (unsigned long long)r->ma, nested_rights(r->rights).s, sizes[r->level],
		(unsigned long long)pages, (unsigned long long)r->accessed, (unsigned long long)r->dirty);
}

void dump_nested_all(struct dump *d, FILE *out)
{
	struct hvm *h = hvm_of_dump(d);
	struct range now = { 0 };
	unsigned lines = 0;

	fputs("Nested tables, at the guest's end\n", out);
	head(d, out);
	fprintf(out, "%-25s  %-12s  %-3s  %-4s%7s %8s %8s\n", "gpa", "ma", "", "size", "pages", "accessed", "dirty");
	for (uint64_t gpa = 0; gpa < d->vm->mem.size;) {
		struct nested_walk w;
		nested_walk(&h->nested, gpa, 0, &w);
		if (!w.level)
			break; /* the step is not written */
		uint64_t size = level_size(w.level);
		const struct nested_entry *e = &w.at[w.level];
		bool same = w.end == WALK_OK && now.level == w.level && now.rights == w.rights && now.ma + now.size == w.ma &&
			    now.gpa + now.size == gpa;
		if (!same) {
			range_line(&now, &lines, out);
			now = (struct range){ .gpa = gpa, .ma = w.ma, .level = w.end == WALK_OK ? w.level : 0, .rights = w.rights };
		}
		now.size += size;
		now.accessed += e->accessed;
		now.dirty += e->dirty;
		gpa = (gpa & ~(size - 1)) + size;
	}
	range_line(&now, &lines, out);
	if (lines > LINES_MAX)
		fprintf(out, "... and %u more ranges\n", lines - LINES_MAX);
}
