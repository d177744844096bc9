/*
 * The command line of hv.
 */
#include "control_command.h"
#include "control_path.h"
#include "engine.h"
#include "gva.h"
#include "lab4.h"
#include "neighbour.h"
#include "nested_command.h"
#include "popek.h"
#include "report.h"
#include "spt.h"
#include "vm_life.h"
#include "walk_command.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "0.1"
#define SAMPLE_MAX 1000000000ull

static void usage(FILE *out)
{
	fprintf(out,
		"usage: hv run [options] IMAGE\n"
		"       hv ctl SOCKET|NAME COMMAND [VALUE]\n"
		"       hv list\n"
		"       hv report\n"
		"       hv popek [options]\n"
		"       hv walk [options]\n"
		"       hv nested [FILE]\n"
		"run: runs a guest, an ELF64 image of the course or a Linux bzImage; on hvm and kvm also an ELF32 image\n"
		"or a boot sector. ctl: commands to a VM that runs; see hv ctl --help. list: the VMs that run and have a name. report: prints the table of checkpoint 1.21, which says of each sensitive instruction whether it\n"
		"traps. popek: tries out what Popek and Goldberg's theorem says of this x86; see hv popek --help. walk: walks page\n"
		"tables that are made up; see hv walk --help. nested: works on nested page tables as a script says; see hv\n"
		"nested --help.\n\n"
		"  --engine trap|hvm|kvm\n"
		"                      how guest code is run (default: trap)\n"
		"      trap              %s\n"
		"      hvm               %s\n"
		"      kvm               %s\n"
		"  --mem SIZE          guest memory, with K, M or G (default: 64M; from 2M to 3G)\n"
		"  --cpus N            kvm engine: number of vCPUs (from 1 to 8; default: 1)\n"
		"  --initrd FILE       initial RAM disk\n"
		"  --append STRING     command line of the guest\n"
		"  --timeout SECONDS   stop the guest after that time (exit status 124)\n"
		"  --trace exits       one line on stderr for each exit: kind, address, instruction, what was done\n"
		"  --stats json        one line of JSON on stderr at the end: exits, emulated instructions, time\n"
		"  --hash-memory       with --stats json: a CRC-32 of each page of guest memory that is not all zero\n"
		"  --sample-steps N    with --stats json: single-step the first N instructions and count those that did not run directly\n"
		"  --control SOCKET    listen for commands (hv ctl) on a Unix socket at that place\n"
		"  --name NAME         the same at the place where hv ctl NAME and hv list look\n"
		"  --gdb PORT          wait for gdb on 127.0.0.1:PORT before the first instruction\n"
		"  --mirror-if on|off  trap engine: pushf shows the virtual interrupt flag (default: on)\n"
		"  --patch on|off      trap engine: make pushf and popf of an ELF64 image trap (default: off)\n"
		"  --shadow off|vtlb|cached\n"
		"                      the guest's page tables are shadowed, by shadows that a flush empties (vtlb) or that outlive it\n"
		"                      (cached). off, the default: on the trap engine memory is flat, the hvm engine has nested tables\n"
		"  --shadow-pages N    shadow page tables at most (from 20 to 500; default: 500)\n"
		"  --page-size 4K|2M|1G\n"
		"                      hvm engine: the largest pages that nested tables map on demand (default: 2M)\n"
		"  --premap            hvm engine: all of guest memory is mapped before the guest begins, not on demand\n"
		"  --plan FILE         hvm engine: what hv does with the nested tables when the guest comes to a stage (plan.h)\n"
		"  --neighbour IMAGE   hvm engine: a second VM in the same machine, with its memory right behind; its lines begin with 2|\n"
		"  --rng               a virtio entropy device\n"
		"  --rings LIST        rings that the virtio devices named behind it offer: split or packed, indirect=on|off,\n"
		"                      event-idx=on|off (default: split,indirect=on,event-idx=on)\n"
		"  --event-fds on|off  kvm engine: kicks and interrupts of virtio devices go through eventfds (default: on)\n"
		"  --dump-tables GVA|all\n"
		"                      at the end, on stderr: the guest's page tables, their shadows or the nested tables, and "
		"machine addresses,\n"
		"                      the way of one address or all that is mapped\n"
		"  --dump-html FILE    with --dump-tables: the same as a page with a picture\n\n"
		"On a terminal Ctrl-A x leaves, Ctrl-A a sends Ctrl-A.\n"
		"Exit status: 0 the guest ended well, 1 it ended with an exit code, 2 wrong usage or file, 3 the host lacks\n"
		"something, 4 the guest had to be stopped, 5 a lab step is not written, 124 timeout, 130 interrupted.\n",
		engine_trap.what, engine_hvm.what, engine_kvm.what);
}

