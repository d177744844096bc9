/*
 * vmmrun RAM-MIB COMMAND [ARG]...: runs a VMM and measures it from outside, in the same way whichever it is. The guest's console is the
 * VMM's standard output; lines that begin with @ are passed on, and at three of them something is measured:
 *
 *   @init   first line of the guest's first process: "init_ms" since the VMM was started, "init_cpu_ms" of processor time of all its
 *           threads, guest code among it
 *   @idle   memory: "rss_kib" resident in all mappings smaller than the guest's memory, "anon_kib" those of these pages that are no file's,
 *           "total_kib" resident in all
 *   @cpu N  processor time since the VMM was started, "cpu_ms N"
 *
 * The exit status is 0 when the VMM ended by itself and with status 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECONDS_MAX 300u /* a guest that hangs */

static double seconds(clockid_t clock)
{
	struct timespec t;

	return clock_gettime(clock, &t) ? -1 : (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_ms(pid_t pid)
{
	clockid_t clock;

	return clock_getcpuclockid(pid, &clock) ? -1 : seconds(clock) * 1000;
}

/* proc(5), smaps: a line "from-to perms ..." begins a mapping, lines "Name: n kB" belong to it. What is as large as the guest's
 * memory is the guest's memory: neither VMM has another mapping of that size of which pages are resident. */
static void memory(pid_t pid, unsigned long ram_kib)
{
	unsigned long long from, to;
	unsigned long kib, outside = 0, anonymous = 0, total = 0;
	char path[64], line[4400];
	unsigned guest = 0;
	int large = 0;

	snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
	FILE *f = fopen(path, "r");
	if (!f) {
		perror(path);
		exit(2);
	}
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "%llx-%llx ", &from, &to) == 2) {
			large = (to - from) / 1024 >= ram_kib;
		} else if (sscanf(line, "Rss: %lu kB", &kib) == 1) {
			total += kib;
			guest += large && kib;
			outside += large ? 0 : kib;
		} else if (!large && sscanf(line, "Anonymous: %lu kB", &kib) == 1) {
			anonymous += kib;
		}
	}
	fclose(f);
	if (guest != 1) {
		fprintf(stderr, "vmmrun: %u mappings could be the guest's memory\n", guest);
		exit(2);
	}
	printf("rss_kib %lu\nanon_kib %lu\ntotal_kib %lu\n", outside, anonymous, total);
}

static void measure(pid_t pid, const char *line, double start, unsigned long ram_kib)
{
	if (!strncmp(line, "@init", 5))
		printf("init_ms %.3f\ninit_cpu_ms %.3f\n", (seconds(CLOCK_MONOTONIC) - start) * 1000, cpu_ms(pid));
	else if (!strncmp(line, "@idle", 5))
		memory(pid, ram_kib);
	else if (!strncmp(line, "@cpu ", 5))
		printf("cpu_ms %.3f %s", cpu_ms(pid), line + 5);
	else if (line[0] == '@')
		fputs(line, stdout);
	else
		fputs(line, stderr);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int out[2], status;
	char line[4400];

	if (argc < 3 || pipe2(out, O_CLOEXEC)) {
		fprintf(stderr, "usage: vmmrun RAM-MIB COMMAND [ARG]...\n");
		return 2;
	}

	double start = seconds(CLOCK_MONOTONIC);
	pid_t pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_RDONLY);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(SECONDS_MAX);
		dup2(null, STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		execvp(argv[2], argv + 2);
		fprintf(stderr, "vmmrun: %s: %s\n", argv[2], strerror(errno));
		_exit(127);
	}
	close(out[1]);
	FILE *console = pid > 0 ? fdopen(out[0], "r") : NULL;
	if (!console) {
		perror("vmmrun");
		return 2;
	}
	while (fgets(line, sizeof line, console))
		measure(pid, line, start, strtoul(argv[1], NULL, 10) * 1024);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "vmmrun: %s ended with status 0x%x\n", argv[2], (unsigned)status);
		return 1;
	}
	return 0;
}
