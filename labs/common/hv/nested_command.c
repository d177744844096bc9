/*
 * `hv nested`: reads a script, a line at a time.
 */
#include "nested_command.h"
#include "engine.h"
#include "nested_script.h"
#include "script_file.h"
#include "vm_life.h"

#include <stdio.h>

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

static int one_line(void *script, char *line)
{
	return script_line(script, line);
}

/* HV_OK, HV_USAGE, HV_HOST, or what the VM was stopped with. */
static int run(struct vm *vm, FILE *in, const char *name)
{
	struct script s;
	struct script_reader r = { .command = "nested", .memory = "the tables", .line_max = 256, .vm = vm, .line = one_line, .script = &s,
				   .number = &s.line, .problem = s.problem, .problem_size = sizeof s.problem };
	int status = HV_HOST;

	if (script_create(&s, vm))
		fputs("hv: not enough memory for the tables\n", stderr);
	else
		status = script_read(&r, in, name);
	script_destroy(&s);
	return status;
}

int nested_main(int argc, char **argv)
{
	static struct vm vm;
	const char *name;

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		help();
		return HV_OK;
	}
	FILE *in = script_open(argc, argv, "nested", &name);
	if (!in)
		return HV_USAGE;
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
	return script_close(in, status);
}
