#include "control_command.h"
#include "control.h"
#include "control_path.h"
#include "job_command.h"
#include "vm.h"

#include <cjson/cJSON.h>
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
		fprintf(out, "  %-14s %-5s %s\n", c->name, c->argument ? c->argument : "", c->what);
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

/* What one line says; NULL when it is not one value of JSON and nothing else. */
static cJSON *parse(const char *line)
{
	return cJSON_ParseWithOpts(line, NULL, true);
}

static const cJSON *member(const cJSON *answer, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(answer, name);
}

static int print_screen(const cJSON *answer)
{
	const cJSON *lines = member(answer, "lines"), *cursor = member(answer, "cursor"), *row = member(answer, "row"),
		    *column = member(answer, "column");

	if (!cJSON_IsArray(lines) || !cJSON_IsBool(cursor) || !cJSON_IsNumber(row) || !cJSON_IsNumber(column)) {
		fputs("hv: the VM's answer is no screen\n", stderr);
		return HV_HOST;
	}
	for (const cJSON *line = lines->child; line; line = line->next)
		puts(cJSON_IsString(line) ? line->valuestring : "");
	if (cJSON_IsTrue(cursor))
		printf("cursor: row %d, column %d\n", row->valueint, column->valueint);
	else
		puts("cursor: not shown");
	return HV_OK;
}

/* The text that the VM answered to the command, for the user. */
static int print_answer(const struct control_command *command, const char *text)
{
	cJSON *answer = parse(text);
	const cJSON *error = member(answer, "error");
	int status = HV_OK;

	if (!cJSON_IsObject(answer)) {
		fputs("hv: what answers there is no VM\n", stderr);
		status = HV_HOST;
	} else if (cJSON_IsString(error)) {
		fprintf(stderr, "hv: %s\n", error->valuestring);
		status = HV_GUEST_FAILED;
	} else if (!strcmp(command->name, "screen")) {
		status = print_screen(answer);
	} else {
		fputs(text, stdout);
	}
	cJSON_Delete(answer);
	return status;
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
	if (job_command(argv[2])) {
		find_socket(argv[1], path, sizeof path);
		return job_main(path, argc - 2, argv + 2);
	}
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
	int status = print_answer(command, answer);
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

/* A member as a word of the table. */
static void word(const cJSON *answer, const char *name, char *text, size_t len)
{
	const cJSON *value = member(answer, name);

	if (cJSON_IsString(value))
		snprintf(text, len, "%s", value->valuestring);
	else if (cJSON_IsNumber(value))
		snprintf(text, len, "%.0f", value->valuedouble);
	else
		snprintf(text, len, "-");
}

static void list_one(const char *path, const char *name)
{
	char state[16] = "no answer", pid[16], cpus[16], memory[24], engine[16];
	char *text = ask(path, "status\n", LIST_SECONDS, false);

	if (!text && errno == ECONNREFUSED)
		remove_stale(path);
	if (!text && errno != EAGAIN)
		return; /* it has just ended */
	cJSON *answer = text ? parse(text) : NULL;
	const char *unit = member(answer, "memory_kib") ? " KiB" : "";
	if (text)
		word(answer, "state", state, sizeof state);
	word(answer, "pid", pid, sizeof pid);
	word(answer, "cpus", cpus, sizeof cpus);
	word(answer, "memory_kib", memory, sizeof memory);
	word(answer, "engine", engine, sizeof engine);
	printf("%-*s  %-9s  %7s  %4s  %*s%s  %s\n", 16, name, state, pid, cpus, 12 - (int)strlen(unit), memory, unit,
	       engine);
	cJSON_Delete(answer);
	free(text);
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
