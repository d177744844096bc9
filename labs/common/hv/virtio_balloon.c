/*
 * The memory balloon (virtio 1.2, 5.5): the host asks for memory back, the guest's driver allocates it ("inflates") and says which
 * pages, and the host unmaps those. Guest and host never disagree for long about who may use a page: an inflated one is the driver's,
 * which does not touch it, and what it would read there is zero.
 *
 * Deflating needs nothing from us: a page that was given back is there again, empty, as soon as somebody touches it. So MUST_TELL_HOST
 * is not offered (5.5.3): the driver need not wait before it uses a page again.
 *
 * The same on all engines. What the MMU of KVM knew of a page goes with it, by KVM's MMU notifier. The page tables that hv makes
 * itself, shadow or nested, hold ma, which stays what it was; only what was read from the page counts no more, as if a device had
 * zeroed it: written_add().
 */
#include "virtio_balloon.h"
#include "state_io.h"
#include "vm.h"
#include "written.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { INFLATEQ, DEFLATEQ, STATSQ, QUEUES };

#define F_STATS_VQ FEATURE(1)
#define F_DEFLATE_ON_OOM FEATURE(2)

#define KICK_PAGES 4096u /* handled at most, then others have their turn: 16 MiB */
#define PIECE 256u

/* 5.5.6.4 */
static const char *const stat_names[] = {
	"swap_in", "swap_out",	"major_faults", "minor_faults",	       "free",
	"total",   "available", "disk_caches",	"hugetlb_allocations", "hugetlb_failures"
};
#define STATS (sizeof stat_names / sizeof *stat_names)
#define STATS_MOST 256u /* looked at in one buffer: a driver knows more of them each year */

struct balloon {
	struct virtio_dev *dev;
	/* 5.5.4: what the host asks for, and what the driver says that it gave; in pages of 4 KiB, whatever the guest's are. */
	struct {
		uint32_t num_pages, actual;
	} config;
	/* A chain of inflateq or deflateq that is too long for one kick, and how much of it is done. */
	struct vq_chain held[STATSQ];
	bool holding[STATSQ];
	uint64_t offset[STATSQ];
	uint64_t resume_at[STATSQ]; /* of a chain that was put back: so much of it is done, and it is taken again */
	/* A run of pages that are next to each other, to unmap in one call. */
	uint64_t run_gpa, run_len;
	uint64_t inflated, deflated; /* pages, ever */
	/* The driver's statistics come in a buffer that it leaves here; giving the buffer back asks for new ones. */
	struct vq_chain stats;
	bool stats_held;
	uint64_t stat[STATS];
	uint32_t stat_known; /* bit per item */
};

/* --- pages ----------------------------------------------------------------------------------------------------------------------- */

static void discard_run(struct balloon *b)
{
	struct vm *vm = b->dev->vm;
	void *p = guest_range(&vm->mem, b->run_gpa, b->run_len);

	/* Memory that is shared with a neighbour VM keeps its pages unless they are removed from the object behind it. Should the host
	 * refuse, it keeps the pages, and nothing else is wrong. */
	if (b->run_len && p && !madvise(p, b->run_len, vm->neighbour.block ? MADV_REMOVE : MADV_DONTNEED))
		written_add(vm, b->run_gpa, b->run_len);
	b->run_len = 0;
}

/* Drivers name pages one by one, in rising or falling order mostly. 0, or -EPROTO after virtio_broken(). */
static int inflate_page(struct balloon *b, uint32_t pfn)
{
	uint64_t gpa = (uint64_t)pfn * PAGE;

	if (!guest_range(&b->dev->vm->mem, gpa, PAGE))
		return virtio_broken(b->dev, "the balloon got page 0x%x, which is outside memory", pfn);
	b->inflated++;
	if (b->run_len && gpa == b->run_gpa + b->run_len) {
		b->run_len += PAGE;
	} else if (b->run_len && gpa + PAGE == b->run_gpa) {
		b->run_gpa = gpa;
		b->run_len += PAGE;
	} else {
		discard_run(b);
		b->run_gpa = gpa;
		b->run_len = PAGE;
	}
	return 0;
}

