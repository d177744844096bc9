/*
 * The course kernel: starts a handful of processes, waits for each in turn, and tells what became of them. What it prints
 * is the same in every run, on every machine and under every hypervisor; a difference is a mistake of one of them.
 *
 * Command line: procs=N compute processes (0-8, else 2), only=NAME (one program, and no compute processes), quiet (no
 * process output, only the result), echo (afterwards read a line from the console and print it reversed).
 */
#include "console.h"
#include "irq.h"
#include "proc.h"
#include "programs.h"
#include "start_info.h"
#include "string.h"
#include "syscall.h"
#include "trap.h"
#include "user.h"

#define MAX_COMPUTE 8
#define MAX_FORKED 8 /* how many of the programs' children there can be at a time */

static struct options {
	unsigned compute;
	bool quiet, echo;
	const struct program *only;
} opt = { .compute = 2 };

static const struct program compute = { "compute", user_compute, 20000, NOT_KILLED };
static const struct program programs[] = {
	{ "writer", user_writer, 3, NOT_KILLED },
	{ "rogue", user_rogue, 0, VEC_GP },
	{ "divide", user_divide, 0, VEC_DE },
	{ "sleeper", user_sleeper, 10, NOT_KILLED },
};
#define PROGRAMS (sizeof(programs) / sizeof(programs[0]))
#define MAX_JOBS (MAX_COMPUTE + PROGRAMS + MAX_MORE_PROGRAMS)

static struct job {
	const struct program *program;
	struct proc *proc;
} jobs[MAX_JOBS];
static unsigned njobs;

_Static_assert(MAX_JOBS + MAX_FORKED < NPROC, "each job needs a process, and so does the kernel");

static bool is_word(const char *word, size_t len, const char *what)
{
	return strlen(what) == len && !strncmp(word, what, len);
}

/* The i-th of all programs but compute, or NULL behind the last. */
static const struct program *program(unsigned i)
{
	const struct program *p = i < PROGRAMS ? &programs[i] : &more_programs[i - PROGRAMS];

	return p->name ? p : NULL;
}

static const struct program *find_program(const char *word, size_t len)
{
	const struct program *p;

	for (unsigned i = 0; (p = program(i)); i++)
		if (is_word(word, len, p->name))
			return p;
	return NULL;
}

static void parse_option(const char *word, size_t len)
{
	if (is_word(word, len, "quiet"))
		opt.quiet = true;
	else if (is_word(word, len, "echo"))
		opt.echo = true;
	else if (len == 7 && !strncmp(word, "procs=", 6) && word[6] >= '0' && word[6] <= '0' + MAX_COMPUTE)
		opt.compute = word[6] - '0';
	else if (len > 5 && !strncmp(word, "only=", 5) && find_program(word + 5, len - 5))
		opt.only = find_program(word + 5, len - 5);
	else
		kprintf("an option that this kernel does not know; it knows procs=0 to procs=%d, only=NAME, quiet, echo\n",
			MAX_COMPUTE);
}

static void parse_cmdline(const char *s)
{
	while (*s) {
		size_t len = 0;

		while (s[len] && s[len] != ' ')
			len++;
		if (len)
			parse_option(s, len);
		s += len + (s[len] == ' ');
	}
}

static void start(const struct program *program)
{
	struct job *job = &jobs[njobs++];

	job->program = program;
	job->proc = proc_spawn(program->name, program->fn, program->arg);
	if (!job->proc)
		panic("there is no room for another process");
}

static void print_output(const struct proc *p)
{
	for (size_t i = 0; i < p->outlen; i++) {
		if (!i || p->out[i - 1] == '\n')
			kprintf("%2d %-8s| ", p->pid, p->name);
		console_write(&p->out[i], 1);
	}
	if (p->outlen && p->out[p->outlen - 1] != '\n')
		kprintf("\n");
}

static void print_end(const struct proc *p)
{
	if (p->killed_by == NOT_KILLED)
		kprintf("%2d %-8s: exit code %d\n", p->pid, p->name, p->exit_code);
	else
		kprintf("%2d %-8s: killed by the kernel\n", p->pid, p->name);
}

static bool as_expected(const struct job *job)
{
	const struct proc *p = job->proc;

	return p->killed_by == job->program->killed_by && (p->killed_by != NOT_KILLED || !p->exit_code);
}

/* How many of the compute processes (they are the first jobs) shared the CPU with another one without being asked. */
static unsigned count_interleaved(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < opt.compute; i++) {
		bool found = false;

		for (unsigned k = 0; k < opt.compute; k++)
			found |= k != i && proc_interleaved(jobs[i].proc, jobs[k].proc);
		count += found;
	}
	return count;
}

static void run_all(void)
{
	if (opt.only) {
		opt.compute = 0;
		start(opt.only);
	} else {
		for (unsigned i = 0; i < opt.compute; i++)
			start(&compute);
		for (unsigned i = 0; program(i); i++)
			start(program(i));
	}
	for (unsigned i = 0; i < njobs; i++) {
		proc_wait(jobs[i].proc);
		if (!opt.quiet) {
			print_output(jobs[i].proc);
			print_end(jobs[i].proc);
		}
	}
}

/* True when everything was as it has to be. */
static bool summary(void)
{
	unsigned killed = 0, unexpected = 0, interleaved = count_interleaved();

	for (unsigned i = 0; i < njobs; i++) {
		killed += jobs[i].proc->killed_by != NOT_KILLED;
		unexpected += !as_expected(&jobs[i]);
	}
	kprintf("%u processes: %u ended by themselves, %u were killed\n", njobs, njobs - killed, killed);
	if (interleaved)
		kprintf("%u processes that never yield were interleaved by the timer\n", interleaved);
	else if (opt.compute > 1)
		kprintf("the timer did not interleave processes that never yield\n");
	if (unexpected)
		kprintf("%u of them did not end as they have to\n", unexpected);
	return space_all_back() && !unexpected && (opt.compute < 2 || interleaved == opt.compute);
}

static void echo_reversed(void)
{
	char line[128];
	size_t len;

	kprintf("type a line: ");
	len = console_read_line(line, sizeof(line));
	kprintf("reversed: ");
	while (len--)
		console_write(&line[len], 1);
	kprintf("\n");
}

/* Shown before processes depend on it: a machine whose timer is silent stops right here and not somewhere. */
static void await_tick(void)
{
	if (!opt.quiet)
		kprintf("waiting for the timer ... ");
	proc_sleep_ticks(1);
	if (!opt.quiet)
		kprintf("it ticks, %d times a second\n", HZ);
}

int guest_main(const struct hvm_start_info *info)
{
	bool good;

	trap_init();
	space_init(info);
	irq_init();
	console_init();
	proc_init();
	syscall_init();
	irq_restore(true);

	if (info->magic == HVM_START_MAGIC && info->cmdline)
		parse_cmdline(space_direct(info->cmdline));
	if (!opt.quiet)
		kprintf("course kernel: 64 bits, %s\n", space_kind);
	await_tick();
	run_all();
	good = summary();
	if (opt.echo)
		echo_reversed();
	kprintf("the kernel has ended\n");
	return good ? 0 : 1;
}
