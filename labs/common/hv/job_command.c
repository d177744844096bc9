#include "job_command.h"
#include "control.h"
#include "control_path.h"
#include "job_facts.h"
#include "vm.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How long to wait for each answer, and between two. */
#define ANSWER_SECONDS 20
#define POLL_NS 200000000

static const struct job_word {
	const char *command;
	bool file; /* its value is a file; else a URI */
} words[] = { { "save", true }, { "migrate", false }, { "migrate-resume", false } };

static const struct job_word *find(const char *name)
{
	for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
		if (!strcmp(words[i].command, name))
			return &words[i];
	return NULL;
}

bool job_command(const char *name)
{
	return find(name);
}

/* --- the command -------------------------------------------------------------------------------------------------------- */

static int bad(const char *fmt, const char *what)
{
	fputs("hv: ", stderr);
	fprintf(stderr, fmt, what);
	fputs("; see hv ctl --help\n", stderr);
	return HV_USAGE;
}

/* Does this option have a value? */
static bool takes_value(const char *option)
{
	return strcmp(option, "--quit") && strcmp(option, "--step") && strcmp(option, "--detach");
}

/* The value of a command, with what it names in this directory's file system as an absolute path: hv may have been started elsewhere. */
static int add_value(FILE *line, const struct job_word *word, const char *value)
{
	static const char scheme[] = "unix:";
	const char *path = word->file ? value : !strncmp(value, scheme, strlen(scheme)) ? value + strlen(scheme) : NULL;
	char dir[PATH_MAX];

	fprintf(line, " %.*s", path ? (int)(path - value) : (int)strlen(value), value);
	if (!path)
		return HV_OK;
	if (path[0] && path[0] != '/') {
		if (!getcwd(dir, sizeof dir))
			return bad("where \"%s\" would be cannot be found out", path);
		fprintf(line, "%s/", dir);
	}
	fputs(path, line);
	return HV_OK;
}

/* The line for the socket: the value, which may have blanks, and behind it the options. */
static int make_line(int argc, char **argv, FILE *line, bool *detach)
{
	const struct job_word *word = find(argv[0]);
	const char *value = NULL;

	for (int i = 1; i < argc; i++) {
		if (strchr(argv[i], '\n'))
			return bad("%s", "a command is one line of less than 512 bytes");
		if (strncmp(argv[i], "--", 2)) {
			if (value)
				return bad("one value is enough: what is \"%s\"", argv[i]);
			value = argv[i];
		} else if (takes_value(argv[i]) && ++i == argc) {
			return bad("%s needs a value", argv[i - 1]);
		}
	}
	if (!value)
		return bad(word->file ? "%s needs a file" : "%s needs a URI (unix:PATH or tcp:HOST:PORT)", argv[0]);
	fputs(argv[0], line);
	if (add_value(line, word, value))
		return HV_USAGE;
	for (int i = 1; i < argc; i++) {
		*detach = *detach || !strcmp(argv[i], "--detach");
		if (argv[i] != value)
			fprintf(line, " %s", argv[i]);
	}
	fputc('\n', line);
	return HV_OK;
}

/* --- the connection ----------------------------------------------------------------------------------------------------- */

/*
 * One connection for all of it: a VM that has moved away ends its process once somebody has asked how it went. The answer then lies in the
 * socket, whether or not the process is still there.
 */
struct caller {
	FILE *in;
	char *line; /* the last one that came whole, or NULL */
	size_t size;
};

static int hear(struct caller *c)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n = getline(&line, &size, c->in);

	if (n <= 0 || line[n - 1] != '\n') {
		int err = ferror(c->in) ? errno : ECONNRESET;
		free(line);
		return -err;
	}
	free(c->line);
	c->line = line;
	return 0;
}

