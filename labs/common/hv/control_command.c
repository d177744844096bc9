#include "control_command.h"
#include "control.h"
#include "control_path.h"
#include "json_read.h"
#include "vm.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long to wait for an answer: to a command, which may have much to do, and to the question how a VM is. */
#define CTL_SECONDS 20
#define LIST_SECONDS 2

static void ctl_usage(FILE *out)
{
	fprintf(out, "usage: hv ctl SOCKET|NAME COMMAND [VALUE]\n"
		     "Gives a command to the VM that was started with --control SOCKET or --name NAME, and prints what it "
		     "answers: JSON,\n"
		     "but for screen, which is printed as it looks. Commands:\n\n");
	for (const struct control_command *c = control_commands; c->name; c++)
		fprintf(out, "  %-8s %-5s %s\n", c->name, c->argument ? c->argument : "", c->what);
	fputs("\nExit status: 0 done, 1 the VM refuses, 2 wrong usage, 3 no VM answers.\n", out);
}

static int bad(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv ctl --help\n", stderr);
	return HV_USAGE;
}

/* What has a slash is a place; else it is a name, if a VM has it, or a file here. */
static void find_socket(const char *who, char *path, size_t len)
{
	char dir[PATH_MAX - CONTROL_NAME_MAX - sizeof CONTROL_SUFFIX - 1], err[PATH_MAX + 200];
	struct stat st;

	if (!strchr(who, '/') && control_name_valid(who) && !control_directory(dir, sizeof dir, false, err, sizeof err)) {
		snprintf(path, len, "%s/%s%s", dir, who, CONTROL_SUFFIX);
		if (!lstat(path, &st) || lstat(who, &st))
			return;
	}
	snprintf(path, len, "%s", who);
}

