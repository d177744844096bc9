/*
 * usage SECONDS FILE COMMAND [ARG]...: runs a command, kills it after that time, and writes to FILE how it ended and the most
 * memory it ever had: "exit 4 rss 12345", "signal 11 rss 12345" (KiB). Its own status is 0. (busybox's time multiplies by four.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage ru;
	int status;

	if (argc < 4)
		return 2;
	FILE *out = fopen(argv[2], "w");
	pid_t pid = fork();
	if (!out || pid < 0)
		return 2;
	if (!pid) {
		/* The timer survives exec, and SIGALRM's default action ends what does not know about it. */
		alarm((unsigned)atoi(argv[1]));
		execvp(argv[3], argv + 3);
		_exit(127);
	}
	if (wait4(pid, &status, 0, &ru) < 0)
		return 2;
	if (WIFSIGNALED(status))
		fprintf(out, "signal %d", WTERMSIG(status));
	else
		fprintf(out, "exit %d", WEXITSTATUS(status));
	fprintf(out, " rss %ld\n", ru.ru_maxrss);
	return fclose(out) ? 2 : 0;
}
