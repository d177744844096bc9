#define _GNU_SOURCE /* pthread_setattr_default_np */
#include "vm_life.h"
#include "control.h"
#include "dump_tables.h"
#include "engine.h"
#include "gdbstub.h"
#include "incoming.h"
#include "job.h"
#include "loader.h"
#include "migration.h"
#include "sample.h"
#include "segment.h"
#include "vm_pause.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* How long a stopped VM may take to leave the lab's code before the program is ended from outside. */
#define GRACE_NS 2000000000ull

#define THREAD_STACK (256 * KiB)

static void on_kick(int sig) { (void)sig; }

static struct sigaction before_crash[NSIG]; /* who handled these signals before: nobody, or a sanitizer */

/* A bug in hv or in a lab file: leave the terminal usable, then die of the signal as usual. Back from here the faulting instruction
 * runs again, so a sanitizer sees the fault as if it were the first and names the line. */
static void on_crash(int sig)
{
	static const char text[] = "\nhv: crashed in its own code, not in the guest; run it under gdb: gdb --args hv run ...\n";
	console_restore_terminal();
	if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
		_exit(128 + sig);
	sigaction(sig, &before_crash[sig], NULL);
}

static void install_handlers(void)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction kick = { .sa_handler = on_kick }, crash = { .sa_handler = on_crash, .sa_flags = SA_NODEFER };

	sigaction(VM_KICK_SIGNAL, &kick, NULL);
	signal(SIGPIPE, SIG_IGN);
	for (unsigned i = 0; i < sizeof crashes / sizeof *crashes; i++)
		sigaction(crashes[i], &crash, &before_crash[crashes[i]]);
}

/* For all threads that will be made. In a stack of 8 MiB, which is usual, the first touch costs 2 MiB where the host gives huge pages
 * without being asked for them. */
static void small_stacks(void)
{
	pthread_attr_t attr;

	if (pthread_attr_init(&attr))
		return;
	if (!pthread_attr_setstacksize(&attr, THREAD_STACK))
		pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}

static void report(struct vm *vm)
{
	if (vm->reason[0])
		fprintf(stderr, "hv: %s\n", vm->reason);
	bus_report_unclaimed(&vm->pio, stderr);
	bus_report_unclaimed(&vm->mmio, stderr);
	if (vm->opt.stats_json)
		trace_json(vm, stderr);
	fflush(stderr);
}

void vm_abandon(struct vm *vm, int status, const char *why)
{
	console_restore_terminal();
	fprintf(stderr, "hv: %s\n", why);
	control_remove(vm);
	report(vm);
	_exit(vm->stopping ? vm->status : status);
}

/* The events that end a VM from outside. */
struct ending {
	struct vm *vm;
	int signal_fd;
	struct loop_timer timeout, grace;
};

static void on_signal(void *opaque, short revents)
{
	struct ending *end = opaque;
	struct signalfd_siginfo si;

	(void)revents;
	if (read(end->signal_fd, &si, sizeof si) != sizeof si)
		return;
	vm_stop(end->vm, HV_INTERRUPTED, "interrupted by %s",
		si.ssi_signo == SIGINT ? "Ctrl-C" : si.ssi_signo == SIGTERM ? "SIGTERM" : "SIGHUP");
	loop_timer_set(&end->vm->loop, &end->grace, clock_ns() + GRACE_NS);
}

static void on_timeout(void *opaque)
{
	struct ending *end = opaque;

	vm_stop(end->vm, HV_TIMEOUT, "the guest was still running after %g seconds (%llu exits so far)", end->vm->opt.timeout,
		(unsigned long long)trace_total(&end->vm->trace));
	loop_timer_set(&end->vm->loop, &end->grace, clock_ns() + GRACE_NS);
}

/* The vCPU thread did not come back although the VM is stopped: it loops in hv's or the lab's code. */
static void on_grace(void *opaque)
{
	struct ending *end = opaque;

	vm_abandon(end->vm, HV_STOPPED, "the code that handles an exit did not return");
}

