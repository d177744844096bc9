#define _GNU_SOURCE /* SOCK_CLOEXEC */
#include "control_path.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define LOCK_MS 5000 /* longer than anybody needs who looks whether a socket is alive */
#define LOCK_ELSEWHERE_MS 100

bool control_name_valid(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n && n <= CONTROL_NAME_MAX && !name[n] && isalnum((unsigned char)name[0]);
}

/* The directory of a session that is ours. Under su and sudo the variable may still name the former user's. */
static const char *runtime_directory(void)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	return dir && dir[0] == '/' && !stat(dir, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid() ? dir : NULL;
}

int control_directory(char *dir, size_t len, bool make, char *err, size_t errlen)
{
	const char *runtime = runtime_directory();
	struct stat st;

	if (runtime)
		snprintf(dir, len, "%s/trapdoor", runtime);
	else
		snprintf(dir, len, "/tmp/trapdoor-%u", (unsigned)geteuid());
	if (make && mkdir(dir, 0700) && errno != EEXIST) {
		int e = errno;
		snprintf(err, errlen, "cannot make the directory %s: %s", dir, strerror(e));
		return -e;
	}
	/* Not stat(): in /tmp anybody may have put a link here. What is ours and closed to others stays so. */
	if (lstat(dir, &st)) {
		int e = errno;
		snprintf(err, errlen, "cannot look at the directory %s: %s", dir, strerror(e));
		return -e;
	}
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077) {
		snprintf(err, errlen,
			 "%s is not a directory that only its owner may enter, and you are the owner; remove it", dir);
		return -EPERM;
	}
	return 0;
}

int control_address(const char *path, struct sockaddr_un *addr, char *err, size_t errlen)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!path[0] || strlen(path) >= sizeof addr->sun_path) {
		snprintf(err, errlen, "the name of a control socket has from 1 to %zu bytes, and this one has %zu",
			 sizeof addr->sun_path - 1, strlen(path));
		return -ENAMETOOLONG;
	}
	strcpy(addr->sun_path, path);
	return 0;
}

int control_connect(const struct sockaddr_un *addr, unsigned seconds)
{
	struct timeval limit = { .tv_sec = seconds };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	/* The limit on sending is also that on connecting (unix(7), socket(7)). */
	if (!setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) &&
	    !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) &&
	    !connect(fd, (const struct sockaddr *)addr, sizeof *addr))
		return fd;
	int err = errno;
	close(fd);
	return -err;
}

int control_lock(const char *path)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	struct stat st;

	snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	bool ours = !fstat(fd, &st) && st.st_uid == geteuid() && !(st.st_mode & 022);
	for (unsigned ms = ours ? LOCK_MS : LOCK_ELSEWHERE_MS; flock(fd, LOCK_EX | LOCK_NB); ms--) {
		if (!ms || errno != EWOULDBLOCK) {
			close(fd);
			return -1;
		}
		usleep(1000);
	}
	return fd;
}
