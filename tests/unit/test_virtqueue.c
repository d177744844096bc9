// sources: virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c mem.c bus.c clock.c
/*
 * Both ring formats against a driver that keeps the rules: seeded random work over several wraps of the 16-bit indices, and the window of
 * events for which an interrupt is due. What a driver may not do is in test_virtqueue_malformed.c.
 */
#include "ring_driver.h"

static void work(bool packed, unsigned size, bool events, bool indirect, unsigned rounds)
{
	static struct vq_chain flight[VIRTIO_QUEUE_MAX];
	unsigned nflight = 0;
	bool asleep = false; /* the device found nothing, and waits for a notification */
	bool slept = false;  /* it has been, ever: so it had to say again that it need not be notified */

	start_driver(packed, size, events, indirect);
	for (unsigned i = 0; i < rounds; i++) {
		unsigned what = rnd(10);

		if (what < 4) {
			for (unsigned n = 1 + rnd(3); n && add_request(); n--)
				;
			/* A driver that decides later than it adds may not lose a device that has gone to sleep in between. */
			if (rnd(4) && drv.nadded && kick_wanted())
				asleep = false;
			else if (asleep && !drv.nadded && drv.count)
				fail_msg("the device sleeps, a request is there, and the driver need not notify");
		} else if (what < 7) {
			int n = asleep ? 0 : virtqueue_pop(queue, &flight[nflight]);

			assert_true(n >= 0);
			if (n)
				check_chain(&flight[nflight++]);
			else if (!asleep)
				assert_int_equal(drv.count, 0);
			if (n && slept && (packed || !events))
				assert_int_equal(*word(packed ? DEVICE + 2 : DEVICE),
						 packed ? PACKED_EVENT_DISABLE : USED_F_NO_NOTIFY);
			asleep = !n;
			slept |= asleep;
		} else if (nflight) {
			unsigned k = rnd(nflight);
			struct vq_chain c = flight[k];
			uint32_t len = c.in_len ? rnd((unsigned)c.in_len + 1) : 0;

			flight[k] = flight[--nflight];
			virtqueue_push(queue, &c, len);
			collect(c.id, len);
			if (rnd(3) == 0 || drv.npushed > 1000)
				notify();
		}
	}
	assert_int_equal(dev->status & STATUS_NEEDS_RESET, 0);
}

static void test_random(void **state)
{
	static const unsigned split_sizes[] = { 1, 2, 4, 32, 256 }, packed_sizes[] = { 1, 2, 3, 5, 17, 64, 255, 256 };

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		seed = 1000 + i;
		for (unsigned s = 0; s < 5; s++)
			work(false, split_sizes[s], i & 1, i & 2, 30000);
		for (unsigned s = 0; s < 8; s++)
			work(true, packed_sizes[s], i & 1, i & 2, 30000);
	}
}

/* Far enough for three wraps of the indices. */
static void test_long(void **state)
{
	(void)state;
	seed = 7;
	work(false, 8, true, true, 1500000);
	assert_true(queue->chains > 3 * 65536);
	work(true, 7, true, true, 1500000);
}

static void test_event_window(void **state)
{
	(void)state;
	set_up(false, 4, true, false);
	for (unsigned start = 65536 - 10; start < 65536 + 10; start++)
		for (unsigned n = 0; n <= 4; n++)
			for (unsigned event = start - 12; event < start + 12; event++) {
				queue->signalled = (uint16_t)start;
				queue->next_used = (uint16_t)(start + n);
				*word(DRIVER + 4 + 2 * 4) = (uint16_t)event;
				assert_int_equal(split_rings.should_interrupt(queue), event >= start && event < start + n);
			}
	for (unsigned size = 1; size <= 6; size++) {
		set_up(true, size, true, false);
		*word(DRIVER + 2) = PACKED_EVENT_DESC;
		for (unsigned start = 0; start < 2 * size; start++)
			for (unsigned n = 0; n < size; n++)
				for (unsigned event = 0; event < 2 * size; event++) {
					unsigned now = (start + n) % (2 * size);

					queue->unsignalled = (uint16_t)n;
					queue->next_used = (uint16_t)(now % size);
					queue->used_wrap = now < size;
					*word(DRIVER) = (uint16_t)(event % size | (event < size) << 15);
					bool in = (event + 2 * size - start) % (2 * size) < n;
					assert_int_equal(packed_rings.should_interrupt(queue), in);
				}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_event_window),
	};

	return cmocka_run_group_tests(tests, make, unmake);
}
