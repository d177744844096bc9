/*
 * Pages that are missing: userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst of Linux). Whoever touches one, be it hv, KVM in
 * KVM_RUN or the kernel on behalf of a device's read(), sleeps in the kernel until the page is put in.
 *
 * The thread here never takes vm->lock: a device may hold it and wait for a page.
 */
#include "engine.h"
#include "lab5.h"
#include "legacy_walk.h"
#include "vm_life.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOK_MS 50 /* so often it looks whether the VM has ended */
#define STUCK_NS 1000000000ull
#define WAITS 64 /* that are measured at the same time: a guest with asynchronous page faults can have more */

enum uffd_phase {
	LOADING, /* the source sends no page that is asked for yet: see uffd_loaded() */
	LOADED,	 /* as before, but only a vCPU or a device that runs too early could ask: they wait */
	SERVING
};

struct uffd {
	struct migration *m;
	int fd;
	pthread_t thread;
	volatile enum uffd_phase phase;
	volatile bool quit;
	uint64_t early;	      /* number of the first page that was touched while loading, plus 1 */
	pthread_mutex_t lock; /* of what follows; nothing is called with it held */
	struct {
		uint64_t gfn, since;
	} wait[WAITS];
	unsigned waits;
};

/* --- the descriptor --------------------------------------------------------------------------------------------------------------- */

/*
 * KVM touches guest memory in the kernel, so faults there must be told, too (no UFFD_USER_MODE_ONLY). A process without CAP_SYS_PTRACE may
 * do that where the sysctl or the mode of the device says so.
 */
static int uffd_open(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		return fd;
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -1;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(dev);
	return fd;
}

static struct uffdio_range range(const struct migration *m, uint64_t gfn, uint64_t count)
{
	return (struct uffdio_range){ .start = (uintptr_t)m->vm->mem.hva + gfn * PAGE, .len = count * PAGE };
}

/*
 * All of memory is watched, not only what is owed: a piece of a mapping that is watched becomes a mapping of its own, of which Linux allows
 * 65530 (vm.max_map_count). What is not owed and not there was never touched: zeros, which this side knows by itself.
 */
static int watch(struct uffd *u)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct migration *m = u->m;
	struct uffdio_register reg = { .range = range(m, 0, m->vm->mem.size / PAGE), .mode = UFFDIO_REGISTER_MODE_MISSING };
	uint64_t pages = m->vm->mem.size / PAGE, n;

	if (ioctl(u->fd, UFFDIO_API, &api))
		return -errno;
	/* Pages come one by one. A huge page would be made of what is there and zeros in between. */
	if (madvise(m->vm->mem.hva, m->vm->mem.size, MADV_NOHUGEPAGE) &&
	    errno != EINVAL) /* EINVAL: a kernel without huge pages */
		return -errno;
	for (uint64_t gfn = 0; gfn < pages; gfn += n) {
		bool owed = page_bit(m->owed, gfn);

		for (n = 1; gfn + n < pages && page_bit(m->owed, gfn + n) == owed; n++)
			;
		/* What the first round brought is old. */
		if (owed && madvise(m->vm->mem.hva + gfn * PAGE, n * PAGE, MADV_DONTNEED))
			return -errno;
	}
	return ioctl(u->fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

static void unwatch(struct uffd *u)
{
	struct uffdio_range all = range(u->m, 0, u->m->vm->mem.size / PAGE);

	ioctl(u->fd, UFFDIO_UNREGISTER, &all); /* wakes all who sleep */
}

/* --- pages ------------------------------------------------------------------------------------------------------------------------- */

/* true: it was this call that put it in. Somebody who sleeps because of it is woken in any case. */
static bool fill(struct uffd *u, uint64_t gfn, const void *page)
{
	struct uffdio_range where = range(u->m, gfn, 1);
	int r;

	do {
		struct uffdio_copy copy = { .dst = where.start, .src = (uintptr_t)page, .len = PAGE };
		struct uffdio_zeropage zero = { .range = where };
		r = page ? ioctl(u->fd, UFFDIO_COPY, &copy) : ioctl(u->fd, UFFDIO_ZEROPAGE, &zero);
	} while (r && errno == EAGAIN); /* the process' mappings are just being changed */
	if (r)
		ioctl(u->fd, UFFDIO_WAKE, &where);
	return !r;
}

static void wait_begins(struct uffd *u, uint64_t gfn)
{
	pthread_mutex_lock(&u->lock);
	u->m->post.waits.faults++;
	if (u->waits < WAITS) {
		u->wait[u->waits].gfn = gfn;
		u->wait[u->waits++].since = clock_ns();
	}
	pthread_mutex_unlock(&u->lock);
}

static void waits_end(struct uffd *u, uint64_t gfn)
{
	struct postcopy_waits *w = &u->m->post.waits;
	struct uffdio_range where = range(u->m, gfn, 1);
	bool waited = false;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < u->waits;) {
		if (u->wait[i].gfn != gfn) {
			i++;
			continue;
		}
		uint64_t ns = clock_ns() - u->wait[i].since;
		w->total_ns += ns;
		w->longest_ns = ns > w->longest_ns ? ns : w->longest_ns;
		u->wait[i] = u->wait[--u->waits];
		waited = true;
	}
	pthread_mutex_unlock(&u->lock);
	/* Between fill() and the bit, the balloon may have thrown the page away, and somebody may have asked for it again: in vain. */
	if (waited)
		ioctl(u->fd, UFFDIO_WAKE, &where);
}

