#define _GNU_SOURCE /* accept4 */
#include "control.h"
#include "control_path.h"
#include "vm.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long a program that holds the socket may take to show that it lives. */
#define PROBE_SECONDS 1

struct client {
	struct control *control;
	int fd; /* -1: free */
	uint64_t heard_ns;
	char line[CONTROL_LINE]; /* received, not yet answered */
	size_t nline;
	char *answer; /* or NULL: all is sent */
	size_t nanswer, sent;
};

struct control {
	struct vm *vm;
	int listen_fd;
	char path[PATH_MAX]; /* absolute, so that it is found again wherever hv may go */
	dev_t dev;	     /* which file the socket is */
	ino_t ino;
	struct client client[CONTROL_CLIENTS];
};

/* --- clients ---------------------------------------------------------------------------------------------------------- */

static void drop(struct client *c)
{
	if (c->fd >= 0) {
		loop_fd_remove(&c->control->vm->loop, c->fd);
		close(c->fd);
	}
	free(c->answer);
	*c = (struct client){ .control = c->control, .fd = -1 };
}

/* Sends what the socket takes now. true when nothing is left; false when the client must be waited for, or is gone. */
static bool send_answer(struct client *c)
{
	while (c->sent < c->nanswer) {
		ssize_t n = send(c->fd, c->answer + c->sent, c->nanswer - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			loop_fd_events(&c->control->vm->loop, c->fd, POLLOUT);
			return false;
		}
		if (n < 0) {
			drop(c);
			return false;
		}
		c->sent += (size_t)n;
	}
	free(c->answer);
	c->answer = NULL;
	c->nanswer = c->sent = 0;
	return true;
}

/* Answers one line. Same result as send_answer(). */
static bool answer_line(struct client *c, const char *line)
{
	FILE *out = open_memstream(&c->answer, &c->nanswer);

	if (!out) {
		drop(c);
		return false;
	}
	control_answer(c->control->vm, line, out);
	if (ferror(out) | fclose(out)) {
		drop(c); /* half an answer would be taken for a whole one */
		return false;
	}
	return send_answer(c);
}

