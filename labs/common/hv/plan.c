#include "plan.h"
#include "hvm_policy.h"
#include "irqchip.h"

#include <stdarg.h>
#include <stdlib.h>

#define PLAN_LINES 256
#define WORDS 5
#define RESULTS_MAX (4 * MiB) /* when there are more, the guest comes to its stages for ever */

struct plan {
	struct action {
		uint64_t stage, a, b;
		unsigned rights;
		const struct command *command;
	} action[PLAN_LINES];
	unsigned count;
	char *out; /* results, as a list of JSON objects */
	size_t len, room;
};

/* Results are appended as text: what was read cannot be read again at the end. */
static void put(struct plan *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct plan *p, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (p->len + (size_t)n >= p->room) {
		size_t room = p->room ? 2 * p->room : 4096;
		char *more = realloc(p->out, room);
		if (!more)
			return;
		p->out = more;
		p->room = room;
	}
	memcpy(p->out + p->len, text, (size_t)n + 1);
	p->len += (size_t)n;
}

/* --- the commands. Each returns what the lab's function said, 0 or -errno. ----------------------------------------------------- */

static int restrict_range(struct hvm *h, const struct action *a, bool watch)
{
	struct policy_range r = { .gpa = a->a, .len = a->b, .rights = a->rights, .watch = watch };

	/* Nothing at all is an absent entry; what else has no entry (X without R on AMD) cannot be promised. */
	if (a->rights && !nested_can(&h->nested, a->rights))
		return -EOPNOTSUPP;
	int err = policy_add(h->policy, &r);
	if (err)
		return err;
	/* While the log is on, W is its own affair. */
	unsigned rights = h->dirty->on ? a->rights & ~NESTED_W : a->rights;
	return nested_can(&h->nested, rights) ? nested_protect(&h->nested, a->a, a->b, rights) : nested_unmap(&h->nested, a->a, a->b);
}

static int do_protect(struct hvm *h, const struct action *a) { return restrict_range(h, a, false); }
static int do_watch(struct hvm *h, const struct action *a) { return restrict_range(h, a, true); }

static int do_allow(struct hvm *h, const struct action *a)
{
	struct action all = *a;

	all.rights = NESTED_RWX;
	return restrict_range(h, &all, false);
}

static int do_unmap(struct hvm *h, const struct action *a) { return nested_unmap(&h->nested, a->a, a->b); }

static int do_remap(struct hvm *h, const struct action *a)
{
	if (a->b > h->vm->mem.size - PAGE)
		return -EINVAL;
	return nested_map(&h->nested, a->a, h->guest_ma + a->b, PAGE, hvm_rights(h, a->a), TYPE_WB, 1);
}

static int do_split(struct hvm *h, const struct action *a) { return nested_split(&h->nested, a->a, (unsigned)a->b); }
static int do_join(struct hvm *h, const struct action *a) { return nested_join(&h->nested, a->a, (unsigned)a->b); }

struct aged {
	struct {
		uint64_t gpa;
		unsigned level, bits;
	} *page;
	unsigned count, room;
};

static void saw(void *opaque, uint64_t gpa, unsigned level, unsigned bits)
{
	struct aged *all = opaque;

	if (all->count == all->room) {
		unsigned room = all->room ? all->room * 2 : 64;
		void *more = realloc(all->page, room * sizeof *all->page);
		if (!more)
			return;
		all->page = more;
		all->room = room;
	}
	all->page[all->count].gpa = gpa;
	all->page[all->count].level = level;
	all->page[all->count++].bits = bits;
}

static void put_aged(struct plan *p, const struct aged *all, const char *name, unsigned bit)
{
	bool comma = false;

	put(p, ",\"%s\":[", name);
	for (unsigned i = 0; i < all->count; i++) {
		uint64_t gpa = all->page[i].gpa;
		unsigned level = all->page[i].level, n = 1;
		if (!(all->page[i].bits & bit))
			continue;
		/* Neighbours of one size: first gpa, level, how many. */
		while (i + 1 < all->count && (all->page[i + 1].bits & bit) && all->page[i + 1].level == level &&
		       all->page[i + 1].gpa == gpa + n * level_size(level)) {
			i++;
			n++;
		}
		put(p, "%s[\"0x%llx\",%u,%u]", comma ? "," : "", (unsigned long long)gpa, level, n);
		comma = true;
	}
	put(p, "]");
}

static int do_age(struct hvm *h, const struct action *a)
{
	struct aged all = { 0 };

	(void)a;
	nested_harvest(&h->nested, 0, h->vm->mem.size, HARVEST_ACCESSED | HARVEST_DIRTY, saw, &all);
	put_aged(h->plan, &all, "accessed", HARVEST_ACCESSED);
	put_aged(h->plan, &all, "dirty", HARVEST_DIRTY);
	free(all.page);
	return 0;
}