int uffd_put(struct migration *m, uint64_t gfn, const void *page)
{
	/* Not owed: it is there, and the guest may have written to it since. */
	if (!page_bit(m->owed, gfn) || !fill(m->uffd, gfn, page)) {
		m->post.twice++;
		return 0;
	}
	page_bit_clear(m->owed, gfn);
	m->post.arrived++;
	waits_end(m->uffd, gfn);
	return 1;
}

/* --- the thread --------------------------------------------------------------------------------------------------------------------- */

static void on_fault(struct uffd *u, uint64_t gfn)
{
	struct migration *m = u->m;

	if (!page_bit(m->owed, gfn)) {
		fill(u, gfn, NULL);
	} else if (u->phase == LOADING) {
		u->early++;
		page_bit_set(m->post.asked, gfn);
		fill(u, gfn, NULL);
	} else {
		wait_begins(u, gfn);
		postcopy_fault(m, gfn); /* when the connection is broken, it is asked for again over the next one */
		if (!page_bit(m->owed, gfn))
			waits_end(u, gfn); /* it came in between */
	}
}

/*
 * The VM is to end, and somebody waits for a page that does not come. To go on with zeros would be worse than not at all: a device may be
 * about to write that page to a disk. And when it is a device that waits, with the lock, the loop's thread does not even see the signal.
 */
static bool stuck(struct uffd *u)
{
	uint64_t oldest = UINT64_MAX;
	sigset_t pending;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < u->waits; i++)
		oldest = u->wait[i].since < oldest ? u->wait[i].since : oldest;
	pthread_mutex_unlock(&u->lock);
	if (oldest == UINT64_MAX || clock_ns() - oldest < STUCK_NS)
		return false;
	return u->m->vm->stopping ||
	       (!sigpending(&pending) &&
		(sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) || sigismember(&pending, SIGHUP)));
}

static void *watch_faults(void *opaque)
{
	struct uffd *u = opaque;
	struct vm *vm = u->m->vm;
	struct uffd_msg msg;

	while (!u->quit) {
		if (stuck(u))
			vm_abandon(vm, HV_INTERRUPTED,
				   "the VM ends while it waits for memory that is still where it came from");
		struct pollfd p = { .fd = u->phase == LOADED ? -1 : u->fd, .events = POLLIN };
		if (poll(&p, 1, u->phase == LOADED ? 1 : LOOK_MS) <= 0)
			continue;
		while (read(u->fd, &msg, sizeof msg) == sizeof msg)
			if (msg.event == UFFD_EVENT_PAGEFAULT)
				on_fault(u, (msg.arg.pagefault.address - (uintptr_t)vm->mem.hva) / PAGE);
	}
	return NULL;
}

