/*
 * One job: a program in namespaces of its own. Inside, process 1 is a supervisor of ours that is root there and watches
 * the time; the program is an ordinary user without any way to more. When the supervisor ends, the kernel kills whatever
 * is left in the process namespace (pid_namespaces(7)), so nothing that a job started can outlive it.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS)
#define SUPERVISOR_GRACE_MS 10000

/* What the supervisor tells the runner. */
struct outcome {
	int status;         /* as from waitpid(2) */
	int setup_errno;    /* the program was never started */
	char setup_what[32];
	bool timed_out;
	unsigned cpu_ms;
	unsigned maxrss_kib;
	unsigned left;      /* processes that were still there when the program had ended */
};

/* An output stream of the job: the first half and the last half of what fits are kept. */
struct capture {
	int fd;
	uint64_t total;
	size_t half, head, pos; /* pos: where the next byte of the ring goes */
	char *front, *ring;
	const char *wanted;     /* text that is waited for, or "" */
	size_t matched;         /* characters of it that were the last to come */
};

/* A file of the job as it was before. */
struct original {
	size_t size;
	char *data;
};

/* ---- inside: the program and its supervisor ---- */

static void setup_failed(int report, struct outcome *o, const char *what)
{
	o->setup_errno = errno;
	snprintf(o->setup_what, sizeof o->setup_what, "%s", what);
	if (write(report, o, sizeof *o) < 0)
		perror("runner: report");
	_exit(126);
}

static int limit(int what, rlim_t soft, rlim_t hard)
{
	return setrlimit(what, &(struct rlimit){ soft, hard });
}

static _Noreturn void program(const struct job *job, int report, struct outcome *o)
{
	static char *const env[] = { "PATH=/bin", "HOME=/work", "TMPDIR=/work", "LC_ALL=C", NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (chroot(JAIL) < 0 || chdir("/work") < 0)
		setup_failed(report, o, "chroot");
	if (limit(RLIMIT_CPU, job->cpu_s, job->cpu_s + 1) < 0 ||
	    limit(RLIMIT_AS, (rlim_t)job->as_mib << 20, (rlim_t)job->as_mib << 20) < 0 ||
	    limit(RLIMIT_FSIZE, (rlim_t)job->fsize_kib << 10, (rlim_t)job->fsize_kib << 10) < 0 ||
	    limit(RLIMIT_NOFILE, job->nofile, job->nofile) < 0 || limit(RLIMIT_NPROC, job->nproc, job->nproc) < 0 ||
	    limit(RLIMIT_CORE, 0, 0) < 0)
		setup_failed(report, o, "setrlimit");
	if (setgroups(0, NULL) < 0 || setresgid(job->uid, job->uid, job->uid) < 0 ||
	    setresuid(job->uid, job->uid, job->uid) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		setup_failed(report, o, "setuid");
	execve(job->argv[0], job->argv, env);
	setup_failed(report, o, "execve");
	__builtin_unreachable();
}

/* The job's own file systems; they vanish with the mount namespace. */
static void mounts(const struct job *job, int report, struct outcome *o)
{
	char opts[96];

	snprintf(opts, sizeof opts, "size=%uk,nr_inodes=1024,mode=0700,uid=%u,gid=%u", job->disk_kib, job->uid, job->uid);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("work", JAIL "/work", "tmpfs", MS_NOSUID | MS_NODEV, opts) < 0 ||
	    mount("proc", JAIL "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2") < 0)
		setup_failed(report, o, "mount");
}

/* The job's own loopback, for what talks to itself; there is no other network. */
static void loopback(int report, struct outcome *o)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		setup_failed(report, o, "loopback");
	close(fd);
}