/* One sentence and the exit status for wrong usage. */
static int bad(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv --help\n", stderr);
	return -EINVAL;
}

static int parse_size(const char *s, uint64_t *size)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(s, &end, 10);
	uint64_t unit = *end == 'K' || *end == 'k' ? KiB : *end == 'M' || *end == 'm' ? MiB : *end == 'G' || *end == 'g' ? GiB : 0;

	if (end == s || *s == '-' || *s == '+' || (*end && (!unit || end[1])))
		return bad("--mem takes a size such as 64M, not \"%s\"", s);
	if (!unit)
		unit = 1;
	if (errno || n > MEM_MAX / unit || n * unit < MEM_MIN || n * unit % (4 * KiB))
		return bad("--mem takes from 2M to 3G in whole pages of 4K, not \"%s\"", s);
	*size = n * unit;
	return 0;
}

static int parse_timeout(const char *s, double *seconds)
{
	char *end;
	*seconds = strtod(s, &end);
	if (end == s || *end || !isfinite(*seconds) || *seconds <= 0 || *seconds > 1e6)
		return bad("--timeout takes a number of seconds above 0, not \"%s\"", s);
	return 0;
}

static int parse_cpus(const char *s, unsigned *cpus)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (end == s || *end || n < 1 || n > VM_CPUS_MAX)
		return bad("--cpus takes a number from 1 to 8, not \"%s\"", s);
	*cpus = (unsigned)n;
	return 0;
}

static int parse_port(const char *s, int *port)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (end == s || *end || n < 1 || n > 65535)
		return bad("--gdb takes a port number from 1 to 65535, not \"%s\"", s);
	*port = (int)n;
	return 0;
}

static int parse_steps(const char *s, uint64_t *steps)
{
	char *end;
	errno = 0;
	*steps = strtoull(s, &end, 10);
	if (end == s || *end || *s == '-' || *s == '+' || errno || !*steps || *steps > SAMPLE_MAX)
		return bad("--sample-steps takes a number of instructions from 1 to 1000000000, not \"%s\"", s);
	return 0;
}

static int parse_switch(const char *fmt, const char *s, bool *on)
{
	*on = !strcmp(s, "on");
	return *on || !strcmp(s, "off") ? 0 : bad(fmt, s);
}

static int parse_shadow(const char *s, int *mode)
{
	static const char *const names[] = { [SHADOW_OFF] = "off", [SHADOW_VTLB] = "vtlb", [SHADOW_CACHED] = "cached" };

	for (*mode = 0; *mode < 3; ++*mode)
		if (!strcmp(s, names[*mode]))
			return 0;
	return bad("--shadow takes off, vtlb or cached, not \"%s\"", s);
}

static int parse_pages(const char *s, unsigned *pages)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (end == s || *end || n < SHADOW_PAGES_MIN || n > SHADOW_PAGES_MAX)
		return bad("--shadow-pages takes a number from 20 to 500, not \"%s\"", s);
	*pages = (unsigned)n;
	return 0;
}

static int parse_dump(const char *s, struct vm_options *o)
{
	char *end;

	o->dump = strcmp(s, "all") ? DUMP_GVA : DUMP_ALL;
	if (o->dump == DUMP_ALL)
		return 0;
	errno = 0;
	o->dump_gva = strtoull(s, &end, s[0] == '0' && s[1] == 'x' ? 16 : 10);
	if (*s < '0' || *s > '9' || *end || errno)
		return bad("--dump-tables takes an address such as 0x200000, or all, not \"%s\"", s);
	return canonical(o->dump_gva) ? 0 : bad("--dump-tables: %s is not canonical (bits 63 to 47 differ), no tables can map it", s);
}

static int parse_page_size(const char *s, unsigned *level)
{
	static const char *const names[] = { "4K", "2M", "1G" };

	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(s, names[i])) {
			*level = i + 1;
			return 0;
		}
	return bad("--page-size takes 4K, 2M or 1G, not \"%s\"", s);
}

/* --disk, --net and so on. */
static int add_device(struct vm_options *o, int (*create)(struct vm *vm, const char *arg), uint64_t rings)
{
	if (o->ndevices == VIRTIO_SLOTS)
		return bad("%s", "there is room for 8 devices (--disk, --net, --rng, --balloon, --console)");
	o->device[o->ndevices++] = (struct device_option){ create, optarg, rings };
	return 0;
}

