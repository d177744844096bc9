/*
 * stage SECONDS DIRECTORY HV
 *
 * Plays what DIRECTORY/script says, with several programs at the same time: a VM that moves, where it moves to, a relay between them, and
 * somebody who types and gives commands. A line of the script is one step; in it @DIR@ is the directory, @HV@ the program HV, and $NAME the
 * process number of a program of that name. Steps:
 *
 *	start NAME PROGRAM ARG...  a program; its input is a pipe that stays open; \\_ in an ARG is a blank
 *	relay NAME ARG...          a relay (relay.h)
 *	type NAME TEXT             a line to its input
 *	await NAME TEXT [| TEXT]...
 *	                           until its output, behind what was awaited before, has that text, or one of them
 *	ask SOCKET COMMAND         a command to a VM's control socket; the answer is told
 *	poll SOCKET COMMAND | TEXT [| TEXT]...
 *	                           again and again, until the answer has one of the texts, or there is none any more
 *	answer NAME TEXT           the same, and until the end of that line
 *	silent NAME MS             so long its output must not grow
 *	there PATH                 until there is such a file
 *	remove PATH                removes a file
 *	end NAME                   until that program has ended
 *	kill NAME                  SIGKILL
 *	rest MS
 *	sections NAME PATH         what a saved VM's file has, as the output of a program of that name
 *
 * A step that cannot be done, or is not done after so many SECONDS since the beginning, ends the play; then all programs are
 * killed. Told on standard output: when a step was done ("LINE @ MS"), answers ("LINE < ANSWER"), a step that failed ("LINE !
 * WHY"), and for each program "NAME status|signal|killed N LENGTH LENGTH", LENGTH bytes of output and LENGTH bytes of errors,
 * of the end and the beginning if that is long. The status is 0 in any case.
 */
#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROGRAMS 32
#define WORDS 64
#define LINE 4096
#define ANSWER 32768
#define KEPT 49152 /* bytes of one output that are told, half of its beginning and half of its end */
#define OR " | "   /* between texts */
#define PAUSE_MS 5 /* between two looks */
#define POLL_MS 25 /* between two commands: hv answers on the processor on which it moves */

struct program {
	char name[16];
	pid_t pid;
	int in, out, err; /* a pipe's end, two files */
	off_t awaited;	  /* how far its output was looked at */
	bool ended, killed;
	int status;
};

static struct program programs[PROGRAMS];
static unsigned nprograms, line;
static uint64_t deadline;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void rest(uint64_t ms)
{
	nanosleep(&(struct timespec){ (time_t)(ms / 1000), (long)(ms % 1000 * 1000000) }, NULL);
}

/* Tells why a step failed. Always false. */
static bool fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool fail(const char *fmt, ...)
{
	va_list args;

	printf("%u ! ", line);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	return false;
}

static bool late(void)
{
	return now_ms() >= deadline;
}

/* --- programs -------------------------------------------------------------------------------------------------------------------- */

static struct program *find(const char *name)
{
	for (struct program *p = programs; p < programs + nprograms; p++)
		if (!strcmp(p->name, name))
			return p;
	fail("there is no program %s", name);
	return NULL;
}

static void look(struct program *p)
{
	if (!p->ended && waitpid(p->pid, &p->status, WNOHANG) == p->pid)
		p->ended = true;
}

static int output_file(void)
{
	char path[] = "stage.XXXXXX"; /* in the working directory, which is the job's own */
	int fd = mkostemp(path, O_CLOEXEC);

	if (fd >= 0)
		unlink(path);
	return fd;
}

static bool start(const char *name, char **argv, int argc, bool relay)
{
	struct program *p = &programs[nprograms];
	int in[2];

	if (nprograms == PROGRAMS || argc < 1)
		return fail("no such program");
	*p = (struct program){ .out = output_file(), .err = output_file() };
	snprintf(p->name, sizeof p->name, "%s", name);
	if (p->out < 0 || p->err < 0 || pipe2(in, O_CLOEXEC) || (p->pid = fork()) < 0)
		return fail("%s cannot be started: %s", name, strerror(errno));
	if (!p->pid) {
		dup2(in[0], 0);
		dup2(p->out, 1);
		dup2(p->err, 2);
		if (relay) {
			int status = !strcmp(argv[0], "sections") ? !relay_tell(argv[1]) : relay_main(argc, argv);

			/* Not exit(): that would put back what was read of the script in advance, and it would be read again. */
			fflush(stdout);
			_exit(status);
		}
		execv(argv[0], argv);
		perror(argv[0]);
		_exit(125);
	}
	close(in[0]);
	p->in = in[1];
	nprograms++;
	return true;
}

static bool type(struct program *p, const char *text)
{
	char buf[LINE];
	int n = snprintf(buf, sizeof buf, "%s\n", text);

	return write(p->in, buf, (size_t)n) == n || fail("%s does not read its input", p->name);
}