/* Goes on with the chain that is held, with at most `budget` pages; how many are left of that. */
static unsigned handle_pages(struct balloon *b, unsigned index, unsigned budget)
{
	struct vq_chain *c = &b->held[index];
	uint32_t pfn[PIECE];

	while (budget) {
		unsigned want = budget < PIECE ? budget : PIECE;
		unsigned n = (unsigned)(chain_read(c, b->offset[index], pfn, want * sizeof *pfn) / sizeof *pfn);

		for (unsigned i = 0; i < n && index == INFLATEQ; i++)
			if (inflate_page(b, pfn[i]))
				return 0;
		if (index == DEFLATEQ)
			b->deflated += n;
		b->offset[index] += n * sizeof *pfn;
		budget -= n;
		if (n < want)
			break;
	}
	return budget;
}

static void kick_pages(struct balloon *b, struct virtqueue *q)
{
	unsigned budget = KICK_PAGES, i = q->index;
	struct vq_chain *c = &b->held[i];

	for (;;) {
		if (!b->holding[i]) {
			if (virtqueue_pop(q, c) <= 0)
				break;
			if (c->in_len || c->out_len % sizeof(uint32_t)) {
				virtio_broken(b->dev, "a balloon request is an array of page numbers, and nothing else");
				return;
			}
			b->holding[i] = true;
			b->offset[i] = b->resume_at[i];
			b->resume_at[i] = 0;
		}
		budget = handle_pages(b, i, budget);
		discard_run(b); /* before the driver hears that it was done */
		if (b->offset[i] < c->out_len) {
			virtqueue_again(q);
			break;
		}
		b->holding[i] = false;
		virtqueue_push(q, c, 0);
	}
	virtqueue_notify(q);
}

/* --- statistics ------------------------------------------------------------------------------------------------------------------ */

/* The driver's numbers, of which it may know any, in any order (5.5.6.3). Those that nobody here knows are left out. */
static void read_stats(struct balloon *b)
{
	struct __attribute__((packed)) {
		uint16_t tag;
		uint64_t value;
	} item;

	for (unsigned i = 0; i < STATS_MOST; i++) {
		if (chain_read(&b->stats, i * sizeof item, &item, sizeof item) < sizeof item)
			break;
		if (item.tag < STATS) {
			b->stat[item.tag] = item.value;
			b->stat_known |= 1u << item.tag;
		}
	}
}

static void kick_stats(struct balloon *b, struct virtqueue *q)
{
	struct vq_chain *c = &b->stats;

	if (b->stats_held || virtqueue_pop(q, c) <= 0)
		return;
	if (c->in_len) {
		virtio_broken(b->dev, "a writable buffer among the balloon's statistics");
		return;
	}
	b->stats_held = true;
	read_stats(b);
}

static void ask_for_stats(struct balloon *b)
{
	if (!b->stats_held)
		return;
	b->stats_held = false;
	virtqueue_push(b->stats.q, &b->stats, 0);
	virtqueue_notify(b->stats.q);
	kick_stats(b, b->stats.q); /* so that the driver notifies when it brings the next */
}

/* Linux leaves its buffer before DRIVER_OK, and does not notify again. */
static void start(struct virtio_dev *d)
{
	kick_stats(d->state, &d->queue[STATSQ]);
}

/* --- the device ------------------------------------------------------------------------------------------------------------------ */

static void kick(struct virtio_dev *d, struct virtqueue *q)
{
	if (q->index == STATSQ)
		kick_stats(d->state, q);
	else
		kick_pages(d->state, q);
}

static void drain(struct virtio_dev *d)
{
	struct balloon *b = d->state;

	for (unsigned i = 0; i < STATSQ; i++) {
		if (b->holding[i])
			virtqueue_push(b->held[i].q, &b->held[i], 0);
		b->holding[i] = false;
		b->resume_at[i] = 0;
	}
	if (b->stats_held)
		virtqueue_push(b->stats.q, &b->stats, 0);
	b->stats_held = false;
}

