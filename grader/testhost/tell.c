/*
 * tell: lets a shell script in a test host send records (scripts/testhost-run --host bochs).
 *
 *   tell run COMMAND [ARG]...   runs it; its output becomes 'O' records as it comes; ends with its exit status
 *   tell TYPE                   standard input becomes records of this type
 */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS 100 /* how often to look whether the command has ended */

/* One record of what is there. false when there is nothing: at the end, or for now on a descriptor that does not wait. */
static bool forward(char type, int fd)
{
	static char buf[65536];
	ssize_t n;

	do
		n = read(fd, buf, sizeof buf);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return false;
	channel_send(type, buf, n, NULL, 0);
	return true;
}

static int run(char *argv[])
{
	bool ended = false, more = true;
	int out[2], status = 0;
	pid_t pid;

	if (pipe(out) < 0 || (pid = fork()) < 0) {
		perror("tell");
		return 125;
	}
	if (pid == 0) {
		dup2(out[1], 1);
		dup2(out[1], 2);
		close(out[0]);
		close(out[1]);
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	close(out[1]);
	while (more && !ended) {
		struct pollfd p = { out[0], POLLIN, 0 };

		if (poll(&p, 1, LOOK_MS) > 0)
			more = forward('O', out[0]);
		ended = waitpid(pid, &status, WNOHANG) == pid;
	}
	/* Processes that it left behind may keep the pipe open for ever; what they wrote until now belongs to the output. */
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	while (forward('O', out[0]))
		;
	if (!ended)
		waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char *argv[])
{
	if (argc < 2 || (strlen(argv[1]) != 1 && (strcmp(argv[1], "run") || argc < 3))) {
		fprintf(stderr, "usage: tell run COMMAND [ARG]... | tell TYPE\n");
		return 125;
	}
	channel_open();
	if (argc > 2)
		return run(argv + 2);
	while (forward(argv[1][0], 0))
		;
	return 0;
}
