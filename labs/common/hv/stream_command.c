/*
 * `hv stream`: reads a script, a line at a time.
 */
#include "stream_command.h"
#include "stream_script.h"
#include "vm_life.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LINE_MAX_LENGTH 1024
#define SCRIPT_MEM (16 * MiB)

static void help(void)
{
	fputs("usage: hv stream [FILE]\n"
	      "Lets the lab's code write and read streams and decide what its rules decide, as a script says: FILE, or "
	      "standard input.\n"
	      "Each line is one operation; # begins a comment; numbers are decimal or begin with 0x. An answer begins with "
	      "the number of\n"
	      "its line; the indented lines above belong to it; behind \":\" is the sentence of a refusal. There are 16 MiB "
	      "of guest\n"
	      "memory, all zero; names of files are as seen from the script. No /dev/kvm is needed. Operations:\n\n",
	      stdout);
	stream_script_help(stdout);
	puts("\nAn example: printf 'fill 5 2 1\\nout a 1 0\\nbegin 7 0\\npages 0 64\\nclose\\nin a\\nexpect\\nread\\n' | "
	     "hv stream");
}

/* HV_OK, HV_USAGE, HV_HOST, or what the VM was stopped with. */
static int run(struct vm *vm, FILE *in, const char *name)
{
	char line[LINE_MAX_LENGTH];
	struct stream_script s;
	int err = stream_script_create(&s, vm);

	while (!err && fgets(line, sizeof line, in)) {
		if (!strchr(line, '\n') && !feof(in)) {
			s.line++;
			snprintf(s.problem, sizeof s.problem, "the line is longer than %d characters", LINE_MAX_LENGTH - 2);
			err = -EINVAL;
		} else {
			err = stream_script_line(&s, line);
		}
	}
	fflush(stdout);
	if (err == -EINVAL)
		fprintf(stderr, "hv: %s, line %u: %s; see hv stream --help\n", name, s.line, s.problem);
	else if (err == -ENOMEM)
		fputs("hv: not enough memory for a stream\n", stderr);
	else if (vm->stopping)
		fprintf(stderr, "hv: %s, line %u: %s\n", name, s.line, vm->reason);
	stream_script_destroy(&s);
	return err == -EINVAL ? HV_USAGE : err == -ENOMEM ? HV_HOST : vm->status;
}

int stream_main(int argc, char **argv)
{
	static struct vm vm;
	const char *name = argc == 2 ? argv[1] : "standard input";

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		help();
		return HV_OK;
	}
	if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
		fprintf(stderr, "hv: what is \"%s\"? see hv stream --help\n", argv[argc - 1]);
		return HV_USAGE;
	}
	FILE *in = argc == 2 ? fopen(argv[1], "r") : stdin;
	char *place = argc == 2 ? strdup(argv[1]) : NULL;
	if (!in || (argc == 2 && (!place || chdir(dirname(place))))) {
		fprintf(stderr, "hv: %s: %s\n", name, strerror(errno));
		return HV_USAGE;
	}
	free(place);
	vm.opt = (struct vm_options){ .engine = "trap", .mem_size = SCRIPT_MEM, .gdb_port = -1 };
	vm_init(&vm);
	if (guest_mem_create(&vm.mem, SCRIPT_MEM)) {
		fprintf(stderr, "hv: the host cannot provide %llu MiB of memory for the guest's pages\n", SCRIPT_MEM / MiB);
		return HV_HOST;
	}
	int status = run(&vm, in, name);
	guest_mem_destroy(&vm.mem);
	if (in != stdin)
		fclose(in);
	if (!status && (fflush(stdout) || ferror(stdout))) {
		fprintf(stderr, "hv: cannot write to stdout: %s\n", strerror(errno));
		return HV_HOST;
	}
	return status;
}