static int watch_ending(struct ending *end, sigset_t *old)
{
	struct vm *vm = end->vm;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, old);
	end->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	end->timeout = (struct loop_timer){ .fn = on_timeout, .opaque = end };
	end->grace = (struct loop_timer){ .fn = on_grace, .opaque = end };
	if (vm->opt.timeout > 0)
		loop_timer_set(&vm->loop, &end->timeout, clock_ns() + (uint64_t)(vm->opt.timeout * 1e9));
	return end->signal_fd < 0 ? -errno : loop_fd_add(&vm->loop, end->signal_fd, POLLIN, on_signal, end);
}

void vm_init(struct vm *vm)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&vm->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&vm->wake, NULL);
	trace_init(&vm->trace, vm->opt.trace_exits, stderr);
	vm->vcpu.vm = vm;
	vm->engine = engine_find(vm->opt.engine);
}

static void memory_written(void *opaque, uint64_t gpa, uint64_t len) { page_log_add(opaque, gpa, len); }

/* Memory, image, devices, engine; *html is the file of --dump-html. 0, or negative with the VM stopped. */
static int set_up(struct vm *vm, FILE **html)
{
	struct boot_request req = { .image = vm->opt.image, .initrd = vm->opt.initrd, .append = vm->opt.append,
				    .module = vm->opt.module, .nmodules = vm->opt.nmodules, .cpus = vm->opt.cpus };
	struct boot_state boot = { 0 };
	char err[400] = "";

	if (vm->neighbour.block)
		vm->mem = (struct guest_mem){ .hva = vm->neighbour.block + vm->neighbour.index * vm->opt.mem_size,
					       .size = vm->opt.mem_size };
	else if (guest_mem_create(&vm->mem, vm->opt.mem_size))
		return vm_stop(vm, HV_HOST, "the host cannot provide %llu MiB of memory for the guest",
			       (unsigned long long)(vm->opt.mem_size / MiB));
	vm->mem.written = memory_written;
	vm->mem.opaque = vm;
	for (req.nvirtio = 0; req.nvirtio < vm->opt.ndevices; req.nvirtio++)
		req.virtio[req.nvirtio] = (struct boot_device){ VIRTIO_MMIO_BASE + req.nvirtio * VIRTIO_MMIO_STRIDE, VIRTIO_MMIO_LEN,
								virtio_irq[req.nvirtio] };
	/* What comes from elsewhere brings its memory along. */
	if (!vm->opt.incoming && !vm->opt.restore && boot_load(&vm->mem, &req, &boot, err, sizeof err))
		return vm_stop(vm, HV_USAGE, "%s", err);
	/* Now and not at the end: nobody wants to hear after a long run that the file cannot be written. */
	if (vm->opt.dump_html && !(*html = fopen(vm->opt.dump_html, "w")))
		return vm_stop(vm, HV_USAGE, "cannot write the page \"%s\": %s", vm->opt.dump_html, strerror(errno));
	if (vm_create_devices(vm))
		return vm_stop(vm, HV_STOPPED, "two devices claim the same port: a bug in hv");
	for (unsigned i = 0; i < vm->opt.ndevices; i++)
		if (vm->opt.device[i].create(vm, vm->opt.device[i].arg))
			return vm->stopping ? -ECANCELED : vm_stop(vm, HV_HOST, "a device could not be made");
	if (vm->engine->create(vm, &boot))
		return vm->stopping ? -ECANCELED : vm_stop(vm, HV_HOST, "the %s engine could not start", vm->engine->name);
	if (virtio_connect(vm))
		return vm_stop(vm, HV_HOST, "there are not enough event descriptors for the devices");
	if (vm->opt.gdb_port >= 0 && gdbstub_create(vm, vm->opt.gdb_port))
		return -ECANCELED;
	return control_start(vm);
}

bool vm_insn_at(struct vm *vm, const struct vcpu *v, struct insn *insn)
{
	uint8_t bytes[INSN_MAX];
	unsigned n = INSN_MAX;
	uint64_t gpa;

	if (vm->engine->translate(vm, insn_gva(v), &gpa))
		return false;
	while (n && guest_read(&vm->mem, gpa, bytes, n)) /* near the end of memory */
		n--;
	return n && !insn_decode(bytes, n, insn_mode(v), insn);
}