static int say(struct caller *c, const char *line, size_t len)
{
	for (size_t sent = 0; sent < len;) {
		ssize_t n = send(fileno(c->in), line + sent, len - sent, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		sent += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int call(struct caller *c, const char *path)
{
	struct sockaddr_un addr;
	char err[200];

	if (control_address(path, &addr, err, sizeof err))
		return -ENAMETOOLONG;
	int fd = control_connect(&addr, ANSWER_SECONDS);
	if (fd < 0)
		return fd;
	c->in = fdopen(fd, "r");
	return c->in ? 0 : -errno;
}

/* --- progress ----------------------------------------------------------------------------------------------------------- */

struct progress {
	bool terminal;
	unsigned rounds; /* that have been shown */
	bool line;	 /* something stands on the terminal's last line */
};

static void print_round(const struct job_facts *f, unsigned n)
{
	const struct job_round *r = &f->round[n];

	fprintf(stderr, "round %u: %.0f pages, %.0f of zeros, %.1f MiB in %.0f ms; %.0f written meanwhile", n + 1, r->pages,
		r->zero, r->bytes / MiB, r->ms, r->dirty);
	if (r->throttle > 0)
		fprintf(stderr, "; vCPUs stand for %.0f %% of their time", r->throttle);
}

static void show(struct progress *p, const struct job_facts *f)
{
	if (p->terminal) {
		fputs("\r\033[K", stderr);
		p->line = f->state == JOB_RUNNING;
		if (p->line && f->rounds) {
			print_round(f, f->rounds - 1);
			fprintf(stderr, "; downtime now %.0f ms", f->expected_ms);
		} else if (p->line) {
			fprintf(stderr, "%s: round 1", f->job);
		}
		fflush(stderr);
		return;
	}
	for (; p->rounds < f->rounds; p->rounds++) {
		print_round(f, p->rounds);
		fputc('\n', stderr);
	}
}

/* Until it has ended, or the VM has. 0 with its last account in c->line and *f. */
static int follow(struct caller *c, struct job_facts *f, char *err, size_t errlen)
{
	static const char command[] = "job\n";
	const struct timespec pause = { .tv_nsec = POLL_NS };
	struct progress p = { .terminal = isatty(STDERR_FILENO) };
	int r = 0;

	do {
		/* What cannot be said any more may have been answered already. */
		say(c, command, strlen(command));
		r = hear(c);
		if (r)
			snprintf(err, errlen,
				 r == -EAGAIN ? "the VM does not answer any more"
					      : "the VM has ended and did not say what became of it");
		else
			r = job_facts_read(f, c->line, err, errlen);
		if (!r)
			show(&p, f);
		if (!r && f->state == JOB_RUNNING)
			nanosleep(&pause, NULL);
	} while (!r && f->state == JOB_RUNNING);
	if (p.line)
		fputc('\n', stderr);
	return r;
}

/* --- all of it ---------------------------------------------------------------------------------------------------------- */

static int converse(struct caller *c, const char *path, const char *line, size_t len, bool detach)
{
	char err[300];
	static struct job_facts f;
	int r = call(c, path);

	if (!r)
		r = say(c, line, len);
	if (!r)
		r = hear(c);
	if (r) {
		fprintf(stderr, "hv: no VM answers at %s: %s\n", path, strerror(-r));
		return HV_HOST;
	}
	if (job_refused(c->line, err, sizeof err)) {
		fprintf(stderr, "hv: %s\n", err);
		return HV_GUEST_FAILED;
	}
	if (!detach && follow(c, &f, err, sizeof err)) {
		fprintf(stderr, "hv: %s\n", err);
		return HV_GUEST_FAILED;
	}
	fputs(c->line, stdout);
	if (detach || f.state == JOB_DONE)
		return HV_OK;
	fprintf(stderr, "hv: %s\n", f.reason);
	return HV_GUEST_FAILED;
}

int job_main(const char *path, int argc, char **argv)
{
	struct caller c = { 0 };
	char *line = NULL;
	size_t len = 0;
	bool detach = false;
	FILE *out = open_memstream(&line, &len);

	if (!out)
		return HV_HOST;
	int status = make_line(argc, argv, out, &detach);
	fclose(out);
	if (!status && len > CONTROL_LINE)
		status = bad("%s", "a command is one line of less than 512 bytes");
	if (!status)
		status = converse(&c, path, line, len, detach);
	if (c.in)
		fclose(c.in);
	free(c.line);
	free(line);
	return status;
}