static void reap(struct outcome *o, pid_t main_pid, bool *ended, int options)
{
	struct rusage ru;
	int status;
	pid_t pid;

	while ((pid = wait4(-1, &status, options, &ru)) > 0) {
		if (pid == main_pid) {
			o->status = status;
			*ended = true;
		} else if (*ended) {
			o->left++;
		}
		o->cpu_ms += (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000 + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1000;
		if (ru.ru_maxrss > o->maxrss_kib)
			o->maxrss_kib = ru.ru_maxrss;
	}
}

static _Noreturn void supervise(const struct job *job, int in, int out, int err, int report)
{
	struct outcome o = { 0 };
	uint64_t deadline = now_ms() + job->wall_ms, now;
	bool ended = false;
	sigset_t child;
	pid_t pid;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigaddset(&child, SIGUSR1); /* the runner's: the program has come to the place where it is to be killed */
	sigprocmask(SIG_BLOCK, &child, NULL);
	mounts(job, report, &o);
	loopback(report, &o);
	pid = fork();
	if (pid < 0)
		setup_failed(report, &o, "fork");
	if (pid == 0) {
		/* These clear close-on-exec; every other descriptor of ours has it set. */
		if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
			setup_failed(report, &o, "dup2");
		program(job, report, &o);
	}
	/* Only the job keeps the pipes open, so that their end is the job's end. */
	close(in);
	close(out);
	close(err);
	while (reap(&o, pid, &ended, WNOHANG), !ended && (now = now_ms()) < deadline) {
		uint64_t left = deadline - now;
		struct timespec ts = { left / 1000, left % 1000 * 1000000 };

		if (sigtimedwait(&child, NULL, &ts) == SIGUSR1)
			kill(pid, SIGKILL);
	}
	o.timed_out = !ended;
	kill(-1, SIGKILL); /* everything in this namespace but ourselves */
	reap(&o, pid, &ended, 0);
	if (write(report, &o, sizeof o) < 0)
		perror("runner: report");
	_exit(0);
}

/* ---- outside: the runner ---- */

static void capture_open(struct capture *c, int fd, size_t keep, const char *wanted)
{
	*c = (struct capture){ .fd = fd, .half = keep / 2, .wanted = wanted };
	c->front = malloc(c->half + 1);
	c->ring = malloc(c->half + 1);
	if (!c->front || !c->ring)
		fatal("no memory for a job's output");
}

/* false at the end of the stream. */
static bool capture_read(struct capture *c)
{
	char buf[16384];
	ssize_t n = read(c->fd, buf, sizeof buf);

	if (n <= 0)
		return n < 0 && errno == EINTR;
	c->total += n;
	for (const char *p = buf, *end = buf + n; p < end; p++) {
		/* The text's first character is in it only once, so what does not fit can begin only here. */
		if (c->wanted[c->matched])
			c->matched = *p == c->wanted[c->matched] ? c->matched + 1 : *p == c->wanted[0];
		if (c->head < c->half) {
			c->front[c->head++] = *p;
		} else if (c->half) {
			c->ring[c->pos++ % c->half] = *p;
		}
	}
	return true;
}

/* Record: 4 bytes of length of the head, the head, the tail. The total in the result says how much is missing between. */
static void capture_send(struct capture *c, char type)
{
	size_t tail = c->pos < c->half ? c->pos : c->half, start = c->half ? c->pos % c->half : 0;
	char *linear = malloc(4 + c->head + tail);
	uint32_t head = c->head;

	if (!linear)
		fatal("no memory for a job's output");
	memcpy(linear, &head, 4);
	memcpy(linear + 4, c->front, c->head);
	if (c->pos > c->half) {
		memcpy(linear + 4 + c->head, c->ring + start, c->half - start);
		memcpy(linear + 4 + c->head + c->half - start, c->ring, start);
	} else {
		memcpy(linear + 4 + c->head, c->ring, tail);
	}
	channel_send(type, linear, 4 + c->head + tail, NULL, 0);
	free(linear);
	free(c->front);
	free(c->ring);
	close(c->fd);
}

static void make_pipe(int fd[2])
{
	if (pipe2(fd, O_CLOEXEC) < 0)
		fatal("no pipe for a job: %s", strerror(errno));
}

/* Reads both streams until the last process of the job has closed them; kills a job whose supervisor is late. */
static void collect(const struct job *job, pid_t pid, struct capture c[2])
{
	uint64_t deadline = now_ms() + job->wall_ms + SUPERVISOR_GRACE_MS, kill_at = 0, wait;
	struct pollfd p[2] = { { c[0].fd, POLLIN, 0 }, { c[1].fd, POLLIN, 0 } };

	while (p[0].fd >= 0 || p[1].fd >= 0) {
		uint64_t now = now_ms();

		if (now >= deadline) {
			kill(pid, SIGKILL);
			deadline = now + 1000;
		}
		if (kill_at && now >= kill_at) {
			kill(pid, SIGUSR1);
			kill_at = UINT64_MAX;
		}
		wait = (kill_at && kill_at < deadline ? kill_at : deadline) - now;
		poll(p, 2, wait);
		for (int i = 0; i < 2; i++)
			if (p[i].fd >= 0 && p[i].revents && !capture_read(&c[i]))
				p[i].fd = -1;
		if (!kill_at && job->kill_at[0] && !c[0].wanted[c[0].matched])
			kill_at = now_ms() + job->kill_ms;
	}
}

#define BLOCK 4096
#define CHANGES_MAX (8u << 20) /* bytes of a file that are sent */

/* Reads one of the job's files, as much of it as there is room for: the program may have made it longer, and nothing else, because
 * the directory is not its own. */
static size_t read_file(const struct job *job, char *data, size_t room)
{
	char path[160];
	size_t at = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, JAIL "/job/%u/%s", job->index, job->back);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	while (fd >= 0 && at < room && (n = read(fd, data + at, room - at)) > 0)
		at += n;
	if (fd >= 0)
		close(fd);
	return at;
}