/* Where a guest was that did not end by itself is the first thing that somebody wants to know. */
static void say_where(struct vm *vm)
{
	struct vcpu v = { .vm = vm };
	size_t used = strlen(vm->reason), left = sizeof vm->reason - used;
	bool outside = vm->status == HV_TIMEOUT || vm->status == HV_INTERRUPTED;
	char text[96] = "", cs[16] = "";
	struct insn insn;

	/* A backtick: the sentence has the instruction already. */
	if ((!outside && vm->status != HV_STOPPED) || strchr(vm->reason, '`') || vm->engine->get_state(vm, &v))
		return;
	if (vm_insn_at(vm, &v, &insn))
		insn_text(&insn, v.rip, text, sizeof text);
	if (insn_mode(&v) == 16) /* there an offset alone tells little */
		snprintf(cs, sizeof cs, "cs 0x%x, ", v.seg[CS].selector);
	if (outside)
		snprintf(vm->reason + used, left, "; it was at %srip 0x%llx (`%s`), CPL %u, interrupts %s", cs, (unsigned long long)v.rip,
			 text, v.cpl, v.rflags & FLAG_IF ? "on" : "off");
	else if (text[0])
		snprintf(vm->reason + used, left, "; the instruction at %srip 0x%llx is `%s`", cs, (unsigned long long)v.rip, text);
}

static void run(struct vm *vm)
{
	if (vm->gdb && !gdbstub_serve(vm, true))
		return;
	if (vm->opt.sample_steps && sample_run(vm) == RUN_STOPPED)
		return;
	while (vm_run(vm) == RUN_DEBUG)
		if (!vm->gdb || !gdbstub_serve(vm, false))
			return;
}

/* --dump-tables: before anything is torn down. */
static void dump(struct vm *vm, FILE *html, const sigset_t *signals)
{
	/* Nobody listens for signals any more. A lab's walk that never ends can then be interrupted. */
	pthread_sigmask(SIG_SETMASK, signals, NULL);
	dump_tables(vm, stderr, html);
}

int vm_main(struct vm *vm)
{
	struct ending end = { .vm = vm, .signal_fd = -1 };
	FILE *html = NULL;
	sigset_t old;

	vm_init(vm);
	if (loop_init(&vm->loop, &vm->lock)) {
		fprintf(stderr, "hv: the host has no event descriptor left\n");
		return HV_HOST;
	}
	install_handlers();
	small_stacks();
	if (watch_ending(&end, &old))
		vm_stop(vm, HV_HOST, "the host has no signal descriptor left");
	else if (!set_up(vm, &html)) {
		vm->vcpu_thread = pthread_self();
		vm->vcpu_running = true;
		if (console_start(&vm->con, &vm->loop, STDIN_FILENO, STDOUT_FILENO) || loop_start(&vm->loop))
			vm_stop(vm, HV_HOST, "the console or the event loop could not be started");
		else if ((!vm->opt.incoming && !vm->opt.restore) || !incoming_take(vm))
			run(vm);
		say_where(vm);
		pthread_mutex_lock(&vm->lock);
		vm->vcpu_running = false;
		loop_timer_set(&vm->loop, &end.grace, 0);
		pthread_mutex_unlock(&vm->lock);
		loop_stop(&vm->loop);
		pthread_mutex_lock(&vm->lock);
		console_stop(&vm->con);
		pthread_mutex_unlock(&vm->lock);
		if (vm->opt.dump)
			dump(vm, html, &old);
	}
	if (html && (ferror(html) | fclose(html)))
		fprintf(stderr, "hv: the page \"%s\" could not be written whole\n", vm->opt.dump_html);
	job_destroy(vm);
	incoming_destroy(vm);
	report(vm);
	control_stop(vm);
	gdbstub_destroy(vm);
	virtio_destroy(vm);
	written_free(vm);
	vm->engine->destroy(vm);
	guest_mem_destroy(&vm->mem);
	loop_destroy(&vm->loop);
	if (end.signal_fd >= 0)
		close(end.signal_fd);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return vm->status;
}
