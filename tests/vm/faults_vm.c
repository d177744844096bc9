#define _GNU_SOURCE
#include "faults_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --- the heart --------------------------------------------------------------------------------------------------- */

static uint64_t page_sum(uint64_t seed)
{
	uint64_t sum = 0;

	for (unsigned w = 0; w < BEAT_WORDS; w++)
		sum = beat_add(sum, beat_word(seed, w));
	return sum;
}

static void next_beat(struct heart *h)
{
	uint64_t all = 0;

	h->n++;
	for (unsigned i = 0; i < BEAT_CHANGES; i++)
		h->sum[beat_page(h->n, i)] = page_sum(beat_seed(h->n, i));
	for (unsigned p = 0; p < BEAT_PAGES; p++)
		all = beat_add(all, h->sum[p]);
	snprintf(h->line, sizeof h->line, "%llx %x\n", (unsigned long long)h->n, (unsigned)(all >> 32));
	h->at = 0;
}

void heart_begin(struct heart *h)
{
	*h = (struct heart){ 0 };
	for (unsigned p = 0; p < BEAT_PAGES; p++)
		h->sum[p] = page_sum(0);
	next_beat(h);
}

int heart_hear(struct heart *h, const char *s, size_t n)
{
	int beats = 0;

	for (; n; n--) {
		if (*s++ != h->line[h->at++])
			return -1;
		if (!h->line[h->at]) {
			beats++;
			next_beat(h);
		}
	}
	return beats;
}

int heart_find(struct heart *h, const char *s, size_t n, unsigned beats)
{
	const char *line = memchr(s, '\n', n);

	/* Its first line may have begun before it was saved: the next one is whole. */
	if (!line || !memchr(line + 1, '\n', n - (size_t)(line + 1 - s)))
		return 0;
	line++;
	while (beats-- && strncmp(h->line, line, strlen(h->line)))
		next_beat(h);
	h->at = 0;
	return heart_hear(h, line, n - (size_t)(line - s));
}

/* --- processes --------------------------------------------------------------------------------------------------- */

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void rest(unsigned ms)
{
	nanosleep(&(struct timespec){ ms / 1000, (long)(ms % 1000) * 1000000 }, NULL);
}

bool side_start(struct side *s, const char *name, const char *apart, const char *const *argv)
{
	int ends[2];

	*s = (struct side){ .out = -1 };
	snprintf(s->name, sizeof s->name, "%s", name);
	snprintf(s->control, sizeof s->control, "%s.ctl", name);
	snprintf(s->errors, sizeof s->errors, "%s.err", name);
	if (pipe2(ends, O_CLOEXEC))
		return false;
	s->pid = fork();
	if (!s->pid) {
		const char *words[24];
		unsigned n = 0;
		int err = open(s->errors, O_WRONLY | O_CREAT | O_TRUNC, 0600), in = open("/dev/null", O_RDONLY);

		for (; *argv && n < sizeof words / sizeof *words - 3; argv++)
			words[n++] = *argv;
		words[n++] = "--control";
		words[n++] = s->control;
		words[n] = NULL;
		dup2(in, 0);
		dup2(ends[1], 1);
		dup2(err, 2);
		if (apart && (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
			      mount("apart", apart, "tmpfs", 0, NULL)))
			_exit(126);
		execvp(words[0], (char **)words);
		_exit(127);
	}
	close(ends[1]);
	s->out = ends[0];
	fcntl(s->out, F_SETFL, O_NONBLOCK);
	return s->pid > 0;
}

void sides_wait(const struct side *s, const struct side *there, unsigned ms)
{
	const struct side *both[] = { s, there };
	struct pollfd p[2];
	nfds_t n = 0;

	for (unsigned i = 0; i < 2; i++) {
		const struct side *one = both[i];
		if (!one || one->ended || one->out < 0)
			continue;
		if (one->silent)
			ms = ms < 2 ? ms : 2; /* nothing tells when it has ended */
		else
			p[n++] = (struct pollfd){ .fd = one->out, .events = POLLIN };
	}
	poll(p, n, (int)ms);
}

bool side_look(struct side *s)
{
	bool came = false;
	int status;

	/* First whether it has ended: what it printed before is in the pipe then. */
	if (s->pid && !s->ended && waitpid(s->pid, &status, WNOHANG) == s->pid) {
		s->ended = true;
		s->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	while (s->out >= 0 && s->unheard < sizeof s->text) {
		ssize_t n = read(s->out, s->text + s->unheard, sizeof s->text - s->unheard);
		s->silent = n == 0;
		if (n <= 0)
			break;
		s->unheard += (size_t)n;
		came = true;
	}
	return came;
}

bool side_wait(struct side *s, unsigned ms)
{
	uint64_t now = now_ms(), end = now + ms;

	for (;; now = now_ms()) {
		side_look(s);
		if (s->ended || now >= end)
			return s->ended;
		if (s->unheard == sizeof s->text)
			rest(2);
		else
			sides_wait(s, NULL, (unsigned)(end - now));
	}
}

void side_kill(struct side *s)
{
	if (!s->pid)
		return;
	if (!s->ended)
		kill(s->pid, SIGKILL);
	side_wait(s, 60000);
}

const char *side_sentence(const struct side *s)
{
	static char last[1024];
	char line[1024];
	FILE *f = fopen(s->errors, "r");

	last[0] = 0;
	while (f && fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "hv: ", 4))
			strcpy(last, line + 4);
	}
	if (f)
		fclose(f);
	return last;
}

void side_forget(struct side *s)
{
	if (s->out >= 0)
		close(s->out);
	unlink(s->errors);
	unlink(s->control);
	*s = (struct side){ .out = -1 };
}

bool side_ask(const struct side *s, const char *command, char *answer, size_t len)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 20 };
	size_t got = 0;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, s->control);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	answer[0] = 0;
	if (!connect(fd, (struct sockaddr *)&a, sizeof a) && send(fd, command, strlen(command), MSG_NOSIGNAL) > 0 &&
	    send(fd, "\n", 1, MSG_NOSIGNAL) > 0) {
		while (got < len - 1) {
			ssize_t n = read(fd, answer + got, len - 1 - got);
			if (n <= 0)
				break;
			got += (size_t)n;
			answer[got] = 0;
			if (answer[got - 1] == '\n')
				break;
		}
	}
	close(fd);
	if (!got || answer[got - 1] != '\n')
		return false;
	answer[got - 1] = 0;
	return true;
}