static int parse_rings(const char *s, uint64_t *rings)
{
	static const struct {
		const char *word;
		uint64_t clear, set;
	} words[] = {
		{ "split", F_RING_PACKED, 0 }, { "packed", 0, F_RING_PACKED },
		{ "indirect=on", 0, F_RING_INDIRECT_DESC }, { "indirect=off", F_RING_INDIRECT_DESC, 0 },
		{ "event-idx=on", 0, F_RING_EVENT_IDX }, { "event-idx=off", F_RING_EVENT_IDX, 0 },
	};

	for (const char *p = s;; p++) {
		size_t len = strcspn(p, ",");
		unsigned i = 0;

		while (i < sizeof words / sizeof *words && (strlen(words[i].word) != len || strncmp(p, words[i].word, len)))
			i++;
		if (i == sizeof words / sizeof *words)
			return bad("--rings takes split, packed, indirect=on|off and event-idx=on|off, with commas between, not \"%s\"", s);
		*rings = (*rings & ~words[i].clear) | words[i].set;
		p += len;
		if (!*p)
			return 0;
	}
}

static int parse(int argc, char **argv, struct vm_options *o)
{
	enum { ENGINE, MEM, CPUS, INITRD, APPEND, TIMEOUT, TRACE, STATS, GDB, MIRROR, PATCH, SHADOW, PAGES, SAMPLE, HASH, DUMP, PAGE_FILE, CONTROL, NAME,
	       PLAN, PAGE_SIZE, PREMAP, NEIGHBOUR, RNG, RINGS, EVENT_FDS, HELP };
	static const struct option longopts[] = {
		{ "engine", 1, 0, ENGINE }, { "mem", 1, 0, MEM }, { "cpus", 1, 0, CPUS }, { "initrd", 1, 0, INITRD }, { "append", 1, 0, APPEND },
		{ "timeout", 1, 0, TIMEOUT }, { "trace", 1, 0, TRACE }, { "stats", 1, 0, STATS }, { "gdb", 1, 0, GDB },
		{ "control", 1, 0, CONTROL }, { "name", 1, 0, NAME },
		{ "mirror-if", 1, 0, MIRROR }, { "patch", 1, 0, PATCH }, { "shadow", 1, 0, SHADOW }, { "shadow-pages", 1, 0, PAGES },
		{ "sample-steps", 1, 0, SAMPLE }, { "hash-memory", 0, 0, HASH },
		{ "dump-tables", 1, 0, DUMP }, { "dump-html", 1, 0, PAGE_FILE }, { "plan", 1, 0, PLAN }, { "page-size", 1, 0, PAGE_SIZE },
		{ "neighbour", 1, 0, NEIGHBOUR }, { "premap", 0, 0, PREMAP },
		{ "rng", 0, 0, RNG }, { "rings", 1, 0, RINGS }, { "event-fds", 1, 0, EVENT_FDS }, { "help", 0, 0, HELP }, { 0 }
	};
	uint64_t rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX;
	int c, err = 0;

	opterr = 0;
	while (!err && (c = getopt_long(argc, argv, ":", longopts, NULL)) != -1) {
		switch (c) {
		case ENGINE:
			o->engine = optarg;
			if (!engine_find(optarg))
				err = bad("there is no engine \"%s\": it is trap, hvm or kvm", optarg);
			break;
		case MEM: err = parse_size(optarg, &o->mem_size); break;
		case CPUS: err = parse_cpus(optarg, &o->cpus); break;
		case INITRD: o->initrd = optarg; break;
		case APPEND: o->append = optarg; break;
		case TIMEOUT: err = parse_timeout(optarg, &o->timeout); break;
		case TRACE:
			o->trace_exits = true;
			if (strcmp(optarg, "exits"))
				err = bad("--trace takes \"exits\", not \"%s\"", optarg);
			break;
		case STATS:
			o->stats_json = true;
			if (strcmp(optarg, "json"))
				err = bad("--stats takes \"json\", not \"%s\"", optarg);
			break;
		case GDB: err = parse_port(optarg, &o->gdb_port); break;
		case CONTROL: o->control = optarg; break;
		case NAME:
			o->name = optarg;
			if (!control_name_valid(optarg))
				err = bad("--name takes up to 40 letters, digits, dots, hyphens and underscores, not \"%s\"", optarg);
			break;
		case MIRROR: err = parse_switch("--mirror-if takes on or off, not \"%s\"", optarg, &o->mirror_if); break;
		case PATCH: err = parse_switch("--patch takes on or off, not \"%s\"", optarg, &o->patch); break;
		case SHADOW: err = parse_shadow(optarg, &o->shadow); break;
		case PAGES: err = parse_pages(optarg, &o->shadow_pages); break;
		case SAMPLE: err = parse_steps(optarg, &o->sample_steps); break;
		case HASH: o->hash_memory = true; break;
		case DUMP: err = parse_dump(optarg, o); break;
		case PAGE_FILE: o->dump_html = optarg; break;
		case NEIGHBOUR: o->neighbour = optarg; break;
		case PLAN: o->plan = optarg; break;
		case PAGE_SIZE: err = parse_page_size(optarg, &o->page_level); break;
		case PREMAP: o->premap = true; break;
		case RNG: err = add_device(o, rng_create, rings); break;
		case RINGS: err = parse_rings(optarg, &rings); break;
		case EVENT_FDS: err = parse_switch("--event-fds takes on or off, not \"%s\"", optarg, &o->event_fds); break;
		case HELP: usage(stdout); exit(HV_OK);
		case ':': err = bad("%s needs a value", argv[optind - 1]); break;
		default: err = bad("there is no option %s", argv[optind - 1]);
		}
	}
	if (err)
		return err;
	if (optind == argc)
		return bad("%s", "the guest's image is missing");
	if (optind + 1 < argc)
		return bad("one image is enough: what is \"%s\"", argv[optind + 1]);
	o->image = argv[optind];
	if ((o->sample_steps || o->hash_memory) && !o->stats_json)
		return bad("%s shows what it found in --stats json, which is missing",
			   o->sample_steps ? "--sample-steps" : "--hash-memory");
	if (o->cpus > engine_find(o->engine)->max_cpus)
		return bad("--cpus: the %s engine runs one vCPU; --engine kvm runs up to 8", o->engine);
	if (o->cpus > 1 && (o->gdb_port >= 0 || o->sample_steps))
		return bad("%s stops the guest at an instruction, which needs a guest with one vCPU: leave --cpus away",
			   o->gdb_port >= 0 ? "--gdb" : "--sample-steps");
	if (o->dump_html && !o->dump)
		return bad("%s", "--dump-html shows what --dump-tables asks for, which is missing");
	if (o->dump_html && !strcmp(o->engine, engine_hvm.name) && !o->shadow)
		return bad("%s", "--dump-html draws the guest's tables and shadows; for nested tables --dump-tables prints everything");
	if (o->sample_steps && o->gdb_port >= 0)
		return bad("%s", "--sample-steps and --gdb both want to single-step the guest: one of them only");
	if (o->shadow && !strcmp(o->engine, engine_kvm.name))
		return bad("--shadow is for the trap and hvm engines: in the %s engine the CPU walks the guest's tables itself", o->engine);
	if (o->control && o->name)
		return bad("%s", "--control and --name both say where the control socket is: one of them only");
	const char *nested_option = o->plan ? "--plan" : o->page_level ? "--page-size" : o->premap ? "--premap" : NULL;
	if (nested_option && strcmp(o->engine, engine_hvm.name))
		return bad("%s is for the hvm engine, which has nested page tables", nested_option);
	if (o->neighbour && strcmp(o->engine, engine_hvm.name))
		return bad("%s", "--neighbour is for the hvm engine: its nested tables are what keeps two guests apart");
	if (o->neighbour && (o->gdb_port >= 0 || o->shadow))
		return bad("--neighbour does not go with %s", o->shadow ? "--shadow" : "--gdb");
	if (o->neighbour && (o->control || o->name))
		return bad("--neighbour does not go with %s: a control socket is for one VM", o->control ? "--control" : "--name");
	if (nested_option && o->shadow)
		return bad("%s is about nested page tables, which --shadow does without", nested_option);
	if (o->patch && strcmp(o->engine, engine_trap.name))
		return bad("--patch on is for the trap engine: in the %s engine popf needs no patch", o->engine);
	return 0;
}