/* --- from outside ------------------------------------------------------------------------------------------------------------------- */

int uffd_start(struct migration *m)
{
	struct uffd *u = calloc(1, sizeof *u);
	uint64_t pages = m->vm->mem.size / PAGE;
	int err = 0;

	if (pages % 64 && m->owed[pages / 64] >> pages % 64) {
		snprintf(m->reason, sizeof m->reason, "pages are to follow that the guest does not have");
		free(u);
		return -EPROTO;
	}
	m->post.asked = calloc(page_words(m->vm), sizeof *m->post.asked);
	if (!u || !m->post.asked) {
		snprintf(m->reason, sizeof m->reason, "there is not enough memory");
		free(u);
		return -ENOMEM;
	}
	u->m = m;
	pthread_mutex_init(&u->lock, NULL);
	u->fd = uffd_open();
	if (u->fd < 0) {
		err = -errno;
		snprintf(m->reason, sizeof m->reason,
			 "post-copy needs userfaultfd, which this host does not allow (%s): sysctl "
			 "vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd",
			 strerror(-err));
	} else {
		err = watch(u);
		if (!err)
			err = -pthread_create(&u->thread, NULL, watch_faults, u);
		if (err)
			snprintf(m->reason, sizeof m->reason, "this host cannot watch for missing pages: %s",
				 strerror(-err));
	}
	if (!err) {
		m->uffd = u;
		return 0;
	}
	if (u->fd >= 0)
		close(u->fd);
	pthread_mutex_destroy(&u->lock);
	free(u);
	return err;
}

/*
 * While state is loaded, zeros stand for pages that the source has. hv needs none of them then. KVM looks some up only to know where they
 * are, when a vCPU gets its registers (the page of MSR_KVM_SYSTEM_TIME), or writes to them what the source has written better (that of
 * MSR_KVM_WALL_CLOCK). So they may go again, and are missing when the vCPU runs. But for a guest in PAE mode it has read a page table's
 * four uppermost entries for good (KVM_SET_SREGS; Intel SDM volume 3, 4.4.1).
 */
int uffd_loaded(struct migration *m)
{
	struct uffd *u = m->uffd;
	struct vm *vm = m->vm;
	struct vcpu v = { .vm = vm };
	int err = 0;

	if (u->early && (strcmp(vm->engine->state_kind, "kvm") || vm->engine->get_state(vm, &v) ||
			 ((v.cr4 & CR4_PAE) && legacy_paging(&v))))
		return stream_fail(&m->stream, EPROTO,
				   "post-copy is not for a machine whose state needs memory (%llu pages) to be loaded",
				   (unsigned long long)u->early);
	for (uint64_t gfn = 0; u->early && gfn < vm->mem.size / PAGE && !err; gfn++)
		if (page_bit_clear(m->post.asked, gfn) && madvise(vm->mem.hva + gfn * PAGE, PAGE, MADV_DONTNEED))
			err = stream_fail(&m->stream, errno, "a page could not be thrown away: %s", strerror(errno));
	u->phase = LOADED;
	return err;
}

void uffd_serve(struct migration *m)
{
	m->uffd->phase = SERVING;
}

void uffd_release(struct migration *m)
{
	if (m->uffd)
		unwatch(m->uffd);
}

void uffd_stop(struct migration *m)
{
	struct uffd *u = m->uffd;

	if (u) {
		u->quit = true;
		pthread_join(u->thread, NULL);
		unwatch(u);
		close(u->fd);
		madvise(m->vm->mem.hva, m->vm->mem.size, MADV_HUGEPAGE);
		pthread_mutex_destroy(&u->lock);
		free(u);
	}
	m->uffd = NULL;
	free(m->post.asked);
	m->post.asked = NULL;
}
