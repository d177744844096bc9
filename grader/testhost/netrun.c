/*
 * netrun [--serve PORT FILE] PROGRAM [ARG]... [++ PROGRAM [ARG]...]
 *
 * Runs one program, or two at the same time, for checks of networks. With --serve the file can be had meanwhile by HTTP from
 * 127.0.0.1. The programs' output comes one behind the other, that of the second behind a line "++", on standard output as on
 * standard error. The status is the first that is not 0; a program that a signal ended counts as 128 and the signal's number.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(125);
}

static void send_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		data += n;
		len -= (size_t)n;
	}
}

/* One connection after another; whatever is asked for, the answer is the file. */
static _Noreturn void serve(int listening, const char *path)
{
	int file = open(path, O_RDONLY);
	struct stat st;
	char *data, text[4096];

	if (file < 0 || fstat(file, &st) || !(data = malloc((size_t)st.st_size + 1)) ||
	    read(file, data, (size_t)st.st_size) != st.st_size)
		fail(path);
	for (;;) {
		int fd = accept(listening, NULL, NULL);
		size_t got = 0;
		ssize_t n;

		if (fd < 0)
			fail("accept");
		text[0] = 0;
		while (!strstr(text, "\r\n\r\n") && got < sizeof text - 1 &&
		       (n = recv(fd, text + got, sizeof text - 1 - got, 0)) > 0)
			text[got += (size_t)n] = 0;
		send_all(fd, text,
			 (size_t)snprintf(text, sizeof text, "HTTP/1.0 200 OK\r\nContent-Length: %lld\r\n\r\n",
					  (long long)st.st_size));
		send_all(fd, data, (size_t)st.st_size);
		close(fd);
	}
}

static int open_port(const char *port)
{
	struct sockaddr_in here = { .sin_family = AF_INET,
				    .sin_port = htons((uint16_t)atoi(port)),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) || listen(fd, 4))
		fail("the port to serve on");
	return fd;
}

static pid_t start(char **argv, int out, int err)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (!pid) {
		dup2(out, 1);
		dup2(err, 2);
		execv(argv[0], argv);
		fail(argv[0]);
	}
	return pid;
}

static void copy(int from, int to)
{
	char buf[65536];
	ssize_t n;

	lseek(from, 0, SEEK_SET);
	while ((n = read(from, buf, sizeof buf)) > 0)
		if (write(to, buf, (size_t)n) != n)
			fail("output");
}

static int file_for_output(void)
{
	char path[] = "netrun.XXXXXX"; /* in the working directory, which is the job's own */
	int fd = mkstemp(path);

	if (fd < 0 || unlink(path))
		fail("a file for output");
	return fd;
}

int main(int argc, char **argv)
{
	pid_t server = 0, pid[2] = { 0 };
	int out[2], err[2], programs = 0, result = 0, status;

	if (argc > 3 && !strcmp(argv[1], "--serve")) {
		int fd = open_port(argv[2]); /* before anybody can ask */

		if (!(server = fork()))
			serve(fd, argv[3]);
		argv += 3;
		argc -= 3;
	}
	for (int i = 1; i < argc && programs < 2; programs++) {
		char **first = argv + i;

		while (i < argc && strcmp(argv[i], "++"))
			i++;
		argv[i++] = NULL;
		out[programs] = file_for_output();
		err[programs] = file_for_output();
		pid[programs] = start(first, out[programs], err[programs]);
	}
	for (int i = 0; i < programs; i++) {
		if (waitpid(pid[i], &status, 0) != pid[i])
			fail("waitpid");
		status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		result = result ? result : status;
		if (i) {
			copy(out[i - 1], 1);
			copy(err[i - 1], 2);
			dprintf(1, "++\n");
			dprintf(2, "++\n");
		}
	}
	if (!programs)
		return 125;
	copy(out[programs - 1], 1);
	copy(err[programs - 1], 2);
	if (server > 0)
		kill(server, SIGKILL);
	return result;
}