static void keep_original(const struct job *job, struct original *o)
{
	char path[160];
	struct stat st;

	*o = (struct original){ 0 };
	if (!job->back[0])
		return;
	snprintf(path, sizeof path, JAIL "/job/%u/%s", job->index, job->back);
	if (stat(path, &st) < 0 || !(o->data = malloc(st.st_size + 1)))
		fatal("job %u has no file %s that could be kept", job->index, job->back);
	o->size = read_file(job, o->data, st.st_size);
}

/* Record: the length that the file has now, if that is not more, and of each block that is not as it was its offset and its bytes. */
static void send_changes(const struct job *job, struct original *o)
{
	char *now, *record;
	uint64_t used = 8, size;

	if (!job->back[0])
		return;
	now = malloc(o->size + 1);
	record = malloc(CHANGES_MAX);
	if (!now || !record)
		fatal("no memory for the changes of job %u", job->index);
	size = read_file(job, now, o->size);
	memcpy(record, &size, 8);
	for (uint64_t at = 0; at < size; at += BLOCK) {
		size_t n = size - at < BLOCK ? size - at : BLOCK;

		if (!memcmp(now + at, o->data + at, n))
			continue;
		if (used + 8 + BLOCK > CHANGES_MAX)
			break; /* then the file is not what the program made of it; nothing that a run needs changes so much */
		memcpy(record + used, &at, 8);
		memset(record + used + 8, 0, BLOCK);
		memcpy(record + used + 8, now + at, n);
		used += 8 + BLOCK;
	}
	channel_send('D', record, used, NULL, 0);
	free(now);
	free(record);
	free(o->data);
}

/* The guest images of a job are readable by its group alone, and only root can change them. */
static void open_job_dir(const struct job *job, bool open_it)
{
	char path[64];

	snprintf(path, sizeof path, JAIL "/job/%u", job->index);
	if (chown(path, 0, open_it ? job->uid : 0) < 0 || chmod(path, open_it ? 0750 : 0700) < 0)
		fatal("no directory for job %u: %s", job->index, strerror(errno));
}

void job_run(const struct job *job)
{
	int out[2], err[2], report[2], in, signal, code;
	struct capture c[2];
	struct outcome o = { .setup_errno = EIO, .setup_what = "supervisor" };
	struct original original;
	uint64_t start = now_ms();
	pid_t pid;

	in = open(job->stdin_path[0] ? job->stdin_path : "/dev/null", O_RDONLY | O_CLOEXEC);
	if (in < 0)
		fatal("job %u has no input: %s", job->index, strerror(errno));
	make_pipe(out);
	make_pipe(err);
	make_pipe(report);
	keep_original(job, &original);
	open_job_dir(job, true);

	pid = syscall(SYS_clone, NAMESPACES | SIGCHLD, 0, 0, 0, 0); /* a fork into new namespaces */
	if (pid < 0)
		fatal("cannot start job %u: %s", job->index, strerror(errno));
	if (pid == 0)
		supervise(job, in, out[1], err[1], report[1]);
	close(in);
	close(out[1]);
	close(err[1]);
	close(report[1]);
	capture_open(&c[0], out[0], job->capture, job->kill_at);
	capture_open(&c[1], err[0], job->capture, "");
	collect(job, pid, c);
	/* The supervisor writes its report in one piece, before the namespace ends; a start that failed wrote its own first. */
	if (read(report[0], &o, sizeof o) != sizeof o)
		o = (struct outcome){ .setup_errno = ECHILD, .setup_what = "supervisor", .timed_out = true };
	close(report[0]);
	waitpid(pid, NULL, 0);
	open_job_dir(job, false);

	signal = WIFSIGNALED(o.status) ? WTERMSIG(o.status) : 0;
	code = WIFEXITED(o.status) ? WEXITSTATUS(o.status) : -1;
	capture_send(&c[0], 'O');
	capture_send(&c[1], 'E');
	send_changes(job, &original);
	witness_send();
	channel_printf('R', "index=%u\ncode=%d\nsignal=%d\ntimed_out=%d\nsetup_errno=%d\nsetup_what=%s\nwall_ms=%llu\ncpu_ms=%u\n"
		       "maxrss_kib=%u\nleft=%u\nstdout_total=%llu\nstderr_total=%llu\n", job->index, code, signal, o.timed_out,
		       o.setup_errno, o.setup_what, (unsigned long long)(now_ms() - start), o.cpu_ms, o.maxrss_kib, o.left,
		       (unsigned long long)c[0].total, (unsigned long long)c[1].total);
}
