/*
 * Process 1 of the test host: makes the place where jobs run, then runs the plan.
 *
 * The plan is text, one word and its value per line; a job ends with `end`:
 *   nominal 2000        milliseconds that this point of the boot takes on the machine the limits were made for
 *   job 0               index; then uid, wall (ms), cpu (s), as (MiB), fsize (KiB), disk (KiB), nofile, nproc, capture
 *   arg /bin/hv         one line per argument; @SECONDS:8@ in it becomes 8 s scaled to this machine
 *   stdin /input/0
 *   killat 20 durable 7 20 ms after this text on stdout the program is killed
 *   back disk.img       a file of the job that the program may change: what it changed goes to the grader
 *   end
 * Before each job the grader is asked ('?') and answers g (go), s (skip) or q (that was all).
 */
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define PLAN "/plan"
#define MODULES "/modules/"
#define SCALE_MAX 40.0

#define PACE_BYTES (4u << 20)
#define PACE_TRIES 4

static double scale = 1.0; /* how much slower this machine is than the nominal one, at least 1 */
static unsigned boot_ms;   /* what the boot took, or would take now */

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t); /* counts from the start of the kernel */
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static void setting(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	/* Settings that a kernel lacks are about features it then lacks too. */
	if (fd >= 0 && write(fd, value, strlen(value)) < 0)
		fprintf(stderr, "runner: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void load_module(const char *name, const char *options)
{
	char path[128];
	int fd;

	snprintf(path, sizeof path, MODULES "%s.ko", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* built in, or not needed by this kernel; what counts is whether /dev/kvm works in the end */
	if (syscall(SYS_finit_module, fd, options, 0) < 0 && errno != EEXIST)
		fprintf(stderr, "runner: module %s: %s\n", name, strerror(errno));
	close(fd);
}

static void device(const char *name, mode_t mode, dev_t dev)
{
	char path[64];

	snprintf(path, sizeof path, JAIL "/dev/%s", name);
	unlink(path);
	if (mknod(path, S_IFCHR | mode, dev) < 0 || chmod(path, mode) < 0)
		fatal("no %s for the jobs: %s", name, strerror(errno));
}

/* Jobs get a root directory with five harmless devices and nothing writable; kernel information stays outside. */
static void make_jail(void)
{
	struct stat st;

	mkdir(JAIL "/dev", 0755);
	mkdir(JAIL "/proc", 0755);
	mkdir(JAIL "/work", 0755);
	device("null", 0666, makedev(1, 3));
	device("zero", 0666, makedev(1, 5));
	device("full", 0666, makedev(1, 7));
	device("urandom", 0666, makedev(1, 9));
	if (stat("/dev/kvm", &st) < 0)
		fatal("the test host has no /dev/kvm: its kernel did not accept the KVM modules");
	device("kvm", 0666, st.st_rdev);
	setting("/proc/sys/kernel/dmesg_restrict", "1");
	setting("/proc/sys/kernel/kptr_restrict", "2");
	setting("/proc/sys/user/max_user_namespaces", "0");
	setting("/proc/sys/vm/unprivileged_userfaultfd", "1"); /* post-copy (Lab 5): KVM's accesses to missing pages are told, too */
	setting("/proc/sys/kernel/panic_on_oops", "1"); /* a damaged kernel must not go on judging */
}

static void expand(struct job *job, const char *value)
{
	const char *at = strstr(value, "@SECONDS:");
	char *to = job->text + job->used;
	size_t room = sizeof job->text - job->used;
	char *end;
	int n;

	if (at) {
		double seconds = strtod(at + strlen("@SECONDS:"), &end);

		n = snprintf(to, room, "%.*s%.0f%s", (int)(at - value), value, seconds * scale + 0.5, *end ? end + 1 : end);
	} else {
		n = snprintf(to, room, "%s", value);
	}
	if (n < 0 || (size_t)n >= room || job->argc == JOB_ARGS)
		fatal("the arguments of job %u do not fit", job->index);
	job->argv[job->argc++] = to;
	job->used += n + 1;
}

static bool plan_line(struct job *job, const char *word, const char *value)
{
	unsigned number = strtoul(value, NULL, 10);

	if (!strcmp(word, "job")) {
		memset(job, 0, sizeof *job);
		job->index = number;
	} else if (!strcmp(word, "nominal")) {
		if (number && boot_ms > number)
			scale = (double)boot_ms / number;
		scale = scale > SCALE_MAX ? SCALE_MAX : scale;
	} else if (!strcmp(word, "uid")) {
		job->uid = number;
	} else if (!strcmp(word, "wall")) {
		job->wall_ms = number * scale;
	} else if (!strcmp(word, "cpu")) {
		job->cpu_s = number * scale + 0.5;
	} else if (!strcmp(word, "as")) {
		job->as_mib = number;
	} else if (!strcmp(word, "fsize")) {
		job->fsize_kib = number;
	} else if (!strcmp(word, "disk")) {
		job->disk_kib = number;
	} else if (!strcmp(word, "nofile")) {
		job->nofile = number;
	} else if (!strcmp(word, "nproc")) {
		job->nproc = number;
	} else if (!strcmp(word, "capture")) {
		job->capture = number > CAPTURE_MAX ? CAPTURE_MAX : number;
	} else if (!strcmp(word, "arg")) {
		expand(job, value);
	} else if (!strcmp(word, "stdin")) {
		snprintf(job->stdin_path, sizeof job->stdin_path, "%s", value);
	} else if (!strcmp(word, "killat")) {
		const char *text = strchr(value, ' ');

		job->kill_ms = number;
		snprintf(job->kill_at, sizeof job->kill_at, "%s", text ? text + 1 : "");
	} else if (!strcmp(word, "back")) {
		snprintf(job->back, sizeof job->back, "%s", value);
	} else {
		return false;
	}
	return true;
}

static void run_plan(FILE *plan)
{
	static struct job job;
	static char line[JOB_TEXT];

	while (fgets(line, sizeof line, plan)) {
		char *value = strchr(line, ' ');

		line[strcspn(line, "\n")] = 0;
		if (value)
			*value++ = 0;
		if (!strcmp(line, "end")) {
			char answer;

			if (job.uid < 1000 || !job.argc)
				fatal("job %u of the plan has no user or no program", job.index);
			channel_printf('?', "%u %u", job.index, job.wall_ms);
			answer = channel_receive();
			if (answer == 'q')
				return;
			if (answer == 'g')
				job_run(&job);
		} else if (!plan_line(&job, line, value ? value : "")) {
			fatal("the plan has a line that begins with \"%.40s\"", line);
		}
	}
}

/* Nanoseconds that some work of the kind takes that a boot consists of: page faults. The quickest of a few times. */
static uint64_t pace(void)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < PACE_TRIES; i++) {
		struct timespec a, b;
		uint64_t ns;
		char *p;

		clock_gettime(CLOCK_MONOTONIC, &a);
		p = mmap(NULL, PACE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t at = 0; p != MAP_FAILED && at < PACE_BYTES; at += 4096)
			p[at] = 1;
		if (p != MAP_FAILED)
			munmap(p, PACE_BYTES);
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = (b.tv_sec - a.tv_sec) * 1000000000ull + b.tv_nsec - a.tv_nsec;
		best = ns < best ? ns : best;
	}
	return best;
}

/* The boot's time is the measure of the machine's speed. When the boot was an earlier one, another may have been at work beside it. */
static void measure_speed(void)
{
	uint64_t then, now;

	boot_ms = now_ms();
	if (!mailbox_expected())
		return;
	then = pace();
	mailbox_take();
	now = pace();
	if (now > then)
		boot_ms = (double)boot_ms * now / then;
}

static void hello(FILE *plan)
{
	struct utsname u;
	char line[128];

	/* The first line of the plan sets the scale. */
	if (!fgets(line, sizeof line, plan) || strncmp(line, "nominal ", 8))
		fatal("the plan does not begin with the nominal boot time");
	plan_line(NULL, "nominal", line + 8);
	uname(&u);
	channel_printf('H', "kernel=%s\nboot_ms=%u\nscale=%.3f\n", u.release, boot_ms, scale);
}

int main(void)
{
	FILE *plan;
	int err;

	umask(022);
	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, "hidepid=2");
	channel_open();
	load_module("irqbypass", "");
	load_module("ccp", "");
	load_module("kvm", "");
	load_module("kvm-amd", "nested=1"); /* whichever of the two the grader packed for this host's processor */
	load_module("kvm-intel", "nested=1");
	make_jail();
	err = witness_open();
	if (err)
		fatal("the test host's kernel cannot count KVM events (%s), so nothing could be proven", strerror(-err));
	measure_speed();
	plan = fopen(PLAN, "re");
	if (!plan)
		fatal("the test host was started without a plan");
	hello(plan);
	witness_send(); /* where the counting begins */
	run_plan(plan);
	channel_send('Z', NULL, 0, NULL, 0);
	for (;;) /* the grader ends the machine when it has read the last record */
		pause();
}
