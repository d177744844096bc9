/*
 * `hv walk`: one line for each case, or one case at length.
 */
#include "walk_command.h"
#include "engine.h"
#include "vm_life.h"
#include "walk_cases.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 100000

static const char *const kinds[WALK_KINDS] = {
	[WALK_4K] = "4k", [WALK_RIGHTS] = "rights", [WALK_LARGE] = "large", [WALK_SMAP] = "smap", [WALK_MARKS] = "marks"
};

static const char help[] =
	"usage: hv walk [options]\n"
	"Makes page tables up and lets walk.c do an access through them. Prints a line for each: number, address, who does what,\n"
	"which of CR0.WP, CR4.PGE, CR4.SMEP, CR4.SMAP, EFER.NXE and RFLAGS.AC are on, width of physical addresses; then what walk.c\n"
	"says: the gpa, or the page fault's error code, and the level at which the walk ended. Behind a gpa: W if writable, U if a\n"
	"user's, N if not executable, G if global, D if dirty. At the end, what changed in the tables: level:bits. Numbers are\n"
	"hexadecimal, but for the case and the width. No /dev/kvm is needed.\n\n"
	"  --kind KIND   4k (4 KiB pages, only the way to them), rights (W, U, NX, CR0.WP), large (large pages, reserved bits),\n"
	"                smap (rights, with SMEP and SMAP), marks (all of it, and A and D are set); default: marks\n"
	"  --seed N      another seed makes other cases (from 0 to 4294967295; default: 1)\n"
	"  --count N     that many cases (from 1 to 100000; default: 20)\n"
	"  --brief       only the number and what walk.c says\n"
	"  --case N      only this one, with its tables\n";

struct request {
	enum walk_kind kind;
	uint64_t seed, count, number;
	bool one, brief;
};

static int bad(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv walk --help\n", stderr);
	return -EINVAL;
}

static int parse_number(const char *fmt, const char *s, uint64_t min, uint64_t max, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno || *value < min || *value > max)
		return bad(fmt, s);
	return 0;
}

static int parse_kind(const char *s, enum walk_kind *kind)
{
	for (*kind = 0; *kind < WALK_KINDS; ++*kind)
		if (!strcmp(s, kinds[*kind]))
			return 0;
	return bad("--kind takes 4k, rights, large, smap or marks, not \"%s\"", s);
}

/* 0; 1 when the help has been printed; or -EINVAL. */
static int parse(int argc, char **argv, struct request *r)
{
	enum { KIND, SEED, COUNT, BRIEF, CASE, HELP };
	static const struct option longopts[] = {
		{ "kind", 1, 0, KIND }, { "seed", 1, 0, SEED }, { "count", 1, 0, COUNT }, { "brief", 0, 0, BRIEF },
		{ "case", 1, 0, CASE }, { "help", 0, 0, HELP }, { 0 }
	};
	bool counted = false;
	int c, err = 0;

	opterr = 0;
	while (!err && (c = getopt_long(argc, argv, ":", longopts, NULL)) != -1) {
		switch (c) {
		case KIND: err = parse_kind(optarg, &r->kind); break;
		case SEED:
			err = parse_number("--seed takes a number from 0 to 4294967295, not \"%s\"", optarg, 0, UINT32_MAX, &r->seed);
			break;
		case COUNT:
			counted = true;
			err = parse_number("--count takes a number from 1 to 100000, not \"%s\"", optarg, 1, COUNT_MAX, &r->count);
			break;
		case BRIEF: r->brief = true; break;
		case CASE:
			r->one = true;
			err = parse_number("--case takes a number from 0 to 4294967295, not \"%s\"", optarg, 0, UINT32_MAX, &r->number);
			break;
		case HELP: fputs(help, stdout); return 1;
		case ':': err = bad("%s needs a value", argv[optind - 1]); break;
		default: err = bad("there is no option %s", argv[optind - 1]);
		}
	}
	if (err)
		return err;
	if (optind < argc)
		return bad("walk takes no image: what is \"%s\"", argv[optind]);
	if (r->one && (counted || r->brief))
		return bad("--case is one case at length, and takes no %s", counted ? "--count" : "--brief");
	return 0;
}

/* --- asking walk.c ---------------------------------------------------------------------------------------------------------- */

struct answer {
	bool fault;
	struct walk walk;
	uint64_t before[PT_LEVELS + 1], after[PT_LEVELS + 1]; /* the case's entries, by level */
	uint64_t stray; /* gpa of something else in a table that is not 0 any more; or 0, where no table is */
};

static uint64_t read_word(const struct guest_mem *mem, uint64_t gpa)
{
	uint64_t word = 0;

	guest_read(mem, gpa, &word, sizeof word);
	return word;
}

