/*
 * The operations of `hv nested`. Each is one call of the lab's code; what comes back is printed, and nothing is judged here.
 */
#include "nested_script.h"
#include "nested_words.h"

#include <stdlib.h>

#define LOG_PAGES_MAX (1ull << 20)

/* --- the operations ---------------------------------------------------------------------------------------------------------- */

/* The answer of an operation that may change tables ends with their state. */
static int answer(struct script *s, const char *name, int status)
{
	const struct nested *n = &s->nested;

	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: %s %s | used %u free %u retired %u%s\n", s->line, name, words_status(status), n->used, n->nfree,
	       n->retired_count, n->flush ? " flush" : "");
	return 0;
}

static bool may_write(void *opaque, uint64_t gpa)
{
	const struct script *s = opaque;

	return gpa / PAGE >= LOG_PAGES_MAX || !s->kept[gpa / PAGE];
}

/* Empty tables in the place of those that are there. Operands as in the script: FORMAT CAPS BITS TABLES. */
static int make_tables(struct script *s, const uint64_t *a)
{
	struct nested_caps caps = { .phys_bits = (unsigned)a[2],
				    .exec_only = a[1] & CAP_X,
				    .page_2m = a[1] & CAP_2M,
				    .page_1g = a[1] & CAP_1G,
				    .accessed_dirty = a[1] & CAP_AD };

	raw_destroy(&s->raw);
	nested_destroy(&s->nested);
	memset(s->kept, 0, LOG_PAGES_MAX);
	s->log.on = false;
	if (nested_create(&s->nested, s->vm, a[0] ? &format_npt : &format_ept, &caps, s->pool, HVM_POOL_MA, (unsigned)a[3]))
		return -ENOMEM;
	return raw_create(&s->raw, &s->nested);
}

static int op_new(struct script *s, const uint64_t *a)
{
	if (a[2] < 36 || a[2] > 52)
		return words_problem(s, "machine addresses have from 36 to 52 bits, not %llu", (unsigned long long)a[2]);
	if (a[3] < 4 || a[3] > SCRIPT_TABLES_MAX)
		return words_problem(s, "the pool holds from 4 to %d tables, not %llu", SCRIPT_TABLES_MAX,
				     (unsigned long long)a[3]);
	int err = make_tables(s, a);
	return err ? err : answer(s, "new", 0);
}

static int op_map(struct script *s, const uint64_t *a)
{
	return answer(s, "map",
		      nested_map(&s->nested, a[0], a[1], a[2], (unsigned)a[3], (enum nested_type)a[4], (unsigned)a[5]));
}

static int op_unmap(struct script *s, const uint64_t *a)
{
	return answer(s, "unmap", nested_unmap(&s->nested, a[0], a[1]));
}

static int op_protect(struct script *s, const uint64_t *a)
{
	return answer(s, "protect", nested_protect(&s->nested, a[0], a[1], (unsigned)a[2]));
}

static int op_split(struct script *s, const uint64_t *a)
{
	return answer(s, "split", nested_split(&s->nested, a[0], (unsigned)a[1]));
}

static int op_join(struct script *s, const uint64_t *a)
{
	return answer(s, "join", nested_join(&s->nested, a[0], (unsigned)a[1]));
}

static int op_walk(struct script *s, const uint64_t *a)
{
	static const char *const ends[] = {
		[WALK_OK] = "ok", [WALK_ABSENT] = "absent", [WALK_FORBIDDEN] = "forbidden", [WALK_INVALID] = "invalid"
	};
	struct nested_walk w;

	nested_walk(&s->nested, a[0], (unsigned)a[1], &w);
	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: walk %s level %u rights %s", s->line, ends[w.end], w.level, words_rights(w.rights));
	if (w.end == WALK_OK || w.end == WALK_FORBIDDEN)
		printf(" ma 0x%llx", (unsigned long long)w.ma);
	putchar('\n');
	return 0;
}