/* One of the texts in the output from p->awaited on; goes on behind the one that comes first. */
static bool has(struct program *p, const char *texts)
{
	static char buf[1 << 20];
	ssize_t n = pread(p->out, buf, sizeof buf, p->awaited);
	const char *first = NULL;
	size_t length = 0;

	for (const char *text = texts, *next; text && n > 0; text = next ? next + strlen(OR) : NULL) {
		next = strstr(text, OR);
		size_t len = next ? (size_t)(next - text) : strlen(text);
		const char *at = memmem(buf, (size_t)n, text, len);

		if (at && (!first || at < first)) {
			first = at;
			length = len;
		}
	}
	if (first)
		p->awaited += first - buf + (off_t)length;
	return first;
}

static bool await(struct program *p, const char *text, bool line_too)
{
	for (;; rest(PAUSE_MS)) {
		look(p);
		if (has(p, text))
			return !line_too || await(p, "\n", false);
		if (p->ended)
			return fail("%s has ended without \"%s\"", p->name, text);
		if (late())
			return fail("%s does not say \"%s\"", p->name, text);
	}
}

static bool silent(struct program *p, const char *ms)
{
	struct stat before, then;

	if (fstat(p->out, &before))
		return fail("%s has no output", p->name);
	rest(strtoull(ms, NULL, 10));
	return (!fstat(p->out, &then) && then.st_size == before.st_size) || fail("%s says something", p->name);
}

static bool await_end(struct program *p)
{
	for (; look(p), !p->ended; rest(PAUSE_MS))
		if (late())
			return fail("%s does not end", p->name);
	return true;
}

/* --- control sockets ------------------------------------------------------------------------------------------------------------- */

/* One command. false, with a reason: nobody answers. */
static bool ask(const char *path, const char *command, char *answer, const char **reason)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 20 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t got = 0;
	ssize_t n = 1;

	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	*reason = NULL;
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
		*reason = strerror(errno);
	} else {
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		dprintf(fd, "%s\n", command);
		while (got < ANSWER - 1 && !memchr(answer, '\n', got) &&
		       (n = recv(fd, answer + got, ANSWER - 1 - got, 0)) > 0)
			got += (size_t)n;
		if (n <= 0)
			*reason = n ? strerror(errno) : "it hung up";
	}
	answer[got] = 0;
	answer[strcspn(answer, "\n")] = 0;
	if (fd >= 0)
		close(fd);
	return !*reason;
}

static bool step_ask(const char *path, const char *command)
{
	static char answer[ANSWER];
	const char *reason;

	if (!ask(path, command, answer, &reason))
		return fail("no VM answers at %s: %s", path, reason);
	printf("%u < %s\n", line, answer);
	return true;
}

static bool has_one(const char *answer, const char *texts)
{
	for (const char *at = texts, *next; at; at = next ? next + strlen(OR) : NULL) {
		next = strstr(at, OR);
		if (memmem(answer, strlen(answer), at, next ? (size_t)(next - at) : strlen(at)))
			return true;
	}
	return false;
}

static bool step_poll(const char *path, char *command)
{
	static char answer[ANSWER];
	char *texts = strstr(command, OR);
	const char *reason;

	if (!texts)
		return fail("poll needs a text");
	*texts = 0;
	texts += strlen(OR);
	for (;; rest(POLL_MS)) {
		if (!ask(path, command, answer, &reason)) {
			printf("%u < gone: %s\n", line, reason);
			return true;
		}
		if (has_one(answer, texts)) {
			printf("%u < %s\n", line, answer);
			return true;
		}
		if (late())
			return fail("\"%s\" is never answered with \"%s\"; the last answer: %s", command, texts, answer);
	}
}

/* --- the script ------------------------------------------------------------------------------------------------------------------ */