/* Clears all tables. Returns the gpa of the last word in them that was not 0, or 0. */
static uint64_t clear_tables(const struct guest_mem *mem)
{
	uint64_t found = 0;

	for (unsigned n = 0; n < WALK_TABLES; n++) {
		uint64_t *table = guest_range(mem, walk_table(n), PAGE);
		for (unsigned i = 0; i < PT_ENTRIES; i++)
			if (table[i]) {
				table[i] = 0;
				found = walk_table(n) + i * 8;
			}
	}
	return found;
}

/* 0 with all tables cleared, or negative with the VM stopped. */
static int ask(struct vm *vm, const struct walk_case *c, struct answer *a)
{
	static const uint64_t zero;
	struct vcpu *v = &vm->vcpu;

	*v = (struct vcpu){ .vm = vm, .rflags = c->rflags, .cpl = c->cpl, .efer = c->efer };
	v->cr0 = c->cr0;
	v->cr3 = c->cr3;
	v->cr4 = c->cr4;
	vm->phys_bits = c->phys_bits;
	walk_case_store(c, &vm->mem);
	for (unsigned level = 1; level <= PT_LEVELS; level++)
		a->before[level] = read_word(&vm->mem, walk_case_gpa(c, level));

	a->walk = (struct walk){ 0 };
	a->fault = c->kind == WALK_4K ? guest_walk(v, c->gva, &a->walk) : guest_translate(v, c->gva, c->access, &a->walk);
	if (!a->fault && c->kind == WALK_MARKS && !vm->stopping)
		walk_mark(v, &a->walk, c->access);
	if (vm->stopping)
		return -ECANCELED;

	for (unsigned level = 1; level <= PT_LEVELS; level++)
		a->after[level] = read_word(&vm->mem, walk_case_gpa(c, level));
	for (unsigned level = 1; level <= PT_LEVELS; level++)
		guest_write(&vm->mem, walk_case_gpa(c, level), &zero, sizeof zero);
	a->stray = clear_tables(&vm->mem);
	return 0;
}

/* --- one line for each ------------------------------------------------------------------------------------------------------ */

static const char *who(unsigned access)
{
	static const char *const names[2][2] = { { "kernel", "user" }, { "cpu-in-kernel", "cpu-in-user" } };

	return names[!!(access & ACCESS_SYSTEM)][!!(access & ACCESS_USER)];
}

static const char *what(unsigned access) { return access & ACCESS_WRITE ? "write" : access & ACCESS_FETCH ? "fetch" : "read"; }

static const struct mode {
	const char *name, *of;
	size_t at; /* of the register in struct walk_case */
	uint64_t bit;
} modes[] = {
	{ "WP", "CR0", offsetof(struct walk_case, cr0), CR0_WP },     { "PGE", "CR4", offsetof(struct walk_case, cr4), CR4_PGE },
	{ "SMEP", "CR4", offsetof(struct walk_case, cr4), CR4_SMEP }, { "SMAP", "CR4", offsetof(struct walk_case, cr4), CR4_SMAP },
	{ "NXE", "EFER", offsetof(struct walk_case, efer), EFER_NXE }, { "AC", "RFLAGS", offsetof(struct walk_case, rflags), FLAG_AC },
};
#define MODES (sizeof modes / sizeof *modes)

static bool mode_on(const struct walk_case *c, const struct mode *m)
{
	uint64_t value;

	memcpy(&value, (const char *)c + m->at, sizeof value);
	return value & m->bit;
}

static void print_modes(const struct walk_case *c)
{
	const char *comma = "";

	for (unsigned i = 0; i < MODES; i++)
		if (mode_on(c, &modes[i])) {
			printf("%s%s", comma, modes[i].name);
			comma = ",";
		}
	if (!*comma)
		putchar('-');
}

static void print_changes(const struct answer *a)
{
	for (unsigned level = PT_LEVELS; level; level--)
		if (a->before[level] != a->after[level])
			printf(" %u:%llx", level, (unsigned long long)(a->before[level] ^ a->after[level]));
	if (a->stray)
		printf(" stray:%llx", (unsigned long long)a->stray);
}

static void print_line(const struct walk_case *c, const struct answer *a, bool brief)
{
	const struct walk *w = &a->walk;

	printf("%u", c->number);
	if (!brief) {
		printf(" %llx %s %s ", (unsigned long long)c->gva, who(c->access), what(c->access));
		print_modes(c);
		printf(" %u", c->phys_bits);
	}
	printf(": ");
	if (a->fault)
		printf("fault %x level %u", w->error, w->level);
	else
		printf("gpa %llx level %u ", (unsigned long long)w->gpa, w->level);
	if (!a->fault && c->kind != WALK_4K)
		printf("%c%c%c", w->writable ? 'W' : '-', w->user ? 'U' : '-', w->nx ? 'N' : '-');
	if (!a->fault)
		printf("%c%c", w->global ? 'G' : '-', w->dirty ? 'D' : '-');
	print_changes(a);
	putchar('\n');
}

/* --- one at length ---------------------------------------------------------------------------------------------------------- */