static int op_touch(struct script *s, const uint64_t *a)
{
	unsigned level = raw_touch(&s->raw, a[0], a[1] & NESTED_W);

	printf("%u: touch level %u\n", s->line, level);
	return 0;
}

static int op_poke(struct script *s, const uint64_t *a)
{
	uint64_t *slot = raw_slot(&s->raw, a[0], (unsigned)a[1]);

	if (slot)
		raw_store(&s->raw, slot, a[2]);
	printf("%u: poke %s\n", s->line, words_status(slot ? 0 : -ENOENT));
	return 0;
}

static void print_seen(void *opaque, uint64_t gpa, unsigned level, unsigned bits)
{
	(void)opaque;
	printf("  seen 0x%llx %u %s\n", (unsigned long long)gpa, level,
	       words_ad(bits & HARVEST_ACCESSED, bits & HARVEST_DIRTY));
}

static int op_harvest(struct script *s, const uint64_t *a)
{
	if (a[1] > GPA_END - a[0])
		return words_problem(s, "GPA + LEN is at most 0x%llx", GPA_END);
	unsigned pages = nested_harvest(&s->nested, a[0], a[1], (unsigned)a[2], print_seen, NULL);
	return answer(s, "harvest", (int)pages);
}

static int op_log_start(struct script *s, const uint64_t *a)
{
	if (!a[0] || a[0] > LOG_PAGES_MAX)
		return words_problem(s, "the log has from 1 to %llu pages, not %llu", LOG_PAGES_MAX,
				     (unsigned long long)a[0]);
	s->log.pages = a[0];
	return answer(s, "log-start", dirty_start(&s->nested, &s->log));
}

static int op_log_fault(struct script *s, const uint64_t *a)
{
	if (!s->log.on || a[0] / PAGE >= s->log.pages)
		return words_problem(s, "log-fault is for a page of a log that was started");
	return answer(s, "log-fault", dirty_fault(&s->nested, &s->log, a[0]));
}

static int op_log_fetch(struct script *s, const uint64_t *a)
{
	static uint64_t out[LOG_PAGES_MAX / 64];

	(void)a;
	if (!s->log.on)
		return words_problem(s, "log-fetch is for a log that was started");
	int status = dirty_fetch(&s->nested, &s->log, out);
	for (uint64_t gfn = 0; gfn < s->log.pages && !s->vm->stopping; gfn++)
		if (out[gfn / 64] >> gfn % 64 & 1)
			printf("  dirty 0x%llx\n", (unsigned long long)(gfn * PAGE));
	return answer(s, "log-fetch", status);
}

static int op_log_stop(struct script *s, const uint64_t *a)
{
	(void)a;
	return answer(s, "log-stop", dirty_stop(&s->nested, &s->log));
}

static int op_keep(struct script *s, const uint64_t *a)
{
	if (a[0] / PAGE + a[1] / PAGE > LOG_PAGES_MAX)
		return words_problem(s, "what a log can be about ends at 0x%llx", LOG_PAGES_MAX * PAGE);
	memset(s->kept + a[0] / PAGE, 1, a[1] / PAGE);
	return answer(s, "keep", 0);
}

static int op_flush(struct script *s, const uint64_t *a)
{
	(void)a;
	raw_print_unnoted(&s->raw);
	nested_flushed(&s->nested);
	raw_flushed(&s->raw);
	return answer(s, "flush", 0);
}

static int op_tables(struct script *s, const uint64_t *a)
{
	(void)a;
	raw_print(&s->raw);
	return answer(s, "tables", 0);
}

static int op_encode(struct script *s, const uint64_t *a)
{
	struct nested_entry e = { .kind = (enum nested_kind)a[1],
				  .rights = (unsigned)a[2],
				  .type = (enum nested_type)a[3],
				  .accessed = a[4] & 1,
				  .dirty = a[4] & 2,
				  .ma = a[5] };
	uint64_t entry = s->nested.format->encode(&s->nested, &e, (unsigned)a[0]);

	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: encode 0x%llx\n", s->line, (unsigned long long)entry);
	return 0;
}

