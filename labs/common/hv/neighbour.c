#include "neighbour.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char line[1 << 16]; /* of stderr, as long as statistics get */

int neighbour_start(struct vm *vm)
{
	struct neighbour *n = &vm->neighbour;

	if (guest_mem_share(&n->block, vm->opt.mem_size, 2)) {
		fprintf(stderr, "hv: the host cannot provide memory for two guests of %llu MiB\n",
			(unsigned long long)(vm->opt.mem_size / MiB));
		return HV_HOST;
	}
	/* Both write to the same places: whole lines. The library looks at the size only when the buffer is ours. */
	vm->con.whole_lines = true;
	setvbuf(stderr, line, _IOLBF, sizeof line);
	pid_t parent = getpid();
	n->child = fork();
	if (n->child < 0) {
		fprintf(stderr, "hv: the neighbour's process could not be made: %s\n", strerror(errno));
		return HV_HOST;
	}
	if (n->child)
		return 0;
	/* It ends with the first one, however that ends, and leaves the terminal to it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(HV_HOST);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null >= 0)
		dup2(null, STDIN_FILENO);
	n->index = 1;
	vm->opt.image = vm->opt.neighbour;
	vm->con.prefix = "2| ";
	return 0;
}

int neighbour_end(struct vm *vm, int status)
{
	int other = 0;

	if (vm->neighbour.child <= 0)
		return status;
	while (waitpid(vm->neighbour.child, &other, 0) < 0)
		if (errno != EINTR)
			return status;
	if (WIFSIGNALED(other))
		fprintf(stderr, "hv: the neighbour's process was killed by signal %d\n", WTERMSIG(other));
	return status ? status : WIFEXITED(other) ? WEXITSTATUS(other) : HV_STOPPED;
}