static int send_line(int fd, const char *line)
{
	size_t len = strlen(line), sent = 0;

	while (sent < len) {
		ssize_t n = send(fd, line + sent, len - sent, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		sent += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Sends a line to the VM at path and returns what it answers, which is to be freed; NULL with errno when it does not answer. wait: until it
 * has hung up, which is when it has ended. */
static char *ask(const char *path, const char *line, unsigned seconds, bool wait)
{
	struct sockaddr_un addr;
	char err[200], *answer = NULL;
	size_t size = 0;

	if (control_address(path, &addr, err, sizeof err)) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	int fd = control_connect(&addr, seconds);
	FILE *in = fd >= 0 ? fdopen(fd, "r") : NULL;
	if (!in) {
		errno = fd < 0 ? -fd : errno;
		return NULL;
	}
	int r = send_line(fd, line);
	ssize_t n = r ? -1 : getline(&answer, &size, in);
	if (n <= 0 || answer[n - 1] != '\n') {
		r = r ? -r : ferror(in) ? errno : ECONNRESET;
		free(answer);
		answer = NULL;
	}
	while (answer && wait && getc(in) != EOF)
		;
	fclose(in);
	errno = r;
	return answer;
}

static int print_screen(const char *answer)
{
	const char *lines = strstr(answer, "\"lines\":[");
	char text[SCREEN_LINE], row[16], column[16], cursor[16];

	for (lines = lines ? lines + strlen("\"lines\":") : ""; *lines == '[' || *lines == ',';) {
		lines++;
		if (!json_unquote(&lines, text, sizeof text))
			break;
		puts(text);
	}
	if (*lines != ']' || !json_member(answer, "cursor", cursor, sizeof cursor) ||
	    !json_member(answer, "row", row, sizeof row) || !json_member(answer, "column", column, sizeof column)) {
		fputs("hv: the VM's answer is no screen\n", stderr);
		return HV_HOST;
	}
	if (!strcmp(cursor, "true"))
		printf("cursor: row %s, column %s\n", row, column);
	else
		puts("cursor: not shown");
	return HV_OK;
}

int ctl_main(int argc, char **argv)
{
	char path[PATH_MAX], line[CONTROL_LINE], err[200];
	const char *argument;

	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		ctl_usage(stdout);
		return HV_OK;
	}
	if (argc < 3)
		return bad("%s", argc < 2 ? "a socket and a command are missing" : "a command is missing");
	if (argc > 4)
		return bad("one value is enough: what is \"%s\"", argv[4]);
	int n = snprintf(line, sizeof line, "%s%s%s\n", argv[2], argc > 3 ? " " : "", argc > 3 ? argv[3] : "");
	if (n >= (int)sizeof line || strchr(line, '\n') != line + n - 1)
		return bad("%s", "a command is one line of less than 512 bytes");
	line[n - 1] = 0;
	const struct control_command *command = control_parse(line, &argument, err, sizeof err);
	if (!command)
		return bad("%s", err);
	line[n - 1] = '\n';

	find_socket(argv[1], path, sizeof path);
	char *answer = ask(path, line, CTL_SECONDS, !strcmp(command->name, "quit"));
	if (!answer) {
		fprintf(stderr, "hv: no VM answers at %s: %s\n", path, strerror(errno));
		return HV_HOST;
	}
	int status = HV_OK;
	if (json_member(answer, "error", err, sizeof err)) {
		fprintf(stderr, "hv: %s\n", err);
		status = HV_GUEST_FAILED;
	} else if (!strcmp(command->name, "screen")) {
		status = print_screen(answer);
	} else {
		fputs(answer, stdout);
	}
	free(answer);
	return status;
}

/* --- hv list ---------------------------------------------------------------------------------------------------------- */

static int is_socket_name(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name), suffix = strlen(CONTROL_SUFFIX);

	return entry->d_name[0] != '.' && n > suffix && !strcmp(entry->d_name + n - suffix, CONTROL_SUFFIX);
}

/* A socket nobody listens at. It may have come to life since: a VM that starts holds the lock while it is not listening yet. */
static void remove_stale(const char *path)
{
	struct sockaddr_un addr;
	char err[200];
	int lock = control_lock(path),
	    fd = control_address(path, &addr, err, sizeof err) ? -EINVAL : control_connect(&addr, 1);

	if (fd == -ECONNREFUSED)
		unlink(path);
	if (fd >= 0)
		close(fd);
	if (lock >= 0)
		close(lock);
}

static void list_one(const char *path, const char *name)
{
	char state[16] = "no answer", pid[16] = "-", cpus[16] = "-", kib[24] = "", memory[32] = "-", engine[16] = "-";
	char *answer = ask(path, "status\n", LIST_SECONDS, false);

	if (!answer && errno == ECONNREFUSED)
		remove_stale(path);
	if (!answer && errno != EAGAIN)
		return; /* it has just ended */
	if (answer) {
		json_member(answer, "state", state, sizeof state);
		json_member(answer, "pid", pid, sizeof pid);
		json_member(answer, "cpus", cpus, sizeof cpus);
		json_member(answer, "engine", engine, sizeof engine);
		if (json_member(answer, "memory_kib", kib, sizeof kib))
			snprintf(memory, sizeof memory, "%s KiB", kib);
	}
	printf("%-*s  %-9s  %7s  %4s  %12s  %s\n", 16, name, state, pid, cpus, memory, engine);
	free(answer);
}

int list_main(int argc, char **argv)
{
	char dir[PATH_MAX - NAME_MAX - 2], path[PATH_MAX], err[PATH_MAX + 200];
	struct dirent **entries = NULL;
	int n = 0;

	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		puts("usage: hv list\nPrints the VMs of this user that were started with --name, a line for each.");
		return HV_OK;
	}
	if (argc > 1) {
		fprintf(stderr, "hv: list takes nothing: what is \"%s\"; see hv --help\n", argv[1]);
		return HV_USAGE;
	}
	int r = control_directory(dir, sizeof dir, false, err, sizeof err);
	if (!r)
		n = scandir(dir, &entries, is_socket_name, alphasort);
	if ((r && r != -ENOENT) || n < 0) {
		fprintf(stderr, "hv: %s\n", r ? err : "the directory of control sockets cannot be read");
		return HV_HOST;
	}
	printf("%-*s  %-9s  %7s  %4s  %12s  %s\n", 16, "Name", "State", "PID", "CPUs", "Memory", "Engine");
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name);
		entries[i]->d_name[strlen(entries[i]->d_name) - strlen(CONTROL_SUFFIX)] = 0;
		list_one(path, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	return HV_OK;
}