static int op_decode(struct script *s, const uint64_t *a)
{
	struct nested_entry e;

	s->nested.format->decode(&s->nested, a[1], (unsigned)a[0], &e);
	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: decode %s", s->line, words_kind(e.kind));
	if (e.kind == NESTED_TABLE || e.kind == NESTED_PAGE)
		printf(" %s %s %s 0x%llx", words_rights(e.rights), words_type(e.type), words_ad(e.accessed, e.dirty),
		       (unsigned long long)e.ma);
	putchar('\n');
	return 0;
}

static int op_root(struct script *s, const uint64_t *a)
{
	(void)a;
	uint64_t root = s->nested.format->root(&s->nested);

	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: root 0x%llx\n", s->line, (unsigned long long)root);
	return 0;
}

static int op_guest(struct script *s, const uint64_t *a)
{
	if (guest_write(&s->vm->mem, a[0], &a[1], sizeof a[1]))
		return words_problem(s, "the guest's memory ends at 0x%llx", SCRIPT_MEM);
	return 0;
}

static int op_cr3(struct script *s, const uint64_t *a)
{
	s->vm->vcpu.cr3 = a[0];
	return 0;
}

static int op_twodim(struct script *s, const uint64_t *a)
{
	static struct reference refs[REFERENCES_MAX * 2]; /* room for a list that is too long */

	unsigned count = twodim_walk(&s->vm->vcpu, &s->nested, a[0], refs);
	if (s->vm->stopping)
		return -ECANCELED;
	for (unsigned i = 0; i < count && i < sizeof refs / sizeof *refs; i++) {
		const struct reference *r = &refs[i];
		unsigned long long gpa = r->gpa, ma = r->ma, entry = r->entry;
		if (r->what == REF_NESTED)
			printf("  nested %u %u 0x%llx 0x%llx 0x%llx\n", r->guest_level, r->level, gpa, ma, entry);
		else if (r->what == REF_GUEST)
			printf("  guest %u 0x%llx 0x%llx 0x%llx\n", r->guest_level, gpa, ma, entry);
		else
			printf("  data 0x%llx 0x%llx\n", gpa, ma);
	}
	printf("%u: twodim %u\n", s->line, count);
	return 0;
}

static int op_cost(struct script *s, const uint64_t *a)
{
	printf("%u: cost %u\n", s->line, twodim_cost((unsigned)a[0], (unsigned)a[1]));
	return 0;
}

/* An operand's name says what it may be: words_parse(). */
static const struct op {
	const char *name, *operands;
	int (*run)(struct script *s, const uint64_t *a);
	const char *what;
} ops[] = {
	{ "new", "FORMAT CAPS BITS TABLES", op_new,
	  "empty tables: ept or npt; what the CPU can (2m,1g,ad,x); width of addresses; pool" },
	{ "map", "START MA LEN RIGHTS TYPE LEVEL:1-3", op_map, "nested_map()" },
	{ "unmap", "START LEN", op_unmap, "nested_unmap()" },
	{ "protect", "START LEN RIGHTS", op_protect, "nested_protect()" },
	{ "split", "GPA LEVEL:2-3", op_split, "nested_split()" },
	{ "join", "GPA LEVEL:2-3", op_join, "nested_join()" },
	{ "walk", "GPA RIGHTS", op_walk, "nested_walk() for an access that needs these" },
	{ "flush", "", op_flush, "the CPU forgets everything; \"unnoted\": an entry that nested_set() was not told of" },
	{ "touch", "GPA RIGHTS", op_touch, "a guest's access: A and D as a CPU leaves them" },
	{ "poke", "GPA LEVEL:1-4 ENTRY", op_poke, "damage: stores an entry without hv's knowledge" },
	{ "tables", "", op_tables,
	  "what is not 0: table, index, entry; for a row also how many and the difference of one to the next" },
	{ "encode", "LEVEL:1-4 KIND RIGHTS TYPE AD MA", op_encode, "one entry as the format writes it" },
	{ "decode", "LEVEL:1-4 ENTRY", op_decode, "and as it reads it" },
	{ "root", "", op_root, "what the CPU is given: EPTP, nCR3" },
	{ "harvest", "GPA LEN AD", op_harvest, "nested_harvest()" },
	{ "log-start", "PAGES", op_log_start, "dirty_start()" },
	{ "log-fault", "GPA", op_log_fault, "dirty_fault()" },
	{ "log-fetch", "", op_log_fetch, "dirty_fetch()" },
	{ "log-stop", "", op_log_stop, "dirty_stop()" },
	{ "keep", "GPA LEN", op_keep, "what log->may_write() refuses" },
	{ "guest", "GPA ENTRY", op_guest, "stores an entry of the guest's own tables (no answer)" },
	{ "cr3", "CR3", op_cr3, "where these begin (no answer)" },
	{ "twodim", "GVA", op_twodim,
	  "twodim_walk(): nested GUEST-LEVEL LEVEL GPA MA ENTRY; guest LEVEL GPA MA ENTRY; data GPA MA" },
	{ "cost", "LEVEL:1-3 LEVEL:1-3", op_cost, "twodim_cost(): level of the guest's page, of the nested ones" },
};

