// sources: postcopy.c uffd.c follow.c reconnect.c stream.c stream_base.c mem.c wire.c control_path.c clock.c
/*
 * Post-copy between two memories of this process, with the real userfaultfd: threads touch the destination's memory while it comes, some
 * through the kernel, and the connection breaks. Where the host does not allow userfaultfd, the tests are skipped.
 */
#define _GNU_SOURCE
#include "engine.h"
#include "lab5.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ull
#define PAGES 4000u /* not a multiple of 64 */
#define URI "unix:post.sock"
#define TOUCHERS 4

int vm_todo(struct vm *vm, const char *step, const char *hint)
{
	(void)vm;
	fail_msg("step %s: %s", step, hint);
	return -ECANCELED;
}

static struct vm src_vm, dst_vm;
static struct migration src, dst;
static uint64_t owed_at_first;

/* Page 7 mod 8 is one of zeros; the others say which page they are, everywhere. */
static uint64_t content(uint64_t gfn)
{
	return gfn % 8 == 7 ? 0 : gfn * 0x9e3779b97f4a7c15ull + 1;
}

static void fill(uint8_t *hva, uint64_t gfn, uint64_t word)
{
	uint64_t *p = (uint64_t *)(hva + gfn * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i++)
		p[i] = word;
}

static void side(struct migration *m, struct vm *vm)
{
	memset(m, 0, sizeof *m);
	memset(vm, 0, sizeof *vm);
	pthread_mutex_init(&vm->lock, NULL);
	assert_int_equal(guest_mem_create(&vm->mem, PAGES * PAGE), 0);
	m->vm = vm;
	m->id = 0x4711;
	m->uri = URI;
	m->listening = -1;
	m->postcopy = true;
	m->owed = calloc(page_words(vm), sizeof *m->owed);
	assert_int_equal(stream_init(&m->stream), 0);
	m->stream.wire.patience = 5000 * MS;
	m->stream.wire.connection = true;
	pthread_mutex_init(&m->send_lock, NULL);
}

static bool ends(void *opaque)
{
	return ((struct vm *)opaque)->stopping;
}

/*
 * Of 16 pages, 12 are owed; of the other four, two were sent in the first round, one is of zeros that nobody ever wrote, and one is old at
 * the source, because the destination has written to it. All that is owed is old at the destination.
 */
static bool is_owed(uint64_t gfn)
{
	return gfn % 16 < 12;
}

static uint64_t expected(uint64_t gfn)
{
	return is_owed(gfn) ? content(gfn) : gfn % 16 < 14 ? ~gfn : 0;
}

