/*
 * The commands of hv.
 */
#include "control_command.h"
#include "incoming.h"
#include "nested_command.h"
#include "migrate_report.h"
#include "neighbour.h"
#include "nested_command.h"
#include "options.h"
#include "popek.h"
#include "report.h"
#include "spt.h"
#include "vm_life.h"
#include "walk_command.h"

#include <string.h>

#define VERSION "0.1"

int main(int argc, char **argv)
{
	static struct vm vm;
	static struct config config; /* of a VM in a file */

	vm.opt = (struct vm_options){ .engine = "trap",
				      .mem_size = 64 * MiB,
				      .cpus = 1,
				      .gdb_port = -1,
				      .mirror_if = true,
				      .event_fds = true,
				      .shadow_pages = SHADOW_PAGES };
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))) {
		hv_usage(stdout);
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
	if (argc > 1 && !strcmp(argv[1], "migrate-report"))
		return migrate_report_main(argc - 1, argv + 1);
	if (argc == 2 && !strcmp(argv[1], "report"))
		return report_main();
	if (argc > 1 && !strcmp(argv[1], "popek"))
		return popek_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "walk"))
		return walk_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "nested"))
		return nested_main(argc - 1, argv + 1);
	if (argc > 2 && !strcmp(argv[1], "restore")) {
		int status = restore_options(argv[2], &vm.opt, &config);
		if (status)
			return status;
		if (options_parse(argc - 2, argv + 2, &vm.opt) || (!vm.opt.ndevices && options_devices(&vm.opt, &config)))
			return HV_USAGE;
		return vm_main(&vm);
	}
	if (argc == 2 && !strcmp(argv[1], "restore")) {
		bad_usage("%s", "the file of a saved VM is missing: hv restore FILE [options]");
		return HV_USAGE;
	}
	if (argc < 2 || strcmp(argv[1], "run")) {
		if (argc < 2)
			bad_usage("%s", "a command is missing: hv run [options] IMAGE");
		else
			bad_usage("there is no command \"%s\": it is hv run [options] IMAGE", argv[1]);
		return HV_USAGE;
	}
	if (options_parse(argc - 1, argv + 1, &vm.opt))
		return HV_USAGE;
	if (vm.opt.neighbour) {
		int status = neighbour_start(&vm);
		if (status)
			return status;
	}
	return neighbour_end(&vm, vm_main(&vm));
}