/* The lines that are there, until one's answer has to wait. There cannot be more than fit into c->line. */
static void answer_lines(struct client *c)
{
	char line[CONTROL_LINE], *end;

	while ((end = memchr(c->line, '\n', c->nline))) {
		size_t used = (size_t)(end + 1 - c->line);
		memcpy(line, c->line, used);
		line[used - 1] = 0;
		c->nline -= used;
		memmove(c->line, c->line + used, c->nline);
		if (!answer_line(c, line))
			return;
	}
	if (c->nline == sizeof c->line) {
		static const char text[] = "{\"error\":\"the line is too long\"}\n";
		/* Whatever it takes: nobody waits for somebody who talks nonsense. */
		if (send(c->fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			shutdown(c->fd, SHUT_WR);
		drop(c);
		return;
	}
	loop_fd_events(&c->control->vm->loop, c->fd, POLLIN);
}

static void on_client(void *opaque, short revents)
{
	struct client *c = opaque;
	ssize_t n = 0;

	c->heard_ns = clock_ns();
	if (c->answer) {
		if (send_answer(c))
			answer_lines(c);
		return;
	}
	if (revents & POLLIN)
		n = recv(c->fd, c->line + c->nline, sizeof c->line - c->nline, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		drop(c);
		return;
	}
	c->nline += (size_t)n;
	answer_lines(c);
}

/* A place for one more client: a free one, or that of the client that has been quiet for longest. */
static struct client *place(struct control *control)
{
	struct client *oldest = &control->client[0];

	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		struct client *c = &control->client[i];
		if (c->fd < 0)
			return c;
		if (c->heard_ns < oldest->heard_ns)
			oldest = c;
	}
	drop(oldest);
	return oldest;
}

static void on_connection(void *opaque, short revents)
{
	struct control *control = opaque;
	struct loop *loop = &control->vm->loop;
	struct client *c = place(control);
	(void)revents;

	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		/* Without a descriptor the connection would be announced again and again. No more of them, then. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			loop_fd_events(loop, control->listen_fd, 0);
		return;
	}
	*c = (struct client){ .control = control, .fd = fd, .heard_ns = clock_ns() };
	if (loop_fd_add(loop, fd, POLLIN, on_client, c))
		drop(c);
}

/* --- the socket ------------------------------------------------------------------------------------------------------- */

/* Where to listen, as an absolute path. */
static int find_place(struct vm *vm, char *path, size_t len)
{
	char dir[PATH_MAX - CONTROL_NAME_MAX - sizeof CONTROL_SUFFIX - 1], err[PATH_MAX + 200];

	if (!vm->opt.name) {
		bool absolute = vm->opt.control[0] == '/';
		if (!absolute && !getcwd(dir, sizeof dir))
			return vm_stop(vm, HV_USAGE, "--control: where \"%s\" would be cannot be found out",
				       vm->opt.control);
		snprintf(path, len, "%s%s%s", absolute ? "" : dir, absolute ? "" : "/", vm->opt.control);
		return 0;
	}
	if (control_directory(dir, sizeof dir, true, err, sizeof err))
		return vm_stop(vm, HV_USAGE, "--name: %s", err);
	snprintf(path, len, "%s/%s%s", dir, vm->opt.name, CONTROL_SUFFIX);
	return 0;
}

/* Makes way: what lies at addr is nothing, or a socket that nobody listens at. */
static int make_way(struct vm *vm, const struct sockaddr_un *addr)
{
	struct stat st;

	if (lstat(addr->sun_path, &st))
		return 0; /* nothing is there; if the reason is another one, bind() will tell */
	if (!S_ISSOCK(st.st_mode))
		return vm_stop(vm, HV_USAGE, "there is something at %s that is no socket", addr->sun_path);
	int fd = control_connect(addr, PROBE_SECONDS);
	if (fd >= 0)
		close(fd);
	if (fd >= 0 || fd == -EAGAIN)
		return vm_stop(vm, HV_HOST, "a VM is already controlled through %s", addr->sun_path);
	if (fd != -ECONNREFUSED)
		return vm_stop(vm, HV_USAGE, "cannot use %s: %s", addr->sun_path, strerror(-fd));
	unlink(addr->sun_path);
	return 0;
}

static int listen_at(struct vm *vm, struct control *control, const struct sockaddr_un *addr)
{
	struct stat st;

	if (make_way(vm, addr))
		return -ECANCELED;
	control->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Only the user may connect, from the first moment on. There is no other thread yet that could notice the mask. */
	mode_t mask = umask(0177);
	int err =
		control->listen_fd < 0 || bind(control->listen_fd, (const struct sockaddr *)addr, sizeof *addr) ? errno : 0;
	umask(mask);
	if (err)
		return vm_stop(vm, HV_USAGE, "cannot make the control socket %s: %s", addr->sun_path, strerror(err));
	if (!lstat(addr->sun_path, &st)) {
		control->dev = st.st_dev;
		control->ino = st.st_ino;
	}
	if (listen(control->listen_fd, CONTROL_CLIENTS) ||
	    loop_fd_add(&vm->loop, control->listen_fd, POLLIN, on_connection, control))
		return vm_stop(vm, HV_HOST, "nobody can listen at the control socket %s", addr->sun_path);
	return 0;
}

int control_start(struct vm *vm)
{
	struct sockaddr_un addr;
	char err[200];

	if (!vm->opt.control && !vm->opt.name)
		return 0;
	struct control *control = vm->control = calloc(1, sizeof *control);
	if (!control)
		return vm_stop(vm, HV_HOST, "the host has no memory for a control socket");
	*control = (struct control){ .vm = vm, .listen_fd = -1 };
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		control->client[i] = (struct client){ .control = control, .fd = -1 };
	if (find_place(vm, control->path, sizeof control->path))
		return -ECANCELED;
	if (control_address(control->path, &addr, err, sizeof err))
		return vm_stop(vm, HV_USAGE, "%s", err);
	int lock = control_lock(control->path);
	int r = listen_at(vm, control, &addr);
	if (lock >= 0)
		close(lock);
	return r;
}

void control_remove(const struct vm *vm)
{
	const struct control *control = vm->control;
	struct stat st;

	/* Somebody may have removed it and put something else there. */
	if (control && control->ino && !lstat(control->path, &st) && st.st_dev == control->dev && st.st_ino == control->ino)
		unlink(control->path);
}

void control_stop(struct vm *vm)
{
	struct control *control = vm->control;

	if (!control)
		return;
	/* First the name: whoever finds it must find somebody who answers. */
	control_remove(vm);
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		drop(&control->client[i]);
	if (control->listen_fd >= 0) {
		loop_fd_remove(&vm->loop, control->listen_fd);
		close(control->listen_fd);
	}
	free(control);
	vm->control = NULL;
}