static void settle(struct virtio_dev *d)
{
	struct balloon *b = d->state;

	for (unsigned i = 0; i < STATSQ; i++) {
		if (!b->holding[i])
			continue;
		virtqueue_unpop(b->held[i].q, &b->held[i]);
		b->holding[i] = false;
		b->resume_at[i] = b->offset[i];
	}
	if (b->stats_held)
		virtqueue_unpop(b->stats.q, &b->stats);
	b->stats_held = false;
}

static void balloon_state(struct virtio_dev *d, struct state_io *io)
{
	struct balloon *b = d->state;

	STATE(io, b->config.num_pages);
	STATE(io, b->config.actual);
	STATE(io, b->resume_at[INFLATEQ]);
	STATE(io, b->resume_at[DEFLATEQ]);
	STATE(io, b->stat_known);
	state_bytes(io, b->stat, sizeof b->stat);
	state_check(io, b->config.num_pages <= d->vm->mem.size / PAGE, "the host wants more pages than there are");
	state_check(io, !(b->stat_known >> STATS), "it knows numbers that do not exist");
}

/* A driver that begins anew has no balloon (5.5.5): what the last one gave is the guest's again. */
static void reset(struct virtio_dev *d)
{
	struct balloon *b = d->state;

	b->config.actual = 0;
	b->stat_known = 0;
}

static void config_write(struct virtio_dev *d, unsigned offset, unsigned size, uint32_t value)
{
	struct balloon *b = d->state;

	if (offset < 4) /* num_pages is the host's */
		return;
	memcpy((uint8_t *)&b->config + offset, &value, size);
	ask_for_stats(b);
}

static void stats(struct virtio_dev *d, FILE *out)
{
	struct balloon *b = d->state;
	const char *comma = "";

	fprintf(out, ",\"target_pages\":%u,\"actual_pages\":%u,\"inflated\":%llu,\"deflated\":%llu,\"memory\":{",
		b->config.num_pages, b->config.actual, (unsigned long long)b->inflated, (unsigned long long)b->deflated);
	for (unsigned i = 0; i < STATS; i++)
		if (b->stat_known >> i & 1) {
			fprintf(out, "%s\"%s\":%llu", comma, stat_names[i], (unsigned long long)b->stat[i]);
			comma = ",";
		}
	fputc('}', out);
	if (!d->vm->stopping)
		ask_for_stats(b); /* for who asks next */
}

static void destroy(struct virtio_dev *d)
{
	free(d->state);
}

static const struct virtio_ops balloon_ops = {
	.name = "balloon",
	.id = VIRTIO_ID_BALLOON,
	.nqueues = QUEUES,
	.kick = kick,
	.start = start,
	.drain = drain,
	.reset = reset,
	.config_write = config_write,
	.destroy = destroy,
	.stats = stats,
	.settle = settle,
	.state = balloon_state,
};

static void set_target(struct vm *vm, uint64_t mib)
{
	uint64_t most = vm->mem.size / PAGE, pages = mib < most ? mib * (MiB / PAGE) : most;

	for (unsigned s = 0; s < vm->nvirtio; s++)
		if (vm->virtio[s]->ops == &balloon_ops) {
			struct balloon *b = vm->virtio[s]->state;

			b->config.num_pages = (uint32_t)(pages < most ? pages : most);
			virtio_config_changed(b->dev);
		}
}

int virtio_balloon_create(struct vm *vm, const char *arg)
{
	(void)arg;
	if (vm->balloon_set)
		return vm_stop(vm, HV_USAGE, "a VM has one balloon at most: --balloon can stand once");

	struct balloon *b = calloc(1, sizeof *b);

	if (!b)
		return -ENOMEM;
	/* With DEFLATE_ON_OOM the guest takes pages back before it kills a process. The balloon is a request then, not a limit: that a
	 * VM which was asked for too much goes on is worth more here than a promise about memory. */
	b->dev = virtio_create(vm, &balloon_ops, b, F_STATS_VQ | F_DEFLATE_ON_OOM, &b->config, sizeof b->config);
	if (!b->dev) {
		free(b);
		return -ECANCELED;
	}
	vm->balloon_set = set_target;
	return 0;
}