static void print_case(const struct walk_case *c, const struct guest_mem *mem)
{
	static const char *const names[] = { "", "page table", "directory", "PDPT", "PML4" };
	static const struct {
		const char *name;
		uint64_t bit;
	} bits[] = { { "P", PTE_P }, { "W", PTE_W }, { "U", PTE_U }, { "A", PTE_A }, { "D", PTE_D }, { "PS", PTE_PS }, { "G", PTE_G },
		     { "NX", PTE_NX } };

	printf("Case %u of seed %llu, kind %s: %s %s at %#llx\n", c->number, (unsigned long long)c->seed, kinds[c->kind], who(c->access),
	       what(c->access), (unsigned long long)c->gva);
	for (unsigned i = 0; i < MODES; i++)
		printf("%s.%s=%d ", modes[i].of, modes[i].name, mode_on(c, &modes[i]));
	printf("CR3=%#llx\nPhysical addresses have %u bits; memory ends at %#llx.\n\n", (unsigned long long)c->cr3, c->phys_bits,
	       (unsigned long long)mem->size);
	printf("The tables, which are 0 elsewhere:\n\n%-12s  %5s  %-8s  %-16s  %-18s  address\n", "level", "index", "lies at", "holds",
	       "bits");
	for (unsigned level = PT_LEVELS; level; level--) {
		uint64_t gpa = walk_case_gpa(c, level), entry = read_word(mem, gpa);
		printf("%u %-10s  %5u  %#-8llx  %016llx ", level, names[level], c->index[level], (unsigned long long)gpa,
		       (unsigned long long)entry);
		for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++) {
			bool set = (entry & bits[i].bit) && !(level == 1 && bits[i].bit == PTE_PS); /* there it is the PAT bit */
			printf(" %-*s", (int)strlen(bits[i].name), set ? bits[i].name : "-");
		}
		printf("  %#llx\n", (unsigned long long)(entry & PTE_ADDR));
	}
	putchar('\n');
}

static void print_answer(const struct walk_case *c, const struct answer *a)
{
	static const char *const causes[] = { "P", "W", "U", "RSVD", "I" };
	const struct walk *w = &a->walk;

	if (a->fault) {
		printf("walk.c says: page fault, error code %#x", w->error);
		for (unsigned i = 0; i < sizeof causes / sizeof *causes; i++)
			if (w->error & 1u << i)
				printf(" %s", causes[i]);
		printf("; the walk ended at level %u.\n", w->level);
	} else {
		printf("walk.c says: gpa %#llx, mapped by the entry of level %u", (unsigned long long)w->gpa, w->level);
		if (c->kind != WALK_4K)
			printf(", %s, for %s, %sexecutable", w->writable ? "writable" : "read-only", w->user ? "users" : "the kernel",
			       w->nx ? "not " : "");
		printf("%s%s.\n", w->global ? ", global" : "", w->dirty ? ", dirty" : "");
	}
	for (unsigned level = PT_LEVELS; level; level--)
		if (a->before[level] != a->after[level])
			printf("The entry of level %u became %016llx.\n", level, (unsigned long long)a->after[level]);
	if (a->stray)
		printf("Something was written at %#llx.\n", (unsigned long long)a->stray);
}

static int walk_all(struct vm *vm, const struct request *r)
{
	struct walk_case c;
	struct answer a;

	if (r->one) {
		walk_case_make(&c, r->kind, r->seed, (uint32_t)r->number);
		walk_case_store(&c, &vm->mem);
		print_case(&c, &vm->mem);
		if (ask(vm, &c, &a))
			return -ECANCELED;
		print_answer(&c, &a);
		return 0;
	}
	for (uint32_t number = 0; number < r->count; number++) {
		walk_case_make(&c, r->kind, r->seed, number);
		if (ask(vm, &c, &a))
			return -ECANCELED;
		print_line(&c, &a, r->brief);
	}
	return 0;
}

int walk_main(int argc, char **argv)
{
	static struct vm vm;
	struct request r = { .kind = WALK_MARKS, .seed = 1, .count = 20 };
	int err = parse(argc, argv, &r);

	if (err)
		return err < 0 ? HV_USAGE : HV_OK;
	vm.opt = (struct vm_options){ .engine = engine_trap.name, .mem_size = WALK_MEM, .gdb_port = -1 };
	vm_init(&vm);
	if (guest_mem_create(&vm.mem, WALK_MEM)) {
		fprintf(stderr, "hv: the host cannot provide %llu MiB of memory for the tables\n", WALK_MEM / MiB);
		return HV_HOST;
	}
	walk_all(&vm, &r);
	guest_mem_destroy(&vm.mem);
	if (fflush(stdout) || ferror(stdout))
		vm_stop(&vm, HV_HOST, "cannot write to stdout: %s", strerror(errno));
	if (vm.stopping)
		fprintf(stderr, "hv: %s\n", vm.reason);
	return vm.status;
}
