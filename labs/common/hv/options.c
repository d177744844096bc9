#include "options.h"
#include "control_path.h"
#include "engine.h"
#include "lab4.h"
#include "migration.h"
#include "virtio_balloon.h"
#include "virtio_console.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

/* One line each, in the order of hv --help. */
enum option_id {
	ENGINE,
	MEM,
	CPUS,
	INITRD,
	MODULE,
	APPEND,
	TIMEOUT,
	TRACE,
	STATS,
	GDB,
	MIRROR,
	PATCH,
	SHADOW,
	PAGES,
	SAMPLE,
	HASH,
	DUMP,
	PAGE_FILE,
	CONTROL,
	NAME,
	PLAN,
	PAGE_SIZE,
	PREMAP,
	NEIGHBOUR,
	DISK,
	NET,
	RNG,
	CONSOLE,
	BALLOON,
	RINGS,
	EVENT_FDS,
	WATCH_USED,
	INCOMING,
	RECORD,
	LAZY,
	HELP,
};

static const struct option longopts[] = {
	{ "engine", 1, 0, ENGINE },
	{ "mem", 1, 0, MEM },
	{ "cpus", 1, 0, CPUS },
	{ "initrd", 1, 0, INITRD },
	{ "module", 1, 0, MODULE },
	{ "append", 1, 0, APPEND },
	{ "timeout", 1, 0, TIMEOUT },
	{ "trace", 1, 0, TRACE },
	{ "stats", 1, 0, STATS },
	{ "gdb", 1, 0, GDB },
	{ "control", 1, 0, CONTROL },
	{ "name", 1, 0, NAME },
	{ "mirror-if", 1, 0, MIRROR },
	{ "patch", 1, 0, PATCH },
	{ "shadow", 1, 0, SHADOW },
	{ "shadow-pages", 1, 0, PAGES },
	{ "sample-steps", 1, 0, SAMPLE },
	{ "hash-memory", 0, 0, HASH },
	{ "dump-tables", 1, 0, DUMP },
	{ "dump-html", 1, 0, PAGE_FILE },
	{ "plan", 1, 0, PLAN },
	{ "page-size", 1, 0, PAGE_SIZE },
	{ "neighbour", 1, 0, NEIGHBOUR },
	{ "premap", 0, 0, PREMAP },
	{ "disk", 1, 0, DISK },
	{ "net", 1, 0, NET },
	{ "rng", 0, 0, RNG },
	{ "console", 0, 0, CONSOLE },
	{ "balloon", 0, 0, BALLOON },
	{ "rings", 1, 0, RINGS },
	{ "event-fds", 1, 0, EVENT_FDS },
	{ "watch-used", 0, 0, WATCH_USED },
	{ "incoming", 1, 0, INCOMING },
	{ "record", 1, 0, RECORD },
	{ "lazy", 0, 0, LAZY },
	{ "help", 0, 0, HELP },
	{ 0 },
};

int bad_usage(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv --help\n", stderr);
	return -EINVAL;
}

/* --disk, --net and so on. */
static int add_device(struct vm_options *o, const char *name, int (*create)(struct vm *vm, const char *arg), uint64_t rings)
{
	if (o->ndevices == VIRTIO_SLOTS)
		return bad_usage("%s", "there is room for 8 devices (--disk, --net, --rng, --balloon, --console)");
	o->device[o->ndevices++] = (struct device_option){ create, optarg, rings, name };
	return 0;
}

int options_devices(struct vm_options *o, const struct config *config)
{
	static const struct {
		const char *name;
		int (*create)(struct vm *vm, const char *arg);
	} kind[] = { { "disk", blk_create },
		     { "net", net_create },
		     { "rng", rng_create },
		     { "console", virtio_console_create },
		     { "balloon", virtio_balloon_create } };

	for (unsigned i = 0; i < config->ndevices; i++) {
		const struct config_device *d = &config->device[i];
		unsigned k = 0;

		while (k < sizeof kind / sizeof *kind && strcmp(kind[k].name, d->name))
			k++;
		if (k == sizeof kind / sizeof *kind)
			return bad_usage("the file has a device --%s, which is unknown here", d->name);
		o->device[o->ndevices++] = (struct device_option){ kind[k].create, *d->arg ? d->arg : NULL, d->rings, kind[k].name };
	}
	return 0;
}