void script_help(FILE *out)
{
	for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++)
		fprintf(out, "  %s%s%-*s  %s\n", ops[i].name, *ops[i].operands ? " " : "",
			(int)(40 - strlen(ops[i].name) - !!*ops[i].operands), ops[i].operands, ops[i].what);
}

/* --- a line ----------------------------------------------------------------------------------------------------------------- */

int script_line(struct script *s, char *line)
{
	const struct op *op = ops, *end = ops + sizeof ops / sizeof *ops;
	char *rest, *names_rest, names[64]; /* strtok_r() takes them apart */
	uint64_t values[SCRIPT_WORDS];
	unsigned count = 0;
	int err;

	s->line++;
	line[strcspn(line, "#\n")] = 0;
	char *word = strtok_r(line, " \t\r", &rest);
	if (!word)
		return 0;
	while (op < end && strcmp(word, op->name))
		op++;
	if (op == end)
		return words_problem(s, "there is no operation \"%s\"", word);
	snprintf(names, sizeof names, "%s", op->operands);
	for (char *name = strtok_r(names, " ", &names_rest); name; name = strtok_r(NULL, " ", &names_rest)) {
		word = strtok_r(NULL, " \t\r", &rest);
		if (!word)
			return words_problem(s, "%s needs %s: %s is missing", op->name, op->operands, name);
		err = words_parse(s, name, word, &values[count]);
		if (err)
			return err;
		count++;
	}
	word = strtok_r(NULL, " \t\r", &rest);
	if (word)
		return words_problem(s, "%s takes %s and no more: what is \"%s\"", op->name,
				     *op->operands ? op->operands : "nothing", word);
	err = op->run(s, values);
	return err ? err : s->vm->stopping ? -ECANCELED : 0;
}

int script_create(struct script *s, struct vm *vm)
{
	static const uint64_t first[] = { 0, CAP_2M | CAP_1G | CAP_AD | CAP_X, 40, 64 };

	*s = (struct script){ .vm = vm, .log = { .may_write = may_write, .opaque = s } };
	s->pool = aligned_alloc(PAGE, SCRIPT_TABLES_MAX * PAGE);
	s->kept = malloc(LOG_PAGES_MAX);
	s->log.bitmap = malloc(LOG_PAGES_MAX / 8);
	return s->pool && s->kept && s->log.bitmap ? make_tables(s, first) : -ENOMEM;
}

void script_destroy(struct script *s)
{
	raw_destroy(&s->raw);
	nested_destroy(&s->nested);
	free(s->log.bitmap);
	free(s->kept);
	free(s->pool);
}