static int do_log_start(struct hvm *h, const struct action *a)
{
	(void)a;
	return dirty_start(&h->nested, h->dirty);
}

static int do_log_fetch(struct hvm *h, const struct action *a)
{
	uint64_t *pages = calloc(h->dirty->pages / 64 + 1, 8);
	const char *comma = "";

	(void)a;
	if (!pages)
		return -ENOMEM;
	int err = h->dirty->on ? dirty_fetch(&h->nested, h->dirty, pages) : -EINVAL;
	put(h->plan, ",\"pages\":[");
	for (uint64_t gfn = 0; !err && gfn < h->dirty->pages; gfn++)
		if (pages[gfn / 64] >> gfn % 64 & 1) {
			put(h->plan, "%s%llu", comma, (unsigned long long)gfn);
			comma = ",";
		}
	put(h->plan, "]");
	free(pages);
	return err;
}

static int do_log_stop(struct hvm *h, const struct action *a)
{
	(void)a;
	return dirty_stop(&h->nested, h->dirty);
}

static int do_nmi(struct hvm *h, const struct action *a)
{
	(void)a;
	h->nmi_pending = true;
	return 0;
}

static int do_irq(struct hvm *h, const struct action *a)
{
	pthread_mutex_lock(&h->vm->lock);
	irqchip_set_line(h->vm, (unsigned)a->a, true);
	irqchip_set_line(h->vm, (unsigned)a->a, false);
	pthread_mutex_unlock(&h->vm->lock);
	return 0;
}

static int do_count(struct hvm *h, const struct action *a)
{
	const struct nested *n = &h->nested;

	(void)a;
	put(h->plan, ",\"violations\":%llu,\"mapped\":%llu,\"splits\":%llu,\"joins\":%llu", (unsigned long long)n->count.violations,
	    (unsigned long long)n->count.mapped, (unsigned long long)n->count.splits, (unsigned long long)n->count.joins);
	put(h->plan, ",\"flushes\":%llu,\"tables\":%u", (unsigned long long)n->count.flushes, n->used);
	return 0;
}

static int do_dump(struct hvm *h, const struct action *a)
{
	const struct nested *n = &h->nested;
	const uint64_t *word = (const uint64_t *)n->pool;
	bool any = false;

	(void)a;
	put(h->plan, ",\"root\":\"0x%llx\",\"tables\":{", (unsigned long long)n->format->root(n));
	for (unsigned page = 0; page < n->npages; page++) {
		bool open = false;
		for (unsigned i = 0; i < PT_ENTRIES; i++, word++) {
			if (!*word)
				continue;
			if (!open)
				put(h->plan, "%s\"0x%llx\":{", any ? "," : "", (unsigned long long)(n->pool_ma + page * PAGE));
			put(h->plan, "%s\"%u\":\"0x%llx\"", open ? "," : "", i, (unsigned long long)*word);
			open = any = true;
		}
		if (open)
			put(h->plan, "}");
	}
	put(h->plan, "}");
	return 0;
}

static const struct command {
	const char *name;
	const char *takes; /* a letter for each argument: p page, l length, r rights, v level, i line */
	int (*fn)(struct hvm *h, const struct action *a);
} commands[] = {
	{ "protect", "plr", do_protect }, { "watch", "plr", do_watch }, { "allow", "pl", do_allow }, { "unmap", "pl", do_unmap },
	{ "remap", "pp", do_remap }, { "split", "pv", do_split }, { "join", "pv", do_join }, { "age", "", do_age },
	{ "log start", "", do_log_start }, { "log fetch", "", do_log_fetch }, { "log stop", "", do_log_stop }, { "nmi", "", do_nmi },
	{ "irq", "i", do_irq }, { "count", "", do_count }, { "dump", "", do_dump },
};

int plan_stage(struct vcpu *v, uint64_t stage)
{
	struct hvm *h = hvm_of(v);
	struct plan *p = h->plan;

	for (unsigned i = 0; i < p->count && !v->vm->stopping; i++) {
		const struct action *a = &p->action[i];
		if (a->stage != stage)
			continue;
		if (p->len > RESULTS_MAX)
			return vm_stop(v->vm, HV_STOPPED,
				       "the plan's results have grown to %zu MiB: the guest comes to its stages too often",
				       p->len / (size_t)MiB);
		put(p, "%s{\"stage\":%llu,\"command\":\"%s\"", p->len ? "," : "", (unsigned long long)stage, a->command->name);
		put(p, ",\"result\":%d}", a->command->fn(h, a));
	}
	return v->vm->stopping ? -ECANCELED : 0;
}

/* --- reading --------------------------------------------------------------------------------------------------------------------- */