/* Options that need each other, or do not go together. */
static int check(const struct vm_options *o)
{
	if ((o->sample_steps || o->hash_memory) && !o->stats_json)
		return bad_usage("%s shows what it found in --stats json, which is missing",
				 o->sample_steps ? "--sample-steps" : "--hash-memory");
	if (o->cpus > engine_find(o->engine)->max_cpus)
		return bad_usage("--cpus: the %s engine runs one vCPU; --engine kvm runs up to 8", o->engine);
	if (o->cpus > 1 && (o->gdb_port >= 0 || o->sample_steps))
		return bad_usage(
			"%s stops the guest at an instruction, which needs a guest with one vCPU: leave --cpus away",
			o->gdb_port >= 0 ? "--gdb" : "--sample-steps");
	if (o->dump_html && !o->dump)
		return bad_usage("%s", "--dump-html shows what --dump-tables asks for, which is missing");
	if (o->dump_html && !strcmp(o->engine, engine_hvm.name) && !o->shadow)
		return bad_usage("%s", "--dump-html draws the guest's tables and shadows; for nested tables --dump-tables "
				       "prints everything");
	if (o->sample_steps && o->gdb_port >= 0)
		return bad_usage("%s", "--sample-steps and --gdb both want to single-step the guest: one of them only");
	if (o->shadow && !strcmp(o->engine, engine_kvm.name))
		return bad_usage(
			"--shadow is for the trap and hvm engines: in the %s engine the CPU walks the guest's tables itself",
			o->engine);
	if (o->control && o->name)
		return bad_usage("%s", "--control and --name both say where the control socket is: one of them only");
	const char *nested_option = o->plan ? "--plan" : o->page_level ? "--page-size" : o->premap ? "--premap" : NULL;
	if (nested_option && strcmp(o->engine, engine_hvm.name))
		return bad_usage("%s is for the hvm engine, which has nested page tables", nested_option);
	if (o->neighbour && strcmp(o->engine, engine_hvm.name))
		return bad_usage("%s",
				 "--neighbour is for the hvm engine: its nested tables are what keeps two guests apart");
	if (o->neighbour && (o->gdb_port >= 0 || o->shadow))
		return bad_usage("--neighbour does not go with %s", o->shadow ? "--shadow" : "--gdb");
	if (o->neighbour && (o->control || o->name))
		return bad_usage("--neighbour does not go with %s: a control socket is for one VM",
				 o->control ? "--control" : "--name");
	if (nested_option && o->shadow)
		return bad_usage("%s is about nested page tables, which --shadow does without", nested_option);
	if (o->incoming && o->restore)
		return bad_usage("%s", "--incoming waits for a VM, and restore has one already");
	if (o->lazy && !o->restore)
		return bad_usage("%s", "--lazy is for hv restore: it maps memory from the file");
	if (o->record && !o->incoming)
		return bad_usage("%s", "--record is for --incoming, where it decides who has the VM");
	if ((o->incoming || o->restore) && (o->neighbour || o->gdb_port >= 0 || o->plan || o->sample_steps || o->premap))
		return bad_usage("%s", "--incoming and restore do not go with --neighbour, --gdb, --plan, --sample-steps and --premap");
	if (o->patch && strcmp(o->engine, engine_trap.name))
		return bad_usage("--patch on is for the trap engine: in the %s engine popf needs no patch", o->engine);
	return 0;
}

int options_parse(int argc, char **argv, struct vm_options *o)
{
	uint64_t rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX;
	char sentence[200];
	int c, err = 0;

	opterr = 0;
	while (!err && (c = getopt_long(argc, argv, ":", longopts, NULL)) != -1) {
		switch (c) {
		case ENGINE:
			o->engine = optarg;
			if (!engine_find(optarg))
				err = bad_usage("there is no engine \"%s\": it is trap, hvm or kvm", optarg);
			break;
		case MEM: err = parse_size(optarg, &o->mem_size); break;
		case CPUS: err = parse_cpus(optarg, &o->cpus); break;
		case INITRD: o->initrd = optarg; break;
		case MODULE:
			if (o->nmodules == BOOT_MODULES)
				err = bad_usage("%s", "there are more than 16 modules");
			else
				o->module[o->nmodules++] = optarg;
			break;
		case APPEND: o->append = optarg; break;
		case TIMEOUT: err = parse_timeout(optarg, &o->timeout); break;
		case TRACE:
			o->trace_exits = true;
			if (strcmp(optarg, "exits"))
				err = bad_usage("--trace takes \"exits\", not \"%s\"", optarg);
			break;
		case STATS:
			o->stats_json = true;
			if (strcmp(optarg, "json"))
				err = bad_usage("--stats takes \"json\", not \"%s\"", optarg);
			break;
		case GDB: err = parse_port(optarg, &o->gdb_port); break;
		case CONTROL: o->control = optarg; break;
		case NAME:
			o->name = optarg;
			if (!control_name_valid(optarg))
				err = bad_usage(
					"--name takes up to 40 letters, digits, dots, hyphens and underscores, not \"%s\"",
					optarg);
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
		case DISK: err = add_device(o, "disk", blk_create, rings); break;
		case NET: err = add_device(o, "net", net_create, rings); break;
		case RNG: err = add_device(o, "rng", rng_create, rings); break;
		case CONSOLE: err = add_device(o, "console", virtio_console_create, rings); break;
		case BALLOON: err = add_device(o, "balloon", virtio_balloon_create, rings); break;
		case RINGS: err = parse_rings(optarg, &rings); break;
		case EVENT_FDS: err = parse_switch("--event-fds takes on or off, not \"%s\"", optarg, &o->event_fds); break;
		case WATCH_USED: o->watch_used = true; break;
		case INCOMING:
			o->incoming = optarg;
			if (wire_uri_check(optarg, sentence, sizeof sentence))
				err = bad_usage("--incoming: %s", sentence);
			break;
		case RECORD: o->record = optarg; break;
		case LAZY: o->lazy = true; break;
		case HELP: hv_usage(stdout); exit(HV_OK);
		case ':': err = bad_usage("%s needs a value", argv[optind - 1]); break;
		default: err = bad_usage("there is no option %s", argv[optind - 1]);
		}
	}
	if (err)
		return err;
	bool elsewhere = o->incoming || o->restore; /* the guest's memory comes from there */
	if (optind == argc && !elsewhere)
		return bad_usage("%s", "the guest's image is missing");
	if (optind + !elsewhere < argc)
		return bad_usage(elsewhere ? "a VM that is loaded needs no image: what is \"%s\"" : "one image is enough: what is \"%s\"",
				 argv[optind + !elsewhere]);
	o->image = elsewhere ? NULL : argv[optind];
	return check(o);
}
