/*
 * `hv nested`: reads a script, a line at a time.
 */
#include "nested_command.h"
#include "engine.h"
#include "nested_script.h"
#include "vm_life.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define LINE_MAX_LENGTH 256

static void help(void)
{
	fputs("usage: hv nested [FILE]\n"
	      "Lets the lab's code work on nested page tables that no CPU uses, as a script says: FILE, or standard input.\n"
	      "Each line is one operation; # begins a comment; numbers are decimal or begin with 0x. An answer begins with "
	      "the\n"
	      "number of its line, and the indented lines above belong to it. Behind | it says how many tables are in use, "
	      "free,\n"
	      "and retired (free behind the next flush), and whether a flush is due. Without \"new\" the tables are those "
	      "of\n"
	      "\"new ept 2m,1g,ad,x 40 64\". No /dev/kvm is needed. Operations:\n\n",
	      stdout);
	script_help(stdout);
	puts("\nAn example: printf 'map 0 0x100000000 0x400000 rwx wb 3\\nprotect 0x1000 0x1000 r-x\\ntables\\n' | hv "
	     "nested");
}

static int bad(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv nested --help\n", stderr);
	return HV_USAGE;
}

static FILE *open_script(const char *path)
{
	FILE *f = fopen(path, "r");
	struct stat st;

	if (!f) {
		fprintf(stderr, "hv: %s: %s\n", path, strerror(errno));
	} else if (fstat(fileno(f), &st) || S_ISDIR(st.st_mode)) {
		fprintf(stderr, "hv: %s is a directory\n", path);
		fclose(f);
		f = NULL;
	}
	return f;
}

/* HV_OK, HV_USAGE, HV_HOST, or what the VM was stopped with. */
static int run(struct vm *vm, FILE *in, const char *name)
{
	char line[LINE_MAX_LENGTH];
	struct script s;
	int err = script_create(&s, vm);

	while (!err && fgets(line, sizeof line, in)) {
		if (!strchr(line, '\n') && !feof(in)) {
			s.line++;
			snprintf(s.problem, sizeof s.problem, "the line is longer than %d characters", LINE_MAX_LENGTH - 2);
			err = -EINVAL;
		} else {
			err = script_line(&s, line);
		}
	}
	fflush(stdout);
	if (err == -EINVAL)
		fprintf(stderr, "hv: %s, line %u: %s; see hv nested --help\n", name, s.line, s.problem);
	else if (err == -ENOMEM)
		fputs("hv: not enough memory for the tables\n", stderr);
	else if (vm->stopping)
		fprintf(stderr, "hv: %s, line %u: %s\n", name, s.line, vm->reason);
	script_destroy(&s);
	return err == -EINVAL ? HV_USAGE : err == -ENOMEM ? HV_HOST : vm->status;
}

int nested_main(int argc, char **argv)
{
	static struct vm vm;
	const char *name = "standard input";
	FILE *in = stdin;

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		help();
		return HV_OK;
	}
	if (argc > 1 && argv[1][0] == '-' && argv[1][1])
		return bad("there is no option %s", argv[1]);
	if (argc > 2)
		return bad("one script is enough: what is \"%s\"", argv[2]);
	if (argc == 2 && strcmp(argv[1], "-")) {
		name = argv[1];
		in = open_script(name);
		if (!in)
			return HV_USAGE;
	}
	vm.opt = (struct vm_options){ .engine = engine_trap.name, .mem_size = SCRIPT_MEM, .gdb_port = -1 };
	vm_init(&vm);
	vm.phys_bits = 48;
	vm.vcpu = (struct vcpu){ .vm = &vm, .efer = EFER_LME | EFER_LMA | EFER_NXE, .rflags = FLAG_FIXED };
	vm.vcpu.cr0 = CR0_PE | CR0_ET | CR0_WP | CR0_PG;
	vm.vcpu.cr4 = CR4_PAE;
	if (guest_mem_create(&vm.mem, SCRIPT_MEM)) {
		fprintf(stderr, "hv: the host cannot provide %llu MiB of memory for the guest's tables\n", SCRIPT_MEM / MiB);
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
