/*
 * usage NUMBER SECONDS COMMAND [ARG]...: runs a command, kills it after that time, and prints
 *
 *     @case NUMBER exit 4 rss 12345 out 678     or "signal 11" in place of "exit 4"
 *     base64 of zlib's compression of what it wrote: so many bytes to stdout, the rest to stderr
 *     @end
 *
 * rss: the most memory that it ever had, in KiB. Its own status is 0. All in one process: in an emulated machine each one that is
 * started costs as much as a short guest.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

static void print_base64(const unsigned char *data, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		unsigned bytes = data[i] << 16 | (i + 1 < len ? data[i + 1] << 8 : 0) | (i + 2 < len ? data[i + 2] : 0);

		putchar(digits[bytes >> 18]);
		putchar(digits[bytes >> 12 & 63]);
		putchar(i + 1 < len ? digits[bytes >> 6 & 63] : '=');
		putchar(i + 2 < len ? digits[bytes & 63] : '=');
	}
}

/* Appends the file to *text, which has len bytes: how many there are then. */
static size_t append(int fd, char **text, size_t len)
{
	size_t more = (size_t)lseek(fd, 0, SEEK_END);

	*text = realloc(*text, len + more + 1);
	if (!*text || pread(fd, *text + len, more, 0) != (ssize_t)more)
		exit(2);
	return len + more;
}

int main(int argc, char **argv)
{
	struct rusage ru;
	int status, out = memfd_create("out", 0), err = memfd_create("err", 0);

	if (argc < 4 || out < 0 || err < 0)
		return 2;
	pid_t pid = fork();
	if (pid < 0)
		return 2;
	if (!pid) {
		dup2(out, STDOUT_FILENO);
		dup2(err, STDERR_FILENO);
		close(out);
		close(err);
		/* The timer survives exec, and SIGALRM's default action ends what does not know about it. */
		alarm((unsigned)atoi(argv[2]));
		execvp(argv[3], argv + 3);
		_exit(127);
	}
	if (wait4(pid, &status, 0, &ru) < 0)
		return 2;
	char *text = NULL;
	size_t n = append(out, &text, 0), all = append(err, &text, n);
	uLongf len = compressBound(all);
	unsigned char *packed = malloc(len);
	if (!packed || compress(packed, &len, (unsigned char *)text, all) != Z_OK)
		return 2;
	if (WIFSIGNALED(status))
		printf("@case %s signal %d", argv[1], WTERMSIG(status));
	else
		printf("@case %s exit %d", argv[1], WEXITSTATUS(status));
	printf(" rss %ld out %zu\n", ru.ru_maxrss, n);
	print_base64(packed, len);
	puts("\n@end");
	return 0;
}
