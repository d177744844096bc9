/*
 * The commands of hv.
 */
#include "control_command.h"
#include "incoming.h"
#include "migrate_report.h"
#include "neighbour.h"
#include "nested_command.h"
#include "options.h"
#include "popek.h"
#include "report.h"
#include "spt.h"
#include "stream_command.h"
#include "vm_life.h"
#include "walk_command.h"

#include <string.h>

#define VERSION "0.1"

static struct vm vm;

static int run_main(int argc, char **argv)
{
	if (options_parse(argc, argv, &vm.opt))
		return HV_USAGE;
	if (vm.opt.neighbour) {
		int status = neighbour_start(&vm);
		if (status)
			return status;
	}
	return neighbour_end(&vm, vm_main(&vm));
}

static int restore_main(int argc, char **argv)
{
	static struct config config;

	if (argc < 2 || argv[1][0] == '-') {
		bad_usage("%s", "the file of a saved VM is missing: hv restore FILE [options]");
		return HV_USAGE;
	}
	/* What the file says comes first, so that the command line counts instead. */
	int status = restore_options(argv[1], &vm.opt, &config);
	if (status)
		return status;
	if (options_parse(argc - 1, argv + 1, &vm.opt) || (!vm.opt.ndevices && options_devices(&vm.opt, &config)))
		return HV_USAGE;
	return vm_main(&vm);
}

static int report_command(int argc, char **argv)
{
	if (argc > 1) {
		bad_usage("hv report takes nothing; what is \"%s\"", argv[1]);
		return HV_USAGE;
	}
	return report_main();
}

static const struct {
	const char *name;
	int (*main)(int argc, char **argv);
} command[] = {
	{ "run", run_main },       { "restore", restore_main }, { "ctl", ctl_main },
	{ "list", list_main },     { "report", report_command }, { "migrate-report", migrate_report_main },
	{ "popek", popek_main },   { "walk", walk_main },       { "nested", nested_main },
	{ "stream", stream_main },
};

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	vm.opt = (struct vm_options){ .engine = "trap",
				      .mem_size = 64 * MiB,
				      .cpus = 1,
				      .gdb_port = -1,
				      .mirror_if = true,
				      .event_fds = true,
				      .shadow_pages = SHADOW_PAGES };
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		hv_usage(stdout);
		return HV_OK;
	}
	if (!strcmp(name, "--version")) {
		puts("hv " VERSION);
		return HV_OK;
	}
	for (unsigned i = 0; i < sizeof command / sizeof *command; i++)
		if (!strcmp(name, command[i].name))
			return command[i].main(argc - 1, argv + 1);
	if (argc < 2)
		bad_usage("%s", "a command is missing: hv run [options] IMAGE");
	else
		bad_usage("there is no command \"%s\": it is hv run [options] IMAGE", name);
	return HV_USAGE;
}