int main(int argc, char **argv)
{
	static struct vm vm;

	vm.opt = (struct vm_options){ .engine = "trap", .mem_size = 64 * MiB, .cpus = 1, .gdb_port = -1, .mirror_if = true, .event_fds = true,
				     .shadow_pages = SHADOW_PAGES };
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))) {
		usage(stdout);
		return HV_OK;
	}
	if (argc > 1 && !strcmp(argv[1], "--version")) {
		puts("hv " VERSION);
		return HV_OK;
	}
	if (argc > 1 && !strcmp(argv[1], "ctl"))
		return ctl_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "list"))
		return list_main(argc - 1, argv + 1);
	if (argc == 2 && !strcmp(argv[1], "report"))
		return report_main();
	if (argc > 1 && !strcmp(argv[1], "popek"))
		return popek_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "walk"))
		return walk_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "nested"))
		return nested_main(argc - 1, argv + 1);
	if (argc < 2 || strcmp(argv[1], "run")) {
		if (argc < 2)
			bad("%s", "a command is missing: hv run [options] IMAGE");
		else
			bad("there is no command \"%s\": it is hv run [options] IMAGE", argv[1]);
		return HV_USAGE;
	}
	if (parse(argc - 1, argv + 1, &vm.opt))
		return HV_USAGE;
	if (vm.opt.neighbour) {
		int status = neighbour_start(&vm);
		if (status)
			return status;
	}
	return neighbour_end(&vm, vm_main(&vm));
}
