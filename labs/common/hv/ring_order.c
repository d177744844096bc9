#include "ring_order.h"
#include "vring.h"

#include <signal.h>
#include <sys/mman.h>

/* Of the one push that is under way; the lock sees to that. */
static struct {
	uint8_t *page; /* of the element, or NULL: nothing is watched */
	const uint16_t *idx;
	uint16_t before;
	bool stored, index_first;
	struct sigaction old;
} watch;

static void on_store(int sig, siginfo_t *info, void *context)
{
	uint8_t *at = info->si_addr;

	(void)context;
	if (watch.page && at >= watch.page && at < watch.page + PAGE) {
		watch.stored = true;
		watch.index_first = __atomic_load_n(watch.idx, __ATOMIC_RELAXED) != watch.before;
		mprotect(watch.page, PAGE, PROT_READ | PROT_WRITE);
		return;
	}
	sigaction(sig, &watch.old, NULL); /* not ours: the instruction faults again */
}

void ring_order_begin(struct virtqueue *q)
{
	struct split_used *used = q->device_area;
	struct sigaction action = { .sa_sigaction = on_store, .sa_flags = SA_SIGINFO };
	uint8_t *element = (uint8_t *)&used->ring[q->next_used % q->size];
	uint8_t *page = (uint8_t *)((uintptr_t)element & ~(uintptr_t)(PAGE - 1));

	watch.page = NULL;
	if (virtio_has(q->dev, F_RING_PACKED) || (uint8_t *)used + sizeof *used > page)
		return;
	watch.idx = &used->idx;
	watch.before = used->idx;
	watch.stored = watch.index_first = false;
	if (sigaction(SIGSEGV, &action, &watch.old))
		return;
	watch.page = page;
	mprotect(page, PAGE, PROT_READ);
}

void ring_order_end(struct ring_order *order)
{
	if (!watch.page)
		return;
	mprotect(watch.page, PAGE, PROT_READ | PROT_WRITE);
	watch.page = NULL;
	sigaction(SIGSEGV, &watch.old, NULL);
	order->watched += watch.stored;
	order->index_first += watch.stored && watch.index_first;
}