static int setup(void **state)
{
	int pair[2];
	char err[200];

	(void)state;
	side(&src, &src_vm);
	side(&dst, &dst_vm);
	owed_at_first = 0;
	for (uint64_t gfn = 0; gfn < PAGES; gfn++) {
		fill(src_vm.mem.hva, gfn, content(gfn));
		if (is_owed(gfn)) {
			page_bit_set(src.owed, gfn);
			page_bit_set(dst.owed, gfn);
			if (gfn % 3)
				fill(dst_vm.mem.hva, gfn, 0xdead);
			owed_at_first++;
		} else if (gfn % 16 < 14) {
			fill(dst_vm.mem.hva, gfn, ~gfn);
		}
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	src.stream.wire.fd = pair[0];
	dst.stream.wire.fd = pair[1];
	dst.stream.wire.cancelled = ends;
	dst.stream.wire.opaque = &dst_vm;
	assert_int_equal(wire_listen(URI, &dst.listening, err, sizeof err), 0);
	if (uffd_start(&dst)) {
		print_message("skipped: %s\n", dst.reason);
		skip();
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	uffd_stop(&dst);
	for (int i = 0; i < 2; i++) {
		struct migration *m = i ? &src : &dst;
		wire_unlisten(m->listening);
		stream_free(&m->stream);
		free(m->owed);
		guest_mem_destroy(&m->vm->mem);
	}
	return 0;
}

/* --- those who touch ---------------------------------------------------------------------------------------------------------------- */

static atomic_uint wrong, touched;
static volatile bool enough;

static void *follow(void *opaque)
{
	postcopy_follow(&src);
	return opaque;
}

static void *serve(void *opaque)
{
	postcopy_serve(&dst);
	return opaque;
}

/* Like vCPUs, and like devices: every third access is the kernel's. */
static void *touch(void *opaque)
{
	uint64_t x = (uintptr_t)opaque * 0x9e3779b97f4a7c15ull + 1, word;
	int null = open("/dev/null", O_WRONLY), pipes[2];

	if (pipe(pipes))
		return NULL;
	while (!enough) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		uint64_t gfn = x % PAGES;
		uint8_t *p = dst_vm.mem.hva + gfn * PAGE + (x >> 40) % 511 * 8;
		if (x >> 32 & 1 && write(pipes[1], p, 8) == 8 && read(pipes[0], &word, 8) == 8)
			;
		else
			word = *(volatile uint64_t *)p;
		if (word != expected(gfn))
			wrong++;
		touched++;
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
	close(null);
	close(pipes[0]);
	close(pipes[1]);
	return NULL;
}

static pthread_t touchers[TOUCHERS], follower, server;

static void begin(void)
{
	wrong = touched = 0;
	enough = false;
	assert_int_equal(uffd_loaded(&dst), 0);
	pthread_create(&server, NULL, serve, NULL);
	for (uintptr_t i = 0; i < TOUCHERS; i++)
		pthread_create(&touchers[i], NULL, touch, (void *)(i + 1));
	pthread_create(&follower, NULL, follow, NULL);
}

static void end(void)
{
	pthread_join(follower, NULL);
	pthread_join(server, NULL);
	enough = true;
	for (unsigned i = 0; i < TOUCHERS; i++)
		pthread_join(touchers[i], NULL);
}

static void assert_all_there(void)
{
	assert_int_equal(wrong, 0);
	for (uint64_t gfn = 0; gfn < PAGES; gfn++)
		for (unsigned i = 0; i < PAGE / 8; i++)
			if (((uint64_t *)(dst_vm.mem.hva + gfn * PAGE))[i] != expected(gfn))
				fail_msg("page %llu is wrong", (unsigned long long)gfn);
	for (uint64_t i = 0; i < page_words(&dst_vm); i++)
		assert_true(!src.owed[i] && !dst.owed[i]);
	assert_int_equal(dst.post.arrived, owed_at_first);
	assert_null(dst.uffd);
}

/* --- tests -------------------------------------------------------------------------------------------------------------------------- */

static void test_all(void **state)
{
	(void)state;
	begin();
	end();
	assert_all_there();
	/* Each page once. */
	assert_int_equal(src.post.urgent + src.post.background, owed_at_first);
	assert_int_equal(dst.post.twice, 0);
	assert_memory_equal(&src.post.waits, &dst.post.waits, sizeof src.post.waits);
	print_message("%u touches, %llu waits, %llu urgent pages\n", touched, (unsigned long long)dst.post.waits.faults,
		      (unsigned long long)src.post.urgent);
}

/* At 4 MiB/s all of it takes three seconds; whoever waits, waits for a batch and his page. */
static void test_urgent_first(void **state)
{
	(void)state;
	src.bandwidth = 4 << 20;
	uint64_t began = clock_ns();
	begin();
	end();
	uint64_t took = clock_ns() - began;
	assert_all_there();
	const struct postcopy_waits *w = &src.post.waits;
	double average = (double)w->total_ns / 1e6 / (double)w->faults;
	print_message("%.0f ms in all; %llu waits of %.2f ms on average, %.2f ms at most\n", (double)took / 1e6,
		      (unsigned long long)w->faults, average, (double)w->longest_ns / 1e6);
	assert_true(took > 2000 * MS);
	assert_true(w->faults > 100 && src.post.urgent > 100);
	/* A batch takes 16 ms, the page of each toucher 1 ms. */
	assert_true(average < 40);
	assert_int_equal(dst.post.twice, 0);
}

/* A page is asked for, in this order, and nothing else is. */
static void test_order(void **state)
{
	static const uint64_t wanted[] = { 3000, 17, 3995, 18 };
	volatile uint8_t sink;
	struct section sec;
	uint64_t gfn;

	(void)state;
	assert_int_equal(uffd_loaded(&dst), 0);
	uffd_serve(&dst);
	for (unsigned i = 0; i < 4; i++) {
		/* Another thread would wait for it; this one asks as the fault's thread would, twice. */
		assert_int_equal(postcopy_fault(&dst, wanted[i]), 0);
		assert_int_equal(postcopy_fault(&dst, wanted[i]), 0);
	}
	assert_int_equal(postcopy_fault(&dst, 15), 0); /* not owed */
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(postcopy_poll(&src, &sec, 0), 1);
		assert_int_equal(sec.header.type, MSG_NEED);
		assert_int_equal(sec.header.length, 8);
		memcpy(&gfn, sec.payload, 8);
		assert_int_equal(gfn, wanted[i]);
	}
	assert_int_equal(postcopy_poll(&src, &sec, 0), 0);
	/* What is not owed and was never touched is zeros, without the other side; and what comes late changes nothing. */
	sink = dst_vm.mem.hva[15 * PAGE];
	assert_int_equal(sink, 0);
	assert_int_equal(uffd_put(&dst, 14, "x"), 0);
	assert_int_equal(uffd_put(&dst, 12, src_vm.mem.hva), 0);
	assert_int_equal(dst_vm.mem.hva[12 * PAGE], (uint8_t)~12);
	assert_int_equal(uffd_put(&dst, 0, src_vm.mem.hva), 1);
	dst_vm.mem.hva[0] = 99;
	assert_int_equal(uffd_put(&dst, 0, src_vm.mem.hva), 0);
	assert_int_equal(dst_vm.mem.hva[0], 99);
	assert_int_equal(dst.post.twice, 3);
}

/* The connection breaks again and again, in each direction; who waits goes on waiting, and gets the right page in the end. */
static void test_breaks(void **state)
{
	char err[200];

	(void)state;
	src.bandwidth = 16 << 20;
	assert_int_equal(postcopy_again(&src, URI, err, sizeof err), -EINVAL);
	begin();
	for (unsigned i = 1; i <= 8; i++) {
		while (dst.post.arrived < owed_at_first * i / 10)
			usleep(500);
		shutdown(i % 2 ? src.stream.wire.fd : dst.stream.wire.fd, i % 3 == 0   ? SHUT_WR
									  : i % 3 == 1 ? SHUT_RD
										       : SHUT_RDWR);
		while (!src.post.broken)
			usleep(500);
		/* Those who need no missing page go on. */
		assert_int_equal(dst_vm.mem.hva[12 * PAGE], (uint8_t)~12);
		if (i == 1) {
			usleep(100000);
			assert_non_null(strstr(src.reason, "pages that are still here"));
			assert_int_equal(postcopy_again(&src, "nonsense", err, sizeof err), -EINVAL);
			assert_true(src.post.broken);
		}
		pthread_mutex_lock(&src_vm.lock);
		assert_int_equal(postcopy_again(&src, URI, err, sizeof err), 0);
		pthread_mutex_unlock(&src_vm.lock);
		for (unsigned n = 0; src.post.broken; n++) {
			assert_true(n < 20000);
			usleep(500);
		}
	}
	end();
	assert_all_there();
	assert_int_equal(src.post.breaks, 8);
	print_message("%llu pages came twice\n", (unsigned long long)dst.post.twice);
	assert_int_equal(dst.post.twice, 0);
}

/* The VM ends while the connection is broken: nobody waits for ever, and nobody goes on with what is not there. */
static atomic_uint abandoned;
static unsigned touched_before;

void vm_abandon(struct vm *vm, int status, const char *why)
{
	(void)why;
	assert_ptr_equal(vm, &dst_vm);
	assert_int_equal(status, HV_INTERRUPTED);
	if (!abandoned++)
		assert_int_equal(touched, touched_before);
	uffd_release(&dst); /* instead of the end of this program */
	pthread_exit(NULL);
}

static void test_end_while_broken(void **state)
{
	sigset_t set, old;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	for (int by_signal = 0; by_signal < 2; by_signal++) {
		abandoned = 0;
		pthread_sigmask(SIG_BLOCK, &set, &old);
		if (by_signal) {
			teardown(NULL);
			setup(NULL);
		}
		src.bandwidth = 1 << 20;
		begin();
		while (dst.post.arrived < 50)
			usleep(500);
		shutdown(src.stream.wire.fd, SHUT_RDWR);
		while (!src.post.broken || !dst.post.broken)
			usleep(500);
		usleep(1300000);
		touched_before = touched;
		usleep(200000);
		assert_int_equal(touched, touched_before); /* all of them wait */
		assert_int_equal(abandoned, 0);
		uint64_t began = clock_ns();
		if (by_signal)
			kill(getpid(), SIGTERM);
		else
			dst_vm.stopping = 1;
		while (!abandoned) {
			assert_true(clock_ns() - began < 3000 * MS);
			usleep(1000);
		}
		src_vm.stopping = dst_vm.stopping = 1;
		end();
		if (by_signal)
			sigwaitinfo(&set, NULL);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
}

/* A source that asks whether the destination has committed, while that one waits for the rest. */
static void test_ask(void **state)
{
	char err[200];

	(void)state;
	src.bandwidth = 8 << 20;
	begin();
	while (dst.post.arrived < 50)
		usleep(500);
	shutdown(src.stream.wire.fd, SHUT_RDWR);
	while (!src.post.broken)
		usleep(500);
	struct migration other;
	memset(&other, 0, sizeof other);
	other.vm = &src_vm;
	other.id = src.id;
	other.uri = URI;
	assert_int_equal(stream_init(&other.stream), 0);
	other.stream.wire.patience = 5000 * MS;
	assert_int_equal(migration_ask(&other), NEWS_ANSWER_YES);
	stream_free(&other.stream);
	assert_int_equal(postcopy_again(&src, URI, err, sizeof err), 0);
	end();
	assert_all_there();
}

static struct engine_ops engine;
static uint64_t cr0, cr4, efer;

static int get_state(struct vm *vm, struct vcpu *out)
{
	*out = (struct vcpu){ .vm = vm, .cr0 = cr0, .cr4 = cr4, .efer = efer };
	return 0;
}

/* Before the commit nobody can send what is missing. KVM only looks where it is, and it is missing again behind that. */
static void test_early(void **state)
{
	(void)state;
	dst_vm.engine = &engine;
	engine = (struct engine_ops){ .state_kind = "kvm", .get_state = get_state };
	cr0 = CR0_PG | CR0_PE;
	cr4 = CR4_PAE;
	efer = EFER_LMA;
	assert_int_equal(*(volatile uint8_t *)(dst_vm.mem.hva + 33 * PAGE), 0);
	dst_vm.mem.hva[34 * PAGE] = 1;
	assert_int_equal(*(volatile uint8_t *)(dst_vm.mem.hva + 15 * PAGE), 0);
	begin();
	end();
	assert_all_there();
	assert_int_equal(dst.post.twice, 0);
}

static void test_too_early(void **state)
{
	(void)state;
	dst_vm.engine = &engine;
	engine = (struct engine_ops){ .state_kind = "vcpu", .get_state = get_state };
	assert_int_equal(*(volatile uint8_t *)(dst_vm.mem.hva + 33 * PAGE), 0);
	assert_int_equal(uffd_loaded(&dst), -EPROTO);
	assert_non_null(strstr(dst.stream.err, "needs memory (1 pages)"));
	engine.state_kind = "kvm";
	cr0 = CR0_PG | CR0_PE;
	cr4 = CR4_PAE;
	efer = 0;
	assert_int_equal(uffd_loaded(&dst), -EPROTO);
	cr4 = 0;
	assert_int_equal(uffd_loaded(&dst), 0);
}

/* What a destination may not say, and a source neither. */
static void test_nonsense(void **state)
{
	static const uint64_t beyond[] = { PAGES, ~0ull, 4 };
	struct section sec;
	struct iovec iov = { (void *)beyond, sizeof beyond };

	(void)state;
	/* Pages that do not exist are nobody's; the third is. */
	assert_int_equal(section_write(&dst.stream, MSG_NEED, 0, &iov, 1), 0);
	iov.iov_len = 7;
	assert_int_equal(section_write(&dst.stream, MSG_NEED, 0, &iov, 1), 0);
	assert_int_equal(postcopy_send(&src), -EPIPE);
	assert_int_equal(src.post.urgent, 1);
	assert_int_equal(section_read(&dst.stream, &sec), 0);
	/* A list of the wrong length, and one that says that more is there than there is. */
	assert_int_equal(section_write(&dst.stream, MSG_HAVE, 0, &iov, 1), 0);
	assert_int_equal(postcopy_recount(&src), -EPIPE);
	uint64_t words = page_words(&src_vm), *have = malloc(words * 8);
	memset(have, 0, words * 8);
	iov = (struct iovec){ have, words * 8 };
	assert_int_equal(section_write(&dst.stream, MSG_HAVE, 0, &iov, 1), 0);
	assert_int_equal(postcopy_recount(&src), 0);
	assert_true(src.owed[words - 1] == (1ull << PAGES % 64) - 1);
	free(have);
	/* Done, and it is not. */
	assert_int_equal(uffd_loaded(&dst), 0);
	assert_int_equal(section_write(&src.stream, MSG_DONE, 0, NULL, 0), 0);
	assert_int_equal(postcopy_receive(&dst), -EPIPE);
	assert_non_null(strstr(dst.stream.err, "pages are missing"));
	assert_int_equal(section_write(&src.stream, MSG_COMMIT, 0, NULL, 0), 0);
	assert_int_equal(postcopy_receive(&dst), -EPIPE);
}

static int enter(void **state)
{
	static char dir[] = "/tmp/postcopy-test-XXXXXX";

	*state = dir;
	return mkdtemp(dir) && !chdir(dir) ? 0 : -1;
}

static int leave(void **state)
{
	return chdir("/") || rmdir(*state);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { TEST(test_all),    TEST(test_urgent_first),	    TEST(test_order),
					    TEST(test_breaks), TEST(test_end_while_broken), TEST(test_ask),
					    TEST(test_early),  TEST(test_too_early),	    TEST(test_nonsense) };

	return cmocka_run_group_tests_name("postcopy", tests, enter, leave);
}