/* @DIR@, @HV@ and $NAME. */
static void expand(char *out, size_t room, const char *in, const char *directory, const char *hv)
{
	size_t n = 0;

	for (; *in && n + 300 < room; in++) {
		size_t length = strspn(in + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");

		if (!strncmp(in, "@DIR@", 5)) {
			n += (size_t)snprintf(out + n, room - n, "%s", directory);
			in += 4;
			continue;
		}
		if (!strncmp(in, "@HV@", 4)) {
			n += (size_t)snprintf(out + n, room - n, "%s", hv);
			in += 3;
			continue;
		}
		for (struct program *p = programs; *in == '$' && p < programs + nprograms; p++) {
			if (strlen(p->name) == length && !strncmp(p->name, in + 1, length)) {
				n += (size_t)snprintf(out + n, room - n, "%d", (int)p->pid);
				in += length + 1;
				break;
			}
		}
		if (*in)
			out[n++] = *in;
		else
			break;
	}
	out[n] = 0;
}

static bool there(const char *path)
{
	struct stat st;

	for (; lstat(path, &st); rest(PAUSE_MS))
		if (late())
			return fail("there is no %s", path);
	return true;
}

/* A child does it: its output is a file then, as any program's. */
static bool sections(const char *name, char *path)
{
	char *words[] = { "sections", path, NULL };

	return start(name, words, 2, true) && await_end(&programs[nprograms - 1]);
}

static char *with_blanks(char *word)
{
	for (char *p; (p = strstr(word, "\\_"));) {
		*p = ' ';
		memmove(p + 1, p + 2, strlen(p + 2) + 1);
	}
	return word;
}

static bool step(char *text)
{
	char *word[WORDS + 1], *rest_of = strchr(text, ' ');
	char *second = rest_of ? rest_of + 1 : text + strlen(text);
	char *behind = strchr(second, ' ');
	int n = 0;

	if (rest_of)
		*rest_of = 0;
	if (behind)
		*behind++ = 0;
	else
		behind = second + strlen(second);
	if (!strcmp(text, "start") || !strcmp(text, "relay")) {
		bool relay = !strcmp(text, "relay");

		if (relay)
			word[n++] = text;
		for (char *w = strtok(behind, " "); w && n < WORDS; w = strtok(NULL, " "))
			word[n++] = with_blanks(w);
		word[n] = NULL;
		return start(second, word, n, relay);
	}
	if (!strcmp(text, "ask"))
		return step_ask(second, behind);
	if (!strcmp(text, "poll"))
		return step_poll(second, behind);
	if (!strcmp(text, "sections"))
		return sections(second, behind);
	if (!strcmp(text, "there"))
		return there(second);
	if (!strcmp(text, "remove"))
		return !unlink(second) || fail("%s cannot be removed: %s", second, strerror(errno));
	if (!strcmp(text, "rest")) {
		rest(strtoull(second, NULL, 10));
		return true;
	}
	struct program *p = find(second);
	if (!p)
		return false;
	if (!strcmp(text, "type"))
		return type(p, behind);
	if (!strcmp(text, "silent"))
		return silent(p, behind);
	if (!strcmp(text, "await"))
		return await(p, behind, false);
	if (!strcmp(text, "answer"))
		return await(p, behind, true);
	if (!strcmp(text, "end"))
		return await_end(p);
	if (!strcmp(text, "kill")) {
		kill(p->pid, SIGKILL);
		return await_end(p);
	}
	return fail("what is %s?", text);
}

static size_t told(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_size < KEPT ? (size_t)st.st_size : KEPT;
}

static void copy(int fd, size_t length)
{
	static char buf[KEPT];
	struct stat st;

	if (fstat(fd, &st) || !length)
		return;
	size_t head = (size_t)st.st_size > length ? length / 2 : length;
	if (pread(fd, buf, head, 0) < 0 || pread(fd, buf + head, length - head, st.st_size - (off_t)(length - head)) < 0)
		perror("stage: output");
	fwrite(buf, 1, length, stdout);
}

static void finish(struct program *p)
{
	size_t out = told(p->out), err = told(p->err);
	printf("%s %s %d %zu %zu\n", p->name,
	       p->killed	      ? "killed"
	       : WIFEXITED(p->status) ? "status"
				      : "signal",
	       WIFEXITED(p->status) ? WEXITSTATUS(p->status) : WTERMSIG(p->status), out, err);
	copy(p->out, out);
	copy(p->err, err);
	putchar('\n');
}

int main(int argc, char **argv)
{
	static char raw[LINE], text[LINE];
	char path[512];

	signal(SIGPIPE, SIG_IGN);
	snprintf(path, sizeof path, "%s/script", argc == 4 ? argv[2] : "");
	FILE *script = argc == 4 ? fopen(path, "re") : NULL;
	if (!script) {
		perror(path);
		return 125;
	}
	deadline = now_ms() + (uint64_t)(strtod(argv[1], NULL) * 1000);
	while (fgets(raw, sizeof raw, script)) {
		line++;
		raw[strcspn(raw, "\n")] = 0;
		expand(text, sizeof text, raw, argv[2], argv[3]);
		if (text[0] && text[0] != '#' && !step(text))
			break;
		printf("%u @ %llu\n", line, (unsigned long long)now_ms());
		fflush(stdout);
	}
	/* All at once, so that none sees another one's end as news. */
	for (struct program *p = programs; p < programs + nprograms; p++) {
		look(p);
		if (!p->ended) {
			p->killed = true;
			kill(p->pid, SIGSTOP);
		}
	}
	for (struct program *p = programs; p < programs + nprograms; p++) {
		if (p->killed) {
			kill(p->pid, SIGKILL);
			waitpid(p->pid, &p->status, 0);
			p->ended = true;
		}
		finish(p);
	}
	return 0;
}
