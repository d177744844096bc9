// sources: virtio_state.c state_io.c rng.c blk.c disk.c disk_uring.c disk_threads.c net.c netback.c net_options.c virtio_console.c virtio_balloon.c console.c virtio.c json.c ring_order.c mmio.c virtqueue.c packed.c written.c bus.c loop.c clock.c mem.c
/*
 * Virtio devices that move. A driver keeps all of them busy with chains of both ring formats, and again and again the VM goes on in another
 * process: another struct vm, with a copy of the memory and the state that was saved. Nothing may be lost or done twice: each chain comes
 * back once, frames and bytes arrive in order, disks hold what was written. And what devices wrote to memory was said to the dirty log.
 */
#define _GNU_SOURCE
#include "traffic_driver.h"

/* --- moving ------------------------------------------------------------------------------------------------------- */

/* Every page that is not what it was is in the log. */
static unsigned look_at_log(void)
{
	unsigned changed = 0;

	for (unsigned page = 0; page < PAGES; page++) {
		uint8_t *now = vm->mem.hva + page * PAGE;

		if (!memcmp(now, shadow + page * PAGE, PAGE))
			continue;
		changed++;
		if (!(logged[page / 64] >> page % 64 & 1))
			fail_msg("a device wrote page 0x%x, and did not say so", page);
		memcpy(shadow + page * PAGE, now, PAGE);
	}
	memset(logged, 0, sizeof logged);
	return changed;
}

static void save(struct vm *v, unsigned d, struct state_io *io)
{
	state_save_begin(io, "the device", clock_ns());
	virtio_state(v->virtio[d], io);
	assert_int_equal(state_end(io), 0);
}

static int load(struct vm *v, unsigned d, const void *data, size_t len, char *err)
{
	struct state_io io;

	state_load_begin(&io, "the device", clock_ns(), data, len);
	virtio_state(v->virtio[d], &io);

	int failed = state_end(&io);

	assert_true(!failed == !io.err[0]);
	strcpy(err, io.err);
	return failed;
}

static void load_console(struct vm *from, struct vm *to)
{
	struct state_io io;

	state_save_begin(&io, "the console", 0);
	console_state(&from->con, &io);
	struct state_io in;
	state_load_begin(&in, "the console", 0, io.data, io.len);
	console_state(&to->con, &in);
	assert_int_equal(state_end(&in), 0);
	state_free(&io);
}

static void move(void)
{
	struct vm *from = vm, *to;
	struct state_io saved[DEVICES], again;
	char err[STATE_ERR];

	assert_int_equal(virtio_settle(from), 0);
	look_at_log();
	for (unsigned d = 0; d < DEVICES; d++) {
		for (unsigned i = 0; i < dev[d]->ops->nqueues; i++)
			assert_int_equal(dev[d]->queue[i].in_flight, 0);
		save(from, d, &saved[d]);
	}
	/* What comes now waits, and is not written to memory. */
	for (unsigned i = 0; i < 5; i++) {
		reg(DISK, 0x50, 0);
		virtio_mmio_read(dev[NET], 0x60, 4);
	}
	pthread_mutex_unlock(&vm->lock);
	usleep(any(2000));
	pthread_mutex_lock(&vm->lock);
	assert_int_equal(look_at_log(), 0);
	if (!any(3)) { /* it stays after all */
		virtio_unsettle(from);
		for (unsigned d = 0; d < DEVICES; d++)
			state_free(&saved[d]);
		return;
	}
	to = make(true);
	memcpy(to->mem.hva, from->mem.hva, MEM);
	for (unsigned d = 0; d < DEVICES; d++) {
		if (load(to, d, saved[d].data, saved[d].len, err))
			fail_msg("device %u: %s", d, err);
		save(to, d, &again);
		assert_int_equal(again.len, saved[d].len);
		assert_memory_equal(again.data, saved[d].data, again.len);
		state_free(&again);
		state_free(&saved[d]);
	}
	loop_fd_remove(&from->loop, from->con.in_fd); /* which here is one terminal for both */
	load_console(from, to);
	is_now(to);
	memset(level, 0, sizeof level);
	virtio_loaded(to);
	for (unsigned d = 0; d < DEVICES; d++)
		assert_true(level[virtio_irq[d]] == !!dev[d]->interrupt_status);
	pthread_mutex_unlock(&to->lock);
	usleep(any(1000));
	pthread_mutex_lock(&to->lock);
	assert_memory_equal(to->mem.hva, from->mem.hva, MEM); /* nothing has happened yet */
	read_all_output(from); /* which is its own, and comes before the other's */
	unmake(from);
	virtio_unsettle(to);
}

/* Everything comes back but what waits for others. */
static void finish(void)
{
	for (unsigned round = 0; round < 20000; round++) {
		bool all = true;

		netback_set_blocked(wire, false);
		read_output(4096);
		for (unsigned i = 0; i < QUEUES; i++) {
			struct queue *q = &queues[i];
			bool waits = (q->d == NET && q->index == NET_RX) || (q->d == CONSOLE && !q->index) ||
				     (q->d == BALLOON && q->index == 2);

			collect(q);
			for (unsigned s = 0; waits && q->index != 2 && s < SLOTS; s++)
				if (!q->slot[s].busy)
					request(q, s);
			reg(q->d, 0x50, q->index);
			all &= waits || q->given == q->back;
		}
		if (all && frames_seen == frames_in && frames_out == tx_number && out_seen == out_bytes && in_seen == in_bytes)
			return;
		pthread_mutex_unlock(&vm->lock);
		usleep(200);
		pthread_mutex_lock(&vm->lock);
	}
	fail_msg("frames to the guest: %u of %u, from it %u of %u; bytes out: %u of %u, in: %u of %u; disk %llu of %llu",
		 frames_seen, frames_in, frames_out, tx_number, out_seen, out_bytes, in_seen, in_bytes,
		 (unsigned long long)queues[1].back, (unsigned long long)queues[1].given);
}