static bool number(const char *s, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(s, &end, 0);
	return *s >= '0' && *s <= '9' && !*end && !errno;
}

static bool rights(const char *s, unsigned *value)
{
	static const char letters[] = "rwx";

	*value = 0;
	for (unsigned i = 0; i < 3; i++) {
		if (s[i] == letters[i])
			*value |= 1u << i;
		else if (s[i] != '-')
			return false;
	}
	return !s[3];
}

/* One argument. NULL, or what is wrong with it. */
static const char *argument(struct hvm *h, struct action *a, unsigned n, const char *takes, const char *word)
{
	uint64_t *value = n ? &a->b : &a->a;

	if (takes[n] == 'r')
		return rights(word, &a->rights) ? NULL : "rights are three of rwx, with - for what is missing";
	if (!number(word, value))
		return "a number is missing";
	switch (takes[n]) {
	case 'p': return *value % PAGE || *value >= h->vm->mem.size ? "a page of the guest's memory is needed" : NULL;
	case 'l': return *value % PAGE || !*value || *value > h->vm->mem.size - a->a ? "that length is not in the guest's memory" : NULL;
	case 'v': return *value < 2 || *value > 3 ? "the level is 2 or 3" : NULL;
	default: return *value > 15 ? "the line is 0 to 15" : NULL;
	}
}

/* One line. NULL, or what is wrong with it. */
static const char *parse_line(struct hvm *h, char *line)
{
	struct plan *p = h->plan;
	struct action a = { 0 };
	char *word[WORDS], *save, *s;
	unsigned n = 0;

	line[strcspn(line, "#\n")] = 0;
	for (s = strtok_r(line, " \t\r", &save); s; s = strtok_r(NULL, " \t\r", &save)) {
		if (n == WORDS)
			return "that is too much for one line";
		word[n++] = s;
	}
	if (!n)
		return NULL;
	if (n < 2 || !number(word[0], &a.stage))
		return "a line is: STAGE COMMAND ARGUMENTS";
	for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
		const struct command *c = &commands[i];
		const char *blank = strchr(c->name, ' '), *bad;
		size_t first = blank ? (size_t)(blank - c->name) : strlen(c->name);
		unsigned used = blank ? 3 : 2;
		if (strlen(word[1]) != first || strncmp(word[1], c->name, first) ||
		    (blank && (n < 3 || strcmp(word[2], blank + 1))))
			continue;
		if (n - used != strlen(c->takes))
			return "this command takes another number of arguments";
		for (unsigned k = 0; k < n - used; k++)
			if ((bad = argument(h, &a, k, c->takes, word[used + k])))
				return bad;
		if (p->count == PLAN_LINES)
			return "a plan has at most 256 lines";
		a.command = c;
		p->action[p->count++] = a;
		return NULL;
	}
	return "there is no such command";
}

int plan_read(struct hvm *h, const char *path)
{
	FILE *f = fopen(path, "r");
	const char *bad = NULL;
	char line[256];
	unsigned n = 0;

	if (!f)
		return vm_stop(h->vm, HV_USAGE, "cannot read the plan \"%s\": %s", path, strerror(errno));
	h->plan = calloc(1, sizeof *h->plan);
	while (h->plan && !bad && fgets(line, sizeof line, f)) {
		n++;
		bad = strlen(line) == sizeof line - 1 ? "the line is too long" : parse_line(h, line);
	}
	int unread = ferror(f) ? errno : 0; /* a directory, say */
	fclose(f);
	if (!h->plan)
		return vm_stop(h->vm, HV_HOST, "the host has not enough memory");
	if (unread)
		return vm_stop(h->vm, HV_USAGE, "cannot read the plan \"%s\": %s", path, strerror(unread));
	return bad ? vm_stop(h->vm, HV_USAGE, "plan \"%s\", line %u: %s", path, n, bad) : 0;
}

void plan_free(struct plan *p)
{
	if (p)
		free(p->out);
	free(p);
}

void plan_json(struct vm *vm, FILE *out)
{
	const struct hvm *h = vm->engine_state;
	const struct nested *n = &h->nested;

	if (h->backend && !h->shadow)
		fprintf(out, ",\"nested\":{\"format\":\"%s\",\"violations\":%llu,\"mapped\":%llu,\"splits\":%llu,\"joins\":%llu,"
			"\"flushes\":%llu,\"tables\":%u,\"peak\":%u}", h->backend->format->name, (unsigned long long)n->count.violations,
			(unsigned long long)n->count.mapped, (unsigned long long)n->count.splits, (unsigned long long)n->count.joins,
			(unsigned long long)n->count.flushes, n->used, n->count.peak);
	if (!h->plan)
		return;
	fprintf(out, ",\"plan\":[%s]", h->plan->out ? h->plan->out : "");
	policy_json(h->policy, out);
}
