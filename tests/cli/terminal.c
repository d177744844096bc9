/*
 * terminal [--type TEXT] [--signal NUMBER] [--after SECONDS] COMMAND [ARG]...
 *
 * Runs a command on a pseudo-terminal, types something or sends it a signal once it has put the terminal into raw mode, and
 * reports on one line how it ended and whether the terminal is as it was before:
 *
 *	raw=1 status=130 signal=0 restored=1
 *
 * What the command prints on the terminal follows on the next lines, its standard error is left alone. In TEXT, ^A stands for
 * Ctrl-A.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 60 /* seconds until the command is killed */

static char output[1 << 16];
static size_t filled;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Takes in what the command printed, waiting a little. */
static void listen(int master)
{
	struct pollfd p = { .fd = master, .events = POLLIN };

	if (poll(&p, 1, 50) > 0 && p.revents & POLLIN) {
		ssize_t n = read(master, output + filled, sizeof output - filled);
		if (n > 0)
			filled += n;
	}
}

static void type(int master, const char *text)
{
	for (; *text; text++) {
		char c = *text;
		if (c == '^' && text[1])
			c = *++text & 0x1f;
		if (write(master, &c, 1) != 1)
			perror("typing");
		usleep(20000); /* like keys, one after the other */
	}
}

static pid_t start(int slave, char **argv)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		ioctl(slave, TIOCSCTTY, 0);
		dup2(slave, STDIN_FILENO);
		dup2(slave, STDOUT_FILENO);
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	return pid;
}

int main(int argc, char **argv)
{
	const char *text = NULL;
	int number = 0, status, at = 1;
	double after = 0;

	for (; at + 1 < argc && !strncmp(argv[at], "--", 2); at += 2) {
		if (!strcmp(argv[at], "--type"))
			text = argv[at + 1];
		else if (!strcmp(argv[at], "--signal"))
			number = atoi(argv[at + 1]);
		else if (!strcmp(argv[at], "--after"))
			after = atof(argv[at + 1]);
	}
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (at >= argc || master < 0 || grantpt(master) || unlockpt(master)) {
		fprintf(stderr, "usage: terminal [--type TEXT] [--signal NUMBER] [--after SECONDS] COMMAND (and a pseudo-terminal)\n");
		return 2;
	}
	int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	struct termios before, current;
	if (slave < 0 || tcgetattr(slave, &before))
		return 2;

	pid_t pid = start(slave, argv + at);
	double begin = now(), raw_since = 0;
	for (;;) {
		listen(master);
		tcgetattr(slave, &current);
		if (!raw_since && !(current.c_lflag & ICANON))
			raw_since = now();
		if (raw_since && now() - raw_since >= after) {
			if (number)
				kill(pid, number);
			if (text)
				type(master, text);
			number = 0;
			text = NULL;
		}
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		if (now() - begin > PATIENCE) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			break;
		}
	}
	listen(master);
	tcgetattr(slave, &current);
	bool restored = current.c_iflag == before.c_iflag && current.c_oflag == before.c_oflag &&
			current.c_cflag == before.c_cflag && current.c_lflag == before.c_lflag &&
			!memcmp(current.c_cc, before.c_cc, sizeof before.c_cc);
	printf("raw=%d status=%d signal=%d restored=%d\n", raw_since > 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
	       WIFSIGNALED(status) ? WTERMSIG(status) : 0, restored);
	fwrite(output, 1, filled, stdout);
	return 0;
}