static void begin(void)
{
	frames_in = frames_out = frames_seen = tx_number = out_bytes = out_seen = in_bytes = in_seen = 0;
	stats_asked = false;
	strcpy(image, "/tmp/test-state.XXXXXX");
	int fd = mkstemp(image);
	memset(model, 0, sizeof model);
	assert_int_equal(ftruncate(fd, sizeof model), 0);
	close(fd);
	assert_int_equal(pipe2(output, O_CLOEXEC), 0);
	assert_int_equal(pipe2(input, O_CLOEXEC), 0);
	fcntl(output[0], F_SETFL, O_NONBLOCK);
	fcntl(output[1], F_SETPIPE_SZ, 4096);
	is_now(make(false));
	memset(shadow, 0, sizeof shadow);
	for (unsigned d = 0; d < DEVICES; d++)
		start(d);
	look_at_log();
}

static void end(void)
{
	read_all_output(vm);
	unmake(vm);
	for (unsigned i = 0; i < 2; i++) {
		close(output[i]);
		close(input[i]);
	}
	unlink(image);
}

static void moves_under_load(void **state)
{
	const char *given = getenv("TRAPDOOR_SEED");

	(void)state;
	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
	for (unsigned i = 0; i < 6; i++) {
		packed = i & 1;
		begin();
		for (unsigned m = 0; m < 25; m++) {
			for (unsigned n = any(400); n; n--)
				step();
			move();
		}
		finish();
		end();
	}
}

/* --- what is damaged ---------------------------------------------------------------------------------------------- */

/* Who knows what it is. */
static void forget_output(struct vm *v)
{
	uint8_t bytes[4096];

	while (read(output[0], bytes, sizeof bytes) > 0 || v->con.sending) {
		pthread_mutex_unlock(&v->lock);
		usleep(100);
		pthread_mutex_lock(&v->lock);
	}
	v->con.nout = 0;
}

static void damaged(void **state)
{
	unsigned refused = 0, taken = 0;
	char err[STATE_ERR];

	(void)state;
	for (unsigned round = 0; round < 6; round++) {
		struct state_io saved[DEVICES];

		packed = round & 1;
		begin();
		for (unsigned n = 0; n < 300; n++)
			step();
		assert_int_equal(virtio_settle(vm), 0);
		for (unsigned d = 0; d < DEVICES; d++)
			save(vm, d, &saved[d]);
		for (unsigned i = 0; i < 60; i++) {
			struct vm *to = make(true);
			unsigned d = any(DEVICES);
			size_t len = saved[d].len;
			uint8_t *data = malloc(len + 1);

			memcpy(data, saved[d].data, len);
			to->con.broken = true; /* nobody wants to read what it says */
			memcpy(to->mem.hva, vm->mem.hva, MEM);
			if (!any(6))
				len = any((uint32_t)len);
			else if (!any(10))
				data[len++] = (uint8_t)any(256);
			else
				for (unsigned k = 0; k <= any(3); k++)
					data[any(any(2) && len > 150 ? 150 : (uint32_t)len)] ^= (uint8_t)(1u << any(8));
			if (load(to, d, data, len, err)) {
				assert_non_null(strstr(err, "the device"));
				refused++;
			} else { /* then it works, if only until it finds that its driver breaks the rules */
				taken++;
				virtio_loaded(to);
				virtio_unsettle(to);
				for (unsigned k = 0; k < 30; k++) {
					virtio_mmio_write(to->virtio[d], 0x50, 4, any(3));
					pthread_mutex_unlock(&to->lock);
					usleep(50);
					pthread_mutex_lock(&to->lock);
				}
				virtio_mmio_write(to->virtio[d], 0x70, 4, 0);
				assert_int_equal(to->virtio[d]->status, 0);
			}
			free(data);
			unmake(to);
		}
		for (unsigned d = 0; d < DEVICES; d++)
			state_free(&saved[d]);
		forget_output(vm);
		end();
	}
	assert_true(refused > 50 && taken > 10);
}

/* What has to be alike, and says so when it is not. */
static void differences(void **state)
{
	struct state_io saved[DEVICES];
	char err[STATE_ERR];
	struct vm *to;

	(void)state;
	seed = 1;
	packed = false;
	begin();
	assert_int_equal(virtio_settle(vm), 0);
	for (unsigned d = 0; d < DEVICES; d++)
		save(vm, d, &saved[d]);
	assert_int_equal(truncate(image, sizeof model / 2), 0);
	to = make(true);
	assert_int_not_equal(load(to, DISK, saved[DISK].data, saved[DISK].len, err), 0);
	assert_non_null(strstr(err, "the disk had 32 sectors, and here it has 16"));
	assert_int_not_equal(load(to, RNG, saved[NET].data, saved[NET].len, err), 0);
	assert_non_null(strstr(err, "another kind of device"));
	to->virtio[BALLOON]->offered &= ~F_RING_EVENT_IDX;
	assert_int_not_equal(load(to, BALLOON, saved[BALLOON].data, saved[BALLOON].len, err), 0);
	assert_non_null(strstr(err, "offered the features"));
	unmake(to);
	for (unsigned d = 0; d < DEVICES; d++)
		state_free(&saved[d]);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moves_under_load),
		cmocka_unit_test(damaged),
		cmocka_unit_test(differences),
	};
	return cmocka_run_group_tests_name("virtio state", tests, NULL, NULL);
}
