/*
 * `hv stream`: reads a script, a line at a time.
 */
#include "stream_command.h"
#include "script_file.h"
#include "stream_script.h"
#include "vm_life.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

static int one_line(void *script, char *line)
{
	return stream_script_line(script, line);
}

/* HV_OK, HV_USAGE, HV_HOST, or what the VM was stopped with. */
static int run(struct vm *vm, FILE *in, const char *name)
{
	struct stream_script s;
	struct script_reader r = { .command = "stream", .memory = "a stream", .line_max = SCRIPT_LINE_MAX, .vm = vm, .line = one_line,
				   .script = &s, .number = &s.line, .problem = s.problem, .problem_size = sizeof s.problem };
	int status = HV_HOST;

	if (stream_script_create(&s, vm))
		fputs("hv: not enough memory for a stream\n", stderr);
	else
		status = script_read(&r, in, name);
	stream_script_destroy(&s);
	return status;
}

int stream_main(int argc, char **argv)
{
	static struct vm vm;
	const char *name;

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		help();
		return HV_OK;
	}
	FILE *in = script_open(argc, argv, "stream", &name);
	if (!in)
		return HV_USAGE;
	char *place = in == stdin ? NULL : strdup(name);
	if (in != stdin && (!place || chdir(dirname(place)))) {
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
	return script_close(in, status);
}
